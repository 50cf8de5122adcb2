// cuda_on_cpu.h: as much of CUDA as the kernels in cuda/ use, on a CPU, for tests.
//
// The threads of a block are fibers of one OS thread: a thread runs until it meets a barrier or a collective of its
// warp, waits there for the others, and is resumed in an order that can be chosen (runtime.cc). Blocks run one after
// another. What a GPU leaves undefined is an error that ends the process with a message: a barrier that only some
// threads of the block reach, a collective that only some lanes of the warp reach or that names fewer than all.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static thread_local  // the fibers of a block share an OS thread

struct dim3 {
  unsigned x, y = 1, z = 1;
  explicit dim3(unsigned x) : x(x) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline void __stwb(uint4* to, uint4 value) { *to = value; }

using cudaStream_t = struct CudaStream*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };
const char* cudaGetErrorString(cudaError_t error);

namespace cuda_on_cpu {

struct Index {
  unsigned x;
};
extern thread_local Index thread_index, block_index, block_size;

enum class Collective : uint8_t { kSync, kExchange, kFromBelow, kAny };

void* DynamicShared();
unsigned BlockBarrier(bool predicate, int line);  // how many threads' predicates are true
uint64_t WarpCollective(uint32_t mask, Collective kind, uint64_t value, int distance, int line);
cudaError_t RunGrid(unsigned blocks, unsigned threads, size_t shared, const std::function<void()>& thread);
void CountRead(const void* address, size_t bytes);
void CountWrite(const void* address, size_t bytes);

template <class T>
T Exchange(uint32_t mask, Collective kind, T value, int distance, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = WarpCollective(mask, kind, bits, distance, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace cuda_on_cpu

#define threadIdx (::cuda_on_cpu::thread_index)
#define blockIdx (::cuda_on_cpu::block_index)
#define blockDim (::cuda_on_cpu::block_size)
#define __syncthreads() ((void)::cuda_on_cpu::BlockBarrier(false, __LINE__))
#define __syncthreads_or(predicate) (::cuda_on_cpu::BlockBarrier(predicate, __LINE__) > 0)
#define __syncwarp() ((void)::cuda_on_cpu::WarpCollective(~0u, ::cuda_on_cpu::Collective::kSync, 0, 0, __LINE__))
#define __any_sync(mask, predicate) \
  (::cuda_on_cpu::WarpCollective(mask, ::cuda_on_cpu::Collective::kAny, (predicate) ? 1 : 0, 0, __LINE__) != 0)
#define __shfl_xor_sync(mask, value, distance) \
  (::cuda_on_cpu::Exchange(mask, ::cuda_on_cpu::Collective::kExchange, value, distance, __LINE__))
#define __shfl_up_sync(mask, value, distance) \
  (::cuda_on_cpu::Exchange(mask, ::cuda_on_cpu::Collective::kFromBelow, value, distance, __LINE__))

#define JAX_RNNT_DYNAMIC_SHARED(name) auto* name = static_cast<unsigned char*>(::cuda_on_cpu::DynamicShared())
#define JAX_RNNT_COUNT_READ(address, bytes) ::cuda_on_cpu::CountRead(address, bytes)
#define JAX_RNNT_COUNT_WRITE(address, bytes) ::cuda_on_cpu::CountWrite(address, bytes)

template <class Argument>
cudaError_t cudaLaunchKernel(void (*kernel)(Argument), dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t) {
  const Argument argument = *static_cast<const Argument*>(arguments[0]);
  return ::cuda_on_cpu::RunGrid(grid.x, block.x, shared, [&] { kernel(argument); });
}
