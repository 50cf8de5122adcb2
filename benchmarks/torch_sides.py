"""The calls of torchaudio and fast_rnnt on the same arrays. Only an environment of PyTorch imports this file."""

import functools
import os

import torch

try:
    import torchaudio
except ImportError:
    torchaudio = None
try:
    import fast_rnnt
except ImportError:
    fast_rnnt = None

torch.set_num_threads(len(os.sched_getaffinity(0)))
VERSIONS = {m.__name__: m.__version__ for m in (torch, torchaudio) if m is not None}


def calls(arrays, of: str, **options):
    """`of`: "loss" for bench.py, "sources" for sources.py, "decoding" for decoding.py."""
    tensors = {name: torch.from_numpy(x) for name, x in arrays.items()}
    return {"loss": _loss, "sources": _sources, "decoding": _decoding}[of](tensors, **options)


def _loss(tensors, operation: str):
    logits, *rest = (tensors[name] for name in ("logits", "targets", "logit_lengths", "target_lengths"))
    logits.requires_grad_(operation != "forward")

    def run():
        with torch.set_grad_enabled(logits.requires_grad):
            cost = torchaudio.functional.rnnt_loss(logits, *rest, blank=-1, reduction="sum")
        if operation == "forward":
            return (cost,)
        return cost.detach(), *torch.autograd.grad(cost, logits)

    return {"torchaudio": run}


# --- sources ----------------------------------------------------------------------------------------------------------


def _joint(params, e, p):
    return torch.tanh(e + p) @ params["joint"]


def _dense(params, e, p, targets, t_b, u_b, kept):
    logits = _joint(params, e[:, :, None], p[:, None])
    return torchaudio.functional.rnnt_loss(logits, targets.int(), t_b.int(), u_b.int(), blank=0)


def _boundary(t_b, u_b):
    zeros = torch.zeros_like(t_b)
    return torch.stack([zeros, zeros, u_b, t_b], dim=1)


def _simple(params, e, p, targets, t_b, u_b, kept, **more):
    parts = p @ params["lm"], e @ params["am"]
    return fast_rnnt.rnnt_loss_simple(*parts, targets, 0, _boundary(t_b, u_b), **more)


def _pruned(params, e, p, targets, t_b, u_b, kept):
    loss, gradients = _simple(params, e, p, targets, t_b, u_b, kept, return_grad=True)
    ranges = fast_rnnt.get_rnnt_prune_ranges(*gradients, _boundary(t_b, u_b), kept)
    logits = _joint(params, *fast_rnnt.do_rnnt_pruning(e, p, ranges))
    return 0.5 * loss + fast_rnnt.rnnt_loss_pruned(logits, targets, ranges, 0, _boundary(t_b, u_b))


SOURCES = {
    "torchaudio, dense": (torchaudio, _dense, ["joint"]),
    "fast_rnnt, simple": (fast_rnnt, _simple, ["am", "lm"]),
    "fast_rnnt, simple and pruned": (fast_rnnt, _pruned, ["am", "lm", "joint"]),
}


def _sources(tensors, kept: int):
    e, p = tensors["e"], tensors["p"]
    rest = [tensors[name].long() for name in ("targets", "t_b", "u_b")]

    def run(loss, needed):
        leaves = [tensors[name].requires_grad_() for name in (*needed, "e", "p")]
        value = loss({name: tensors[name] for name in needed}, e, p, *rest, kept)
        return value.detach(), *torch.autograd.grad(value, leaves)

    return {name: functools.partial(run, *how) for name, (library, *how) in SOURCES.items() if library is not None}


# --- decoding ---------------------------------------------------------------------------------------------------------


class _Model(torch.nn.Module):
    """The part of a torchaudio.models.RNNT that the search calls. Its state is the last two labels."""

    def __init__(self, weights):
        super().__init__()
        self.w, self.blank = weights, len(weights["bias"]) - 1

    def predict(self, targets, lengths, state):
        before = torch.full_like(targets, self.blank) if state is None else state[0][0]
        old, new = self.w["embedding"][before[:, 0]], self.w["embedding"][targets[:, 0]]
        predicted = torch.relu(torch.cat([old, new], dim=1) @ self.w["hidden"]) @ self.w["predictor"] - 2 * new
        return predicted[:, None], lengths, [[targets]]

    def join(self, source, source_lengths, target, target_lengths):
        logits = torch.tanh(source[:, :, None] + target[:, None]) @ self.w["output"] + self.w["bias"]
        return logits, source_lengths, target_lengths


def _decoding(tensors, beam: int, most: int):
    from torchaudio.models.rnnt_decoder import RNNTBeamSearch

    encoded = tensors.pop("encoded")
    model = _Model(tensors)
    # By default the search ranks by scores divided by lengths, at every frame. With this key it is the plain search.
    search = RNNTBeamSearch(model, model.blank, hypo_sort_key=lambda hypothesis: hypothesis[3], step_max_tokens=most)

    @torch.inference_mode()
    def run(threads: int):
        """The scores of the best hypotheses, then the labels of each."""
        torch.set_num_threads(threads)
        found = [search._search(row[None], None, beam) for row in encoded]
        best = [max(hypotheses, key=lambda hypothesis: hypothesis[3]) for hypotheses in found]
        return [score for *_, score in best], *(tokens[1:] for tokens, *_ in best)

    counts = sorted({1, len(os.sched_getaffinity(0))})
    return {f"torchaudio, {n} threads": functools.partial(run, n) for n in counts}
