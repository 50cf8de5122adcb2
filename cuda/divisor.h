// divisor.h: exact division by a number that a launch brings along, by a multiplication.
#pragma once

#include <cstdint>

#include "simd.h"

namespace jax_rnnt::cuda {

// n / divisor for 0 <= n < 2^31 and 1 <= divisor < 2^31: with 2^s >= divisor the factor exceeds 2^(31 + s) / divisor by
// less than 2^s / divisor, so the product exceeds its true value by less than one part of the divisor.
struct Divisor {
  uint32_t divisor, factor;
  int32_t shift;

  explicit Divisor(int64_t by) : divisor(static_cast<uint32_t>(by)), factor(0), shift(31) {
    while (int64_t{1} << (shift - 31) < by) ++shift;
    factor =
        static_cast<uint32_t>(((uint64_t{1} << shift) + static_cast<uint64_t>(by) - 1) / static_cast<uint64_t>(by));
  }
  JAX_RNNT_INLINE int32_t operator()(int32_t n) const {
    return static_cast<int32_t>(uint64_t{static_cast<uint32_t>(n)} * factor >> shift);
  }
};

}  // namespace jax_rnnt::cuda
