# pyright: strict, reportUnknownMemberType=false
"""A script as a user with a strict type checker writes it. Only one rule is off, because jax.grad itself breaks it."""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp

import jax_rnnt


def total(
    logits: jax.Array, targets: jax.Array, logit_lengths: jax.Array, target_lengths: jax.Array, weight: float
) -> jax.Array:
    costs = jax_rnnt.rnnt_loss(
        logits, targets, logit_lengths, target_lengths, blank=0, reduction="none", implementation="lax"
    )
    return weight * costs.sum()


def one_label_a_frame(
    logits: jax.Array, targets: jax.Array, logit_lengths: jax.Array, target_lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    nodes = jax_rnnt.node_labels(targets, logit_lengths, target_lengths, logits.shape, blanks=(0,))
    arcs = jax_rnnt.arc_log_probs(logits, nodes.labels, columns=(0,), implementation=None)
    cost: jax.Array = jax_rnnt.lattice_cost(arcs, nodes.logit_lengths, nodes.target_lengths, moves=((1, 0), (1, 1)))
    _, posteriors = jax_rnnt.lattice_posteriors(arcs, nodes.logit_lengths, nodes.target_lengths, moves=((1, 0), (1, 1)))
    return cost, posteriors


@dataclasses.dataclass
class Recipe:
    """A user's configuration: a field that holds any of the losses."""

    loss: jax_rnnt.Loss
    steps: int = 100


def main() -> None:
    recipes = [Recipe(jax_rnnt.RNNTLoss(blank=0)), Recipe(jax_rnnt.TDTLoss(durations=(0, 1), sigma=0.05))]
    recipes.append(dataclasses.replace(recipes[0], loss=dataclasses.replace(recipes[0].loss, fastemit_lambda=0.01)))
    logits = jnp.zeros((1, 4, 3, 5))
    targets, logit_lengths, target_lengths = jnp.array([[1, 4]]), jnp.array([4]), jnp.array([2])
    loss = jax_rnnt.RNNTLoss(blank=0, clamp=1.0, reduction="sum", implementation="lax")
    jax_rnnt.check_inputs(loss, logits, targets, logit_lengths, target_lengths)
    shape: jax.ShapeDtypeStruct = jax.eval_shape(lambda: logits)
    jax_rnnt.check_inputs(loss, shape, targets, logit_lengths, target_lengths)

    gradient = cast(jax.Array, jax.grad(total)(logits, targets, logit_lengths, target_lengths, 2.0))
    value: jax.Array = loss(logits, targets, logit_lengths, target_lengths)
    cost, posteriors = one_label_a_frame(logits, targets, logit_lengths, target_lengths)
    print(value, gradient.shape, cost, posteriors.shape, jax_rnnt.__version__, jax_rnnt.build_info()["version"])


if __name__ == "__main__":
    main()
