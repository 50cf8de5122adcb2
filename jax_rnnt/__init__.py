"""Transducer (RNN-T) losses for JAX, with compiled kernels."""

from jax_rnnt.losses.rnnt import RNNTLoss as RNNTLoss
from jax_rnnt.losses.rnnt import rnnt_loss as rnnt_loss
from jax_rnnt.ops.arcs import arc_log_probs as arc_log_probs
from jax_rnnt.ops.labels import RNNT_MOVES as RNNT_MOVES
from jax_rnnt.ops.lattice import lattice_cost as lattice_cost
from jax_rnnt.ops.lattice import lattice_posteriors as lattice_posteriors
from jax_rnnt.tools.inputs import check_inputs as check_inputs
from jax_rnnt.xla.native import build_info as build_info
from jax_rnnt.xla.native import ffi_targets as ffi_targets
from jax_rnnt.xla.native import native_available as native_available
