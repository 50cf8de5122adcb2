"""A process that runs sides for another one. For each line of JSON on stdin it writes one to stdout.

    python worker.py THREADS SIDE...

torchaudio needs its own environment, and a runtime fixes its thread count when it starts. So both need a process of
their own. The benchmark still interleaves all sides call by call. The clock runs in here, so the pipe costs nothing.
"""

import functools
import json
import os
import pathlib
import sys
import traceback

from cases import Inputs, parse

threads = int(sys.argv[1])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # before any runtime counts its processors


def make_side(name: str):
    if name == "torchaudio":
        from torchaudio_side import VERSIONS, Torchaudio

        return Torchaudio(), VERSIONS
    if name == "floor":
        from floor import Floor

        return Floor(), {}
    from jax_sides import JaxSide

    return JaxSide(name), {}


@functools.lru_cache(maxsize=1)
def load(folder: str, key: str) -> Inputs:
    return Inputs.load(pathlib.Path(folder), parse(key))


def answer(sides: dict, request: dict):
    side = sides[request["side"]]
    match request["do"]:
        case "supports":
            return side.supports(parse(request["case"]))
        case "prepare":
            inputs = load(request["folder"], request["case"])
            return side.prepare(parse(request["case"]), inputs, request["operation"])
        case "outputs":
            return write_outputs(side.outputs(), pathlib.Path(request["folder"]))
        case "seconds":
            return side.seconds(request["repeats"], request["touch"])
        case "peak_bytes":
            return side.peak_bytes()
        case "release":
            load.cache_clear()
            return side.release()
    raise ValueError(request["do"])


def write_outputs(outputs, folder: pathlib.Path):
    if outputs is None:
        return None
    cost, gradient = outputs
    if gradient is None:
        return cost, None
    path = folder / "gradient.bin"
    gradient.tofile(path)
    return cost, str(path)


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of a library must not stand among the replies
    sides, versions = {}, {}
    for name in sys.argv[2:]:
        sides[name], found = make_side(name)
        versions |= found
    print(json.dumps({"value": versions}), file=replies, flush=True)
    for line in sys.stdin:
        try:
            reply = {"value": answer(sides, json.loads(line))}
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
