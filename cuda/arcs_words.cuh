// arcs_words.cuh: vectors of logits, as words of 32 bits. Two entries of 16 bits share a word until their exponentials
// are taken: so they fill half as many registers, and one instruction compares two of them.
#pragma once

#include <type_traits>

#include "rows.cuh"

namespace jax_rnnt::cuda {

struct Words {
  static constexpr int kSize = sizeof(uint4) / sizeof(uint32_t);
  uint32_t at[kSize];
};

// Replaces the entries before `first`, and those from `stop` on, by -inf.
template <class T>
__device__ __forceinline__ void Exclude(Words& words, int32_t first, int32_t stop) {
  using A = typename Compute<T>::Type;
  Pack<T> pack = BitCast<Pack<T>>(words);
#pragma unroll
  for (int e = 0; e < Pack<T>::kSize; ++e) {
    if (e < first || e >= stop) pack.at[e] = Narrow<T>(-kInfinity<A>);
  }
  words = BitCast<Words>(pack);
}

// From sm_80 on, one instruction compares two entries of 16 bits.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <class T>
constexpr bool kHalvesCompare = sizeof(T) == 2;
#else
template <class T>
constexpr bool kHalvesCompare = false;
#endif

// The larger ones of the lower and of the upper halves of two words. A number is larger than NaN.
template <class T>
__device__ __forceinline__ uint32_t MaxOfHalves(uint32_t a, uint32_t b) {
  uint32_t larger;
  if constexpr (std::is_same_v<T, Half>) {
    asm("max.f16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    asm("max.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
  }
  return larger;
}

// The largest one of all lower halves, and of all upper halves.
template <class T, int kCount>
__device__ __forceinline__ uint32_t LargestHalves(const Words (&vectors)[kCount]) {
  Words top = vectors[0];
#pragma unroll
  for (int j = 1; j < kCount; ++j) {
#pragma unroll
    for (int w = 0; w < Words::kSize; ++w) top.at[w] = MaxOfHalves<T>(top.at[w], vectors[j].at[w]);
  }
#pragma unroll
  for (int w = 1; w < Words::kSize; ++w) top.at[0] = MaxOfHalves<T>(top.at[0], top.at[w]);
  return top.at[0];
}

// The largest one of `top` and all entries. A number is larger than NaN.
template <class T, int kCount, class A = typename Compute<T>::Type>
__device__ __forceinline__ A Largest(const Words (&vectors)[kCount], A top) {
  if constexpr (kHalvesCompare<T>) {
    const uint32_t halves = LargestHalves<T>(vectors);
    const T lower{static_cast<uint16_t>(halves)}, upper{static_cast<uint16_t>(halves >> 16)};
    top = MaxOf(top, MaxOf(ToCompute(lower), ToCompute(upper)));
  } else {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      A x[Pack<T>::kSize];
      Unpack(BitCast<Pack<T>>(vectors[j]), x);
#pragma unroll
      for (int e = 0; e < Pack<T>::kSize; ++e) top = MaxOf(top, x[e]);
    }
  }
  return top;
}

}  // namespace jax_rnnt::cuda
