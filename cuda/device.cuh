// device.cuh: basic functions of the kernels: conversions, vectors of 16 bytes, sums over a group of lanes.
//
// With JAX_RNNT_CUDA_ON_CPU the header cuda_on_cpu.h replaces CUDA's own, and a C++ compiler builds the same kernels
// for the CPU. There Read and Write tell of their accesses, so every access to global memory goes through them.
#pragma once

#include <cstdint>
#include <limits>

#if defined(JAX_RNNT_CUDA_ON_CPU)
#include "cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
#define JAX_RNNT_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define JAX_RNNT_WATCH_READ(address, bytes)
#define JAX_RNNT_WATCH_WRITE(address, bytes)
#endif

#include "float16.h"
#include "row_rules.h"

namespace jax_rnnt::cuda {

constexpr unsigned kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

template <class T>
__device__ __forceinline__ T Read(const T* from) {
  JAX_RNNT_WATCH_READ(from, sizeof(T));
  return *from;
}

template <class T>
__device__ __forceinline__ void Write(T* to, T value) {
  JAX_RNNT_WATCH_WRITE(to, sizeof(T));
  *to = value;
}

// Prefetches what a later step will read.
template <class T>
__device__ __forceinline__ void Prefetch([[maybe_unused]] const T* from) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L1 [%0];" ::"l"(__cvta_generic_to_global(from)));
#endif
}

// Conversions by integer arithmetic, or by the device's instructions where it has them. The instructions are written
// out, because CUDA's functions for them differ between versions of CUDA.
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
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
}
template <>
__device__ __forceinline__ Half FromCompute<Half>(float x) {
  Half narrow;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(x));
  return narrow;
}
#endif

__device__ __forceinline__ float ExpOf(float x) { return expf(x); }
__device__ __forceinline__ double ExpOf(double x) { return Exp(x); }  // CUDA's own function spills registers

// 2^x by the hardware's instruction.
// Valid range: all x. Below -126 the result is 0, because it would be no normal number. NaN gives NaN.
// Max error: 2 ULP, as NVIDIA states it for exp2f.
__device__ __forceinline__ float Exp2(float x) {
#if defined(JAX_RNNT_CUDA_ON_CPU)
  return Exp2Approx(x);
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

// Valid range: all x. Below -87.3 the result is 0. NaN gives NaN.
// Max error: 3 + 0.62 |x| ULP. 2 ULP are those of Exp2. The rest comes from the rounding of the product.
__device__ __forceinline__ float ExpApprox(float x) { return Exp2(x * static_cast<float>(kLog2E)); }
__device__ __forceinline__ double ExpApprox(double x) { return Exp(x); }

// The larger one. If one of them is NaN, the other one.
__device__ __forceinline__ float MaxOf(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double MaxOf(double a, double b) { return b > a ? b : a; }
__device__ __forceinline__ float MinOf(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ double MinOf(double a, double b) { return b < a ? b : a; }
__device__ __forceinline__ int32_t MaxOf(int32_t a, int32_t b) { return b > a ? b : a; }
__device__ __forceinline__ int32_t MinOf(int32_t a, int32_t b) { return b < a ? b : a; }

// a * b + c, rounded once.
__device__ __forceinline__ float FmaOf(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double FmaOf(double a, double b, double c) { return fma(a, b, c); }

__device__ __forceinline__ float Log1pOf(float x) { return log1pf(x); }
__device__ __forceinline__ double Log1pOf(double x) { return log1p(x); }

// The entries that a 128-bit access moves.
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
  JAX_RNNT_WATCH_WRITE(to, sizeof(uint4));
  // Not an assignment: nvcc would split it, and merge the parts with stores of single entries in another branch.
  __stwb(reinterpret_cast<uint4*>(to), BitCast<uint4>(pack));
}

// Converts the numbers of a vector. Each bfloat16 takes one instruction.
template <class T>
__device__ __forceinline__ void Unpack(const Pack<T>& pack, typename Compute<T>::Type (&x)[Pack<T>::kSize]) {
#pragma unroll
  for (int e = 0; e < Pack<T>::kSize; ++e) x[e] = ToCompute(pack.at[e]);
}
__device__ __forceinline__ void Unpack(const Pack<BFloat16>& pack, float (&x)[Pack<BFloat16>::kSize]) {
  struct Words {
    uint32_t at[4];
  };
  const Words words = BitCast<Words>(pack);
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    x[2 * w] = BitCast<float>(words.at[w] << 16);
    x[2 * w + 1] = BitCast<float>(words.at[w] & 0xffff0000u);
  }
}

// Makes a vector of converted numbers. From sm_80 on, one instruction converts two numbers to 16 bits.
template <class T>
__device__ __forceinline__ Pack<T> PackOf(const typename Compute<T>::Type (&x)[Pack<T>::kSize]) {
  Pack<T> pack;
#pragma unroll
  for (int e = 0; e < Pack<T>::kSize; ++e) pack.at[e] = FromCompute<T>(x[e]);
  return pack;
}
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define JAX_RNNT_PACK_OF(T, instruction)                                           \
  template <>                                                                      \
  __device__ __forceinline__ Pack<T> PackOf<T>(const float (&x)[Pack<T>::kSize]) { \
    uint4 words;                                                                   \
    asm(instruction " %0, %1, %2;" : "=r"(words.x) : "f"(x[1]), "f"(x[0]));        \
    asm(instruction " %0, %1, %2;" : "=r"(words.y) : "f"(x[3]), "f"(x[2]));        \
    asm(instruction " %0, %1, %2;" : "=r"(words.z) : "f"(x[5]), "f"(x[4]));        \
    asm(instruction " %0, %1, %2;" : "=r"(words.w) : "f"(x[7]), "f"(x[6]));        \
    return BitCast<Pack<T>>(words);                                                \
  }
JAX_RNNT_PACK_OF(Half, "cvt.rn.f16x2.f32")
JAX_RNNT_PACK_OF(BFloat16, "cvt.rn.bf16x2.f32")
#undef JAX_RNNT_PACK_OF
#endif

}  // namespace jax_rnnt::cuda
