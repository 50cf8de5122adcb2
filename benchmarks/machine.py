"""What a reader must know to judge a number: the machine, the versions, the allocator, the commit."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

import floor

HUGETLB = "glibc.malloc.hugetlb=1"


def _first_line(*command: str) -> str | None:
    try:
        folder = pathlib.Path(__file__).parent
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return (done.stdout.splitlines() or [""])[0]


def _read(path: str) -> str | None:
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return None


def _cpu_model() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _caches() -> dict[str, str]:
    found = {}
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(str(index / name)) for name in ("level", "type", "size"))
        found[f"L{level} {kind}"] = size
    return found


def machine() -> dict:
    import psutil

    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "transparent_huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load_average_at_start": os.getloadavg()[0],
    }


def versions() -> dict:
    import jax_rnnt

    packages = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    return {
        "python": platform.python_version(),
        **packages,
        "jax_rnnt": jax_rnnt.build_info(),
        "libc": " ".join(platform.libc_ver()),
        "floor_compiler": f"{_first_line(floor.compiler()[0], '--version')} {' '.join(floor.compiler()[1:])}",
    }


def allocator() -> str:
    """Returns "hugetlb", "default", or the tunables that the process was started with."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return {"": "default", HUGETLB: "hugetlb"}.get(tunables, tunables)


def commit() -> dict:
    changed = _first_line("git", "status", "--porcelain", "--untracked-files=no")
    return {"commit": _first_line("git", "rev-parse", "HEAD"), "changed_files": bool(changed)}
