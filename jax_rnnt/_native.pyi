ffi_api_minor: int = ...

def handlers() -> dict[str, dict[str, object]]:
    """Capsules of XLA's FFI, by platform and operation."""

def traits() -> dict[str, list[str]]:
    """
    What the kernels of a platform need from the custom call. in_place: results may overwrite the first operands.
    workspace: a further result to work in.
    """

def lattice_workspace(
    moves: tuple[tuple[int, int], ...], with_posteriors: bool, num_frames: int, num_positions: int
) -> tuple[int, int, int, int]:
    """
    How many numbers an utterance's workspace has: of each node, diagonal and position, and the rest.
    """

def build_info() -> dict[str, object]:
    """
    simd: the instruction set in use on this CPU; cuda: version of nvcc and architectures, where it was built.
    """
