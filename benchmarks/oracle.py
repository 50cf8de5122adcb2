"""The right results in float64, by the test suite's definition (tests/reference.py), for arrays of many megabytes."""

import dataclasses
import importlib.util
import pathlib

import numpy as np
from cases import Case, Inputs

# A side within these tolerances computes the same loss and may be timed. They are wide enough for the float32
# recursions of the peers in long utterances. The report contains the size of each error.
COST_TOLERANCE = 2e-3  # relative
GRADIENT_TOLERANCE = 2e-2  # absolute; entries lie in [-1, 1]


def _reference():
    path = pathlib.Path(__file__).parents[1] / "tests" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclasses.dataclass
class Oracle:
    cost: float  # summed over the batch
    gradient: np.ndarray

    def errors(self, cost: float, gradient: np.ndarray | None) -> dict[str, float]:
        """The relative error of the cost and the largest absolute error of the gradient."""
        found = {"cost_error": float(abs(cost - self.cost) / abs(self.cost))}
        if gradient is not None:
            pairs = zip(_chunks(gradient), _chunks(self.gradient), strict=True)
            found["gradient_error"] = float(np.max([np.max(np.abs(g.astype(np.float64) - e)) for g, e in pairs]))
        return found


def _chunks(x: np.ndarray, rows: int = 8192) -> list[np.ndarray]:
    flat = x.reshape(-1, x.shape[-1])
    return [flat[i : i + rows] for i in range(0, len(flat), rows)]


def is_right(errors: dict[str, float]) -> bool:
    # A comparison with NaN is false, so NaN is wrong.
    return errors["cost_error"] <= COST_TOLERANCE and errors.get("gradient_error", 0.0) <= GRADIENT_TOLERANCE


def solve(case: Case, inputs: Inputs) -> Oracle:
    reference = _reference()
    if case.kind == "lattice":
        costs, posteriors = reference.lattice_cost(*(inputs[n] for n in ("logits", "logit_lengths", "target_lengths")))
        return Oracle(float(costs.sum()), -posteriors)
    total, gradient = 0.0, np.empty(case.shape, np.float64)
    for b in range(case.b):
        total += _example(reference, inputs["logits"][b], inputs["targets"][b], gradient[b])
    return Oracle(total, gradient)


def _example(reference, logits: np.ndarray, targets: np.ndarray, gradient: np.ndarray) -> float:
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
        log_probs[t, :, 0] = x[:, vocabulary - 1] - norm
        log_probs[t, :, 1] = x[column, labels] - norm
    cost, posteriors = reference.lattice(log_probs, frames, nodes - 1)
    for t in range(frames):
        gradient[t] *= posteriors[t].sum(-1, keepdims=True)
        gradient[t, :, vocabulary - 1] -= posteriors[t, :, 0]
        gradient[t, column, labels] -= posteriors[t, :, 1]
    return cost
