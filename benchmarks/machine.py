"""Facts that a reader needs to judge a number: the machine, the versions, the allocator, the commit."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

HUGETLB = "glibc.malloc.hugetlb=1"


def machine() -> dict:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return {"cpu": next(names, platform.processor()), "cores": len(os.sched_getaffinity(0)), "system": system}


def versions() -> dict:
    import jax_rnnt

    packages = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    return {"python": platform.python_version(), **packages, "jax_rnnt": jax_rnnt.build_info()}


def allocator() -> str:
    """Returns "hugetlb", "default", or the tunables that the process was started with."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return {"": "default", HUGETLB: "hugetlb"}.get(tunables, tunables)


def commit() -> dict:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(pathlib.Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return {"commit": git("rev-parse", "HEAD"), "changed_files": bool(git("status", "--porcelain", "-uno"))}
