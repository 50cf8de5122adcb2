"""The right results in float64, by the definition in tests/support/reference.py, for arrays of many megabytes."""

import importlib.util
import pathlib

import numpy as np
from cases import Case

# A side within these tolerances computes the same loss and may be timed. They are wide enough for the float32
# recursions of the peers in long utterances. The report contains the size of each error.
COST_TOLERANCE = 2e-3  # relative
GRADIENT_TOLERANCE = 2e-2  # absolute; entries lie in [-1, 1]

_spec = importlib.util.spec_from_file_location(
    "reference", pathlib.Path(__file__).parents[1] / "tests" / "support" / "reference.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


def errors(outputs: list[np.ndarray], expected: tuple[float, np.ndarray]) -> dict[str, float]:
    """The relative error of the cost and the largest absolute error of the gradient."""
    found = {"cost_error": float(abs(float(outputs[0]) - expected[0]) / abs(expected[0]))}
    if len(outputs) > 1:
        pairs = zip(np.asarray(outputs[1]), expected[1], strict=True)  # an utterance at a time
        found["gradient_error"] = float(np.max([np.max(np.abs(g.astype(np.float64) - e)) for g, e in pairs]))
    return found


def is_right(found: dict[str, float]) -> bool:
    # A comparison with NaN is false, so NaN is wrong.
    return found["cost_error"] <= COST_TOLERANCE and found.get("gradient_error", 0.0) <= GRADIENT_TOLERANCE


def solve(case: Case, inputs: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """The cost, summed over the batch, and its gradient."""
    if case.kind == "lattice":
        costs, posteriors = reference.lattice_cost(*(inputs[n] for n in ("logits", "logit_lengths", "target_lengths")))
        return float(costs.sum()), -posteriors
    gradient = np.empty(case.shape, np.float64)
    return sum(_example(*x) for x in zip(inputs["logits"], inputs["targets"], gradient, strict=True)), gradient


def _example(logits: np.ndarray, targets: np.ndarray, gradient: np.ndarray) -> float:
    """Fills `gradient` for one utterance of full length and returns its cost.

    It works in pieces that fit the caches.
    """
    frames, nodes, vocabulary = logits.shape
    labels = np.append(targets, 0)  # the last column has no label, and its arc ends nowhere, so any number will do
    column = np.arange(nodes)
    log_probs = np.empty((frames, nodes, 2))
    for t in range(frames):
        x = logits[t].astype(np.float64)
        norm = reference.log_normaliser(x)
        gradient[t] = np.exp(x - norm[:, None])
        log_probs[t] = np.stack([x[:, vocabulary - 1], x[column, labels]], axis=-1) - norm[:, None]
    cost, posteriors = reference.lattice(log_probs, frames, nodes - 1)
    for t in range(frames):
        gradient[t] *= posteriors[t].sum(-1, keepdims=True)
        gradient[t, :, vocabulary - 1] -= posteriors[t, :, 0]
        gradient[t, column, labels] -= posteriors[t, :, 1]
    return cost
