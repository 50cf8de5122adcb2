// handlers.h: the custom calls of the CPU, as XLA's FFI sees them.
#pragma once

#include "xla/ffi/api/ffi.h"

namespace jax_rnnt {

XLA_FFI_DECLARE_HANDLER_SYMBOL(ArcsForwardHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(ArcsBackwardHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(LatticeCostHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(LatticePosteriorsHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(LatticeBestPathHandler);

}  // namespace jax_rnnt
