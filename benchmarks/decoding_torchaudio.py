"""Runs torchaudio's beam search on the weights of a file. decoding.py starts this script.

Each line of standard input holds a number of threads and makes one search run.
"""

import json
import sys
import time

import numpy as np
import torch
from torchaudio.models.rnnt_decoder import RNNTBeamSearch


class Model(torch.nn.Module):
    """The part of a torchaudio.models.RNNT that the search calls. Its state is the last two labels."""

    def __init__(self, weights: dict[str, np.ndarray]):
        super().__init__()
        self.w = {name: torch.from_numpy(x) for name, x in weights.items()}
        self.blank = len(self.w["bias"]) - 1

    def predict(self, targets, lengths, state):
        before = torch.full_like(targets, self.blank) if state is None else state[0][0]
        old, new = self.w["embedding"][before[:, 0]], self.w["embedding"][targets[:, 0]]
        predicted = torch.relu(torch.cat([old, new], dim=1) @ self.w["hidden"]) @ self.w["predictor"] - 2 * new
        return predicted[:, None], lengths, [[targets]]

    def join(self, source, source_lengths, target, target_lengths):
        logits = torch.tanh(source[:, :, None] + target[:, None]) @ self.w["output"] + self.w["bias"]
        return logits, source_lengths, target_lengths


def main(file: str) -> None:
    data = dict(np.load(file))
    encoded, beam, most = torch.from_numpy(data.pop("encoded")), int(data.pop("beam")), int(data.pop("most"))
    model = Model(data)
    # By default the search ranks by scores divided by lengths, at every frame. With this key it is the plain search.
    search = RNNTBeamSearch(model, model.blank, hypo_sort_key=lambda hypothesis: hypothesis[3], step_max_tokens=most)
    for line in sys.stdin:
        torch.set_num_threads(int(line))
        with torch.inference_mode():
            begin = time.perf_counter()
            found = [search._search(row[None], None, beam) for row in encoded]
            seconds = time.perf_counter() - begin
        best = [max(hypotheses, key=lambda hypothesis: hypothesis[3]) for hypotheses in found]
        print(json.dumps([seconds, [tokens[1:] for tokens, *_ in best], [score for *_, score in best]]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
