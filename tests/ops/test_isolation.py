"""Examples of one batch never influence each other. A bad example changes no bit of the good ones.

The tests find these mistakes: a sum over the batch that multiplies a NaN by zero, a maximum over more than one example,
a guard that turns the whole batch to NaN, and a bad length that shifts the memory of another example.
"""

from collections.abc import Callable

import losses
import numpy as np
import pytest
import runner
from cases import T, U, V, lengths, random_batch

pytestmark = pytest.mark.once

BAD = 1  # the example that each function below spoils
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _logits(value: float, where=(...,)) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        arrays[0][(BAD, *where)] = value

    return spoil


def _integer(argument: int, value: int, where=()) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        arrays[argument][(BAD, *where)] = value

    return spoil


def _filler(arrays: Arrays) -> None:
    arrays[0][BAD] = np.nan
    arrays[2][BAD] = arrays[3][BAD] = 0


SPOILERS = {
    "nan_everywhere": _logits(np.nan),
    "plus_inf_everywhere": _logits(np.inf),
    "minus_inf_everywhere": _logits(-np.inf),
    "huge_everywhere": _logits(3e38),
    "one_nan": _logits(np.nan, (0, 0, 0)),
    "one_nan_at_the_end": _logits(np.nan, (T - 1, U, V - 1)),
    "logit_length_negative": _integer(2, -5),
    "logit_length_huge": _integer(2, 2**31 - 1),
    "target_length_negative": _integer(3, -5),
    "target_length_huge": _integer(3, 2**31 - 1),
    "label_is_blank": _integer(1, V - 1, (0,)),
    "label_negative": _integer(1, -7, (0,)),
    "label_huge": _integer(1, 2**31 - 1, (0,)),
    "filler": _filler,
}
OPTIONS = [{}, {"clamp": 0.1}, {"fused": False}]


@pytest.mark.full(implementation="lax", options=OPTIONS[1:])
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "clamp", "log_probs"])
@pytest.mark.parametrize("spoiler", SPOILERS)
def test_a_bad_example_changes_nothing_else(spoiler: str, options: dict, implementation: str) -> None:
    logits, targets = random_batch("isolation")
    good = logits, targets, lengths(5, 3, 4, 1), lengths(3, 3, 1, 2)
    bad = tuple(a.copy() for a in good)
    SPOILERS[spoiler](bad)
    expected = runner.evaluate(implementation, *good, **options, dtype="float32")
    actual = runner.evaluate(implementation, *bad, **options, dtype="float32")
    others = np.arange(len(logits)) != BAD
    assert np.isfinite(expected.cost[others]).all()
    np.testing.assert_array_equal(actual.cost[others], expected.cost[others])
    np.testing.assert_array_equal(actual.cost_alone[others], expected.cost_alone[others])
    np.testing.assert_array_equal(actual.gradient[others], expected.gradient[others])


def test_the_batch_around_an_example_does_not_matter() -> None:
    """Runs an example alone, in an array of its own size, and all examples together in a larger one."""
    logits, targets = random_batch("batching")
    t_b, u_b = lengths(5, 3, 4, 1), lengths(3, 3, 1, 2)
    together = runner.evaluate(losses.QUICK, logits, targets, t_b, u_b)
    for b in (1, 2):
        t, u = t_b[b], u_b[b]
        small = logits[b : b + 1, :t, : u + 1], targets[b : b + 1, :u], t_b[b : b + 1], u_b[b : b + 1]
        alone = runner.evaluate(losses.QUICK, *small)
        np.testing.assert_allclose(alone.cost[0], together.cost[b], rtol=1e-14)
        np.testing.assert_allclose(alone.gradient[0], together.gradient[b, :t, : u + 1], rtol=0, atol=1e-14)
