"""Meshes of eight host devices, a batch to divide over them, and the facts that a test needs about a compiled program.

Only this file deals with the names that changed between jax 0.7 and 0.12.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cases import random_batch
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jax_rnnt

# The vocabulary is so wide that an array of its size can't be mistaken for an array of arcs.
B, T, U, V = 16, 6, 3, 24
EXACT = {"rtol": 1e-11, "atol": 1e-12}
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "ragged-all-to-all")
P = PartitionSpec
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def need_devices(count: int) -> None:
    """Skips a test where there are fewer devices, as on a machine with one GPU."""
    if jax.device_count() < count:
        pytest.skip(f"the test divides arrays over {count} devices, and jax finds {jax.device_count()} here")


def make_mesh(kind: AxisType = AxisType.Auto, **axes: int) -> Mesh:
    need_devices(math.prod(axes.values()))
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(kind,) * len(axes))


def put(mesh: Mesh, x, *spec) -> jax.Array:
    return jax.device_put(x, NamedSharding(mesh, P(*spec)))


@contextlib.contextmanager
def partitioner(name: str) -> Iterator[None]:
    """Selects Shardy or GSPMD. Skips a test of GSPMD where the installed version has only Shardy."""
    flag = "jax_use_shardy_partitioner"
    if not hasattr(jax.config, flag):
        if name != "shardy":
            pytest.skip(f"jax {jax.__version__} has no GSPMD any more")
        yield
        return
    before = getattr(jax.config, flag)
    jax.config.update(flag, name == "shardy")
    try:
        yield
    finally:
        jax.config.update(flag, before)


@functools.cache
def batch(size: int = B) -> Arrays:
    """A ragged batch with a filler row, an utterance without labels, and utterances of full length."""
    logits, targets = random_batch(f"mesh{size}", size, T, U, V)
    rng = np.random.default_rng(size)
    t_b, u_b = rng.integers(1, T + 1, size), rng.integers(0, U + 1, size)
    t_b[:3], u_b[:3] = (T, 0, T), (U, 0, 0)
    return logits, targets, t_b.astype(np.int32), u_b.astype(np.int32)


@functools.cache
def expected(size: int = B, clamp: float = -1.0, fused: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The costs [B] of `batch(size)` and the gradient of their sum, by the oracle."""
    return reference.rnnt_loss(*batch(size), clamp=clamp, fused=fused)


def total(implementation: str, **options) -> Callable[..., jax.Array]:
    return functools.partial(jax_rnnt.rnnt_loss, reduction="sum", implementation=implementation, **options)


def costs(implementation: str, **options) -> Callable[..., jax.Array]:
    return functools.partial(jax_rnnt.rnnt_loss, reduction="none", implementation=implementation, **options)


def assert_close(actual, wanted) -> None:
    np.testing.assert_allclose(np.asarray(actual), wanted, **EXACT)


def is_sharded_as(x: jax.Array, mesh: Mesh, *spec) -> bool:
    return x.sharding.is_equivalent_to(NamedSharding(mesh, P(*spec)), x.ndim)


def model_of(rng: np.random.Generator, size: int = B, width: int = 4) -> tuple[np.ndarray, ...]:
    """The operands of `joint`: an encoder's output [B, T, H], a predictor's output [U+1, H] and a matrix [H, V]."""
    return rng.normal(size=(size, T, width)), rng.normal(size=(U + 1, width)), rng.normal(size=(width, V))


def joint(encoder, predictor, weight) -> jax.Array:
    return jnp.tanh(encoder[:, :, None] + predictor[None, None]) @ weight


# --- what was compiled ------------------------------------------------------------------------------------------------

_SHAPE = re.compile(r"\b(?:pred|bf16|[fsuc]\d+)\[([\d,]*)\]")


def _shapes(text: str) -> list[tuple[int, ...]]:
    return [tuple(int(d) for d in dims.split(",") if d) for dims in _SHAPE.findall(text)]


@dataclasses.dataclass(frozen=True)
class Program:
    """The optimised HLO of one device."""

    text: str

    def collectives(self) -> list[tuple[str, tuple[int, ...]]]:
        """Returns (kind, shape) for each array that crosses the mesh."""
        found = []
        for result, kind in re.findall(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", self.text):
            found += [(kind, shape) for shape in _shapes(result)]
        return found

    def largest_exchange(self) -> int:
        """The number of elements of the largest array that crosses the mesh."""
        return max((int(np.prod(shape)) for _, shape in self.collectives()), default=0)

    def operands(self, operation: str) -> list[tuple[int, ...]]:
        """The shapes of the operands of our custom call. The program must contain this call exactly once."""
        calls = re.findall(rf'custom_call_target="{operation}", operand_layout_constraints={{(.*?)}}, api', self.text)
        assert len(calls) == 1, f"{len(calls)} calls of {operation}"
        return _shapes(calls[0])


def compiled(function: Callable, *arguments) -> tuple[Callable, Program]:
    """Compiles `function` for these arguments. Returns it and its program."""
    executable = jax.jit(function).lower(*arguments).compile()
    return executable, Program(executable.as_text())


def assert_rows_are_local(program: Program, implementation: str, rows: Sequence[int]) -> None:
    """Checks that each operand of both kernels of operation (1) holds only `rows`."""
    if implementation != "native":
        return
    for operation in ("jax_rnnt_arcs_forward", "jax_rnnt_arcs_backward"):
        shapes = program.operands(operation)
        assert shapes[0] == (*rows, V)
        assert all(shape[:3] == tuple(rows) for shape in shapes)
