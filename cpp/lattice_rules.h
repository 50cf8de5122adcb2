// lattice_rules.h: which utterances need no recursion, and how large an arc may be. All platforms share this file.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "simd.h"

namespace jax_rnnt {

// The result of an utterance that needs no sum over paths.
template <class R>
struct Outcome {
  bool known;  // false: the recursion must run
  R cost;
  R inside, outside;  // the posteriors where t < T_b and u <= U_b, and the posteriors elsewhere
};

template <class R>
JAX_RNNT_INLINE Outcome<R> NoPath() {
  return {true, std::numeric_limits<R>::infinity(), 0, 0};
}

template <class R>
JAX_RNNT_INLINE Outcome<R> PoisonedArc() {
  constexpr R kNaN = std::numeric_limits<R>::quiet_NaN();
  return {true, kNaN, kNaN, 0};
}

// The result, if the lengths alone decide it. T and U + 1 are the sizes of the array.
template <class R>
JAX_RNNT_INLINE Outcome<R> FromLengths(int64_t num_frames, int64_t num_positions, int32_t length_t, int32_t length_u) {
  constexpr R kNaN = std::numeric_limits<R>::quiet_NaN();
  if (length_t < 0 || length_t > num_frames || length_u < 0 || length_u >= num_positions) {
    return {true, kNaN, kNaN, kNaN};
  }
  if (length_t > 0) return {false, 0, 0, 0};
  return length_u == 0 ? Outcome<R>{true, 0, 0, 0} : NoPath<R>();
}

// The exponents (base 2) of path probabilities stay below this size. So 64 bits hold an exponent and 23 bits of its
// mantissa.
constexpr double kExponentRange = 1099511627776.0;  // 2^40

// The size to which the exponent of one arc is cut. A path has at most T_b + U_b arcs, so its exponent stays in range.
// All masks beyond that size count the same. This changes no posterior unless every path crosses such a mask.
JAX_RNNT_INLINE double LargestExponent(int64_t length_t, int64_t length_u) {
  return std::floor(kExponentRange / static_cast<double>(length_t + length_u + 1));
}

}  // namespace jax_rnnt
