// row_rules.h: what a label and a log-norm say about a row of operation 1; the same on every platform. See arcs.h.
#pragma once

#include <cstdint>
#include <limits>

#include "simd.h"

namespace jax_rnnt {

constexpr int32_t kNoLabel = -1;
constexpr int32_t kPadding = -2;

enum class Row { kLive, kPadding, kInvalid };

JAX_RNNT_INLINE Row RowKind(int32_t label, int64_t vocabulary) {
  if (label == kPadding) return Row::kPadding;
  return label < kPadding || label >= vocabulary ? Row::kInvalid : Row::kLive;
}

template <class A>
JAX_RNNT_INLINE bool IsFinite(A x) {
  constexpr A kInfinity = std::numeric_limits<A>::infinity();
  return x < kInfinity && x > -kInfinity;
}

// What stands in every entry of a row that has no finite ones.
template <class A>
JAX_RNNT_INLINE A Constant(Row kind, A log_norm, A otherwise) {
  constexpr A kInfinity = std::numeric_limits<A>::infinity(), kNaN = std::numeric_limits<A>::quiet_NaN();
  const bool nan = kind == Row::kInvalid || (kind == Row::kLive && log_norm != -kInfinity);
  return nan ? kNaN : otherwise;
}

template <class A>
JAX_RNNT_INLINE A Clip(A x, A limit) {  // NaN stays NaN
  x = x > limit ? limit : x;
  return x < -limit ? -limit : x;
}

}  // namespace jax_rnnt
