"""Writes docs/losses-tested.md, which says how each loss is tested, from JUnit reports of the tests. It runs no tests.

    cd tests && python -m pytest -o junit_family=xunit1 --junitxml=losses.xml test_losses*.py test_joint.py
    python scripts/loss_table.py tests/losses.xml [report of the CUDA kernels on the CPU]

A cell says how many cases passed. An empty cell says that there is no such test.
"""

import collections
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from transformation_table import ROOT, Case

LOSSES = {
    "monotonic": "monotonic",
    "monotonic_last_blank": "monotonic, the last frame a blank",
    "multiblank": "multi-blank",
    "tdt": "TDT",
    "hat": "HAT, blank last",
    "hat_blank_first": "HAT, blank first",
    "fastemit": "RNN-T, FastEmit",
    "delayed_and_lowered": "RNN-T, delay penalty and sigma",
    "wildcard_ends": "RNN-T, wildcard at the ends",
    "wildcard_anywhere": "RNN-T, wildcard anywhere",
    "wildcard_star": "RNN-T, wildcard star",
}
VALUES = ["test_losses::test_values_and_gradients", "test_losses::test_variants", "test_losses::test_float32"]
COLUMNS = {
    "values and gradient": VALUES,
    "clamp": ["test_losses::test_clamp"],
    "bf16": ["test_losses::test_bfloat16"],
    "cotangent 0": ["test_losses::test_cotangents_of_0_mask_what_is_bad"],
    "vmap": ["test_losses_transforms::test_vmap_and_gradient_of_vmap"],
    "shard_map": ["test_losses_transforms::test_batch_over_a_mesh"],
    "vocabulary-parallel": ["test_losses_transforms::test_divided_vocabulary"],
    "jvp": ["test_losses_transforms::test_forward_mode_is_the_gradient"],
    "second order": ["test_losses_transforms::test_hessian_vector_products"],
    "export": ["test_losses_transforms::test_export_for_cpu"],
    "JointLogits": ["test_joint::test_contract"],
}
CUDA = "cuda_on_cpu"  # in the names of tests that ran the CUDA kernels on the CPU

HEADER = """\
# The losses and their tests

`python scripts/loss_table.py` writes this page from reports of the tests; do not edit it. A cell says how many cases
passed. The cases of the last column run the CUDA kernels on the CPU.
"""


def _cell(cases: list[Case], loss: str, tests: list[str], word: str | None = None) -> str:
    found = [c for c in cases if c.test in tests and loss in c.parameters and (word is None or word in c.parameters)]
    counts = collections.Counter(c.outcome for c in found)
    return "**failed**" if counts["failed"] else str(counts["passed"] or "")


def main(reports: list[str]) -> None:
    cases = [Case.parse(e) for report in reports for e in ElementTree.parse(report).iter("testcase")]
    on_host = [c for c in cases if CUDA not in c.parameters]
    heads = ["", *COLUMNS, "CUDA kernels"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for loss, name in LOSSES.items():
        cells = [*(_cell(on_host, loss, tests) for tests in COLUMNS.values()), _cell(cases, loss, VALUES, CUDA)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    text = "\n".join([HEADER, *lines, ""])
    (ROOT / "docs" / "losses-tested.md").write_text(text)
    if "failed" in text:
        raise SystemExit(f"some failed: see {Path('docs') / 'losses-tested.md'}")


if __name__ == "__main__":
    main(sys.argv[1:])
