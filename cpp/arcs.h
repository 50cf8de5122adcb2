// arcs.h: operation 1, log-probabilities of the arcs that leave a node, from one row of logits, and its gradient.
//
// For a row of logits x[V] with label l, static columns c_0 .. c_{C-1} and a static window of the vocabulary, K = C + 1
// arcs with the columns c_0 .. c_{C-1}, l:
//   log_norm     = log sum_{v in window} exp(x[v]), and 0 if the window is empty
//   log_probs[k] = x[column of k] - 1[column of k in window] log_norm
//   d x[v]       = sum_k ct[k] (1[v is column of k] - 1[column of k in window] 1[v in window] exp(x[v] - log_norm))
// Where the vocabulary is divided over devices, a row holds entries [offset, offset + V) of it; window, columns and
// labels count from the beginning of the whole, and arcs whose column is elsewhere have entries of -inf but are part of
// the sum over k. A part without an entry of the window has a log_norm of -inf.
//
// Labels: -1 no label (its entry is -inf), -2 padding (the row is not read, its entries are -inf and its gradient 0),
// any other outside the vocabulary: NaN. A log_norm of NaN or +inf makes the whole row NaN; one of -inf makes the
// entries in the window -inf, with a gradient of 0. A row whose arcs' cotangents are all 0 has a gradient of 0,
// whatever it holds.
#pragma once

#include <cstdint>

#include "float16.h"
#include "row_rules.h"

namespace jax_rnnt {

struct ArcsShape {
  int64_t width;           // V, the entries of a row
  int64_t vocabulary;      // the entries of the whole vocabulary
  const int64_t* columns;  // [num_columns], each in [0, vocabulary)
  int64_t num_columns;
  Window<int64_t> window;  // in the whole vocabulary

  int64_t num_arcs() const { return num_columns + 1; }
};

// Both work on rows [begin, end). Types: float, double, Half, BFloat16. offsets: of each row, or null if all are 0.
template <class T>
void ArcsForward(const ArcsShape& shape, const T* logits, const int32_t* labels, const int32_t* offsets,
                 typename Compute<T>::Type* log_probs, typename Compute<T>::Type* log_norm, int64_t begin, int64_t end);

// bound: the limit of the gradient's elements for each row, or null. grad may not overlap logits.
template <class T>
void ArcsBackward(const ArcsShape& shape, const T* logits, const int32_t* labels, const int32_t* offsets,
                  const typename Compute<T>::Type* log_norm, const typename Compute<T>::Type* cotangent,
                  const typename Compute<T>::Type* bound, T* grad, int64_t begin, int64_t end);

}  // namespace jax_rnnt
