"""Logits that a joint network makes, a tile of nodes at a time: the array ``[B, T, U+1, W]`` never exists.

Operation 1 runs on a tile while it is in the caches. The backward pass makes the tile again, only for the nodes whose
entries have a gradient.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec

from jax_rnnt import checks
from jax_rnnt.logits import joint_passes
from jax_rnnt.logits.additive_joint import AdditiveJoint
from jax_rnnt.logits.additive_joint_rows import AdditiveJointRows
from jax_rnnt.logits.joint_function import one_row
from jax_rnnt.logits.joint_modules import linen_joint, nnx_joint
from jax_rnnt.logits.joint_rows import JointRows
from jax_rnnt.logits.source import Source
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.xla import sharding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class JointLogits(Source):
    r"""The logits ``joint(params, encoded[b, t], predicted[b, u])`` of the nodes (t, u), in place of a dense array.

    Every loss accepts it as ``logits``. For any V it needs the memory of one tile of logits, and of a few numbers per
    node. The joint network runs only on nodes inside the lengths T_b and U_b. The gradient is computed only for
    nodes that a path visits: nodes whose posteriors are exactly 0 cost nothing.

    Project the outputs of the encoder and of the predictor to the joint's width before you pass them. Such a layer then
    runs B T or B (U+1) times. Inside ``joint`` it would run B T (U+1) times.

    Args:
      joint: static and hashable; ``joint(params, e, p) -> logits``, a pure function of rows: ``e [N, De]`` and
        ``p [N, Dp]`` give ``[N, W]``, and each row depends on its own inputs only. With ``dropout_key`` it has a fourth
        argument. Outside of ``jit``, calls with the same function share one program. So define it once: a ``lambda``
        written inside the training step is a new function in each call, and each function is compiled and kept.
        :meth:`from_linen` and :meth:`from_nnx` make ``joint`` from a module of Flax. :func:`additive_joint` gives the
        usual network, for which there are CUDA kernels; it takes no fourth argument.
      params: a pytree of arrays; the floating-point arrays have gradients. ``joint`` must not close over other arrays.
      encoded: ``[B, T, De]``, float16, bfloat16, float32 or float64.
      predicted: ``[B, U+1, Dp]``, of any of these dtypes.
      dropout_key: a JAX random key. ``joint(params, e, p, keys)`` then gets ``keys [N]``, one per row, made from the
        node (b, t, u). So forward and backward pass agree for any size of tiles.
      gradient_budget: static, in [0, 1). With 0 the gradient is exact. Otherwise the backward pass leaves out some
        nodes of each utterance. Together they hold at most this share of the L1 norm of the gradient with respect to
        the logits of that utterance (before ``clamp``). In a trained model a few percent of the nodes have nearly all
        of the posteriors, so 1e-5 saves most of the backward pass.
      tile_rows: static, the number of nodes in a tile. With None the largest array of a tile has 4 MiB on a CPU (and a
        tile 256 to 2048 nodes). Elsewhere it has at most 256 MiB and 32768 nodes. The result depends on it only by
        rounding.
      batch_axis_names: static, the mesh axes that B is divided over, in a mesh set by ``jax.set_mesh``. Each device
        then runs its own tiles, and one sum of the gradient of ``params`` crosses the mesh. Not needed where a mesh's
        axes are explicit, nor inside ``shard_map`` or ``pmap``. Without it ``jit`` gathers the batch on
        every device, and a warning says so.

    In a mesh with explicit axes, ``params`` may be divided in any way. They are gathered for the loss, and their
    gradient is divided as ``params`` are.

    There is no forward mode and no second derivative. ``vocab_axis_name`` is refused. ``vmap`` runs the elements of the
    mapped axis one after another.

    Raises:
      TypeError: in the loss, if ``joint`` closes over an array, or a dtype is wrong.
      ValueError: in the loss, if a shape does not match, or an option is out of its range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> def joint(params, e, p):
      ...     return jnp.tanh(e + p) @ params["kernel"]
      >>> params = {"kernel": jnp.ones((8, 5))}
      >>> encoded, predicted = jnp.ones((2, 4, 8)), jnp.ones((2, 3, 8))  # B = 2, T = 4, U = 2
      >>> targets, lengths = jnp.array([[1, 2], [3, 0]]), (jnp.array([4, 3]), jnp.array([2, 1]))
      >>> def loss(params, encoded, predicted):
      ...     logits = jax_rnnt.JointLogits(joint, params, encoded, predicted)
      ...     return jax_rnnt.rnnt_loss(logits, targets, *lengths)
      >>> round(float(loss(params, encoded, predicted)), 2)
      6.35
      >>> jax.grad(loss)(params, encoded, predicted)["kernel"].shape
      (8, 5)
    """

    joint: Callable[..., Array] = dataclasses.field(metadata={"static": True})
    params: Any
    encoded: Array
    predicted: Array
    _: dataclasses.KW_ONLY
    dropout_key: Array | None = None
    gradient_budget: float = dataclasses.field(default=0.0, metadata={"static": True})
    tile_rows: int | None = dataclasses.field(default=None, metadata={"static": True})
    batch_axis_names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})

    _refused_as: ClassVar[str] = "JointLogits"

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.encoded.shape[:2], self.predicted.shape[1], self._row.shape[-1])

    @property
    def dtype(self) -> np.dtype:
        return self._row.dtype

    @property
    def _row(self) -> jax.ShapeDtypeStruct:
        """The shape and the dtype of the joint's output for one node."""

        def row(x: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((1, x.shape[-1]), x.dtype)

        key = None if isinstance(self.joint, AdditiveJoint) else self.dropout_key
        keys = () if key is None else (jax.ShapeDtypeStruct((1,), key.dtype),)
        return one_row.eval_shape(self.joint, self.params, row(self.encoded), row(self.predicted), *keys)

    def _batched(self) -> Array:
        return self.encoded

    @classmethod
    def from_linen(
        cls,
        module: Any,
        params: Any,
        encoded: Array,
        predicted: Array,
        *,
        method: Callable | str | None = None,
        arguments: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """The logits of a joint network that is a module of Flax linen.

        Args:
          module: a ``flax.linen.Module`` that is called with rows of the encoder and of the predictor. It must have no
            variables other than its parameters.
          params: its parameters, ``variables["params"]``.
          encoded, predicted: ``[B, T, De]`` and ``[B, U+1, Dp]``, as above.
          method: the method that is the joint network, as in ``module.apply``; None: its ``__call__``.
          arguments: static further arguments by name, such as ``{"deterministic": False}``.
          **options: ``dropout_key``, which gives each row a "dropout" key of its own, and the other options above.

        Raises:
          TypeError: if ``module`` is not a module of linen.
          ValueError: in the loss, if ``params`` are all variables, or ``module`` draws random numbers and there is no
            ``dropout_key``.

        Example:
          >>> import flax.linen as nn, jax, jax.numpy as jnp
          >>> import jax_rnnt
          >>> class Joint(nn.Module):
          ...     @nn.compact
          ...     def __call__(self, e, p):
          ...         return nn.Dense(5)(jnp.tanh(e + p))
          >>> encoded, predicted = jnp.ones((2, 4, 8)), jnp.ones((2, 3, 8))
          >>> params = Joint().init(jax.random.key(0), encoded[:, :1], predicted[:, :1])["params"]
          >>> jax_rnnt.JointLogits.from_linen(Joint(), params, encoded, predicted).shape
          (2, 4, 3, 5)
        """
        joint = linen_joint(module, method, {} if arguments is None else arguments)
        return cls(joint, params, encoded, predicted, **options)

    @classmethod
    def from_nnx(
        cls, module: Any, encoded: Array, predicted: Array, *, method: str = "__call__", **options: Any
    ) -> Self:
        """The logits of a joint network that is a module of Flax nnx.

        Call it where the loss is computed, inside ``nnx.grad`` or ``nnx.value_and_grad``: gradients then reach
        ``module``.

        Args:
          module: an ``nnx.Module`` that is called with rows of the encoder and of the predictor. Changes that the call
            makes to it are lost. With ``dropout_key`` its random streams, such as those of ``nnx.Dropout``, begin in
            each row with that row's key. The streams of ``module`` itself stay as they are.
          encoded, predicted: ``[B, T, De]`` and ``[B, U+1, Dp]``, as above.
          method: the name of the method that is the joint network.
          **options: the options above.

        Raises:
          TypeError: if ``module`` is not a module of nnx.
          ValueError: in the loss, if ``module`` draws random numbers and there is no ``dropout_key``.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> from flax import nnx
          >>> import jax_rnnt
          >>> class Joint(nnx.Module):
          ...     def __init__(self, rngs):
          ...         self.output = nnx.Linear(8, 5, rngs=rngs)
          ...         self.dropout = nnx.Dropout(0.1, rngs=rngs)
          ...     def __call__(self, e, p):
          ...         return self.output(self.dropout(jnp.tanh(e + p)))
          >>> joint, encoded, predicted = Joint(nnx.Rngs(0)), jnp.ones((2, 4, 8)), jnp.ones((2, 3, 8))
          >>> jax_rnnt.JointLogits.from_nnx(joint, encoded, predicted, dropout_key=jax.random.key(0)).shape
          (2, 4, 3, 5)
        """
        return cls(*nnx_joint(module, method), encoded, predicted, **options)

    def _check(self) -> None:
        if not callable(self.joint):
            raise TypeError(f"`joint` must be a function of (params, e, p), got {checks.described(self.joint)}.")
        if type(self.joint).__hash__ is None:
            raise TypeError(
                f"`joint` is static, so it must be hashable, got {checks.described(self.joint)}: make it a function or "
                "a frozen dataclass."
            )
        for name, x, letters in (("encoded", self.encoded, "B, T, De"), ("predicted", self.predicted, "B, U+1, Dp")):
            checks.array(name, x)
            checks.floating(name, x)
            checks.rank(name, x, letters)
        if self.predicted.shape[0] != self.encoded.shape[0]:
            raise ValueError(
                f"`predicted` must have encoded.shape[0] == {self.encoded.shape[0]} rows, got shape "
                f"{self.predicted.shape}."
            )
        if self.dropout_key is not None:
            checks.random_key("dropout_key", self.dropout_key)
        checks.number("gradient_budget", self.gradient_budget)
        if not 0 <= self.gradient_budget < 1:
            raise ValueError(f"`gradient_budget` must be in [0, 1), got {self.gradient_budget}.")
        if self.tile_rows is not None and checks.static_index("tile_rows", self.tile_rows) < 1:
            raise ValueError(f"`tile_rows` must be None or at least 1, got {self.tile_rows}.")
        names = self.batch_axis_names
        if not isinstance(names, tuple):
            raise TypeError(f"`batch_axis_names` must be a tuple of names of mesh axes, got {checks.described(names)}.")
        self._check_joint()
        nodes = math.prod(self.shape[:3])
        if checks.exceeds(nodes, 2**31 - 1):
            raise ValueError(
                f"`encoded` {self.encoded.shape} and `predicted` {self.predicted.shape} make B T (U+1) = {nodes} "
                "nodes; one call takes at most 2^31 - 1."
            )

    def _check_joint(self) -> None:
        if isinstance(self.joint, AdditiveJoint):
            self.joint.check(self.params, self.encoded, self.predicted)
        row = self._row
        if getattr(row, "shape", ())[:-1] != (1,):
            raise ValueError(
                f"`joint` must give logits [N, W] for rows [N, De] = (1, {self.encoded.shape[-1]}) and [N, Dp] = "
                f"(1, {self.predicted.shape[-1]}), got {row}."
            )

    def _laid_out(self) -> JointLogits:
        axes = sharding.explicit_batch_axes(self.encoded)
        whole, batch = PartitionSpec(), PartitionSpec(axes) if axes else PartitionSpec()
        layout: dict[str, Any] = {
            "params": jax.tree.map(lambda x: sharding.laid_out(x, whole), self.params),
            "encoded": sharding.laid_out(self.encoded, batch),
            "predicted": sharding.laid_out(self.predicted, batch),
        }
        return dataclasses.replace(self, **layout)

    def _named_axes(self) -> tuple[str, ...]:
        return sharding.explicit_batch_axes(self.encoded) or self.batch_axis_names

    def _batch_axes(self) -> tuple[str, ...]:
        named = self._named_axes()
        if not named and (axes := sharding.automatic_axes(self.encoded)):
            warnings.warn(
                f"JointLogits has no `batch_axis_names`, and the axes of its mesh, {axes}, are automatic: every device "
                f"runs the joint network for the whole batch. Name the axes that divide the batch, such as "
                f"batch_axis_names=({next(iter(axes))!r},), under `with jax.set_mesh(mesh):`.",
                stacklevel=2,
            )
        return named

    def _partition_specs(self, axes: tuple[str, ...]) -> Any:
        whole, batch = PartitionSpec(), PartitionSpec(axes)
        key = None if self.dropout_key is None else whole
        specs: dict[str, Any] = {"params": whole, "encoded": batch, "predicted": batch, "dropout_key": key}
        return dataclasses.replace(self, **specs)

    def _on_device(self, axes: tuple[str, ...]) -> JointLogits:
        key = self.dropout_key
        if key is not None:
            for axis in axes:
                key = jax.random.fold_in(key, lax.axis_index(axis))
        return dataclasses.replace(self, dropout_key=key, batch_axis_names=())

    def _prepared(self, labels: Array) -> JointLogits:
        # Inside shard_map all arrays vary over the same axes from here on. So JAX sums the gradients of those that did
        # not vary before.
        arrays, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, self))
        return jax.tree.unflatten(structure, sharding.match_manual_axes([*arrays, labels])[:-1])

    def _rows(self) -> JointRows | AdditiveJointRows:
        return AdditiveJointRows(self, self.joint) if isinstance(self.joint, AdditiveJoint) else JointRows(self)

    def _forward(self, labels: Array, parameters: ArcParameters) -> tuple[Array, joint_passes.Kept]:
        entries, norm = joint_passes.forward(parameters, self, labels)
        return entries, joint_passes.Kept(entries, norm)

    def _backward(
        self,
        labels: Array,
        kept: joint_passes.Kept,
        cotangent: Array,
        bound: Array | None,
        parameters: ArcParameters,
    ) -> JointLogits:
        return joint_passes.backward(parameters, self, labels, kept, cotangent, bound)
