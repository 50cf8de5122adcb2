// lattice_rules.h: the utterances whose lattice need not be walked, and the largest arcs; the same on every platform.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "simd.h"

namespace jax_rnnt {

// What an utterance has instead of sums over paths.
template <class R>
struct Outcome {
  bool known;  // false: the lattice decides
  R cost;
  R inside, outside;  // of posteriors at t < T_b and u <= U_b, and elsewhere
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

// What the lengths alone decide. T and U + 1 are those of the array.
template <class R>
JAX_RNNT_INLINE Outcome<R> FromLengths(int64_t frames, int64_t columns, int32_t frames_b, int32_t labels_b) {
  constexpr R kNaN = std::numeric_limits<R>::quiet_NaN();
  if (frames_b < 0 || frames_b > frames || labels_b < 0 || labels_b >= columns) return {true, kNaN, kNaN, kNaN};
  if (frames_b > 0) return {false, 0, 0, 0};
  return labels_b == 0 ? Outcome<R>{true, 0, 0, 0} : NoPath<R>();
}

// Exponents of path probabilities (base 2) stay below this size, so that each of them can be stored beside 23 bits of
// its mantissa in 64 bits.
constexpr double kExponentRange = 1099511627776.0;  // 2^40

// The size to which the exponent of one arc is cut. A path has at most T_b + U_b arcs, so its exponent stays in range.
// Masks beyond that size all count alike, which changes no posterior unless every path crosses one.
JAX_RNNT_INLINE double LargestExponent(int64_t frames_b, int64_t labels_b) {
  return std::floor(kExponentRange / static_cast<double>(frames_b + labels_b + 1));
}

}  // namespace jax_rnnt
