"""Transducer (RNN-T) losses for JAX, with compiled kernels.

Losses, each as a function and as a class that holds its options:
  rnnt_loss             RNNTLoss            minus the log-probability of the targets; torchaudio's arguments
  monotonic_rnnt_loss   MonotonicRNNTLoss   at most one label per frame
  multiblank_rnnt_loss  MultiblankRNNTLoss  blanks that take several frames
  tdt_loss              TDTLoss             tokens and durations
  hat_loss              HATLoss             a blank that is decided before the label
  Loss                                      what the classes have in common; the type of a field that holds a loss

Two models:
  distillation_loss  how far a student is from its teacher, node by node
  consistency_loss   how far two views of an utterance are apart; both learn

Logits that are not a dense array; every loss takes them:
  JointLogits     a joint network and its inputs; the loss computes its outputs one tile at a time
  additive_joint  the usual joint network for JointLogits, with CUDA kernels
  PackedLogits    the rows of all utterances one after the other, without padding
  PrunedLogits    a few positions per frame
  AdditiveLogits  the sum of an encoder's part and a predictor's part

Around a loss:
  check_inputs           checks the values of a batch and names the first bad example
  debug_inputs           makes losses and decoders check their inputs, inside jit too
  lengths_from_paddings  lengths from 0/1 paddings, the convention of optax
  alignment              a module: when each label is spoken, and pictures of it
  decoding               a module: greedy and beam search, whole or in pieces, and training on errors

The parts of a loss, for other topologies:
  node_labels         the label of every node of the lattice, from targets and lengths
  arc_log_probs       log-probabilities of the arcs of every node, from the logits and the labels
  lattice_cost        cost of the lattice, from the arcs and the lengths
  lattice_posteriors  the same, and the posterior of each arc

The installation:
  build_info   what was compiled, and what runs where
  ffi_targets  names of the compiled kernels, for jax.export
"""

from jax_rnnt import alignment, decoding
from jax_rnnt.core.check_inputs import check_inputs
from jax_rnnt.core.debug import debug_inputs
from jax_rnnt.core.loss import Loss
from jax_rnnt.core.node_labels import node_labels
from jax_rnnt.core.paddings import lengths_from_paddings
from jax_rnnt.logits.additive import AdditiveLogits
from jax_rnnt.logits.additive_joint import additive_joint
from jax_rnnt.logits.joint import JointLogits
from jax_rnnt.logits.packed import PackedLogits
from jax_rnnt.logits.pruned import PrunedLogits
from jax_rnnt.losses.hat import HATLoss, hat_loss
from jax_rnnt.losses.monotonic import MonotonicRNNTLoss, monotonic_rnnt_loss
from jax_rnnt.losses.multiblank import MultiblankRNNTLoss, multiblank_rnnt_loss
from jax_rnnt.losses.rnnt import RNNTLoss, rnnt_loss
from jax_rnnt.losses.tdt import TDTLoss, tdt_loss
from jax_rnnt.losses.two_models import consistency_loss, distillation_loss
from jax_rnnt.ops.arcs import arc_log_probs
from jax_rnnt.ops.lattice import lattice_cost, lattice_posteriors
from jax_rnnt.version import VERSION as __version__
from jax_rnnt.xla.native import build_info, ffi_targets

__all__ = [
    "AdditiveLogits",
    "HATLoss",
    "JointLogits",
    "Loss",
    "MonotonicRNNTLoss",
    "MultiblankRNNTLoss",
    "PackedLogits",
    "PrunedLogits",
    "RNNTLoss",
    "TDTLoss",
    "__version__",
    "additive_joint",
    "alignment",
    "arc_log_probs",
    "build_info",
    "check_inputs",
    "consistency_loss",
    "debug_inputs",
    "decoding",
    "distillation_loss",
    "ffi_targets",
    "hat_loss",
    "lattice_cost",
    "lattice_posteriors",
    "lengths_from_paddings",
    "monotonic_rnnt_loss",
    "multiblank_rnnt_loss",
    "node_labels",
    "rnnt_loss",
    "tdt_loss",
]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
