// cuda_on_cpu.h: as much of CUDA as the kernels in cuda/ use, on a CPU, for tests.
//
// The threads of a block are fibers of one OS thread: a thread runs until it meets a barrier or a collective of its
// warp, waits there for the others, and is resumed in an order that can be chosen (grid.cc). Blocks run one after
// another. What a GPU leaves undefined is an error that ends the process with a message: a barrier that only some
// threads of the block reach, a collective that only some lanes of the warp reach or that names fewer than all.
//
// A launch waits in its stream until somebody calls Synchronise with that stream, and what is in another is not run.
// Static shared memory (__shared__) is not offered: nothing would tell one block's from the next one's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y = 1, z = 1;
  explicit dim3(unsigned x) : x(x) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// 2^x with the largest error that the hardware's may have, 2 ULP, up or down as the bits of x happen to be. 2^0 is 1
// there, and so is the power of a subnormal number.
inline float Exp2Approx(float x) {
  if (std::fabs(x) < std::numeric_limits<float>::min()) return 1;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  float result = static_cast<float>(std::exp2(static_cast<double>(x)));
  const float towards = bits * 2654435761u >> 31 != 0 ? 2 * result : 0;
  for (int i = 0; i < 2; ++i) result = std::nextafter(result, towards);
  return result < std::numeric_limits<float>::min() ? 0 : result;
}

namespace cuda_on_cpu {

// tanh(x) with the largest error that the hardware's may have, 2^-11 relative, up or down as the bits of x happen to
// be.
inline float TanhApprox(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const float result = std::tanh(x) * (1 + (bits * 2654435761u >> 31 != 0 ? 1 : -1) / 2048.0f);
  return std::fabs(result) > 1 ? std::copysign(1.0f, result) : result;
}

}  // namespace cuda_on_cpu

inline void __stwb(uint4* to, uint4 value) { *to = value; }

using cudaStream_t = struct CudaStream*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchOutOfResources = 701
};
const char* cudaGetErrorString(cudaError_t error);

// The one device. A block may have 99 KiB of shared memory if the kernel has asked for them, as on sm_86 and sm_120.
// Tests choose another size. A multiprocessor has 1 KiB more, and each of its blocks takes 1 KiB more.
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMultiProcessorCount };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

namespace cuda_on_cpu {

struct Index {
  unsigned x;
};
struct Indices {
  Index thread, block, block_size;
};
extern thread_local Indices indices;

[[noreturn]] void Die(const std::string& what);

enum class Collective : uint8_t { kSync, kExchange, kFromBelow, kAny };

void* DynamicShared();
cudaError_t AllowShared(void (*kernel)(), int bytes);
cudaError_t BlocksAtOnce(int* blocks, void (*kernel)(), size_t shared);

// Copies a number of 4 or 8 bytes to shared memory, or 0. It does so when the thread calls FinishCopies; until then NaN
// is there.
// FinishCopies leaves out the last `under_way` groups, and copies that are in no group.
void CopyLater(void* to, const void* from, size_t bytes, bool wanted);
void EndGroup();
void FinishCopies(size_t under_way);

// A store with release of a count that only grows, and a wait for it by loads with acquire.
void Release(int32_t* count, int32_t value);
void Acquire(const int32_t* count, int32_t least);
unsigned BlockBarrier(bool predicate, int line);  // how many threads' predicates are true
uint64_t WarpCollective(uint32_t mask, Collective kind, uint64_t value, int distance, int line);

// What cudaLaunchKernel was given. Invoke calls the kernel, with the argument, for one thread.
struct Launch {
  unsigned blocks, threads;
  size_t shared;
  void (*invoke)(void (*kernel)(), const void* argument);
  void (*kernel)();
  std::string argument;  // its bytes
};
cudaError_t PutOnStream(cudaStream_t stream, const Launch& launch);
// Runs what waits in the stream; that something waits in another one is an error that ends the process.
void Synchronise(cudaStream_t stream);
cudaStream_t NewStream();
void DeleteStream(cudaStream_t stream);  // nothing may wait in it

// The stream that a handler is called with. What it put there is run when its call is over.
class CallStream {
 public:
  CallStream() : stream_(NewStream()) {}
  CallStream(CallStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  CallStream& operator=(CallStream&&) = delete;
  ~CallStream() {
    if (stream_ == nullptr) return;
    Synchronise(stream_);
    DeleteStream(stream_);
  }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_;
};
void WatchRead(const void* address, size_t bytes);
void WatchWrite(const void* address, size_t bytes);

template <class T>
T Exchange(uint32_t mask, Collective kind, T value, int distance, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = WarpCollective(mask, kind, bits, distance, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Not watched (watch.h): on a GPU the argument is no memory that a thread could read wrongly.
template <class Argument>
__attribute__((no_sanitize("thread"))) void Invoke(void (*kernel)(), const void* argument) {
  reinterpret_cast<void (*)(Argument)>(kernel)(*static_cast<const Argument*>(argument));
}

}  // namespace cuda_on_cpu

#define threadIdx (::cuda_on_cpu::indices.thread)
#define blockIdx (::cuda_on_cpu::indices.block)
#define blockDim (::cuda_on_cpu::indices.block_size)
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
#define JAX_RNNT_WATCH_READ(address, bytes) ::cuda_on_cpu::WatchRead(address, bytes)
#define JAX_RNNT_WATCH_WRITE(address, bytes) ::cuda_on_cpu::WatchWrite(address, bytes)

template <class Argument>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Argument), cudaFuncAttribute, int value) {
  return ::cuda_on_cpu::AllowShared(reinterpret_cast<void (*)()>(kernel), value);
}

template <class Argument>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*kernel)(Argument), int, size_t shared) {
  return ::cuda_on_cpu::BlocksAtOnce(blocks, reinterpret_cast<void (*)()>(kernel), shared);
}

template <class Argument>
cudaError_t cudaLaunchKernel(void (*kernel)(Argument), dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
  static_assert(std::is_trivially_copyable_v<Argument>);
  return ::cuda_on_cpu::PutOnStream(stream, {grid.x,
                                             block.x,
                                             shared,
                                             &::cuda_on_cpu::Invoke<Argument>,
                                             reinterpret_cast<void (*)()>(kernel),
                                             {static_cast<const char*>(arguments[0]), sizeof(Argument)}});
}
