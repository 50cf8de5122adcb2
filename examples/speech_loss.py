"""The loss of a batch, by the objective of the model."""

import jax
import jax.numpy as jnp
from flax import nnx
from speech_batches import Arrays
from speech_mesh import MODEL, vocabulary_parts
from speech_model import Transducer
from speech_objective import S_RANGE

import jax_rnnt

LM_SCALE = 0.25  # of the predictor alone in the simple loss, which else learns to do without it


def batch_loss(
    model: Transducer,
    arrays: Arrays[jax.Array],
    rngs: nnx.Rngs | None = None,
    nodes: int | None = None,
    warmth: float | jax.Array = 1.0,
) -> jax.Array:
    """The mean cost of the real rows. Filler rows cost 0 and are not counted.

    A packed joint network has room for `nodes` nodes of the batch. `warmth` rises from 0 to 1 while the pruned loss
    takes over from the simple one.
    """
    frames, predictions, logit_lengths = model.parts(arrays.audio, arrays.samples, arrays.labels, rngs)
    lengths = logit_lengths, arrays.label_lengths
    objective = model.objective
    loss = objective.function(MODEL if vocabulary_parts() > 1 else None)
    if objective.loss == "pruned":
        total = _pruned_loss(model, loss, frames, predictions, arrays.labels, *lengths, warmth)
    else:
        if objective.joint == "fused":
            logits = model.not_yet_joined(frames, predictions)
        elif objective.joint == "packed":
            pairs = jax_rnnt.PackedLogits.pack(frames, predictions, *lengths, num_rows=nodes)
            shape = {"frames": frames.shape[1], "labels": arrays.labels.shape[1]}
            logits = jax_rnnt.PackedLogits(model.join(*pairs), *lengths, **shape)
        else:
            logits = model.join(frames[:, :, None], predictions[:, None])
        total = loss(logits, arrays.labels, *lengths)
    return total / jnp.maximum(jnp.sum(arrays.samples > 0), 1)


def _pruned_loss(
    model: Transducer,
    loss: jax_rnnt.Loss,
    frames: jax.Array,
    predictions: jax.Array,
    labels: jax.Array,
    logit_lengths: jax.Array,
    label_lengths: jax.Array,
    warmth: float | jax.Array,
) -> jax.Array:
    """A simple loss says through which nodes the paths go, and the joint network works on those: icefall's recipe.

    While the simple loss has not learnt that, most nodes it keeps are wrong ones, so the pruned loss counts a tenth.
    """
    simple = jax_rnnt.AdditiveLogits(*model.simple_parts(frames, predictions), lm_scale=LM_SCALE)
    lattice = jax_rnnt.alignment.loss_lattice(loss, simple, labels, logit_lengths, label_lengths)
    simple_costs, posteriors = jax_rnnt.lattice_posteriors(*lattice)
    ranges = jax_rnnt.PrunedLogits.best_ranges(posteriors, logit_lengths, label_lengths, s_range=S_RANGE)
    pairs = jax_rnnt.PrunedLogits.prune(frames, predictions, ranges, s_range=S_RANGE)
    pruned = jax_rnnt.PrunedLogits(model.join(*pairs), ranges, num_labels=labels.shape[1])
    pruned_loss = loss(pruned, labels, logit_lengths, label_lengths)
    return (1 - 0.5 * warmth) * jnp.sum(simple_costs) + (0.1 + 0.9 * warmth) * pruned_loss
