"""Transducer (RNN-T) losses for JAX, with compiled kernels."""

from jax_rnnt.arcs import arc_log_probs as arc_log_probs
from jax_rnnt.inputs import check_inputs as check_inputs
from jax_rnnt.labels import RNNT_MOVES as RNNT_MOVES
from jax_rnnt.lattice import lattice_cost as lattice_cost
from jax_rnnt.loss import RNNTLoss as RNNTLoss
from jax_rnnt.loss import rnnt_loss as rnnt_loss
from jax_rnnt.native import build_info as build_info
from jax_rnnt.native import ffi_targets as ffi_targets
from jax_rnnt.native import native_available as native_available
