// arcs.h: operation 1, log-probabilities of the arcs that leave a node, from one row of logits, and its gradient.
//
// For a row of logits x[V] with label l and static columns c_0 .. c_{C-1}, K = C + 1:
//   log_norm     = log sum_v exp(x[v])
//   log_probs[k] = x[c_k] - log_norm for k < C,   log_probs[C] = x[l] - log_norm
//   d x[v]       = sum_k ct[k] (1[v is arc k's column] - exp(x[v] - log_norm))
// Where the vocabulary is divided over devices, a row holds entries [offset, offset + V) of it; columns and labels
// count from the beginning of the whole, and arcs whose column is elsewhere have entries of -inf but are part of sum_k
// ct[k]. Labels: -1 no label (its entry is -inf), -2 padding (the row is not read), any other outside the vocabulary:
// NaN. A log_norm of NaN or +inf makes the row NaN; one of -inf makes its entries -inf and its gradient 0.
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
  bool normalize;  // false: the logits are log-probabilities, log_norm is 0 and only picked entries have a gradient

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
