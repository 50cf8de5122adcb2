"""What stands in the programs that XLA compiles for TPUs: no copy of the logits, one short loop over the diagonals.

No TPU is needed, and nothing runs. Bounds are a little above what was counted.
"""

import pytest
import tpu_programs
import tpu_steps

pytestmark = [pytest.mark.once, pytest.mark.host, tpu_programs.needs_libtpu]

SIZES = tpu_steps.Sizes(batch=8, frames=32, labels=15, vocabulary=256)
# The logits of the others fit into the memory on the chip, whose arrays do not count as temporaries.
LARGE = tpu_steps.Sizes(batch=8, frames=96, labels=15, vocabulary=8192)

# The operations of a diagonal. Those of a loss with long moves are mostly copies of the last diagonals.
MOST_OPERATIONS = {"rnnt": 9, "hat": 9, "monotonic": 12, "multiblank": 26, "tdt": 34}

CASES = [
    ("v5e:2x2", 1, "tdt", "packed"),
    ("v5e:2x2", 1, "multiblank", "pruned"),
    ("v5e:2x2", 1, "hat", "additive"),
    ("v5e:2x2", 4, "rnnt", "known joint"),
    ("v6e:2x2", 1, "monotonic", "logits"),
    ("v6e:2x2", 1, "rnnt", "joint"),
    ("v6e:2x2", 4, "tdt", "dense"),
]


def check(program: tpu_programs.Program, logits: int, sizes: tpu_steps.Sizes, loss: str) -> None:
    assert program.arrays("f32", logits) == []
    assert program.collectives == 0
    diagonals = sizes.frames + sizes.labels + 1
    loops = [x for x in program.loops if any(len(a.shape) == 4 and a.shape[0] == diagonals for a in x.carried)]
    (loop,) = loops
    assert loop.lane_slices == ()
    assert 0 < len(loop.operations) <= MOST_OPERATIONS[loss]


@pytest.mark.parametrize(("topology", "chips", "loss", "source"), CASES)
def test_no_copies_and_one_short_loop(topology: str, chips: int, loss: str, source: str) -> None:
    program, logits = tpu_steps.compiled(topology, chips, loss, source, SIZES)
    check(program, logits, SIZES, loss)


def test_memory() -> None:
    """The logits of a model are the only array of their size: the gradient takes their place."""
    program, logits = tpu_steps.compiled("v5e:2x2", 1, "rnnt", "dense", LARGE)
    check(program, logits, LARGE, "rnnt")
    assert 2 * logits <= program.temporaries < 1.1 * 2 * logits
