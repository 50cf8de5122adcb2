// row_rules.h: what a label, a log-norm and the window say about a row of operation 1; the same on every platform. See
// arcs.h.
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

// The arcs that leave a row: the last one is the label's, if there is one.
template <class I>
JAX_RNNT_INLINE I ArcsOf(int32_t label, I num_columns) {
  return num_columns + (label == kNoLabel ? 0 : 1);
}

// Whether the row's entries are NaN, and its gradient, unless all its arcs' cotangents are 0.
template <class A>
JAX_RNNT_INLINE bool IsBroken(Row kind, A log_norm) {
  return kind == Row::kInvalid || (kind == Row::kLive && !(log_norm < std::numeric_limits<A>::infinity()));
}

// Whether the window holds nothing but -inf. Its entries are then -inf whatever their logits do: they have no gradient.
template <class A>
JAX_RNNT_INLINE bool IsMassless(A log_norm) {
  return log_norm == -std::numeric_limits<A>::infinity();
}

// What is taken from the entries in the window; without mass, what keeps them at -inf.
template <class A>
JAX_RNNT_INLINE A Shift(A log_norm) {
  return IsMassless(log_norm) ? std::numeric_limits<A>::infinity() : log_norm;
}

// Entries [first, stop), of the vocabulary or of a row: those that are normalised.
template <class I>
struct Window {
  I first, stop;

  JAX_RNNT_INLINE I size() const { return stop - first; }
  JAX_RNNT_INLINE bool Holds(I entry) const { return entry >= first && entry < stop; }

  // What of it stands in a row of `width` entries, whose first is entry `offset` of the vocabulary.
  JAX_RNNT_INLINE Window InRow(int64_t offset, int64_t width) const {
    return {Cut(first - offset, width), Cut(stop - offset, width)};
  }

 private:
  JAX_RNNT_INLINE static I Cut(int64_t place, int64_t width) {
    place = place < 0 ? 0 : place;
    return static_cast<I>(place > width ? width : place);
  }
};

template <class A>
JAX_RNNT_INLINE A Clip(A x, A limit) {  // NaN stays NaN
  x = x > limit ? limit : x;
  return x < -limit ? -limit : x;
}

}  // namespace jax_rnnt
