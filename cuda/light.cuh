// light.cuh: scaled numbers m * 2^e in two registers, for lattices whose exponents are short; without branches.
//
// e is a 32-bit integer, m is about 1. There is no zero: what is impossible has an exponent below that of anything
// that counts, so that sums, products and posteriors treat it as the rest. The bounds, of exponents to base 2:
//   an arc is cut to -kLongestArc from below; -inf and NaN become that, too;
//   arcs above 0 add up to kHighest at most along any path, or else the lattice is not walked here;
//   a probability of all paths counts if it is above 2^-kFarthest.
// So a path through a cut arc has less than 2^(kHighest - kLongestArc), which is 2^-(2^19) of what counts: 0 in float.
#pragma once

#include "device.cuh"
#include "fast_exp.h"

namespace jax_rnnt::cuda {

constexpr int32_t kHighest = 1 << 19, kFarthest = 1 << 20, kLongestArc = 1 << 21, kNever = -(1 << 26);

struct Light {
  float m;
  int32_t e;
};

// Exponents of arcs, and of their products with a Light, are kBiased: this number is added to them.
constexpr float kRoundLight = 12582912.0f;  // 1.5 * 2^23: what is added to it becomes an integer, in its low bits
constexpr int32_t kBias = 0x4b400000;       // its bits; a multiple of 2^9, so that shifts by 23 bits drop it

// These wrap around, as they may where an arc is +inf; what comes of that is thrown away.
__device__ __forceinline__ int32_t Sum(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

__device__ __forceinline__ int32_t Difference(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b));
}

__device__ __forceinline__ Light operator*(Light a, Light b) { return {a.m * b.m, Sum(a.e, b.e)}; }

// The larger one. The compiler may not make a comparison and a selection of it.
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

// exp(x), biased, with m in [0.7, 1.5). x log2(e) is off by 1.3e-8 of itself, less than half of x's own last digit.
__device__ __forceinline__ Light ExpLight(float x) {
  constexpr float kLeast = static_cast<float>(-kLongestArc / kLog2E), kPerUnit = static_cast<float>(kLog2E);
  const float least = fmaxf(x, kLeast);
  const float shifted = fmaf(least, kPerUnit, kRoundLight);
  const float fraction = fmaf(least, kPerUnit, kRoundLight - shifted);
  return {Exp2OfFraction(fraction), BitCast<int32_t>(shifted)};
}

// 2^(e - kBias) for what is at most 127 after kBias is subtracted; 0 below the normal numbers.
__device__ __forceinline__ float Pow2Light(int32_t e) {
  return BitCast<float>(static_cast<uint32_t>(Larger(Sum(e, 127), kBias)) << 23);
}

// The sum of two biased numbers with m in [0.3, 8): not biased, m in [1, 2).
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
