"""Logits that a joint network makes, a tile of nodes at a time: the array ``[B, T, U+1, W]`` never exists.

Operation 1 runs on a tile while it is in the caches. The backward pass makes the tile again, only for the nodes whose
entries have a gradient.
"""

import dataclasses
import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec

from jax_rnnt import checks
from jax_rnnt.logits.joint_modules import linen_joint, nnx_joint
from jax_rnnt.logits.row_norms import row_norms
from jax_rnnt.logits.source import Source
from jax_rnnt.logits.tiles import over_tiles, rows_of_tile
from jax_rnnt.ops import arcs
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.dtypes import compute_dtype
from jax_rnnt.ops.labels import PADDING
from jax_rnnt.xla import sharding
from jax_rnnt.xla.element_wise import one_element_after_another


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
        :meth:`from_linen` and :meth:`from_nnx` make ``joint`` from a module of Flax.
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
        tile 256 to 2048 nodes), and 256 MiB elsewhere. The result depends on it only by rounding.
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

        keys = () if self.dropout_key is None else (jax.ShapeDtypeStruct((1,), self.dropout_key.dtype),)
        return _one_row.eval_shape(self.joint, self.params, row(self.encoded), row(self.predicted), *keys)

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
          ValueError: in the loss, if ``params`` are all variables.

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
        row = self._row
        if getattr(row, "shape", ())[:-1] != (1,):
            raise ValueError(
                f"`joint` must give logits [N, W] for rows [N, De] = (1, {self.encoded.shape[-1]}) and [N, Dp] = "
                f"(1, {self.predicted.shape[-1]}), got {row}."
            )

    def _laid_out(self) -> "JointLogits":
        axes = sharding.explicit_batch_axes(self.encoded)
        whole, batch = PartitionSpec(), PartitionSpec(axes) if axes else PartitionSpec()
        layout: dict[str, Any] = {
            "params": jax.tree.map(lambda x: sharding.laid_out(x, whole), self.params),
            "encoded": sharding.laid_out(self.encoded, batch),
            "predicted": sharding.laid_out(self.predicted, batch),
        }
        return dataclasses.replace(self, **layout)

    def _batch_axes(self) -> tuple[str, ...]:
        named = sharding.explicit_batch_axes(self.encoded) or self.batch_axis_names
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

    def _on_device(self, axes: tuple[str, ...]) -> "JointLogits":
        key = self.dropout_key
        if key is not None:
            for axis in axes:
                key = jax.random.fold_in(key, lax.axis_index(axis))
        return dataclasses.replace(self, dropout_key=key, batch_axis_names=())

    def _prepared(self, labels: Array) -> "JointLogits":
        # Inside shard_map all arrays vary over the same axes from here on. So JAX sums the gradients of those that did
        # not vary before.
        arrays, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, self))
        return jax.tree.unflatten(structure, sharding.match_manual_axes([*arrays, labels])[:-1])

    def _forward(self, labels: Array, parameters: ArcParameters) -> tuple[Array, "_Kept"]:
        entries, norm = _forward(parameters, self, labels)
        return entries, _Kept(entries, norm)

    def _backward(
        self, labels: Array, kept: "_Kept", cotangent: Array, bound: Array | None, parameters: ArcParameters
    ) -> "JointLogits":
        return _backward(parameters, self, labels, kept, cotangent, bound)


def _check_signature(joint: Callable, args: tuple) -> None:
    try:
        inspect.signature(joint).bind(*args)
    except TypeError as error:
        names = "(params, e, p, keys), since there is a `dropout_key`" if len(args) == 4 else "(params, e, p)"
        raise TypeError(f"`joint` is called with {names}, and it does not take these: {error}.") from None
    except ValueError:  # a callable without a signature
        return


@functools.partial(jax.jit, static_argnums=0)  # keeps what it knows of a joint, for calls outside of `jit`
def _one_row(joint: Callable[..., Array], *args: Any) -> Any:
    _check_signature(joint, args)
    traced, row = jax.make_jaxpr(joint, return_shape=True)(*args)
    if any(type(effect).__name__ == "ErrorEffect" for effect in traced.effects):
        raise NotImplementedError(
            "`joint` must not call checkify.check: it runs in a loop that is traced apart from the function around the "
            "loss. Check `encoded`, `predicted` and `params` instead."
        )
    if closed := [x for x in traced.consts if isinstance(x, Array)]:
        is_key = jnp.issubdtype(closed[0].dtype, jax.dtypes.prng_key)
        raise TypeError(
            f"`joint` must not close over an array, and it does over {checks.described(closed[0])}: "
            + (
                "for dropout give the key as `dropout_key`; any other key belongs into `params`."
                if is_key
                else "put that in `params`, so that it has a gradient."
            )
        )
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), row)


class _Kept(NamedTuple):
    """The results of the forward pass that the backward pass reads."""

    entries: Array  # [B, T, U+1, K']
    norm: Array  # [B, T, U+1, 2]


class _Nodes:
    """The nodes of a batch, one after the other: their rows of logits, for places ``[N]`` in ``[0, B T (U+1))``."""

    def __init__(self, logits: JointLogits):
        self._logits = logits
        self._positions = logits.predicted.shape[1]
        self._frames = logits.encoded.shape[1]
        self.encoded = logits.encoded.reshape(-1, logits.encoded.shape[-1])
        self.predicted = logits.predicted.reshape(-1, logits.predicted.shape[-1])

    def rows(self, place: Array) -> tuple[Array, Array]:
        """The rows of ``encoded`` and of ``predicted`` ``[N]`` that a node's logits come from."""
        frame = place // self._positions
        return frame, frame // self._frames * self._positions + place % self._positions

    def joint(self, place: Array) -> Callable[[Any, Array, Array], Array]:
        key = self._logits.dropout_key
        if key is None:
            return self._logits.joint
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, place)
        return lambda params, e, p: self._logits.joint(params, e, p, keys)

    def taken(self, place: Array) -> tuple[Any, Array, Array]:
        """The arguments of the joint."""
        frame, position = self.rows(place)
        return self._logits.params, _take(self.encoded, frame), _take(self.predicted, position)

    def over_tiles(self, mask: Array, tile: Callable, carry: Any) -> Any:
        if self._logits.tile_rows is not None:
            return over_tiles(mask, self._logits.tile_rows, tile, carry)
        widest = max(self._logits.shape[-1], self.encoded.shape[-1], self.predicted.shape[-1])

        def on(platform: str) -> Callable:
            rows = rows_of_tile(widest, self._logits.dtype.itemsize, platform)
            return lambda mask, carry: over_tiles(mask, rows, tile, carry)

        return lax.platform_dependent(mask, carry, cpu=on("cpu"), default=on("other"))


def _take(x: Array, rows: Array) -> Array:
    return x.at[rows].get(mode="promise_in_bounds")


def _compiled_once(function: Callable) -> Callable:
    """``function(parameters, *pytrees)``, with one program for all calls outside of ``jit`` that have the same shapes.

    Its loops are made of new functions in every call, so JAX would compile each of them in every call.
    """

    @functools.partial(jax.jit, static_argnums=0, inline=True)
    def call(parameters: ArcParameters, *args: Any) -> Any:
        return one_element_after_another(functools.partial(function, parameters))(*args)

    return call


@_compiled_once
def _forward(parameters: ArcParameters, logits: JointLogits, labels: Array) -> tuple[Array, Array]:
    """``entries [B, T, U+1, K']`` and ``norm [B, T, U+1, 2]``."""
    nodes, flat = _Nodes(logits), labels.reshape(-1)
    dtype = compute_dtype(logits.dtype)

    def tile(carry: tuple[Array, Array], place: Array, real: Array) -> tuple[Array, Array]:
        rows = nodes.joint(place)(*nodes.taken(place))
        results = arcs.forward(rows, jnp.where(real, flat[place], PADDING), **parameters.asdict())
        at = jnp.where(real, place, flat.size)
        entries, norm = (
            x.at[at].set(value, mode="drop", unique_indices=True, indices_are_sorted=True)
            for x, value in zip(carry, results, strict=True)
        )
        return entries, norm

    empty = jnp.full((flat.size, len(parameters.columns) + 1), -jnp.inf, dtype), jnp.zeros((flat.size, 2), dtype)
    entries, norm = nodes.over_tiles(flat != PADDING, tile, empty)
    return entries.reshape(*labels.shape, entries.shape[-1]), norm.reshape(*labels.shape, 2)


@_compiled_once
def _backward(
    parameters: ArcParameters, logits: JointLogits, labels: Array, kept: _Kept, cotangent: Array, bound: Array | None
) -> JointLogits:
    nodes, flat = _Nodes(logits), labels.reshape(-1)
    norm, ct = kept.norm.reshape(flat.size, 2), cotangent.reshape(flat.size, cotangent.shape[-1])
    limit = None if bound is None else bound.reshape(-1)
    lower, upper = row_norms(kept.entries.reshape(ct.shape), flat, ct, parameters)
    asked = (flat != PADDING) & (upper != 0)
    if logits.gradient_budget > 0:
        asked &= ~(upper <= _budget(logits.gradient_budget, jnp.where(asked, lower, 0), asked, labels.shape))
    is_float = [jnp.issubdtype(x.dtype, jnp.inexact) for x in jax.tree.leaves(logits.params)]

    def tile(carry: tuple, place: Array, real: Array) -> tuple:
        of_params, of_encoded, of_predicted = carry
        rows, pull = jax.vjp(nodes.joint(place), *nodes.taken(place))
        optional = () if limit is None else (limit[place],)
        (of_rows,) = arcs.backward(
            rows,
            jnp.where(real, flat[place], PADDING),
            norm[place],
            ct[place],
            *optional,
            clipped=limit is not None,
            **parameters.asdict(),
        )
        tile_params, tile_encoded, tile_predicted = pull(of_rows)
        grads = [g for g, wanted in zip(jax.tree.leaves(tile_params), is_float, strict=True) if wanted]
        frame, position = nodes.rows(place)
        return (
            [total + g.astype(total.dtype) for total, g in zip(of_params, grads, strict=True)],
            of_encoded.at[frame].add(tile_encoded.astype(of_encoded.dtype), mode="promise_in_bounds"),
            of_predicted.at[position].add(tile_predicted.astype(of_predicted.dtype), mode="promise_in_bounds"),
        )

    leaves, structure = jax.tree.flatten(logits.params)
    floats = [x for x, wanted in zip(leaves, is_float, strict=True) if wanted]
    zeros = jax.tree.map(_wide_zeros, (floats, nodes.encoded, nodes.predicted))
    of_params, of_encoded, of_predicted = nodes.over_tiles(asked, tile, zeros)
    each = iter(of_params)
    of_leaves = [next(each).astype(x.dtype) if wanted else None for x, wanted in zip(leaves, is_float, strict=True)]
    return dataclasses.replace(
        logits,
        params=jax.tree.unflatten(structure, of_leaves),
        encoded=of_encoded.astype(logits.encoded.dtype).reshape(logits.encoded.shape),
        predicted=of_predicted.astype(logits.predicted.dtype).reshape(logits.predicted.shape),
        dropout_key=None,
    )


def _wide_zeros(x: Array) -> Array:
    return jnp.zeros(x.shape, jnp.float32 if x.dtype.itemsize < 4 else x.dtype)


def _budget(share: float, norms: Array, asked: Array, shape: tuple[int, ...]) -> Array:
    """The largest norm ``[B T (U+1)]`` of a node that is left out. Together such nodes hold at most ``share``.

    Each utterance has its own budget, so that an easy utterance in a batch with a hard one keeps its accuracy.
    """
    nodes = shape[1] * shape[2]
    total = jnp.sum(norms.reshape(shape[0], nodes), axis=1)
    count = jnp.sum(asked.reshape(shape[0], nodes), axis=1)
    largest = share * total / jnp.maximum(count, 1).astype(total.dtype)
    return jnp.broadcast_to(largest[:, None], (shape[0], nodes)).reshape(-1)
