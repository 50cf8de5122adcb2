// progress.cuh: how warps of a block wait for each other, and not for the whole block.
//
// A warp counts in shared memory what it has finished. It alone writes its count, and the count only grows. Another
// warp waits until the count is large enough. What the one did before it wrote its count, the other one then sees.
#pragma once

#include "device.cuh"

namespace jax_rnnt::cuda {

constexpr int32_t kFinished = std::numeric_limits<int32_t>::max();  // the count of a warp that has no more to do

// Sets this warp's count. All lanes call it.
__device__ __forceinline__ void Publish(int32_t* count, int32_t value, int32_t lane) {
  __syncwarp();
#if defined(JAX_RNNT_CUDA_ON_CPU)
  if (lane == 0) ::cuda_on_cpu::Release(count, value);
#else
  if (lane == 0) {
    asm volatile("st.release.cta.shared.s32 [%0], %1;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(count))),
                 "r"(value)
                 : "memory");
  }
#endif
}

// Waits for counts of other warps. Each lane has one of its own, so a warp waits for several counts at once.
class Awaited {
 public:
  __device__ __forceinline__ explicit Awaited(const int32_t* count) : count_(count) {}

  // Reads the count ahead of Wait, which then need not wait for the memory.
  __device__ __forceinline__ void Ask() {
#if !defined(JAX_RNNT_CUDA_ON_CPU)
    asm volatile("ld.acquire.cta.shared.s32 %0, [%1];"
                 : "=r"(seen_)
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(count_)))
                 : "memory");
#endif
  }

  // Waits until the count of each lane is at least what the lane says. All lanes call it.
  __device__ __forceinline__ void Wait(int32_t least) {
#if defined(JAX_RNNT_CUDA_ON_CPU)
    ::cuda_on_cpu::Acquire(count_, least);
#else
    while (!__all_sync(kWholeWarp, seen_ >= least)) Ask();
#endif
    __syncwarp();
  }

 private:
  const int32_t* count_;
  [[maybe_unused]] int32_t seen_ = std::numeric_limits<int32_t>::min();
};

}  // namespace jax_rnnt::cuda
