"""torchaudio's CPU loss as a side. Only torchaudio's own environment imports it (worker.py)."""

import os

import numpy as np
import torch
import torchaudio
from cases import FORWARD, Case, Inputs
from side import Side

VERSIONS = {"torch": torch.__version__, "torchaudio": torchaudio.__version__}


class Torchaudio(Side):
    name = "torchaudio"

    def __init__(self):
        torch.set_num_threads(len(os.sched_getaffinity(0)))

    def supports(self, case: Case) -> bool:
        return case.kind == "loss" and case.dtype in ("float32", "float16")

    def prepare(self, case: Case, inputs: Inputs, operation: str) -> None:
        names = ("logits", "targets", "logit_lengths", "target_lengths")
        self._arguments = [torch.from_numpy(inputs[n]) for n in names]
        self._forward_only = operation == FORWARD
        self._arguments[0].requires_grad_(not self._forward_only)

    def run(self):
        logits = self._arguments[0]
        with torch.set_grad_enabled(not self._forward_only):
            cost = torchaudio.functional.rnnt_loss(*self._arguments, blank=-1, reduction="sum")
        return (cost, None) if self._forward_only else (cost, *torch.autograd.grad(cost, logits))

    def outputs(self) -> tuple[float, np.ndarray | None]:
        cost, gradient = self.run()
        return float(cost.detach()), None if gradient is None else gradient.numpy()

    def release(self) -> None:
        self._arguments = None
