// lattice_rules.h: the utterances whose lattice need not be walked; the same on every platform. See lattice.h.
#pragma once

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

}  // namespace jax_rnnt
