ffi_api_minor: int = ...

def handlers() -> dict[str, dict[str, object]]:
    """Capsules of XLA's FFI, by platform and operation."""

def traits() -> dict[str, list[str]]:
    """
    What the kernels of a platform need from the custom call. in_place: results may overwrite the first operands.
    workspace: a further result to work in, where an utterance needs more memory than the kernel has.
    """

def lattice_memory(num_arcs: int, longest_step: int) -> tuple[int, int]:
    """
    How many numbers the CUDA lattice kernel keeps for each position, and how many bytes of memory it has for them.
    """

def lattice_fast_workspace(
    num_frames: int, num_positions: int, moves: tuple[tuple[int, int], ...], with_posteriors: bool
) -> int:
    """
    How many numbers the workspace of an utterance has with which float32 is fastest, or 0.
    """

def build_info() -> dict[str, object]:
    """
    simd: the instruction set in use on this CPU; cuda: version of nvcc and architectures, where it was built.
    """
