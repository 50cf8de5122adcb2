"""The shared memory of a block, and the copies to it that end later.

It is stricter than a GPU. A byte that nobody has written is NaN. If two warps use a place and one of them writes, then
something must order the two: a barrier of the block, or a count, which one warp sets behind a MEMBAR and the other one
reads. A copy's place is NaN until the warp waits for it.
"""

import numpy as np
from operands import Memory

FIRST = 0x400  # where a kernel's own begins


class Shared(Memory):
    """``size`` bytes, of ``warps``. ``counts``: the part of them that has counts. ``warp``: the one that runs."""

    def __init__(self, size: int, warps: int, counts: range = range(0)):
        self.bytes = np.full(FIRST + -(-size // 16) * 16, 0xFF, np.uint8)
        self.end, self.warp, self.fenced = FIRST + size, 0, False
        self.counts = range(FIRST + counts.start, FIRST + counts.stop)
        places = self.bytes.size // 4
        # Each warp has a clock. clocks[w, v]: what v did up to this time comes before what w does now.
        self.clocks = np.eye(warps, dtype=np.int32)
        self.readers = np.zeros((warps, places), np.int32)  # of 4 bytes: when each warp read them last, or 0
        self.writers, self.written = np.zeros(places, np.int32), np.zeros(places, np.int32)  # who wrote last, and when
        self.said: dict[int, np.ndarray] = {}  # by the place of a count: the clocks of the warp that set it

    def is_count(self, at: np.ndarray, active: np.ndarray) -> bool:
        return bool(active.any()) and all(int(a) in self.counts for a in at[active])

    def read(self, at: np.ndarray, active: np.ndarray, size: int) -> np.ndarray:
        used, mine = self._used(at, active, size), self.clocks[self.warp]
        if self.is_count(at, active):
            for place in np.unique(used):
                if place in self.said:
                    np.maximum(mine, self.said[place], out=mine)
        self._must_be_known(used, self.writers[used], self.written[used])
        self.readers[self.warp, used] = mine[self.warp]
        return super().read(at, active, size)

    def write(self, at: np.ndarray, active: np.ndarray, value: np.ndarray, size: int) -> None:
        used, mine = self._used(at, active, size), self.clocks[self.warp]
        if self.fenced and self.is_count(at, active):
            self.said[int(used[0])] = mine.copy()
            mine[self.warp] += 1
        else:
            self._must_be_known(used, self.writers[used], self.written[used])
            for warp, when in enumerate(self.readers[:, used]):
                self._must_be_known(used, np.full(used.size, warp), when)
            self.writers[used], self.written[used] = self.warp, mine[self.warp]
        self.fenced = False
        super().write(at, active, value, size)

    def _used(self, at: np.ndarray, active: np.ndarray, size: int) -> np.ndarray:
        at = at[active]
        if (at < FIRST).any() or (at + size > self.end).any():
            first = at.min() if (at < FIRST).any() else at.max()
            raise IndexError(f"shared memory has {self.end - FIRST} bytes, an access begins at {first - FIRST}")
        return at // 4

    def _must_be_known(self, used: np.ndarray, warps: np.ndarray, when: np.ndarray) -> None:
        unknown = (when > self.clocks[self.warp][warps]) & (warps != self.warp)
        if unknown.any():
            place = (int(used[unknown][0]) * 4 - FIRST, int(warps[unknown][0]))
            raise RuntimeError(
                f"byte {place[0]}: warps {self.warp} and {place[1]} use it, one writes, and nothing orders them"
            )

    def end_turn(self) -> None:
        """All warps have come to a barrier."""
        self.clocks[:] = self.clocks.max(axis=0)
        self.clocks += np.eye(len(self.clocks), dtype=np.int32)


class Copies:
    """A warp's copies of numbers to shared memory that have not ended."""

    def __init__(self, shared: Shared):
        self.shared = shared
        self.begun: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.groups: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = []

    def begin(self, at: np.ndarray, active: np.ndarray, numbers: np.ndarray) -> None:
        self.shared.write(at, active, np.full(at.size, 0xFFFFFFFF, np.uint32), 4)
        self.begun.append((at, active, numbers))

    def commit(self) -> None:
        self.groups.append(self.begun)
        self.begun = []

    def wait(self, most: int) -> None:
        """Ends all groups but the last `most`."""
        while len(self.groups) > most:
            for at, active, numbers in self.groups.pop(0):
                self.shared.write(at, active, numbers, 4)
