"""Writes docs/transformations.md: what works under which transformation, by the tests, on every tested version of JAX.

    python scripts/transformation_table.py                # runs the tests by scripts/versions.sh; ten minutes
    python scripts/transformation_table.py current newest # runs them in these environments only
    python scripts/transformation_table.py --keep         # runs them in the environments as they are

A row is a set of tests. A cell says how many of their cases passed. Or it says that the library refuses the operation:
the tests then assert the error, and record it as the property `refused`. Or it says that the version of JAX does not
have the feature: the tests then skip, and say why.
"""

import collections
import dataclasses
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSIONS = ("oldest", "current", "newest")
IMPLEMENTATIONS = {"native": "kernels", "lax": "lax form"}

# Row -> tests. If words follow the name of a test, the row has only its cases with all of these words as parameters.
ROWS = {
    "jit, and without it": ["test_transforms::test_eager_equals_jit"],
    "grad, value_and_grad": [
        "test_transforms::test_value_and_grad_with_aux_arguments",
        "test_transforms::test_a_second_backward_is_right",
    ],
    "vmap over any axis": [
        "test_transforms::test_vmap_over_any_axis",
        "test_transforms::test_vmap_with_shared_arguments",
        "test_transforms::test_vmap_over_single_examples",
    ],
    "vmap of vmap, vmap of grad": [
        "test_transforms::test_nested_vmap_and_vmap_of_grad",
        "test_transforms::test_vmap_of_clamped_gradient",
    ],
    "vmap of divided arrays": [
        "test_sharding_manual::test_vmap_of_divided_arrays",
        "test_sharding_manual::test_vmap_with_spmd_axis_name",
        "test_sharding_manual::test_vmap_of_shard_map",
    ],
    "remat": ["test_transforms::test_remat_of_joint_and_loss", "test_sharding_manual::test_remat"],
    "accumulation in a scan": [
        "test_transforms::test_accumulation_in_a_scan",
        "test_sharding_manual::test_accumulation_in_a_scan",
    ],
    "while, cond, map": ["test_transforms::test_while_cond_and_map"],
    "donation": ["test_transforms::test_donated_logits", "test_sharding_manual::test_donated_logits"],
    "jvp, linearize": ["test_second_order::test_jvp_and_linearize"],
    "Hessian-vector products, both ways": [
        "test_second_order::test_hessian_vector_products",
        "test_second_order::test_vmap_of_hessian_vector_products",
        "test_sharding_manual::test_forward_mode_and_hessian_vector_products",
    ],
    "debug_nans": [
        "test_transforms::test_debug_nans_is_quiet_where_nothing_is_wrong",
        "test_transforms::test_debug_nans_finds_a_nan",
    ],
    "disable_jit": ["test_transforms::test_without_jit"],
    "shard_map, check_vma on": [
        "test_sharding_manual::test_gradient_inside_and_outside checked",
        "test_sharding_manual::test_gradients_of_replicated_weights checked",
        "test_sharding_manual::test_replicated_labels_and_lengths checked",
    ],
    "shard_map, check_vma off": [
        "test_sharding_manual::test_gradient_inside_and_outside unchecked",
        "test_sharding_manual::test_gradients_of_replicated_weights unchecked",
        "test_sharding_manual::test_replicated_labels_and_lengths unchecked",
    ],
    "shard_map over some axes (partly manual)": ["test_sharding_manual::test_partly_manual"],
    "pmap": ["test_sharding_manual::test_pmap"],
    "automatic mesh, Shardy": [
        "test_sharding_auto::test_step_with_divided_batch shardy",
        "test_sharding_auto::test_loss_alone_needs_no_exchange shardy",
        "test_sharding_auto::test_batch_over_two_axes shardy",
        "test_sharding_auto::test_training_step_exchanges_no_more_than_weights shardy",
        "test_sharding_auto::test_divided_lattice shardy",
    ],
    "automatic mesh, GSPMD": [
        "test_sharding_auto::test_step_with_divided_batch gspmd",
        "test_sharding_auto::test_loss_alone_needs_no_exchange gspmd",
        "test_sharding_auto::test_batch_over_two_axes gspmd",
        "test_sharding_auto::test_training_step_exchanges_no_more_than_weights gspmd",
        "test_sharding_auto::test_divided_lattice gspmd",
    ],
    "batch that does not divide": ["test_sharding_auto::test_uneven_batch"],
    "explicit mesh": [
        "test_sharding_explicit::test_shardings_propagate",
        "test_sharding_explicit::test_clamp_and_two_axes",
        "test_sharding_explicit::test_eager_calls",
        "test_sharding_explicit::test_vmap_of_grad",
        "test_sharding_explicit::test_scan_and_remat",
        "test_sharding_explicit::test_divided_time_by_the_two_operations",
    ],
    "explicit mesh, logits divided over V without its name": [
        "test_sharding_explicit::test_what_cannot_be_divided_is_said"
    ],
    "divided vocabulary, in shard_map": [
        "test_vocabulary::test_values_and_gradients checked",
        "test_vocabulary::test_values_and_gradients unchecked",
    ],
    "divided vocabulary, in an automatic mesh that is set": [
        "test_vocabulary::test_values_and_gradients auto",
        "test_vocabulary::test_what_crosses_the_mesh auto",
    ],
    "divided vocabulary, in an explicit mesh that is set": [
        "test_vocabulary::test_reductions_in_a_mesh_that_is_set AxisType.Explicit"
    ],
    "divided vocabulary, jvp": ["test_vocabulary::test_no_forward_mode_is_said"],
    "export for cpu": ["test_export::test_each_platform_gets_its_form cpu", "test_export::test_round_trip"],
    "export for cuda": ["test_export::test_each_platform_gets_its_form cuda"],
    "export for tpu": ["test_export::test_each_platform_gets_its_form tpu"],
    "export of symbolic shapes": ["test_export::test_symbolic_shapes cpu"],
    "compilation cache": ["test_export::test_persistent_compilation_cache"],
    "two processes": ["test_distributed::test_two_processes_train_as_one"],
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One test case of a JUnit report."""

    test: str  # file::function
    parameters: frozenset[str]
    outcome: str  # "passed", "failed", "refused" or "skipped"
    sentence: str = ""  # the reason of the refusal or of the skip

    @staticmethod
    def parse(element: ElementTree.Element) -> "Case":
        function, _, parameters = element.attrib["name"].partition("[")
        outcome, sentence = "passed", ""
        if (refusal := element.find("properties/property[@name='refused']")) is not None:
            outcome, sentence = "refused", refusal.attrib["value"]
        if (skip := element.find("skipped")) is not None:
            outcome, sentence = "skipped", skip.attrib["message"]
        if element.find("failure") is not None or element.find("error") is not None:
            outcome = "failed"
        module = element.attrib["classname"].rpartition(".")[2]
        return Case(f"{module}::{function}", frozenset(parameters.rstrip("]").split("-")), outcome, sentence)

    def belongs_to(self, pattern: str, implementation: str) -> bool:
        test, *words = pattern.split()
        others = IMPLEMENTATIONS.keys() - {implementation}
        return self.test == test and self.parameters >= set(words) and not self.parameters & others


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of the tests in one environment."""

    jax: str
    python: str
    cases: list[Case]


def run(version: str, keep: list[str], tests: list[str], folder: Path) -> Report:
    file = folder / f"{version}.xml"
    # Only in this family of reports may a test case have properties.
    options = ["-q", "--full", "-o", "junit_family=xunit1", f"--junitxml={file}"]
    command = [ROOT / "scripts" / "versions.sh", *keep, version, "--", *options, *tests]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if not file.exists():
        raise SystemExit(f"scripts/versions.sh {version} ended with {done.returncode} before it wrote its report")
    tree = ElementTree.parse(file)
    about = {p.attrib["name"]: p.attrib["value"] for p in tree.iterfind(".//testsuite/properties/property")}
    return Report(about["jax"], about["python"], [Case.parse(e) for e in tree.iter("testcase")])


class Table:
    def __init__(self, reports: list[Report]):
        self._reports = reports
        self._notes: dict[str, int] = {}
        self.failures: list[str] = []

    def _note(self, sentence: str) -> str:
        return f"<sup>{self._notes.setdefault(sentence, len(self._notes) + 1)}</sup>"

    def _cell(self, row: str, report: Report, implementation: str) -> str:
        cases = [c for c in report.cases if any(c.belongs_to(p, implementation) for p in ROWS[row])]
        counts = collections.Counter(c.outcome for c in cases)
        if not cases or counts["failed"]:
            self.failures.append(f"{row}, {implementation}, jax {report.jax}: {dict(counts) or 'no such test'}")
            return "**failed**"
        said = []
        if counts["passed"]:
            said.append(f"{counts['passed']} passed")
        for outcome, words in (("refused", "refused"), ("skipped", "not there")):
            sentences = sorted({c.sentence for c in cases if c.outcome == outcome})
            if sentences and not (outcome == "skipped" and said):
                said.append(words + "".join(map(self._note, sentences)))
        return ", ".join(said)

    def lines(self) -> list[str]:
        heads = [f"jax {r.jax}, Python {r.python}: {name}" for r in self._reports for name in IMPLEMENTATIONS.values()]
        lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for row in ROWS:
            cells = [self._cell(row, r, i) for r in self._reports for i in IMPLEMENTATIONS]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        return [*lines, "", *(f"{number}. {sentence}" for sentence, number in self._notes.items())]


HEADER = """\
# Transformations

`python scripts/transformation_table.py` runs the tests and writes this page; do not edit it. A cell says how many test
cases passed on eight host devices of the CPU. *Refused* means that an error says why, and that the tests assert it.
*Not there* means that JAX does not have it in that version. Export for cuda and tpu is compiled to StableHLO, and not
run.

All of these cases take dense logits. `tests/test_sources_transforms.py` and `tests/test_joint_transforms.py` do the
same for [sources of logits](sources.md#meshes-transformations-limits): `vmap`, remat, `shard_map`, divided batches,
export, and forward mode and second order for the sources that have them.

A program that is exported (`jax.export`) or compiled and kept (`jax.experimental.serialize_executable`) calls the
kernels by their names. So the process that loads it must import `jax_rnnt` before it runs the program. Otherwise the
call ends in `NOT_FOUND`, or with jax 0.7.2 in a crash of jaxlib. A program with `implementation="lax"` has no kernels
and needs no import. Every source exports with a symbolic batch and symbolic frames.
"""


def main(arguments: list[str]) -> None:
    keep = [a for a in arguments if a == "--keep"]
    names = [a for a in arguments if a != "--keep"] or VERSIONS
    tests = sorted({pattern.split()[0] for patterns in ROWS.values() for pattern in patterns})
    nodes = [f"tests/{test.replace('::', '.py::')}" for test in tests]
    with tempfile.TemporaryDirectory() as folder:
        table = Table([run(name, keep, nodes, Path(folder)) for name in names])
    text = "\n".join([HEADER, *table.lines(), ""])
    (ROOT / "docs" / "transformations.md").write_text(text)
    if table.failures:
        raise SystemExit("\n".join(table.failures))


if __name__ == "__main__":
    main(sys.argv[1:])
