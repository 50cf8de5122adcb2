// arcs.h: operation 1, log-probabilities of the arcs that leave a node, from one row of logits, and its gradient.
//
// For a row of logits x[V] with label l, static columns c_0 .. c_{C-1} and a static window of the vocabulary, K = C + 1
// arcs with the columns c_0 .. c_{C-1}, l:
//   norm         = (top, log_sum): top = max_{v in window} x[v], log_sum = log sum_{v in window} exp(x[v] - top);
//                  0 and 0 if the window is empty
//   log_probs[k] = x[column of k] - 1[column of k in window] (top + log_sum)
//   d x[v]       = sum_k ct[k] (1[v is column of k] - 1[column of k in window] 1[v in window] exp(x[v] - top -
//   log_sum))
//
// The vocabulary may be divided over devices. A row then holds entries [offset, offset + V) of the vocabulary. Window,
// columns and labels count from the beginning of the whole vocabulary. An arc whose column is on another device has an
// entry of -inf here, but it takes part in the sum over k. If no entry of the window is here, top is -inf.
//
// Labels: -1 means no label: the label's entry is -inf. -2 means padding: the row is not read, its entries are -inf and
// its gradient is 0. Any other label outside the vocabulary makes the row NaN. So does a norm that holds NaN or +inf. A
// top of -inf makes the entries in the window -inf, with a gradient of 0. If the cotangents of a row's arcs are all 0,
// its gradient is 0, whatever the row holds.
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

// Both functions work on rows [begin, end). T is float, double, Half or BFloat16. offsets has the offset of each row;
// it is null if all of them are 0.
template <class T>
void ArcsForward(const ArcsShape& shape, const T* logits, const int32_t* labels, const int32_t* offsets,
                 typename Compute<T>::Type* log_probs, Norm<typename Compute<T>::Type>* norms, int64_t begin,
                 int64_t end);

// bound has the limit of the gradient's elements for each row, or is null. grad must not overlap logits.
template <class T>
void ArcsBackward(const ArcsShape& shape, const T* logits, const int32_t* labels, const int32_t* offsets,
                  const Norm<typename Compute<T>::Type>* norms, const typename Compute<T>::Type* cotangent,
                  const typename Compute<T>::Type* bound, T* grad, int64_t begin, int64_t end);

}  // namespace jax_rnnt
