"""The gradients of models as functions of shapes, to be compiled for TPUs: any loss on any source of logits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import losses
import tpu_programs

import jax_rnnt

LOSSES = {loss.name: loss for loss in (losses.RNNT, *losses.PLAIN)}
SOURCES = ("dense", "logits", "packed", "pruned", "additive", "joint", "known joint")
KEPT = 5  # positions of each frame that pruned logits hold
TILE = 2048  # rows of a tile of a joint network


@dataclasses.dataclass(frozen=True)
class Sizes:
    batch: int
    frames: int
    labels: int
    vocabulary: int
    hidden: int = 128
    dtype: str = "bfloat16"


def _joint(weights, encoded, predicted):
    return jnp.tanh(encoded + predicted) @ weights


def _logits_of(source: str, weights, arrays, logit_lengths, target_lengths, labels: int, axes: tuple[str, ...]) -> Any:
    """The logits in the form that the loss gets."""
    first, second = arrays
    if source in ("logits", "packed", "pruned"):
        # As a model makes them; "logits" alone are an argument, which has no array beside it.
        rows = first if source == "logits" else first @ weights
    if source == "dense":
        return _joint(weights, first[:, :, None], second[:, None])
    if source == "packed":
        frames = first.shape[0] // (target_lengths.shape[0] * (labels + 1))
        return jax_rnnt.PackedLogits(rows, logit_lengths, target_lengths, num_frames=frames, num_labels=labels)
    if source == "pruned":
        return jax_rnnt.PrunedLogits(rows, second, labels)
    if source == "additive":
        return jax_rnnt.AdditiveLogits(first @ weights, second @ weights)
    if source == "logits":
        return rows
    known = source == "known joint"
    joint, params = (jax_rnnt.additive_joint(), {"kernel": weights}) if known else (_joint, weights)
    return jax_rnnt.JointLogits(joint, params, first, second, tile_rows=TILE, batch_axis_names=axes)


def compiled(topology: str, chips: int, loss: str, source: str, sizes: Sizes) -> tuple[tpu_programs.Program, int]:
    """The program of a loss and its gradients, and the number of logits that one chip holds (in tiles: of a tile)."""
    b, t, u, h = sizes.batch, sizes.frames, sizes.labels, sizes.hidden
    entries = sizes.vocabulary + len(getattr(LOSSES[loss].oracle, "durations", ())) * (loss == "tdt")

    def floats(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, sizes.dtype)

    def integers(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    of_frames, of_positions = floats(b, t, h), floats(b, u + 1, h)
    arrays, logits = {
        "logits": ((floats(b, t, u + 1, entries), None), b * t * (u + 1) * entries),
        "packed": ((floats(b * t * (u + 1), h), None), b * t * (u + 1) * entries),
        "pruned": ((floats(b, t, KEPT, h), integers(b, t)), b * t * KEPT * entries),
        "joint": ((of_frames, of_positions), TILE * entries * chips),
        "known joint": ((of_frames, of_positions), TILE * entries * chips),
    }.get(source, ((of_frames, of_positions), b * t * (u + 1) * entries))
    axes = (tpu_programs.AXIS,) if chips > 1 else ()

    def total(floating, others, targets, logit_lengths, target_lengths):
        weights, first, second = floating
        pair = first, others if second is None else second
        held = _logits_of(source, weights, pair, logit_lengths, target_lengths, u, axes)
        return jnp.sum(LOSSES[loss].costs(held, targets, logit_lengths, target_lengths))

    def step(weights, arrays, *batch):
        first, second = arrays
        second, others = (None, second) if source == "pruned" else (second, None)
        return jax.value_and_grad(total)((weights, first, second), others, *batch)

    types = floats(h, entries), arrays, integers(b, u), integers(b), integers(b)
    program = tpu_programs.compile_for(topology, step, *types, chips=chips, divided=(False, True, True, True, True))
    return program, logits // chips
