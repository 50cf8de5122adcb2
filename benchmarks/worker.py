"""The other end of clock.Process: answers each line of JSON on standard input with one on standard output.

    python worker.py MODULE THREADS

MODULE has `VERSIONS`, and `calls(arrays, **options)`, which returns calls by name. The result of a call is a sequence
of arrays, or None. Another library needs its own environment, and a runtime fixes its threads when it starts. So both
need a process of their own.
"""

import importlib
import json
import os
import sys
import traceback

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])  # before a runtime counts its processors

import clock  # noqa: E402
import numpy as np  # noqa: E402

calls = {}


def answer(module, do: str, *arguments):
    if do == "versions":
        return module.VERSIONS
    if do == "calls":
        calls.clear()
        file, options = arguments
        with np.load(file) as arrays:
            calls.update(module.calls(dict(arrays), **options))
        return list(calls)
    name, *rest = arguments
    if do == "seconds":
        return clock.seconds(calls[name], *rest)
    np.savez(*rest, *(np.asarray(x) for x in calls[name]() or ()))
    return None


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of a library must not stand among the replies
    module = importlib.import_module(sys.argv[1])
    for line in sys.stdin:
        try:
            reply = {"value": answer(module, *json.loads(line))}
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
