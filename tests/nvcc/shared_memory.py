"""The shared memory of a block, and the copies to it that end later.

It is stricter than a GPU. A byte that nobody has written is NaN. Between two barriers of the block, a warp may not read
what another one writes, in either order. A copy's place is NaN until the warp waits for it.
"""

import numpy as np
from operands import Memory

FIRST = 0x400  # where a kernel's own begins
SEVERAL = 255  # warps


class Shared(Memory):
    """``size`` bytes. ``warp``: the one that runs."""

    def __init__(self, size: int):
        self.bytes = np.full(FIRST + -(-size // 16) * 16, 0xFF, np.uint8)
        self.end, self.warp = FIRST + size, 0
        self.readers = np.zeros(self.bytes.size // 4, np.uint8)  # since the last barrier: of 4 bytes, 0 or a warp + 1
        self.writers = np.zeros(self.bytes.size // 4, np.uint8)

    def read(self, at: np.ndarray, active: np.ndarray, size: int) -> np.ndarray:
        used = self._used(at, active, size)
        self._must_be_mine(used, self.writers)
        readers, me = self.readers[used], self.warp + 1
        self.readers[used] = np.where((readers == 0) | (readers == me), me, SEVERAL)
        return super().read(at, active, size)

    def write(self, at: np.ndarray, active: np.ndarray, value: np.ndarray, size: int) -> None:
        used = self._used(at, active, size)
        self._must_be_mine(used, self.writers)
        self._must_be_mine(used, self.readers)
        self.writers[used] = self.warp + 1
        super().write(at, active, value, size)

    def _used(self, at: np.ndarray, active: np.ndarray, size: int) -> np.ndarray:
        at = at[active]
        if (at < FIRST).any() or (at + size > self.end).any():
            first = at.min() if (at < FIRST).any() else at.max()
            raise IndexError(f"shared memory has {self.end - FIRST} bytes, an access begins at {first - FIRST}")
        return at // 4

    def _must_be_mine(self, used: np.ndarray, users: np.ndarray) -> None:
        found = users[used]
        others = found[(found != 0) & (found != self.warp + 1)]
        if others.size:
            other = "others" if others[0] == SEVERAL else f"warp {others[0] - 1}"
            raise RuntimeError(
                f"warp {self.warp} and {other} use the same place, one writes, and no barrier is between"
            )

    def end_turn(self) -> None:
        """All warps have come to a barrier."""
        self.readers[:] = 0
        self.writers[:] = 0


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
