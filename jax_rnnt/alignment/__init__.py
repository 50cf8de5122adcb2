"""When each label is spoken: the lattice of a loss, its best path, emission times, and their pictures.

best_alignment      the most probable alignment under a loss: the frame of each label
loss_lattice        the lattice of a loss: its arcs, lengths and moves
lattice_best_path   the most probable path through any lattice
emission_times      the expected frame of each label, from posteriors
expected_delay      how much later than in a reference the labels are emitted
alignment_entropy   how uncertain the alignment is
plot_lattice        a picture of posteriors, and of the best path on them; needs matplotlib
plot_alignment      a picture of labels over time, on a spectrogram if there is one; needs matplotlib
Lattice, BestPath   what loss_lattice and lattice_best_path return
"""

from jax_rnnt.alignment.best import best_alignment, loss_lattice
from jax_rnnt.alignment.emission import alignment_entropy, emission_times, expected_delay
from jax_rnnt.alignment.plots import plot_alignment, plot_lattice
from jax_rnnt.core.pipeline import Lattice
from jax_rnnt.ops.best_path import BestPath, lattice_best_path

__all__ = [
    "BestPath",
    "Lattice",
    "alignment_entropy",
    "best_alignment",
    "emission_times",
    "expected_delay",
    "lattice_best_path",
    "loss_lattice",
    "plot_alignment",
    "plot_lattice",
]
