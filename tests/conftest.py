"""Settings of the suite: strict arithmetic, eight host devices, hypothesis examples that do not change.

One fixture runs a test with each implementation. With ``--platform cuda`` the default device is a GPU.
"""

import gc
import os
import pathlib

# Most of the suite's time goes into XLA, which optimises code that then runs once. These settings leave the programs as
# they are (fusions, buffers, aliases, collectives). XLA only translates them to machine code in the quickest way.
# Processes that tests start inherit the settings. A variable that the environment already sets keeps its value: with
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 the suite runs the programs that users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import hypothesis
import jax
import pytest

if jax.config.read("jax_disable_most_optimizations"):
    # XLA would split a program into parts for several threads. For small programs this costs more than it saves.
    FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]
    if jax.__version_info__ < (0, 11):  # newer versions do not know this flag and stop
        FLAGS.append("--xla_cpu_use_fusion_emitters=false")
    os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))

# These settings must come before anything starts a backend. Strict dtype promotion finds silent casts from bf16 to f32
# and from f32 to f64. Strict rank promotion finds accidental broadcasting. Both are common mistakes in a loss.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

import implementations  # noqa: E402

# Hypothesis picks the same examples in every run, so that anyone can repeat a failed run. There is no deadline, because
# the first example includes the compilation.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, max_examples=25, database=None)
hypothesis.settings.load_profile("suite")

# Tracing makes many objects that stay. The collector would look at all of them again and again.
gc.set_threshold(200_000, 50, 100)


# Tests of these folders say nothing of a GPU.
FOLDERS_OF_THE_HOST = {"cuda_on_cpu", "docs", "example", "install", "tpu"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run also the cases that say what others say (marker full)")
    parser.addoption("--quick", action="store_true", help="leave out the tests with the markers slow and once")
    parser.addoption(
        "--platform", choices=("cpu", "cuda"), default="cpu", help="the default device: one of the CPU's, or a GPU"
    )


def pytest_configure(config: pytest.Config) -> None:
    platform = config.getoption("--platform")
    if platform == "cpu":
        return
    implementations.platform = platform
    jax.config.update("jax_platforms", f"{platform},cpu")
    jax.config.update("jax_disable_most_optimizations", False)  # the programs that users run
    jax.config.update("jax_default_matmul_precision", "highest")  # else products of float32 have ten bits on a GPU
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share the GPU


def pytest_report_header() -> str:
    kind = "quickly compiled" if jax.config.read("jax_disable_most_optimizations") else "optimised"
    platform = implementations.platform
    kernels = implementations.native.native_available(platform)
    return f"jax {jax.__version__}, {kind} programs, kernels for {platform}: {kernels}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the cases that the marker `full` names, unless --full is given, and what other options leave out.

    Without kernels all cases run, because then no case with a kernel covers the same.
    """
    left_out = set()
    if not config.getoption("--full") and implementations.native.native_available():
        left_out = {item for item in items if any(_is_one_of(item, mark.kwargs) for mark in item.iter_markers("full"))}
    if config.getoption("--quick"):
        left_out |= {item for item in items if item.get_closest_marker("slow") or item.get_closest_marker("once")}
    if config.getoption("--platform") != "cpu":
        left_out |= {item for item in items if item.get_closest_marker("host") or _folder(item) in FOLDERS_OF_THE_HOST}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(pathlib.Path(__file__).parent).parts[0]


def _is_one_of(item: pytest.Item, marked: dict) -> bool:
    """Returns whether the case has each marked parameter, with the marked value or one of a marked list of values."""
    has = item.callspec.params if hasattr(item, "callspec") else {}
    unknown = marked.keys() - has.keys()
    assert not unknown, f"{item.nodeid} has no parameter {', '.join(sorted(unknown))} for the marker `full`"
    return all(
        getattr(has[name], "name", has[name]) in (wanted if isinstance(wanted, list) else [wanted])
        for name, wanted in marked.items()
    )


@pytest.fixture(scope="module")
def default_jax_settings():
    """Sets JAX's own defaults.

    Flax and the example are written for them; the strict settings above are for the library.
    """
    names = {"jax_enable_x64": False, "jax_numpy_dtype_promotion": "standard", "jax_numpy_rank_promotion": "allow"}
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session", params=implementations.IMPLEMENTATIONS, ids=lambda i: i.label)
def implementation(request: pytest.FixtureRequest) -> str:
    """The name to pass as `implementation=`.

    Skips an implementation that is missing, unless the environment requires it.
    """
    chosen: implementations.Implementation = request.param
    reason = chosen.why_missing()
    if reason is not None and implementations.is_required(chosen):
        pytest.fail(f"{chosen.required_by}=1 demands {chosen.name!r}, but {reason}")
    if reason is not None:
        pytest.skip(f"{chosen.name}: {reason}")
    return chosen.name
