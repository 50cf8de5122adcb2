// launch.h: starts a kernel. If that fails, it says which kernel it was and how it was configured.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#if defined(JAX_RNNT_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
#endif

namespace jax_rnnt::cuda {

using LaunchResult = std::string;  // empty: the kernel is on the stream

constexpr int64_t kMaxBlocks = INT32_MAX;               // of a launch
constexpr size_t kSharedEverywhere = size_t{48} << 10;  // bytes of shared memory that every GPU gives a block

// The bytes of shared memory that the current GPU gives a block that asks for them.
inline size_t SharedOfBlock() {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return kSharedEverywhere;
  const cudaError_t error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return error == cudaSuccess ? static_cast<size_t>(bytes) : kSharedEverywhere;
}

// Lets a kernel's blocks have so much shared memory.
template <class Arguments>
cudaError_t AllowShared(void (*kernel)(Arguments), size_t shared) {
  if (shared <= kSharedEverywhere) return cudaSuccess;
  // Always the largest size: another thread may launch the same kernel with more than this one.
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(SharedOfBlock()));
}

// How many blocks of a launch a multiprocessor of the current GPU runs, if all have equally many; rounded up.
inline int64_t BlocksOfMultiprocessor(int64_t blocks) {
  int device = 0, count = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess && count > 0;
  return known ? (blocks + count - 1) / count : 1;
}

// How many of them it has room for at the same time.
template <class Arguments>
int64_t BlocksAtOnce(void (*kernel)(Arguments), unsigned threads, size_t shared) {
  int blocks = 0;
  const bool known =
      AllowShared(kernel, shared) == cudaSuccess &&
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, static_cast<int>(threads), shared) == cudaSuccess;
  return known ? blocks : 0;
}

template <class Arguments>
LaunchResult Launch(const char* name, void (*kernel)(Arguments), int64_t blocks, unsigned threads, size_t shared,
                    cudaStream_t stream, Arguments arguments) {
  if (blocks == 0) return {};
  const std::string configuration = std::string(name) + "<<<" + std::to_string(blocks) + ", " +
                                    std::to_string(threads) + ", " + std::to_string(shared) + " bytes>>>";
  if (blocks > kMaxBlocks) return configuration + ": more than 2^31 - 1 blocks";
  void* pointers[] = {&arguments};
  cudaError_t error = AllowShared(kernel, shared);
  if (error == cudaSuccess) {
    error = cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(threads), pointers, shared, stream);
  }
  return error == cudaSuccess ? LaunchResult() : configuration + ": " + cudaGetErrorString(error);
}

}  // namespace jax_rnnt::cuda
