"""The choice of a run: a loss of the library, and which logits the joint network makes for it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from speech_data import ALPHABET, BLANK, HOP, WINDOW, Arrays, num_frames
from speech_mesh import DATA, MODEL, parts
from speech_problems import UserError

import jax_rnnt

STACK = 4  # feature frames in one encoder frame: 40 ms
SHORTEST = WINDOW + (STACK - 1) * HOP  # samples of audio that make one encoder frame
S_RANGE = 5  # positions that pruning keeps of each frame
LM_SCALE = 0.25  # of the predictor alone in the simple loss, which otherwise learns to do without it


@dataclasses.dataclass(frozen=True)
class Objective:
    loss: jax_rnnt.Loss
    joint: str = "dense"  # or another of JOINTS, or "pruned"
    stack: int = STACK
    most_labels: float = math.inf  # that a frame can emit

    @property
    def classes(self) -> int:
        """Outputs of the joint network. The big blanks and TDT's durations come behind the vocabulary."""
        return len(ALPHABET) + len(getattr(self.loss, "durations", ()))

    def frames(self, samples):
        """The number of encoder frames of so many samples."""
        return num_frames(samples) // self.stack


_SHARED = {"blank": BLANK, "reduction": "sum"}
_BIG_BLANKS = {"big_blanks": (len(ALPHABET), len(ALPHABET) + 1), "durations": (2, 4)}
JOINTS = ("dense", "fused", "packed")
LOSSES = {
    "rnnt": Objective(jax_rnnt.RNNTLoss(**_SHARED)),
    "pruned": Objective(jax_rnnt.RNNTLoss(**_SHARED), "pruned", most_labels=S_RANGE - 1),
    "monotonic": Objective(jax_rnnt.MonotonicRNNTLoss(**_SHARED), stack=STACK // 2, most_labels=1),  # of fast speech
    "multiblank": Objective(jax_rnnt.MultiblankRNNTLoss(**_SHARED, **_BIG_BLANKS, sigma=0.05)),
    "tdt": Objective(jax_rnnt.TDTLoss(**_SHARED, durations=(0, 1, 2, 3, 4), sigma=0.05)),
    "hat": Objective(jax_rnnt.HATLoss(**_SHARED)),
}


def choose(loss: str, joint: str, axes: dict[str, int]) -> Objective:
    """Refuses choices that do not go together."""
    if loss == "pruned" and joint != "dense":
        raise UserError(f"--loss pruned chooses the nodes of the joint network itself, and --joint is {joint}")
    if joint == "packed" and math.prod(axes.values()) > 1:
        raise UserError(f"--joint packed needs one device, since its rows belong to none, and the mesh is {axes}")
    for option in {f"--loss {loss}", f"--joint {joint}"} & {"--loss pruned", "--loss tdt", "--joint fused"}:
        if axes[MODEL] > 1:
            raise UserError(f"{option} needs a vocabulary that is not divided, and the mesh is {axes}")
    return LOSSES[loss] if loss == "pruned" else dataclasses.replace(LOSSES[loss], joint=joint)


def batch_loss(model: nnx.Module, arrays: Arrays, rngs=None, nodes: int | None = None, warmth=1.0) -> jax.Array:
    """The mean cost of the real rows. Filler rows cost 0 and are not counted.

    `nodes` is the room of a packed joint network; `warmth` rises to 1 while the pruned loss takes over.
    """
    objective, labels = model.objective, arrays.labels
    loss = dataclasses.replace(objective.loss, vocab_axis_name=MODEL if parts(MODEL) > 1 else None)
    frames, frame_lengths = model.encode(arrays.audio, arrays.samples, rngs)
    predictions, lengths = model.predict_all(labels), (frame_lengths, arrays.label_lengths)
    weight, simple = 1.0, 0.0
    if objective.joint == "dense":
        logits = model.join(frames[:, :, None], predictions[:, None])
    elif objective.joint == "fused":
        rows = (DATA,) if parts(DATA) > 1 else ()
        logits = jax_rnnt.JointLogits.from_nnx(model.join, frames, predictions, batch_axis_names=rows)
    elif objective.joint == "packed":
        rows = model.join(*jax_rnnt.PackedLogits.pack(frames, predictions, *lengths, num_rows=nodes))
        logits = jax_rnnt.PackedLogits(rows, *lengths, num_frames=frames.shape[1], num_labels=labels.shape[1])
    else:
        # icefall's recipe: a simple loss says through which nodes the paths go, and the joint network works on those.
        # Until the simple loss has learnt that, most nodes that it keeps are wrong, so the pruned loss counts a tenth.
        parts_of_sums = model.simple_encoder(frames), model.simple_predictor(predictions)
        sums = jax_rnnt.AdditiveLogits(*parts_of_sums, lm_scale=LM_SCALE)
        costs, posteriors = jax_rnnt.lattice_posteriors(*jax_rnnt.alignment.loss_lattice(loss, sums, labels, *lengths))
        ranges = jax_rnnt.PrunedLogits.best_ranges(posteriors, *lengths, s_range=S_RANGE)
        rows = model.join(*jax_rnnt.PrunedLogits.prune(frames, predictions, ranges, s_range=S_RANGE))
        logits = jax_rnnt.PrunedLogits(rows, ranges, num_labels=labels.shape[1])
        weight, simple = 0.1 + 0.9 * warmth, (1 - 0.5 * warmth) * jnp.sum(costs)
    total = weight * loss(logits, labels, *lengths) + simple
    return total / jnp.maximum(jnp.sum(arrays.samples > 0), 1)
