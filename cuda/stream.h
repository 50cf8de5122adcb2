// stream.h: the stream of a custom call, as a context that handlers ask XLA for.
#pragma once

#include "xla/ffi/api/ffi.h"

#if defined(JAX_RNNT_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
#endif

namespace jax_rnnt::cuda {

#if defined(JAX_RNNT_CUDA_ON_CPU)
struct StreamContext {};
#else
using StreamContext = ::xla::ffi::PlatformStream<cudaStream_t>;
#endif

}  // namespace jax_rnnt::cuda

#if defined(JAX_RNNT_CUDA_ON_CPU)
template <>
struct xla::ffi::CtxDecoding<jax_rnnt::cuda::StreamContext> {
  using Type = cuda_on_cpu::CallStream;
  static std::optional<Type> Decode(const XLA_FFI_Api*, XLA_FFI_ExecutionContext*, DiagnosticEngine&) { return Type{}; }
};
#endif
