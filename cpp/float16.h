// float16.h: float16 and bfloat16 as types of storage. Single numbers are converted to and from float by integer
// arithmetic, which compilers vectorise.
#pragma once

#include <cstdint>

#include "fast_exp.h"

namespace jax_rnnt {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The type in which values stored as T are computed and accumulated.
template <class T>
struct Compute {
  using Type = float;
};
template <>
struct Compute<double> {
  using Type = double;
};

JAX_RNNT_INLINE float Widen(float x) { return x; }
JAX_RNNT_INLINE double Widen(double x) { return x; }
JAX_RNNT_INLINE float Widen(BFloat16 x) { return BitCast<float>(static_cast<uint32_t>(x.bits) << 16); }
JAX_RNNT_INLINE float Widen(Half x) {
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  // The multiplication by 2^112 moves the exponent's bias from 15 to 127 and normalises subnormals.
  const uint32_t finite = BitCast<uint32_t>(BitCast<float>(magnitude) * 5.192296858534828e33f);
  const uint32_t special = magnitude | 0x7f800000u;
  const uint32_t value = magnitude >= 0x0f800000u ? special : finite;
  return BitCast<float>(value | static_cast<uint32_t>(x.bits & 0x8000u) << 16);
}

template <class T>
JAX_RNNT_INLINE T Narrow(typename Compute<T>::Type x);
template <>
JAX_RNNT_INLINE float Narrow<float>(float x) {
  return x;
}
template <>
JAX_RNNT_INLINE double Narrow<double>(double x) {
  return x;
}
// Rounds to nearest, ties to even.
template <>
JAX_RNNT_INLINE BFloat16 Narrow<BFloat16>(float x) {
  const uint32_t bits = BitCast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return {static_cast<uint16_t>(x != x ? 0x7fc0u : rounded)};
}
template <>
JAX_RNNT_INLINE Half Narrow<Half>(float x) {
  const uint32_t bits = BitCast<uint32_t>(x);
  const int32_t magnitude = static_cast<int32_t>(bits & 0x7fffffffu);  // signed: vector comparisons are
  const int32_t normal = (magnitude - (112 << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
  // Subnormal results: the addition of 0.5 rounds at 2^-24, because that is the last bit of the sum.
  const int32_t subnormal = BitCast<int32_t>(BitCast<float>(magnitude) + 0.5f) - 0x3f000000;
  int32_t half = magnitude < 0x38800000 ? subnormal : normal;
  half = magnitude >= 0x477ff000 ? 0x7c00 : half;
  half = magnitude > 0x7f800000 ? 0x7e00 : half;
  return {static_cast<uint16_t>(static_cast<uint32_t>(half) | (bits >> 16 & 0x8000u))};
}

// Conversions of whole runs of float16. They use the CPU's own instructions where it has them (float16.cc).
void WidenRun(const Half* from, int64_t n, float* to);
void NarrowRun(const float* from, int64_t n, Half* to);

}  // namespace jax_rnnt
