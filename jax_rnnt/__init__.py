"""Transducer (RNN-T) losses for JAX, with compiled kernels.

Losses:
  rnnt_loss             minus the log-probability of the targets, with the arguments of torchaudio's rnnt_loss
  monotonic_rnnt_loss   at most one label a frame
  multiblank_rnnt_loss  blanks that take several frames
  tdt_loss              tokens and durations
  hat_loss              a blank that is decided before the label
  RNNTLoss              rnnt_loss with its options set beforehand: a field of Flax modules, a static argument of jit
  Loss                  the same for any of them

Logits that are no dense array; every loss takes them:
  JointLogits           a joint network and its inputs: its outputs are made a tile at a time
  linen_joint           the joint network of JointLogits from a module of Flax linen
  nnx_joint             the same from a module of Flax nnx
  PackedLogits          the rows of all utterances one after the other, without padding
  PrunedLogits          a few positions of each frame
  AdditiveLogits        the sum of an encoder's part and a predictor's part
  pack                  the inputs of a joint network for PackedLogits
  packed_offsets        where the rows of each utterance begin in PackedLogits
  prune                 the inputs of a joint network for PrunedLogits
  prune_ranges          which positions PrunedLogits keeps

The parts of a loss, for other topologies:
  node_labels           the label of every node of the lattice, from targets and lengths
  NodeLabels            what node_labels returns: labels and lengths for the next ones
  arc_log_probs         log-probabilities of the arcs of every node, from the logits and the labels
  lattice_cost          cost of the lattice, from the arcs and the lengths
  lattice_posteriors    the same, and the posterior of each arc
  lattice_best_path     the most probable path: the frame of each label, and the arcs that it takes
  BestPath              what lattice_best_path returns
  RNNT_MOVES            where the arcs of RNN-T lead
  MONOTONIC_MOVES       where those of the monotonic RNN-T lead

Decoding:
  greedy_decode         the most probable arc at every step, for models of any of the losses
  beam_decode           the most probable label sequences, with their scores and times
  GreedyDecoder         greedy_decode for audio that comes in pieces
  BeamDecoder           beam_decode for audio that comes in pieces
  Hypotheses            what they return: labels, lengths, scores, times, durations
  DecoderState          what they keep between two pieces
  edit_distance         how many labels are wrong
  mwer_loss             the expected errors of the best hypotheses, to train on

Around a loss:
  loss_lattice          the lattice of a loss: its arcs, lengths and moves
  Lattice               what loss_lattice returns: it unpacks into the arguments of the lattice's functions
  best_alignment        the most probable alignment under a loss: the frame of each label
  emission_times        the expected frame of each label, from posteriors
  expected_delay        how much later than in a reference the labels are emitted
  alignment_entropy     how uncertain the alignment is
  plot_lattice          a picture of posteriors, and of the best path on them; needs matplotlib
  plot_alignment        a picture of labels over time, on a spectrogram if there is one; needs matplotlib
  internal_lm_scores    the labels' scores under HAT's internal language model
  check_inputs          checks the values of a batch and names the first bad example
  build_info            what was compiled, and what runs where
  native_available      whether a platform has compiled kernels
  ffi_targets           names of the compiled kernels, for jax.export
"""

from jax_rnnt.alignment.best import best_alignment, loss_lattice
from jax_rnnt.alignment.emission import alignment_entropy, emission_times, expected_delay
from jax_rnnt.alignment.plots import plot_alignment, plot_lattice
from jax_rnnt.core.inputs import check_inputs
from jax_rnnt.core.node_labels import NodeLabels, node_labels
from jax_rnnt.core.pipeline import Lattice
from jax_rnnt.decoding.beam import BeamDecoder, beam_decode
from jax_rnnt.decoding.edit_distance import edit_distance
from jax_rnnt.decoding.greedy import GreedyDecoder, greedy_decode
from jax_rnnt.decoding.hypotheses import DecoderState, Hypotheses
from jax_rnnt.decoding.mwer import mwer_loss
from jax_rnnt.logits.additive import AdditiveLogits
from jax_rnnt.logits.joint import JointLogits
from jax_rnnt.logits.joint_modules import linen_joint, nnx_joint
from jax_rnnt.logits.packed import PackedLogits, pack, packed_offsets
from jax_rnnt.logits.pruned import PrunedLogits, prune, prune_ranges
from jax_rnnt.losses.hat import hat_loss, internal_lm_scores
from jax_rnnt.losses.loss_object import Loss, RNNTLoss
from jax_rnnt.losses.monotonic import MONOTONIC_MOVES, monotonic_rnnt_loss
from jax_rnnt.losses.multiblank import multiblank_rnnt_loss
from jax_rnnt.losses.rnnt import rnnt_loss
from jax_rnnt.losses.tdt import tdt_loss
from jax_rnnt.ops.arcs import arc_log_probs
from jax_rnnt.ops.best_path import BestPath, lattice_best_path
from jax_rnnt.ops.labels import RNNT_MOVES
from jax_rnnt.ops.lattice import lattice_cost, lattice_posteriors
from jax_rnnt.version import VERSION as __version__
from jax_rnnt.xla.native import build_info, ffi_targets, native_available

__all__ = [
    "MONOTONIC_MOVES",
    "RNNT_MOVES",
    "AdditiveLogits",
    "BeamDecoder",
    "BestPath",
    "DecoderState",
    "GreedyDecoder",
    "Hypotheses",
    "JointLogits",
    "Lattice",
    "Loss",
    "NodeLabels",
    "PackedLogits",
    "PrunedLogits",
    "RNNTLoss",
    "__version__",
    "alignment_entropy",
    "arc_log_probs",
    "beam_decode",
    "best_alignment",
    "build_info",
    "check_inputs",
    "edit_distance",
    "emission_times",
    "expected_delay",
    "ffi_targets",
    "greedy_decode",
    "hat_loss",
    "internal_lm_scores",
    "lattice_best_path",
    "lattice_cost",
    "lattice_posteriors",
    "linen_joint",
    "loss_lattice",
    "monotonic_rnnt_loss",
    "multiblank_rnnt_loss",
    "mwer_loss",
    "native_available",
    "nnx_joint",
    "node_labels",
    "pack",
    "packed_offsets",
    "plot_alignment",
    "plot_lattice",
    "prune",
    "prune_ranges",
    "rnnt_loss",
    "tdt_loss",
]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
