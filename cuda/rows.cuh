// rows.cuh: what both kernels of operation 1 know of rows.
#pragma once

#include "arcs.h"
#include "device.cuh"

namespace jax_rnnt::cuda {

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();
template <class A>
constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();

template <class T>
struct Rows {
  const T *logits, *end;
  const int32_t* labels;
  const int32_t* offsets;  // or null
  int64_t count;
  int32_t width, vocabulary;
  int32_t num_columns, columns[kMaxColumns];
  Window<int32_t> window;  // in the whole vocabulary
  Window<int32_t> in_row;  // what of it stands in a row, where there are no offsets

  Rows(const ArcsShape& shape, int64_t count, const T* logits, const int32_t* labels, const int32_t* offsets)
      : logits(logits),
        end(logits + count * shape.width),
        labels(labels),
        offsets(offsets),
        count(count),
        width(static_cast<int32_t>(shape.width)),
        vocabulary(static_cast<int32_t>(shape.vocabulary)),
        num_columns(static_cast<int32_t>(shape.num_columns)),
        columns{},
        window{static_cast<int32_t>(shape.window.first), static_cast<int32_t>(shape.window.stop)},
        in_row(window.InRow(0, width)) {
    for (int32_t k = 0; k < num_columns; ++k) columns[k] = static_cast<int32_t>(shape.columns[k]);
  }

  // The entry of the vocabulary that arc k of a live row points to.
  __device__ __forceinline__ int32_t Column(int32_t k, int32_t label) const {
    return k < num_columns ? columns[k] : label;
  }
  __device__ __forceinline__ Window<int32_t> InRow(int32_t offset) const {
    return offsets == nullptr ? in_row : window.InRow(offset, width);
  }
  __device__ __forceinline__ int32_t Offset(int64_t row) const { return offsets == nullptr ? 0 : Read(offsets + row); }
};

}  // namespace jax_rnnt::cuda
