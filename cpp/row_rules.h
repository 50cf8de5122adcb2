// row_rules.h: what a label, a norm and the window mean for a row of operation 1 (arcs.h). All platforms share this
// file.
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

// The log-norm of a row is top + log_sum, where log_sum is log sum exp(x - top). As one number it would be rounded to
// the size of the logits. The entries of a row that is sure are much smaller than that.
template <class A>
struct Norm {
  A top, log_sum;
};

// Whether the entries of the row are NaN. Then its gradient is NaN too, unless the cotangents of all its arcs are 0.
template <class A>
JAX_RNNT_INLINE bool IsBroken(Row kind, Norm<A> norm) {
  return kind == Row::kInvalid ||
         (kind == Row::kLive && !(norm.top + norm.log_sum < std::numeric_limits<A>::infinity()));
}

// Whether every logit in the window is -inf. Then the entries in the window are -inf, and their gradient is 0.
template <class A>
JAX_RNNT_INLINE bool IsMassless(Norm<A> norm) {
  return norm.top == -std::numeric_limits<A>::infinity();
}

// The log-probability of an entry in the window. Where the window has no mass, it must stay -inf.
template <class A>
JAX_RNNT_INLINE A Normalised(A x, Norm<A> norm) {
  return x - (IsMassless(norm) ? std::numeric_limits<A>::infinity() : norm.top) - norm.log_sum;
}

// Entries [first, stop) of the vocabulary or of a row: the entries that are normalised.
template <class I>
struct Window {
  I first, stop;

  JAX_RNNT_INLINE I size() const { return stop - first; }
  JAX_RNNT_INLINE bool Holds(I entry) const { return entry >= first && entry < stop; }

  // The part of the window in a row of `width` entries whose first one is entry `offset` of the vocabulary.
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
