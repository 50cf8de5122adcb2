"""Programs that XLA compiles for TPUs that are not there, and what stands in them. They need the wheel `libtpu`.

Nothing runs. So these programs say what they allocate and which instructions they have, and nothing about time.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# libtpu allows one process at a time by default, because a process would own the TPUs. pytest-xdist has several.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

AXIS = "data"  # the axis of the mesh that the chips make

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the wheel libtpu, of the extra `tpu-test`, is not installed"
)


@dataclasses.dataclass(frozen=True)
class Array:
    """The type of an array: dtype by XLA's name, shape, and the dimensions from the minor one to the major one."""

    dtype: str
    shape: tuple[int, ...]
    minor_to_major: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    results: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    called: tuple[str, ...]  # the computations of a fusion, a loop, a branch or a call
    line: str


Computations = dict[str, dict[str, Instruction]]  # by the names of the computations, then of their instructions

_ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e\d+m\d+\w*)?)\[([\d,]*)\](?:\{([\d,]*))?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(\S+) = (.*?) ([a-z][a-z\d-]*)\((.*)$")
_VIEWS = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}  # they move and compute nothing


def _integers(text: str | None) -> tuple[int, ...]:
    return tuple(int(x) for x in text.split(",") if x) if text else ()


def _parse(text: str) -> Computations:
    computations: Computations = {}
    current: dict[str, Instruction] = {}
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if re.match(r"\S.*\{$", line):
            name = "ENTRY" if line.startswith("ENTRY") else line.split()[0].lstrip("%")
            current = computations[name] = {}
        elif found := _INSTRUCTION.match(line):
            name, types, opcode, rest = found.groups()
            arrays = tuple(Array(d, _integers(s), _integers(m)) for d, s, m in _ARRAY.findall(types))
            operands = tuple(re.findall(r"%([\w.\-]+)", rest.split("), ")[0]))
            called = re.findall(r"(?:calls|body|condition|to_apply)=%?([\w.\-]+)", rest)
            branches = re.findall(r"branch_computations=\{([^}]*)\}", rest)
            called += [x.strip().lstrip("%") for group in branches for x in group.split(",")]
            current[name] = Instruction(name, arrays, opcode, operands, tuple(called), line)
    return computations


@dataclasses.dataclass(frozen=True)
class Loop:
    body: str
    carried: tuple[Array, ...]
    operations: tuple[Instruction, ...]  # of one turn: all that reads or makes arrays; scalars do not count
    lane_slices: tuple[str, ...]  # dynamic slices of a turn along the minor dimension of several


class Program:
    """A compiled program."""

    def __init__(self, compiled: jax.stages.Compiled):
        memory = compiled.memory_analysis()
        self.text: str = compiled.as_text()
        self.temporaries: int = memory.temp_size_in_bytes
        self.arguments: int = memory.argument_size_in_bytes
        self._computations = _parse(self.text)

    def _reached(self, *names: str) -> Iterator[str]:
        """These computations, and those that they call."""
        seen, todo = set(), list(names)
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                yield name
                todo += [c for i in self._computations[name].values() for c in i.called]

    def _in_memory(self) -> Iterator[Instruction]:
        """The instructions whose results stand in memory: those outside of fusions and reductions."""
        todo = ["ENTRY"]
        while todo:
            for i in self._computations[todo.pop()].values():
                yield i
                if i.opcode in ("while", "conditional", "call"):
                    todo += i.called

    def arrays(self, dtype: str, size: int) -> list[str]:
        """The instructions that make an array of this dtype ("f32", "bf16") and of at least ``size`` elements."""
        made = (i for i in self._in_memory() if i.opcode not in {*_VIEWS, "while", "conditional", "call"})
        return [i.line.strip() for i in made if any(a.dtype == dtype and a.size >= size for a in i.results)]

    @property
    def loops(self) -> list[Loop]:
        return [self._loop(i) for i in self._in_memory() if i.opcode == "while"]

    def _loop(self, loop: Instruction) -> Loop:
        (body,) = re.findall(r"body=%?([\w.\-]+)", loop.line)
        turn = self._computations[body].values()
        operations = [i for i in turn if i.opcode not in _VIEWS and any(a.shape for a in i.results)]
        slices = [line for name in self._reached(body) for line in self._lane_slices(name)]
        return Loop(body, loop.results, tuple(operations), tuple(slices))

    def _lane_slices(self, computation: str) -> Iterator[str]:
        instructions = self._computations[computation]
        for i in instructions.values():
            if i.opcode == "dynamic-slice":
                (whole,), (part,) = instructions[i.operands[0]].results, i.results
                lanes = whole.minor_to_major[0]
                if part.shape[lanes] != whole.shape[lanes] and len(whole.shape) > 1:
                    yield i.line.strip()

    def count(self, *opcodes: str) -> int:
        """How many instructions have one of these opcodes, in all computations."""
        return sum(i.opcode in opcodes for c in self._computations.values() for i in c.values())

    @property
    def collectives(self) -> int:
        """The instructions that move arrays between chips, other than sums over chips."""
        names = ("all-gather", "all-to-all", "collective-permute")
        return self.count(*names, *(f"{name}-start" for name in names))


def devices(topology: str, chips: int = 1) -> list[jax.Device]:
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[:chips]


def compile_for(
    topology: str, function: Callable, *types: Any, chips: int = 1, divided: Sequence[bool] | None = None, **options
) -> Program:
    """``function`` compiled for the TPU of this name, by the options that users have.

    Args:
      types: pytrees of ``jax.ShapeDtypeStruct``, the arguments.
      chips: how many of the topology's chips the program is for.
      divided: for each argument, whether the chips divide its first dimension. None: they divide all of them.
      options: of ``jax.jit``.
    """
    mesh = Mesh(np.array(devices(topology, chips)), (AXIS,))

    def placed(tree: Any, is_divided: bool) -> Any:
        place = NamedSharding(mesh, PartitionSpec(AXIS) if is_divided else PartitionSpec())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    types = tuple(placed(x, d) for x, d in zip(types, divided or [True] * len(types), strict=True))
    with jax.set_mesh(mesh):
        return compiled(function, *types, **options)


def compiled(function: Callable, *types: Any, **options) -> Program:
    """``function`` compiled for the chips that the types say (``jax.ShapeDtypeStruct`` with a sharding)."""
    with _users_settings():
        lowered = jax.jit(function, **options).trace(*types).lower(lowering_platforms=("tpu",))
        return Program(lowered.compile())


@contextlib.contextmanager
def _users_settings() -> Iterator[None]:
    """The settings of JAX that a user has, in place of the suite's."""
    settings = {
        "jax_enable_x64": False,
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "allow",
        "jax_disable_most_optimizations": False,
    }
    before = {n: getattr(jax.config, n) if hasattr(jax.config, n) else jax.config.read(n) for n in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
