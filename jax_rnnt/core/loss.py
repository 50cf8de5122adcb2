"""What all losses share: their options, and the call that turns a batch into costs and reduces them."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, Unpack, get_args

import jax
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.core import debug, devices, pipeline
from jax_rnnt.core.arc_scores import ArcScores, Scheduled
from jax_rnnt.core.batch import Logits, checked_batch, checked_weights
from jax_rnnt.core.distributions import Distributions
from jax_rnnt.core.node_labels import node_labels
from jax_rnnt.core.reduction import reduced
from jax_rnnt.core.topology import Topology
from jax_rnnt.logits.source import Source
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.xla.primitive import Implementation, check_implementation

Reduction = Literal["none", "mean", "sum", "mean_volume"]
Wildcard = Literal["ends", "anywhere", "star"] | None


class LossOptions(TypedDict, total=False):
    """The options that every loss has beside torchaudio's. :class:`Loss` describes them."""

    fastemit_lambda: float
    delay_penalty: float
    sigma: float
    zero_infinity: bool
    implementation: Implementation
    vocab_axis_name: str | None


class Schedules(TypedDict, total=False):
    """The options that a call may replace by scalars, traced ones too."""

    fastemit_lambda: ArrayLike
    delay_penalty: ArrayLike
    sigma: ArrayLike
    wildcard_weight: ArrayLike


@dataclasses.dataclass(frozen=True)
class Loss(abc.ABC):
    """A transducer loss with its options: what :class:`RNNTLoss`, :class:`TDTLoss` and the others have in common.

    A loss is a static value. It is a field of Flax modules, a static argument of ``jax.jit``, a pytree without leaves
    and a key of dictionaries. It has no parameters, so it is not an ``nn.Module``. ``dataclasses.replace`` makes a loss
    with other options. Every tool of this library takes a loss as its first argument.

    Args:
      blank: the index of the blank in the vocabulary, in [-V, V); negative numbers count from the end. The default is
        the last entry, as in torchaudio and NeMo; it is 0 in warp-rnnt and k2.
      clamp: if > 0, each element of the gradient of one utterance's cost is clipped to [-clamp, clamp], before it is
        multiplied by the incoming cotangent (so with "mean" the bound is ``clamp / B``). A clipped gradient is not a
        derivative, so with ``clamp`` there is no forward mode (``jax.jvp``). The clipped gradient can be
        differentiated. Its Jacobian J is not symmetric, so forward over reverse gives ``J v`` and reverse over reverse
        ``J^T v``.
      reduction: "none" gives costs ``[B]``; "sum" their sum; "mean" their sum divided by B; "mean_volume" their sum
        divided by the sum of all U_b (0 where there are no labels).
      fastemit_lambda: at least 0; FastEmit multiplies the gradient of the label arcs by ``1 + fastemit_lambda``, so
        that labels are emitted earlier. The cost is unchanged, as in warp-rnnt; NeMo multiplies the cost too. So the
        gradient is not the derivative of the cost. Forward mode agrees with the gradient.
      delay_penalty: the score of a label at frame t grows by ``delay_penalty * ((T_b - 1) / 2 - t)``, as in k2.
      sigma: logit under-normalisation: the score of every arc is lowered by this number. Xu et al. train multi-blank
        and TDT models with 0.05. All paths of RNN-T have the same number of arcs, as have those of monotonic RNN-T and
        HAT. So there ``sigma`` adds a constant to the cost and does not change the gradient. With a ``wildcard`` it
        changes the gradient, because the scores of jumps and of passed frames are not lowered.
      zero_infinity: whether a cost of +inf counts as 0 and has a gradient of 0, as in ``torch.nn.CTCLoss``. A cost of
        NaN stays NaN.
      implementation: None chooses by platform (compiled kernels where they exist, otherwise the ``lax`` form); "native"
        requires the kernels; "lax" is the ``lax`` form; "pallas" requires the lattice's Pallas kernels, on a TPU.
      vocab_axis_name: the mesh axis over which the vocabulary is divided (a tensor-parallel joint network). Inside
        ``shard_map``, ``logits`` are this device's ``[B, T, U+1, V / devices]``. Elsewhere ``logits`` are the global
        array, divided along that axis of a mesh set by ``jax.set_mesh``. ``blank`` and ``targets`` are indices into the
        whole vocabulary. No device sees another device's logits; two sums of ``[B, T, U+1]`` cross the mesh. There is
        no forward mode and no second derivative.

    Raises:
      TypeError: if the type of an option is wrong, an option is traced, or the loss does not have it.
      ValueError: if an option is out of its range or unknown.

    References:
      Yu et al., FastEmit, 2021 (arXiv:2010.11148). Kang et al., Delay-penalized transducer, 2023 (arXiv:2211.00490).
      Xu et al., Multi-blank transducers, 2023 (arXiv:2211.03541; sigma).

    Example:
      >>> import dataclasses
      >>> import jax_rnnt
      >>> loss: jax_rnnt.Loss = jax_rnnt.TDTLoss(blank=0, durations=(0, 1, 2), sigma=0.05)
      >>> dataclasses.replace(loss, reduction="sum").reduction
      'sum'
    """

    blank: int = -1
    clamp: float = -1.0
    reduction: Reduction = "mean"
    _: dataclasses.KW_ONLY
    fastemit_lambda: float = 0.0
    delay_penalty: float = 0.0
    sigma: float = 0.0
    zero_infinity: bool = False
    implementation: Implementation = None
    vocab_axis_name: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_static(cls)

    def __post_init__(self) -> None:
        self._set("blank", checks.static_index("blank", self.blank))
        reductions = get_args(Reduction)
        hint = ""
        if isinstance(self.clamp, str) and self.clamp in reductions:
            hint = (
                " The 6th positional argument of the loss is `clamp`, as in torchaudio, and `reduction` comes after "
                f"it: write reduction={self.clamp!r}."
            )
        checks.number("clamp", self.clamp, hint)
        self._set("clamp", float(self.clamp))
        if not isinstance(self.reduction, str) or self.reduction not in reductions:
            raise ValueError(f"`reduction` must be one of {reductions}, got {self.reduction!r}.")
        self._check_numbers("fastemit_lambda", "delay_penalty", "sigma")
        if self.fastemit_lambda < 0:
            raise ValueError(f"`fastemit_lambda` must be at least 0, got {self.fastemit_lambda}.")
        self._check_booleans("zero_infinity")
        check_implementation(self.implementation)
        if not isinstance(self.vocab_axis_name, str | None):
            raise TypeError(
                f"`vocab_axis_name` must be the name of a mesh axis, got {checks.described(self.vocab_axis_name)}."
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_numbers(self, *names: str) -> None:
        for name in names:
            if name in Schedules.__optional_keys__:
                call = f"{type(self).__name__}(...)(..., {name}=x)"
                checks.static(name, getattr(self, name), f", or call a loss object, which takes such values: {call}")
            checks.number(name, getattr(self, name))
            self._set(name, float(getattr(self, name)))

    def _check_booleans(self, *names: str) -> None:
        for name in names:
            checks.boolean(name, getattr(self, name))
            self._set(name, bool(getattr(self, name)))

    @abc.abstractmethod
    def topology(self, width: int) -> Topology:
        """The arcs of a node, for rows of this width (of the whole vocabulary, if it is divided)."""

    def distributions(self, width: int) -> Distributions:
        """The distributions that a row of this width holds."""
        return Distributions(((0, self.topology(width).vocabulary),))

    def __call__(
        self,
        logits: Logits,
        targets: ArrayLike,
        logit_lengths: ArrayLike,
        target_lengths: ArrayLike,
        *,
        weights: ArrayLike | None = None,
        key: Array | None = None,
        **schedules: Unpack[Schedules],
    ) -> Array:
        """The loss of a batch.

        Args:
          logits: ``[B, T, U+1, W]``, or another form of logits, as in :func:`rnnt_loss`.
          targets, logit_lengths, target_lengths: ``[B, U]``, ``[B]`` and ``[B]``, as in :func:`rnnt_loss`.
          weights: ``[B]``, a factor for the cost of each example, as in :func:`rnnt_loss`.
          key: a JAX random key, for a loss that draws (:class:`TDTLoss` with ``omega``). Other losses ignore it.
          **schedules: ``fastemit_lambda``, ``delay_penalty``, ``sigma`` and, where there is a wildcard,
            ``wildcard_weight``: scalars that take the place of the option. They may be traced, so a schedule does not
            compile again. They have no gradient, and their ranges are not checked.

        Raises:
          TypeError, ValueError: as :func:`rnnt_loss`; TypeError also for a schedule that the loss does not have.
        """
        scheduled = self._checked_schedules(schedules)
        source, labels, t_b, u_b = checked_batch(logits, targets, logit_lengths, target_lengths)
        costs = self._costs(source, labels, t_b, u_b, scheduled, key=key)
        return reduced(
            costs, u_b, checked_weights(weights, source, costs.dtype), self.reduction, zero_infinity=self.zero_infinity
        )

    def _costs(
        self, source: Source, targets: Array, t_b: Array, u_b: Array, scheduled: Scheduled, *, key: Array | None
    ) -> Array:
        """``costs [B]``."""
        return on_lattices(pipeline.costs, self, source, targets, t_b, u_b, scheduled)

    def _schedules(self) -> tuple[str, ...]:
        return "fastemit_lambda", "delay_penalty", "sigma"

    def _checked_schedules(self, schedules: Mapping[str, Any]) -> Scheduled:
        known, scalars = self._schedules(), {}
        for name, value in schedules.items():
            if name not in known:
                raise TypeError(
                    f"`{name}` cannot be given in the call of a loss object; {', '.join(known)} can. "
                    + self._advice(name)
                )
            x = checks.as_array(name, value)
            checks.shape(name, x, (), "a scalar")
            scalars[name] = jax.lax.stop_gradient(x)
        return scalars

    def _advice(self, name: str) -> str:
        """What to do with an argument of the call that is not a schedule."""
        loss = type(self).__name__
        if name not in {field.name for field in dataclasses.fields(self)}:
            return f"{loss} has no such option."
        if name in Schedules.__optional_keys__:
            return f"It needs a `wildcard`, and this {loss} has none."
        return f"Set it in the object: {loss}({name}=...)."

    def _arc_scores(self, topology: Topology) -> ArcScores:
        return ArcScores(topology, self.delay_penalty, self.sigma)

    def pipeline(self, topology: Topology, width: int) -> pipeline.Pipeline:
        """The static part of the way from logits to costs, for rows of this width."""
        return pipeline.Pipeline(
            ArcParameters(topology.columns, width, topology.window, self.implementation),
            self._arc_scores(topology),
            self.fastemit_lambda,
            self.clamp,
            self.implementation,
        )


@dataclasses.dataclass(frozen=True)
class LogSoftmaxLoss(Loss):
    """A loss that normalises rows of logits itself (``fused_log_softmax``), or takes log-probabilities."""

    fused_log_softmax: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_booleans("fused_log_softmax")

    def window(self, entries: int) -> tuple[int, int]:
        """Which of these entries of a row the loss normalises: all of them, or none."""
        return (0, entries) if self.fused_log_softmax else (0, 0)


@dataclasses.dataclass(frozen=True)
class WildcardLoss(Loss):
    """A loss with a single blank, beside which a wildcard may stand."""

    _: dataclasses.KW_ONLY
    wildcard: Wildcard = None
    wildcard_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_numbers("wildcard_weight")
        if self.wildcard not in (None, "ends", "anywhere", "star"):
            raise ValueError(f"`wildcard` must be None, 'ends', 'anywhere' or 'star', got {self.wildcard!r}.")

    def _arc_scores(self, topology: Topology) -> ArcScores:
        return ArcScores(topology, self.delay_penalty, self.sigma, self.wildcard, self.wildcard_weight)

    def _schedules(self) -> tuple[str, ...]:
        return (*super()._schedules(), *(["wildcard_weight"] if self.wildcard is not None else []))


def checked_loss(loss: object) -> Loss:
    """The first argument of a tool, which must be a loss."""
    if not isinstance(loss, Loss):
        raise TypeError(
            f"`loss` must be a loss with its options, such as RNNTLoss(blank=0), got {checks.described(loss)}."
        )
    return loss


def on_lattices(
    run: pipeline.Run, loss: Loss, source: Source, targets: Array, t_b: Array, u_b: Array, scheduled: Scheduled
) -> Any:
    """``run(source, nodes, pipeline, scheduled)`` on each device's part of the batch or of the vocabulary."""
    part = functools.partial(_on_part, run, loss)
    return devices.on_devices(part, source, targets, t_b, u_b, scheduled, vocab_axis_name=loss.vocab_axis_name)


def _on_part(
    run: pipeline.Run, loss: Loss, source: Source, targets: Array, t_b: Array, u_b: Array, scheduled: Scheduled
) -> Any:
    width = source.shape[-1]
    topology = loss.topology(width)
    debug.check_batch(loss, source.shape, targets, t_b, u_b)
    nodes = node_labels(targets, t_b, u_b, (*source.shape[:-1], topology.vocabulary), topology.blanks)
    return run(source, nodes, loss.pipeline(topology, width), scheduled)
