// launch.h: starts a kernel. If that fails, it says which kernel it was and how it was configured.
#pragma once

#include <cstdint>
#include <string>

#if defined(JAX_RNNT_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
#endif

namespace jax_rnnt::cuda {

using LaunchResult = std::string;  // empty: the kernel is on the stream

template <class Arguments>
LaunchResult Launch(const char* name, void (*kernel)(Arguments), int64_t blocks, unsigned threads, size_t shared,
                    cudaStream_t stream, Arguments arguments) {
  if (blocks == 0) return {};
  const std::string configuration = std::string(name) + "<<<" + std::to_string(blocks) + ", " +
                                    std::to_string(threads) + ", " + std::to_string(shared) + " bytes>>>";
  if (blocks > INT32_MAX) return configuration + ": more than 2^31 - 1 blocks";
  void* pointers[] = {&arguments};
  const cudaError_t error =
      cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(threads), pointers, shared, stream);
  return error == cudaSuccess ? LaunchResult() : configuration + ": " + cudaGetErrorString(error);
}

}  // namespace jax_rnnt::cuda
