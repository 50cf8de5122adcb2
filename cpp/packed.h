// packed.h: a scaled number in the room of two entries of an array of R, where values wait for their posteriors.
//
// For float that is 64 bits: an integer whose upper 41 bits are the exponent and whose lower 23 are the mantissa behind
// its leading 1, so that an exponent that float32 could not hold (a path through masks of -1e9) is exact. Adding the
// bits of m to a shifted exponent brings m into [1, 2) by itself.
#pragma once

#include <cstdint>

#include "diagonal.h"
#include "lattice_rules.h"

namespace jax_rnnt {

template <class R>
struct Packed {  // of double: there is room for both numbers as they are
  double m, e;

  static JAX_RNNT_INLINE Packed From(double m, double e) { return {m, e}; }
  JAX_RNNT_INLINE Scaled<double> Value() const { return {m, e}; }
};

template <>
struct Packed<float> {
  uint64_t bits;

  // |e| is below kExponentRange unless m is 0. Zero becomes 2^-kExponentRange, which is below every other value.
  static JAX_RNNT_INLINE Packed From(double m, double e) {
    constexpr double kInteger =
        6755399441055744.0;  // 1.5 * 2^52: the bits of its sum with an integer end in that integer
    const uint64_t exponent = BitCast<uint64_t>((m == 0.0 ? 0.0 : e) + kInteger) - BitCast<uint64_t>(kInteger);
    const uint64_t mantissa = (BitCast<uint64_t>(m) + (uint64_t{1} << 28)) >> 29;  // 23 bits, and m's own exponent
    const uint64_t value = (exponent << 23) + mantissa - (uint64_t{1023} << 23);
    return {m == 0.0 ? kZero : value};
  }

  JAX_RNNT_INLINE Scaled<double> Value() const {
    const uint64_t exponent = (bits ^ kZero) >> 23;  // plus kExponentRange
    const double e = BitCast<double>(exponent | 0x4330000000000000u) - (4503599627370496.0 + kExponentRange);
    return {BitCast<double>((bits & 0x7fffffu) << 29 | 0x3ff0000000000000u), e};
  }

  static constexpr uint64_t kZero = uint64_t{1} << 63;
};

static_assert(sizeof(Packed<float>) == 2 * sizeof(float) && sizeof(Packed<double>) == 2 * sizeof(double),
              "a value takes the room of two entries");

}  // namespace jax_rnnt
