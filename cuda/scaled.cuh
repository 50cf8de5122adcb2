// scaled.cuh: scaled numbers m * 2^e, as in cpp/diagonal.h, with m in float or double and an integer e.
//
// Normalise keeps m in [1, 2). A sum scales one m by a power of two. So products of thousands of probabilities do not
// underflow, and no step needs a log or an exp. Zero is m = 0 with the exponent kZeroExponent. In memory a value takes
// the space of two numbers (Stored). For float these are 64 bits, 41 of which hold the exponent, as in cpp/packed.h.
#pragma once

#include "device.cuh"
#include "fast_exp.h"
#include "lattice_rules.h"

namespace jax_rnnt::cuda {

template <class R>
struct Scaled {
  R m;
  int64_t e;
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

constexpr int64_t kZeroExponent = -4 * static_cast<int64_t>(kExponentRange);

template <class R>
__device__ __forceinline__ Scaled<R> Zero() {
  return {0, kZeroExponent};
}
template <class R>
__device__ __forceinline__ Scaled<R> One() {
  return {1, 0};
}

// 2^e; 0 below the normal numbers.
template <class R>
__device__ __forceinline__ R Pow2(int64_t e) {
  using B = Bits<R>;
  constexpr int64_t kLast = B::kBias;
  const int64_t clamped = e < -kLast ? -kLast : e > kLast ? kLast : e;  // at -kLast the bits of 2^e are those of zero
  return BitCast<R>(static_cast<typename B::Type>(static_cast<int32_t>(clamped) + B::kBias) << B::kMantissa);
}

template <class R>
__device__ __forceinline__ Scaled<R> operator*(Scaled<R> a, Scaled<R> b) {
  return {a.m * b.m, a.e + b.e};
}

template <class R>
__device__ __forceinline__ Scaled<R> operator+(Scaled<R> a, Scaled<R> b) {
  const int64_t d = a.e - b.e;
  const R scale = Pow2<R>(d > 0 ? -d : d);
  return d > 0 ? Scaled<R>{b.m * scale + a.m, a.e} : Scaled<R>{a.m * scale + b.m, b.e};
}

template <class R>
__device__ __forceinline__ Scaled<R> Normalise(Scaled<R> a) {
  using B = Bits<R>;
  if (a.m == 0) return Zero<R>();
  const int32_t power = static_cast<int32_t>(BitCast<typename B::Type>(a.m) >> B::kMantissa) - B::kBias;
  return {a.m * Pow2<R>(-power), a.e + power};
}

// exp(x), with its exponent cut to [-largest, largest]. NaN and +inf set `poisoned`, and count as -inf.
template <class R>
__device__ __forceinline__ Scaled<R> ExpScaled(R x, double largest, bool& poisoned) {
  constexpr R kInfinity = std::numeric_limits<R>::infinity();
  if (!(x < kInfinity)) poisoned = true;
  if (!(x < kInfinity) || x == -kInfinity) return Zero<R>();
  if (sizeof(R) == 4 && x > -4096 && x < 4096) {  // float32 is enough here: n has few bits, so n * kHigh is exact
    constexpr R kHigh = static_cast<R>(0.693145752), kLow = static_cast<R>(1.42860677e-6);
    const R n = rint(x * static_cast<R>(kLog2E));
    return {ExpOf((x - n * kHigh) - n * kLow), static_cast<int64_t>(n)};
  }
  constexpr double kHigh = 0.69314718036912381649, kLow = 1.9082149292705877e-10;
  const double wide = static_cast<double>(x);
  double n = rint(wide * kLog2E);
  n = n < -largest ? -largest : n > largest ? largest : n;
  double r = (wide - n * kHigh) - n * kLow;
  r = r < -1 ? -1 : r > 1 ? 1 : r;  // only where n was cut
  return {ExpOf(static_cast<R>(r)), static_cast<int64_t>(n)};
}

template <class R>
__device__ __forceinline__ double MinusLog(Scaled<R> a) {
  return -(log(static_cast<double>(a.m)) + static_cast<double>(a.e) * kLn2);
}

template <class R>
struct alignas(16) Stored {  // double: there is space for both numbers without packing
  R m;
  int64_t e;

  __device__ __forceinline__ static Stored From(Scaled<R> a) { return {a.m, a.e}; }
  __device__ __forceinline__ Scaled<R> Value() const { return {m, e}; }
};

template <>
struct alignas(8) Stored<float> {
  int64_t bits;

  // |e| is below kExponentRange unless m is 0. The exponent of m is added to e, which normalises the value.
  __device__ __forceinline__ static Stored From(Scaled<float> a) {
    const int64_t mantissa = static_cast<int64_t>(BitCast<uint32_t>(a.m)) - (int64_t{127} << 23);
    return {a.m == 0 ? kZero : a.e * (int64_t{1} << 23) + mantissa};
  }
  __device__ __forceinline__ Scaled<float> Value() const {
    if (bits == kZero) return Zero<float>();
    return {BitCast<float>(static_cast<uint32_t>(bits & 0x7fffff) | 0x3f800000u), bits >> 23};
  }

  static constexpr int64_t kZero = std::numeric_limits<int64_t>::min();
};

}  // namespace jax_rnnt::cuda
