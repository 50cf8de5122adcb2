// power.cuh: numbers m * 2^e for lattices with short exponents. A term of a sum is a number times exp(x), for an arc x.
// No term branches.
//
// float: e is an integer in a float. A term takes two fused multiply-adds, a maximum, a subtraction and one instruction
// for 2^x.
// double: no instruction gives 2^x, but exp(x) does not wait for the step before. So an arc becomes a number first (17
// instructions in double), and a term takes a product, a sum, and four instructions for integers.
#pragma once

#include "device.cuh"
#include "fast_exp.h"

namespace jax_rnnt::cuda {

template <class R>
struct Power;
template <>
struct alignas(8) Power<float> {
  float m, e;
};
template <>
struct alignas(16) Power<double> {
  double m;
  int32_t e;
};

// exp(x). float: x itself.
template <class R>
struct Factor;
template <>
struct Factor<float> {
  float x;
};
template <>
struct Factor<double> {
  double m;
  int32_t e;
};

constexpr int64_t kLongest = int64_t{1} << 17;  // the largest T + U + 1, and so the most arcs of a path

// Bounds of exponents to base 2:
//   kFarthest: the probability of all paths is above 2^-kFarthest, or else the general kernel walks the lattice;
//   kHighest: no number may be above 2^kHighest;
//   kFarthestCrossing, kHighestCrossing: the same for the sum over the arcs that cross the middle. Numbers within the
//     bounds above are within these ones, whatever the rounding;
//   kLowest: a sum is relative to at least 2^kLowest, so a value may be 2^kLowest or less where it should be 0.
// A path through such a value must be 0 relative to the total. kImpossible stands for an impossible event; its m is
// finite.
template <class R>
struct Bounds;
// A higher number makes the general kernel walk the lattice. So such a path has less than 2^(kLowest + kHighest).
// Rounded() needs exponents between -2^22 and 2^22.
template <>
struct Bounds<float> {
  static constexpr float kHighest = 1 << 19, kFarthest = 1 << 20, kLowest = -3.5f * (1 << 20);
  static constexpr float kHighestCrossing = 4 * kHighest, kFarthestCrossing = kFarthest + 8;
  static constexpr float kImpossible = -std::numeric_limits<float>::infinity();
};
// An arc of kHighestArc or more is NaN, and the general kernel walks the lattice. So all paths with the same number of
// arcs, which are 2^8 times as many with each arc, have less than 2^kHighest, and those through such a value less than
// 2^(kLowest + kHighest). An arc below kLowestArc counts as 2^kLowest. No sum of two exponents is beyond 32 bits.
template <>
struct Bounds<double> {
  static constexpr int32_t kFarthest = 1 << 27, kLowest = -(1 << 29), kHighest = 1 << 28;
  static constexpr int32_t kHighestCrossing = 2 * kHighest, kFarthestCrossing = kFarthest + 8;
  static constexpr int32_t kImpossible = kLowest;
  static constexpr double kLowestArc = kLowest * kLn2, kHighestArc = 1024;
  static_assert((kHighestArc * kLog2E + 8) * kLongest < kHighest);
  static_assert(kLowest + kHighest < -kFarthest - 2048);  // less than any double, relative to the total
};

template <class R>
constexpr Power<R> kImpossible{1, Bounds<R>::kImpossible};
template <class R>
constexpr Power<R> kBegin{1, 0};  // where a direction begins

// Sums of exponents. If an arc is NaN, they may be any numbers.
__device__ __forceinline__ float Plus(float a, float b) { return a + b; }
__device__ __forceinline__ float Minus(float a, float b) { return a - b; }
__device__ __forceinline__ int32_t Plus(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}
__device__ __forceinline__ int32_t Minus(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b));
}

// 2^x, for x below 1024. Below -1022 the result is 0.
__device__ __forceinline__ float TwoTo(float x) { return Exp2(x); }
__device__ __forceinline__ double TwoTo(int32_t x) {
  return BitCast<double>(static_cast<uint64_t>(static_cast<uint32_t>(MaxOf(x, -1023)) + 1023u) << 52);
}

// The nearest integer, for |x| < 2^22.
__device__ __forceinline__ float Rounded(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: its neighbours are integers
  return (x + kRound) - kRound;
}
__device__ __forceinline__ int32_t Rounded(int32_t x) { return x; }

__device__ __forceinline__ Factor<float> FactorOf(float x) { return {x}; }
// Valid range: x < 1024, -inf included. Else, and for NaN, m is NaN.
// Max error: 1.6e-16 of exp(x).
__device__ __forceinline__ Factor<double> FactorOf(double x) {
  using B = Bounds<double>;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: the low bits of a sum with it are those of an integer
  constexpr double kHigh = 0.69314718036912381649, kLow = 1.9082149292705877e-10;  // ln 2. r is exact but for kLow
  constexpr auto kHighestBits = 0x40900000;                                        // the upper half of kHighestArc
  static_assert(B::kHighestArc == 1024);
  const double inside = x < B::kLowestArc ? B::kLowestArc : x;
  const double sum = fma(inside, kLog2E, kRound), n = sum - kRound;
  const double m = ExpPolynomial(fma(-n, kLow, fma(-n, kHigh, inside)));
  const bool high = static_cast<int32_t>(BitCast<uint64_t>(x) >> 32) >= kHighestBits;
  return {high ? std::numeric_limits<double>::quiet_NaN() : m,
          static_cast<int32_t>(static_cast<uint32_t>(BitCast<uint64_t>(sum)))};
}

constexpr float kPerUnit = static_cast<float>(kLog2E);  // its relative error is 1.3e-8

// The exponent of a product. That of a float is not rounded.
__device__ __forceinline__ float ExponentOf(Factor<float> a, float e) { return fmaf(a.x, kPerUnit, e); }
__device__ __forceinline__ int32_t ExponentOf(Factor<double> a, int32_t e) { return Plus(a.e, e); }

// sum + exp(x) b / 2^e, where the product is not far above 2^e.
__device__ __forceinline__ float AddProduct(float sum, Factor<float> a, Power<float> b, float e) {
  return fmaf(b.m, Exp2(ExponentOf(a, b.e - e)), sum);
}
__device__ __forceinline__ double AddProduct(double sum, Factor<double> a, Power<double> b, int32_t e) {
  return fma(b.m * a.m, TwoTo(Minus(ExponentOf(a, b.e), e)), sum);
}

// The same number with m in [1, 2), for m > 0; zero becomes 2^(e - 127), or 2^(e - 1023). If not `possible`, the
// exponent is that of an impossible event.
__device__ __forceinline__ Power<float> Normalise(Power<float> a, bool possible) {
  constexpr uint32_t kTwo23 = 0x4b000000;  // the bits of 2^23: an integer below 2^23 may be added to them
  const auto bits = BitCast<uint32_t>(a.m);
  const float origin = possible ? a.e - (8388608.0f + 127) : kImpossible<float>.e;
  return {BitCast<float>((bits & 0x7fffffu) | 0x3f800000u), BitCast<float>(kTwo23 | bits >> 23) + origin};
}
__device__ __forceinline__ Power<double> Normalise(Power<double> a, bool possible) {
  constexpr uint64_t kOne = uint64_t{1023} << 52;  // the bits of 1
  const auto bits = BitCast<uint64_t>(a.m);
  const int32_t e = Plus(a.e, static_cast<int32_t>(bits >> 52) - 1023);
  return {BitCast<double>((bits & (~uint64_t{0} >> 12)) | kOne), possible ? e : kImpossible<double>.e};
}

// Writes a value to global memory by a store with a predicate. The compiler would make a branch.
#if defined(__CUDA_ARCH__)
__device__ __forceinline__ void WriteIf(bool wanted, Power<float>* to, Power<float> value) {
  asm volatile("{.reg .pred p; setp.ne.u32 p, %3, 0; @p st.global.v2.f32 [%2], {%0, %1};}" ::"f"(value.m), "f"(value.e),
               "l"(__cvta_generic_to_global(to)), "r"(static_cast<uint32_t>(wanted))
               : "memory");
}
__device__ __forceinline__ void WriteIf(bool wanted, Power<double>* to, Power<double> value) {
  asm volatile(
      "{.reg .pred p; .reg .b32 low, high; mov.b64 {low, high}, %0; setp.ne.u32 p, %3, 0;"
      "@p st.global.v4.b32 [%2], {low, high, %1, %1};}" ::"d"(value.m),
      "r"(value.e), "l"(__cvta_generic_to_global(to)), "r"(static_cast<uint32_t>(wanted))
      : "memory");
}
#else
template <class R>
__device__ __forceinline__ void WriteIf(bool wanted, Power<R>* to, Power<R> value) {
  if (wanted) Write(to, value);
}
#endif

}  // namespace jax_rnnt::cuda
