// handlers.h: the custom calls of CUDA, as XLA's FFI sees them.
//
// They only put kernels on the stream, and the size of a grid depends on shapes alone. So XLA may record them once, in
// a command buffer, and replay them.
#pragma once

#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::cuda {

XLA_FFI_DECLARE_HANDLER_SYMBOL(CudaArcsForwardHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(CudaArcsBackwardHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(CudaHiddenRowsHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(CudaHiddenRowsBackwardHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(CudaLatticeCostHandler);
XLA_FFI_DECLARE_HANDLER_SYMBOL(CudaLatticePosteriorsHandler);

}  // namespace jax_rnnt::cuda
