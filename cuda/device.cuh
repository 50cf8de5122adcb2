// device.cuh: what kernels use of CUDA beside the language: conversions, vectors of 16 bytes, sums over a group of
// lanes.
//
// With JAX_RNNT_CUDA_ON_CPU the header cuda_on_cpu.h takes the place of CUDA's own: a C++ compiler then builds the
// same kernels for the CPU. For its sake every access to global memory goes through Read and Write, which count there.
#pragma once

#include <cstdint>
#include <limits>

#if defined(JAX_RNNT_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define JAX_RNNT_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define JAX_RNNT_COUNT_READ(address, bytes)
#define JAX_RNNT_COUNT_WRITE(address, bytes)
#endif

#include "float16.h"
#include "row_rules.h"

namespace jax_rnnt::cuda {

constexpr unsigned kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

template <class T>
__device__ __forceinline__ T Read(const T* from) {
  JAX_RNNT_COUNT_READ(from, sizeof(T));
  return *from;
}

template <class T>
__device__ __forceinline__ void Write(T* to, T value) {
  JAX_RNNT_COUNT_WRITE(to, sizeof(T));
  *to = value;
}

// Asks for what is read some steps later.
template <class T>
__device__ __forceinline__ void Prefetch([[maybe_unused]] const T* from) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L1 [%0];" ::"l"(__cvta_generic_to_global(from)));
#endif
}

// The hardware's conversions on the device, the same ones by integer arithmetic elsewhere.
template <class T>
__device__ __forceinline__ typename Compute<T>::Type ToCompute(T x) {
  return Widen(x);
}
template <class T>
__device__ __forceinline__ T FromCompute(typename Compute<T>::Type x) {
  return Narrow<T>(x);
}
#if defined(__CUDA_ARCH__)
template <>
__device__ __forceinline__ float ToCompute<Half>(Half x) {
  return __half2float(__ushort_as_half(x.bits));
}
template <>
__device__ __forceinline__ Half FromCompute<Half>(float x) {
  return {__half_as_ushort(__float2half_rn(x))};
}
template <>
__device__ __forceinline__ BFloat16 FromCompute<BFloat16>(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}
#endif

__device__ __forceinline__ float ExpOf(float x) { return expf(x); }
__device__ __forceinline__ double ExpOf(double x) { return Exp(x); }  // CUDA's own spills registers
__device__ __forceinline__ float LogOf(float x) { return logf(x); }
__device__ __forceinline__ double LogOf(double x) { return log(x); }

// What a 128-bit access moves.
template <class T>
struct Pack {
  static constexpr int kSize = sizeof(uint4) / sizeof(T);
  T at[kSize];
};

template <class T>
__device__ __forceinline__ Pack<T> ReadPack(const T* from) {
  return BitCast<Pack<T>>(Read(reinterpret_cast<const uint4*>(from)));
}
template <class T>
__device__ __forceinline__ void WritePack(T* to, const Pack<T>& pack) {
  JAX_RNNT_COUNT_WRITE(to, sizeof(uint4));
  // Not an assignment: nvcc takes that to pieces, and merges them with single entries' stores in another branch.
  __stwb(reinterpret_cast<uint4*>(to), BitCast<uint4>(pack));
}

}  // namespace jax_rnnt::cuda
