"""Fails unless the loss of a run fell: `loss_fell.py metrics.json`."""

import json
import statistics
import sys

with open(sys.argv[1]) as file:
    metrics = json.load(file)
losses = metrics["losses"]
first, last = statistics.mean(losses[:5]), statistics.mean(losses[-5:])
print(f"{len(losses)} steps: mean loss {first:.2f} over the first five, {last:.2f} over the last five")
if not last < 0.7 * first:
    sys.exit("the loss did not fall by 30%")
