// light.cuh: scaled numbers m * 2^e in two registers, without branches, for lattices with short exponents.
//
// e is a 32-bit integer, and m is about 1. There is no zero. An impossible event has an exponent far below that of any
// possible one, so sums, products and posteriors need no special case for it. The bounds of exponents to base 2:
//   an arc below -kLongestArc is cut to it; -inf and NaN become -kLongestArc, too;
//   the sum of the arcs along any path is at most kHighest, or else the general kernel walks the lattice;
//   the probability of all paths is above 2^-kFarthest, or else the general kernel walks the lattice.
// So a path through a cut arc has less than 2^(kHighest - kLongestArc). This is 2^-(2^19) of the total: 0 in float.
#pragma once

#include "device.cuh"
#include "fast_exp.h"

namespace jax_rnnt::cuda {

constexpr int32_t kHighest = 1 << 19, kFarthest = 1 << 20, kLongestArc = 1 << 21, kNever = -(1 << 26);

struct Light {
  float m;
  int32_t e;
};

// The exponents of arcs, and of their products with a Light, are biased: kBias is added to them.
constexpr float kRoundLight = 12582912.0f;  // 1.5 * 2^23: its sum with a number has the nearest integer in its low bits
constexpr int32_t kBias = 0x4b400000;  // the bits of kRoundLight; a multiple of 2^9, so a shift by 23 bits removes it

// These sums may wrap around where an arc is +inf. The general kernel then walks the lattice, and the result is
// dropped.
__device__ __forceinline__ int32_t Sum(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

__device__ __forceinline__ int32_t Difference(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b));
}

__device__ __forceinline__ Light operator*(Light a, Light b) { return {a.m * b.m, Sum(a.e, b.e)}; }

// The larger one, by one instruction: the compiler must not turn it into a comparison and a selection.
__device__ __forceinline__ int32_t Larger(int32_t a, int32_t b) {
#if defined(__CUDA_ARCH__)
  asm("max.s32 %0, %0, %1;" : "+r"(a) : "r"(b));
  return a;
#else
  return a > b ? a : b;
#endif
}

// Valid range: [-1/2, 1/2]. Max error: 2 ULP.
__device__ __forceinline__ float Exp2OfFraction(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

// exp(x), biased, with m in [0.7, 1.5). The relative error of x log2(e) is 1.3e-8, less than half of the last digit of
// x.
__device__ __forceinline__ Light ExpLight(float x) {
  constexpr float kLeast = static_cast<float>(-kLongestArc / kLog2E), kPerUnit = static_cast<float>(kLog2E);
  const float least = fmaxf(x, kLeast);
  const float shifted = fmaf(least, kPerUnit, kRoundLight);
  const float fraction = fmaf(least, kPerUnit, kRoundLight - shifted);
  return {Exp2OfFraction(fraction), BitCast<int32_t>(shifted)};
}

// 2^(e - kBias) for e - kBias <= 127; 0 where that is no normal number.
__device__ __forceinline__ float Pow2Light(int32_t e) {
  return BitCast<float>(static_cast<uint32_t>(Larger(Sum(e, 127), kBias)) << 23);
}

// The sum of two biased numbers with m in [0.3, 8). The result is not biased, and its m is in [1, 2).
__device__ __forceinline__ Light AddBiased(Light a, Light b) {
  const bool first = a.e >= b.e;
  const int32_t most = first ? a.e : b.e, least = first ? b.e : a.e;
  const int32_t apart = Larger(Difference(least, most), -126);
  const auto scale = BitCast<float>((static_cast<uint32_t>(apart) << 23) + 0x3f800000u);
  const auto bits = BitCast<uint32_t>(fmaf(first ? b.m : a.m, scale, first ? a.m : b.m));
  const int32_t e = Sum(most, static_cast<int32_t>(bits >> 23) - 127 - kBias);
  return {BitCast<float>((bits & 0x7fffffu) | 0x3f800000u), Larger(e, kNever)};
}

}  // namespace jax_rnnt::cuda
