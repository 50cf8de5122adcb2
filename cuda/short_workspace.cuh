// short_workspace.cuh: what the kernels of short moves leave in the workspace for each other, and where alpha and beta
// of an utterance meet.
//
// An utterance's part of the workspace: rows of alpha [rows, U + 1], rows of beta of the same shape, the columns
// between strips, and UtteranceSums at the end. A row is a diagonal. For posteriors there are rows for all diagonals.
// For the cost alone there are only those that arcs across the middle need. The walk of lattice_walk.cuh may use all of
// it but UtteranceSums.
#pragma once

#include "chunk_copies.cuh"
#include "lattice_kernels.h"
#include "power.cuh"

namespace jax_rnnt::cuda {

// How many steps each direction takes until they meet. Alpha takes whole chunks, so neither takes more chunks than
// half of the steps need. An arc crosses the middle if it leaves a node that alpha has reached by then, and leads to
// one that beta has reached.
struct Middle {
  int32_t of_alpha, of_beta;

  // length_t, length_u: T_b > 0, U_b.
  __device__ __forceinline__ Middle(int32_t length_t, int32_t length_u) {
    const int32_t steps = length_t + length_u - 1;
    of_alpha = MinOf((steps + 2 * kChunk - 1) / (2 * kChunk) * kChunk, steps);
    of_beta = steps - of_alpha;
  }
  __device__ __forceinline__ int32_t Of(bool beta) const { return beta ? of_beta : of_alpha; }
};

// The chunk from which on the cost alone keeps the values of a direction, whose last step is `last`. Value n' is in row
// n' - kChunk * chunk. kRowMargin: rows beyond `depth`, because chunks are kept whole.
constexpr int32_t kRowMargin = 2 * (kChunk - 1);
__device__ __forceinline__ int32_t FirstKept(int32_t last, int32_t depth) {
  return last < depth ? 0 : (last + 1 - depth) / kChunk;
}

template <class R>
struct UtteranceSums {
  struct Special {
    R at_middle, at_end;  // not 0: the general kernel must walk the utterance; for its cost, for its posteriors
  };
  Power<R> total;       // the probability of all paths, if alpha has run to its end
  Special alpha, beta;  // up to there, a number was too high, NaN or +inf
  R other_cost;         // of that walk, if the cost is known without it
  R unused;
};
// Sizes in numbers of type R, the same for both types.
constexpr int64_t kPowerSize = sizeof(Power<float>) / sizeof(float);
constexpr int64_t kUtteranceSumsSize = sizeof(UtteranceSums<float>) / sizeof(float);
static_assert(kPowerSize == sizeof(Power<double>) / sizeof(double));
static_assert(kUtteranceSumsSize == sizeof(UtteranceSums<double>) / sizeof(double));

template <class R>
__device__ __forceinline__ bool WithPosteriors(const Utterances<R>& shape) {
  return shape.posteriors != nullptr;
}
template <class R>
__device__ __forceinline__ int64_t NumDiagonals(const Utterances<R>& shape) {
  return int64_t{shape.num_frames} + shape.num_positions;
}
template <class R>
__device__ __forceinline__ int64_t NumRows(const Utterances<R>& shape) {
  return WithPosteriors(shape) ? NumDiagonals(shape) : shape.depth + kRowMargin;
}

template <class R>
__device__ __forceinline__ Power<R>* ValuesOf(const Utterances<R>& shape, int64_t b, bool beta) {
  return reinterpret_cast<Power<R>*>(shape.workspace + b * shape.workspace_size) +
         (beta ? NumRows(shape) * shape.num_positions : 0);
}
// The values of the last position of a strip, of each diagonal. A direction has two columns: a strip reads one and
// writes the other. kColumnMargin: whole chunks of steps may reach so far behind the last diagonal.
constexpr int64_t kColumns = 2, kColumnMargin = 8;
template <class R>
__device__ __forceinline__ Power<R>* ColumnOf(const Utterances<R>& shape, int64_t b, bool beta, int32_t column) {
  return ValuesOf(shape, b, false) + 2 * NumRows(shape) * shape.num_positions +
         ((beta ? kColumns : 0) + column) * (NumDiagonals(shape) + kColumnMargin);
}
template <class R>
__device__ __forceinline__ UtteranceSums<R>* UtteranceSumsOf(const Utterances<R>& shape, int64_t b) {
  return reinterpret_cast<UtteranceSums<R>*>(shape.workspace + (b + 1) * shape.workspace_size - kUtteranceSumsSize);
}

}  // namespace jax_rnnt::cuda
