"""Strict arithmetic, eight host devices, reproducible hypothesis, and one fixture over all implementations."""

import os
import sys

# Nearly all the time of the suite is XLA's, which makes code fast that then runs once. These settings leave the
# programs as they are (fusions, buffers, aliases, collectives) and have them translated to machine code in the quickest
# way. Processes that tests start inherit them; what the environment says already holds: with
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 the suite runs the programs that users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import hypothesis
import jax
import pytest

if jax.config.read("jax_disable_most_optimizations"):
    FLAGS = [
        "--xla_cpu_parallel_codegen_split_count=1"
    ]  # parts for several threads, which cost more than small programs
    if jax.__version_info__ < (0, 11):  # newer ones know this flag no more, and stop
        FLAGS.append("--xla_cpu_use_fusion_emitters=false")
    os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))

# Before anything starts a backend. Strict promotion finds silent bf16 -> f32 and f32 -> f64 casts, rank promotion
# accidental broadcasting: the two classic mistakes in a loss.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

import implementations  # noqa: E402

# The same examples on every run, so that a red run can be repeated; no deadline, because the first example compiles.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, max_examples=25, database=None)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run also the cases that say what others say (marker full)")


def pytest_report_header() -> str:
    kind = "quickly compiled" if jax.config.read("jax_disable_most_optimizations") else "optimised"
    return f"jax {jax.__version__}, {kind} programs, kernels: {implementations.jax_rnnt.native_available()}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what `full` marks, unless it is asked for, or there are no kernels to say the same."""
    if config.getoption("--full") or not implementations.jax_rnnt.native_available():
        return
    left_out = {item for item in items if any(_is_one_of(item, mark.kwargs) for mark in item.iter_markers("full"))}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _is_one_of(item: pytest.Item, marked: dict) -> bool:
    """Whether the case has all of the marked parameters; where a list is marked, one of its values."""
    has = item.callspec.params if hasattr(item, "callspec") else {}
    unknown = marked.keys() - has.keys()
    assert not unknown, f"{item.nodeid} has no parameter {', '.join(sorted(unknown))} for the marker `full`"
    return all(
        getattr(has[name], "name", has[name]) in (wanted if isinstance(wanted, list) else [wanted])
        for name, wanted in marked.items()
    )


@pytest.fixture(scope="session", autouse=True)
def versions_in_the_report(record_testsuite_property) -> None:
    """For scripts/transformation_table.py, which reads reports of several environments."""
    record_testsuite_property("jax", jax.__version__)
    record_testsuite_property("python", ".".join(map(str, sys.version_info[:2])))


@pytest.fixture(scope="module")
def default_jax_settings():
    """JAX's own settings: Flax and the example are written for them; the strict ones above are for the library."""
    names = {"jax_enable_x64": False, "jax_numpy_dtype_promotion": "standard", "jax_numpy_rank_promotion": "allow"}
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session", params=implementations.IMPLEMENTATIONS, ids=lambda i: i.label)
def implementation(request: pytest.FixtureRequest) -> str:
    """The name to pass as `implementation=`; skips what is missing unless the environment demands it."""
    chosen: implementations.Implementation = request.param
    reason = chosen.why_missing()
    if reason is not None and implementations.is_required(chosen):
        pytest.fail(f"{chosen.required_by}=1 demands {chosen.name!r}, but {reason}")
    if reason is not None:
        pytest.skip(f"{chosen.name}: {reason}")
    return chosen.name
