// scaled.cuh: scaled numbers m * 2^e, as in cpp/sweep.h, in float or double.
//
// e is an integer; Normalise keeps m in [1, 2), so that sums are aligned by a power of two and products of thousands of
// probabilities neither underflow nor need a log or an exp. Zero is m = 0 with the exponent kZeroExponent.
#pragma once

#include "device.cuh"
#include "fast_exp.h"

namespace jax_rnnt::cuda {

template <class R>
struct alignas(2 * sizeof(R)) Scaled {
  R m, e;
};

template <class R>
struct Bits;
template <>
struct Bits<float> {
  using Type = uint32_t;
  static constexpr int kMantissa = 23, kBias = 127;
};
template <>
struct Bits<double> {
  using Type = uint64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
};

template <class R>
constexpr R kZeroExponent = static_cast<R>(-1e37);
template <class R>
constexpr R kLargestExponent = static_cast<R>(1e35);  // of one arc; what lies beyond is cut

template <class R>
__device__ __forceinline__ Scaled<R> Zero() {
  return {0, kZeroExponent<R>};
}
template <class R>
__device__ __forceinline__ Scaled<R> One() {
  return {1, 0};
}

// 2^e for an integer e; 0 below the normal numbers.
template <class R>
__device__ __forceinline__ R Pow2(R e) {
  using B = Bits<R>;
  constexpr R kLast = B::kBias;
  const R clamped = e < -kLast ? -kLast : e > kLast ? kLast : e;  // there 2^e has the bits of zero
  return BitCast<R>(static_cast<typename B::Type>(static_cast<int32_t>(clamped) + B::kBias) << B::kMantissa);
}

template <class R>
__device__ __forceinline__ Scaled<R> operator*(Scaled<R> a, Scaled<R> b) {
  return {a.m * b.m, a.e + b.e};
}

template <class R>
__device__ __forceinline__ Scaled<R> operator+(Scaled<R> a, Scaled<R> b) {
  const R d = a.e - b.e;
  const R scale = Pow2(d > 0 ? -d : d);
  return d > 0 ? Scaled<R>{b.m * scale + a.m, a.e} : Scaled<R>{a.m * scale + b.m, b.e};
}

template <class R>
__device__ __forceinline__ Scaled<R> Normalise(Scaled<R> a) {
  using B = Bits<R>;
  if (a.m == 0) return Zero<R>();
  const int32_t power = static_cast<int32_t>(BitCast<typename B::Type>(a.m) >> B::kMantissa) - B::kBias;
  return {a.m * Pow2(static_cast<R>(-power)), a.e + static_cast<R>(power)};
}

// exp(x); poisoned becomes true if x is NaN or +inf, which count as -inf.
template <class R>
__device__ __forceinline__ Scaled<R> ExpScaled(R x, bool& poisoned) {
  constexpr R kInfinity = std::numeric_limits<R>::infinity();
  if (!(x < kInfinity)) poisoned = true;
  if (!(x < kInfinity) || x == -kInfinity) return Zero<R>();
  constexpr bool kSingle = sizeof(R) == 4;
  constexpr R kHigh = static_cast<R>(kSingle ? 0.693145752 : 0.69314718036912381649);  // few bits: n * kHigh is exact
  constexpr R kLow = static_cast<R>(kSingle ? 1.42860677e-6 : 1.9082149292705877e-10);
  R n = rint(x * static_cast<R>(kLog2E));
  n = n < -kLargestExponent<R> ? -kLargestExponent<R> : n > kLargestExponent<R> ? kLargestExponent<R> : n;
  R r = (x - n * kHigh) - n * kLow;
  r = r < -1 ? R(-1) : r > 1 ? R(1) : r;  // only where n was cut or is not exact
  return {ExpOf(r), n};
}

template <class R>
__device__ __forceinline__ R MinusLog(Scaled<R> a) {
  return static_cast<R>(-(log(static_cast<double>(a.m)) + static_cast<double>(a.e) * kLn2));
}

}  // namespace jax_rnnt::cuda
