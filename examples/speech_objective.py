"""What a run trains with: a loss of the library, and where the logits of its joint network are."""

import dataclasses
import math
from typing import Any

from speech_corpus import BLANK, VOCABULARY
from speech_mesh import MODEL
from speech_problems import UserError

import jax_rnnt

STACK = 4  # feature frames in one encoder frame: 40 ms
BIG_BLANKS = (2, 4)  # encoder frames
DURATIONS = (0, 1, 2, 3, 4)
S_RANGE = 5  # positions that pruning keeps of each frame

# The classes behind the vocabulary are the big blanks, or the durations.
_LOSSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnnt": (jax_rnnt.RNNTLoss, {}),
    "pruned": (jax_rnnt.RNNTLoss, {}),
    "monotonic": (jax_rnnt.MonotonicRNNTLoss, {}),
    "multiblank": (
        jax_rnnt.MultiblankRNNTLoss,
        {"big_blanks": tuple(VOCABULARY + k for k in range(len(BIG_BLANKS))), "durations": BIG_BLANKS, "sigma": 0.05},
    ),
    "tdt": (jax_rnnt.TDTLoss, {"durations": DURATIONS, "sigma": 0.05}),
    "hat": (jax_rnnt.HATLoss, {}),
}
LOSSES = tuple(_LOSSES)
JOINTS = ("dense", "fused", "packed")


@dataclasses.dataclass(frozen=True)
class Objective:
    loss: str = "rnnt"  # one of LOSSES
    joint: str = "dense"  # one of JOINTS

    @property
    def classes(self) -> int:
        """Outputs of the joint network."""
        return VOCABULARY + len({"multiblank": BIG_BLANKS, "tdt": DURATIONS}.get(self.loss, ()))

    @property
    def stack(self) -> int:
        """Feature frames in one encoder frame. Fast speech has more characters than frames of 40 ms."""
        return STACK // 2 if self.loss == "monotonic" else STACK

    def most_labels(self, frames: int) -> float:
        """How many labels so many frames can emit."""
        a_frame = {"monotonic": 1, "pruned": S_RANGE - 1}.get(self.loss, math.inf)
        return a_frame * frames

    def function(self, vocab_axis_name: str | None = None) -> jax_rnnt.Loss:
        """The loss, summed over a batch; decoding by it does not depend on the name."""
        loss, options = _LOSSES[self.loss]
        return loss(blank=BLANK, reduction="sum", vocab_axis_name=vocab_axis_name, **options)

    def check(self, mesh: str, axes: dict[str, int]) -> None:
        """Refuses what does not go together."""
        if self.loss == "pruned" and self.joint != "dense":
            raise UserError(f"--loss pruned chooses the nodes of the joint network itself, and --joint is {self.joint}")
        if self.joint == "packed" and math.prod(axes.values()) > 1:
            raise UserError(f"--joint packed needs one device, since its rows belong to none, and --mesh is {mesh}")
        for option, value, divides in (("--joint", self.joint, "fused"), ("--loss", self.loss, "pruned tdt")):
            if value in divides.split() and axes.get(MODEL, 1) > 1:
                raise UserError(f"{option} {value} needs a vocabulary that is not divided, and --mesh is {mesh}")


PLAIN = Objective()
