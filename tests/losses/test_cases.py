"""The table of cases with every implementation and dtype: values, gradients, corner cases, dtypes of the results."""

import numpy as np
import pytest
import reference
import runner
from cases import CASES, INTEGER_TYPES, Case

# Kernels have a way for these, XLA has not.
LIKE_OTHERS_IN_LAX = {
    *("blank_middle", "clamp_loose", "clamp_zero_is_off", "log_probs_clamp", "one_example", "one_frame", "one_node"),
    *(
        "no_label_is_left",
        "more_labels_than_frames",
        "more_frames_than_labels",
        "overconfident_and_wrong",
        "empty_batch",
        "only_blank_exists",
    ),
}


def _marks(case: Case, dtype: str) -> list[pytest.MarkDecorator]:
    marks = [] if case.name == "ragged" else [pytest.mark.once]
    # The lax form computes in one dtype for all options, and casts its inputs and results. Integers become
    # int32 before either form sees them.
    is_like_others = case.name in INTEGER_TYPES | LIKE_OTHERS_IN_LAX or case.name.startswith("vocabulary")
    if dtype == "float16" or (dtype != "float32" and case.name != "ragged") or is_like_others:
        marks.append(pytest.mark.full(implementation="lax"))
    return marks


RUNS = [
    pytest.param(case, dtype, id=f"{name}-{dtype}", marks=_marks(case, dtype))
    for name, case in CASES.items()
    for dtype in case.dtypes
]


@pytest.mark.parametrize(("case", "dtype"), RUNS)
def test_case(case: Case, dtype: str, implementation: str) -> None:
    result = runner.evaluate(implementation, *case.arrays, **case.options, dtype=dtype)
    runner.assert_matches_oracle(result, *case.arrays, **case.options, dtype=dtype)
    if case.costs is not None:
        np.testing.assert_allclose(result.cost, case.costs, rtol=1e-6, atol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize("case", [c for c in CASES.values() if c.costs is not None], ids=lambda c: c.name)
def test_oracle_agrees_with_values_by_hand(case: Case) -> None:
    cost, _ = reference.rnnt_loss(*case.arrays, **case.options)
    np.testing.assert_allclose(cost, case.costs, rtol=1e-12, atol=1e-12)
