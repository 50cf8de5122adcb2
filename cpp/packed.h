// packed.h: a scaled number in the space of two elements of an array of R. The array of the posteriors stores values of
// alpha and beta in this form until the posteriors replace them.
//
// For float this is a 64-bit integer. Its upper 41 bits are the exponent. Its lower 23 bits are the mantissa without
// the leading 1. So an exponent that float32 cannot hold (a path through masks of -1e9) is exact. The code adds the
// bits of m to a shifted exponent, which also brings m into [1, 2).
#pragma once

#include <cstdint>

#include "diagonal.h"
#include "lattice_rules.h"

namespace jax_rnnt {

template <class R>
struct Packed {  // double: there is space for both numbers without packing
  double m, e;

  static JAX_RNNT_INLINE Packed From(double m, double e) { return {m, e}; }
  JAX_RNNT_INLINE Scaled<double> Value() const { return {m, e}; }
};

template <>
struct Packed<float> {
  uint64_t bits;

  // |e| is below kExponentRange unless m is 0. A zero becomes 2^-kExponentRange, which is below every other value.
  static JAX_RNNT_INLINE Packed From(double m, double e) {
    constexpr double kInteger =
        6755399441055744.0;  // 1.5 * 2^52: its sum with an integer has that integer in its low bits
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
