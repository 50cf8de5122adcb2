"""The GPUs of this machine, and the code of a build that runs on each. Nothing here starts a backend of JAX."""

import re
import subprocess


def gpus(architectures: str) -> dict[str, str | None]:
    """The compute capabilities of this machine's GPUs, and for each the code that :func:`code_for` says."""
    try:
        asked = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        listed = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return {capability: code_for(capability, architectures) for capability in re.findall(r"\d+\.\d+", listed)}


def code_for(capability: str, architectures: str) -> str | None:
    """What runs on a GPU of this compute capability: machine code ("sm_90"), PTX ("compute_90"), or nothing (None).

    Machine code runs on its own generation, from its own capability on. The driver compiles PTX for every capability
    from its own on. "90" in ``architectures`` stands for both, "90-real" and "90-virtual" for one of them. Code with a
    letter, such as 90a, runs on its own capability alone.
    """
    major, minor = map(int, capability.split("."))
    machine_code, ptx = [], []
    for name, letter, kind in re.findall(r"(\d+)([af]?)(-real|-virtual)?", architectures):
        built = int(name[:-1]), int(name[-1])
        if letter and built != (major, minor):
            continue
        if kind != "-virtual" and built[0] == major and built[1] <= minor:
            machine_code.append((built, f"sm_{name}{letter}"))
        if kind != "-real" and built <= (major, minor):
            ptx.append((built, f"compute_{name}{letter}"))
    return max(machine_code or ptx, default=(None, None))[1]
