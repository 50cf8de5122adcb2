// hidden_rows.h: the part of an additive joint network in front of its product, on a GPU, and the backward of this
// part.
//
// Node (b, t, u) has the place (b T + t) P + u, with P = U + 1 positions. Its hidden row is
//     h[d] = f(encoded[b, t, d] + predicted[b, u, d]),
// where dropout makes some entries 0 and divides the others by the share that stays. Which entries stay is a function
// of the seed, b, t, u and d alone. Rows are those of a tile: `place` has the place of each, in ascending order. The
// last rows may be copies of one node, so that the tile is whole.
#pragma once

#include <cstdint>

#include "../cpp/float16.h"
#include "launch.h"

namespace jax_rnnt::cuda {

constexpr int32_t kDropoutSteps = 1 << 16;  // dropout rates are multiples of one over this

struct HiddenShape {
  int64_t batch, frames, positions, width;  // a row must fill whole vectors of 16 bytes
  int64_t rows;
  int32_t activation;  // activation.cuh
  int32_t dropped;     // of kDropoutSteps; 0: no dropout

  int64_t nodes() const { return batch * frames * positions; }  // below 2^31
};

template <class T>
LaunchResult HiddenRows(cudaStream_t stream, const HiddenShape& shape, const T* encoded, const T* predicted,
                        const int32_t* place, const uint32_t* seed, T* hidden);

// Adds to the sums of each frame and of each position the gradients of their rows, in a fixed order. `row` has the row
// of each place, counted from the first tile on, or -1. A result may be its `before`.
template <class T>
struct HiddenSums {
  using A = typename Compute<T>::Type;
  const A *encoded_before, *predicted_before;  // [B, T, D], [B, P, D]
  A *encoded, *predicted;
};
template <class T>
LaunchResult HiddenRowsBackward(cudaStream_t stream, const HiddenShape& shape, const T* d_hidden, const T* encoded,
                                const T* predicted, const int32_t* place, const int32_t* row, const uint32_t* seed,
                                const HiddenSums<T>& sums);

}  // namespace jax_rnnt::cuda
