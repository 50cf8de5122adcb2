"""Computes the losses of torchaudio and fast_rnnt on the arrays of a file. sources.py starts this script.

Each line of standard input names one of them. The script computes its loss and gradient once, and prints the loss.
"""

import json
import os
import sys

import numpy as np
import torch

try:
    import torchaudio
except ImportError:
    torchaudio = None
try:
    import fast_rnnt
except ImportError:
    fast_rnnt = None


def joint(params, e, p):
    return torch.tanh(e + p) @ params["joint"]


def dense(params, e, p, targets, t_b, u_b, kept):
    logits = joint(params, e[:, :, None], p[:, None])
    return torchaudio.functional.rnnt_loss(logits, targets.int(), t_b.int(), u_b.int(), blank=0)


def simple(params, e, p, targets, t_b, u_b, kept, return_grad=False):
    zeros = torch.zeros_like(t_b)
    boundary = torch.stack([zeros, zeros, u_b, t_b], dim=1)
    parts = p @ params["lm"], e @ params["am"]
    return fast_rnnt.rnnt_loss_simple(*parts, targets, 0, boundary, return_grad=return_grad)


def pruned(params, e, p, targets, t_b, u_b, kept):
    loss, gradients = simple(params, e, p, targets, t_b, u_b, kept, return_grad=True)
    zeros = torch.zeros_like(t_b)
    boundary = torch.stack([zeros, zeros, u_b, t_b], dim=1)
    ranges = fast_rnnt.get_rnnt_prune_ranges(*gradients, boundary, kept)
    logits = joint(params, *fast_rnnt.do_rnnt_pruning(e, p, ranges))
    return 0.5 * loss + fast_rnnt.rnnt_loss_pruned(logits, targets, ranges, 0, boundary)


SIDES = {"torchaudio, dense": (torchaudio, dense, ["joint"])}
SIDES["fast_rnnt, simple"] = (fast_rnnt, simple, ["am", "lm"])
SIDES["fast_rnnt, simple and pruned"] = (fast_rnnt, pruned, ["am", "lm", "joint"])


def main(file: str) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    arrays = {name: torch.from_numpy(x) for name, x in np.load(file).items()}
    kept = int(arrays.pop("kept"))
    lengths = {name: [arrays.pop(f"{name} {x}").long() for x in ("t_b", "u_b")] for name in ("full", "ragged")}
    e, p, targets = arrays.pop("e"), arrays.pop("p"), arrays.pop("targets").long()
    print(json.dumps([name for name, (module, *_) in SIDES.items() if module is not None]), flush=True)
    for line in sys.stdin:
        name, which = json.loads(line)
        _, loss, needed = SIDES[name]
        leaves = [arrays[key] for key in needed] + [e, p]
        for leaf in leaves:
            leaf.requires_grad_(True)
        params = dict(zip(needed, leaves, strict=False))
        value = loss(params, e, p, targets, *lengths[which], kept)
        torch.autograd.grad(value, leaves)
        print(json.dumps(value.item()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
