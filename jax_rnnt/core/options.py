"""The options that all losses share, checked once: :class:`Options`."""

import abc
import dataclasses
from typing import Literal, get_args

from jax_rnnt.core.topology import Topology
from jax_rnnt.ops import checks
from jax_rnnt.ops.labels import static_index
from jax_rnnt.xla.primitive import Implementation, check_implementation

Reduction = Literal["none", "mean", "sum", "mean_volume"]
Wildcard = Literal["ends", "anywhere", "star"] | None
_REDUCTIONS = get_args(Reduction)


@dataclasses.dataclass(frozen=True)
class Options(abc.ABC):
    """The static options of a loss, which :func:`jax_rnnt.rnnt_loss` describes. They also determine its lattice."""

    blank: int = -1
    clamp: float = -1.0
    reduction: Reduction = "mean"
    fused_log_softmax: bool = True
    _: dataclasses.KW_ONLY
    fastemit_lambda: float = 0.0
    delay_penalty: float = 0.0
    sigma: float = 0.0
    wildcard: Wildcard = None
    wildcard_weight: float = 0.0
    zero_infinity: bool = False
    implementation: Implementation = None
    vocab_axis_name: str | None = None

    def __post_init__(self) -> None:
        static_index("blank", self.blank)
        hint = ""
        if isinstance(self.clamp, str) and self.clamp in _REDUCTIONS:
            hint = (
                " The 6th positional argument of the loss is `clamp`, as in torchaudio, and `reduction` comes after "
                f"it: write reduction={self.clamp!r}."
            )
        checks.number("clamp", self.clamp, hint)
        if not isinstance(self.reduction, str) or self.reduction not in _REDUCTIONS:
            raise ValueError(f"`reduction` must be one of {_REDUCTIONS}, got {self.reduction!r}.")
        checks.boolean("fused_log_softmax", self.fused_log_softmax)
        for name in ("fastemit_lambda", "delay_penalty", "sigma", "wildcard_weight"):
            checks.number(name, getattr(self, name))
        if self.fastemit_lambda < 0:
            raise ValueError(f"`fastemit_lambda` must be at least 0, got {self.fastemit_lambda}.")
        if self.wildcard not in (None, "ends", "anywhere", "star"):
            raise ValueError(f"`wildcard` must be None, 'ends', 'anywhere' or 'star', got {self.wildcard!r}.")
        checks.boolean("zero_infinity", self.zero_infinity)
        check_implementation(self.implementation)

    @abc.abstractmethod
    def topology(self, width: int) -> Topology:
        """The arcs of a node, for logits with rows of this width (of the whole vocabulary, if it is divided)."""

    def window(self, entries: int) -> tuple[int, int]:
        """Which of these entries of a row the loss normalises: all of them, or none."""
        return (0, entries) if self.fused_log_softmax else (0, 0)
