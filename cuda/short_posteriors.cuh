// short_posteriors.cuh: the posteriors of the arcs, from alpha and beta of all nodes, which lattice_short.cu has
// computed. No arc waits for another one, so many blocks share an utterance.
#pragma once

#include "lattice_walk.cuh"
#include "power.cuh"

namespace jax_rnnt::cuda {

constexpr int kPosteriorThreads = 256, kPosteriorBlocks = 4;  // of a multiprocessor: at most 64 registers a thread

// An utterance's part of the workspace: alpha [T + U + 1, U + 1], beta of the same shape, and Ends at the end. The walk
// of lattice_walk.cuh may use all of it but Ends.
struct Ends {
  Power total;                        // the probability of all paths
  float alpha_special, beta_special;  // not 0: the general kernel must walk the utterance
  float other_cost;                   // of that walk, if alpha has found the cost
  float unused;
};
constexpr int64_t kEndsSize = sizeof(Ends) / sizeof(float);

__device__ __forceinline__ Power* ValuesOf(const Utterances<float>& shape, int64_t b, bool beta) {
  const int64_t diagonals = int64_t{shape.frames_max} + shape.columns;
  return reinterpret_cast<Power*>(shape.workspace + b * shape.remembered) + (beta ? diagonals * shape.columns : 0);
}
__device__ __forceinline__ Ends* EndsOf(const Utterances<float>& shape, int64_t b) {
  return reinterpret_cast<Ends*>(shape.workspace + (b + 1) * shape.remembered - kEndsSize);
}

struct PosteriorShape {
  Utterances<float> utterances;
  int32_t slices, rows;  // blocks of an utterance, and the rows of the array that each of them has
};

__global__ void __launch_bounds__(kPosteriorThreads, kPosteriorBlocks)
    PosteriorKernel(const __grid_constant__ PosteriorShape all) {
  JAX_RNNT_DYNAMIC_SHARED(shared);
  const Utterances<float>& shape = all.utterances;
  const int64_t b = blockIdx.x / all.slices;
  const int32_t slice = static_cast<int32_t>(blockIdx.x % all.slices), arcs = shape.num_arcs;
  auto walk = WalkOf<false>(shape, b, true, shared);
  if (FromLengths<float>(shape.frames_max, shape.columns, walk.frames, walk.labels).known) return;
  Ends* const ends = EndsOf(shape, b);
  const bool alpha_special = Read(&ends->alpha_special) > 0, beta_special = Read(&ends->beta_special) > 0;
  if (alpha_special || beta_special) {
    if (slice == 0) WalkThrough<true>(walk, alpha_special ? shape.cost + b : &ends->other_cost);
    return;
  }
  const Power total = Read(&ends->total);
  struct Move {
    int32_t dt, du;
  };
  auto* moves = reinterpret_cast<Move*>(shared);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread < arcs) moves[thread] = {shape.dt[thread], shape.du[thread]};
  __syncthreads();
  const Power *alpha = ValuesOf(shape, b, false), *beta = ValuesOf(shape, b, true);
  const float inverse = 1 / total.m;
  const int32_t first = slice * all.rows,
                last = first + all.rows < shape.frames_max ? first + all.rows : shape.frames_max;
  const auto reciprocal = (1u << 20) / static_cast<uint32_t>(arcs) + 1;  // of arcs, exact enough for a row's entries
  for (int32_t t = first; t < last; ++t) {
    const int64_t row = int64_t{t} * shape.columns * arcs;
    for (int32_t i = thread; i < shape.columns * arcs; i += kPosteriorThreads) {
      const auto u = static_cast<int32_t>(static_cast<uint32_t>(i) * reciprocal >> 20), k = i - u * arcs;
      const Move move = moves[k];
      const int32_t to_t = t + move.dt, to_u = u + move.du;
      const bool leads = to_u <= walk.labels && (to_t < walk.frames || (to_t == walk.frames && to_u == walk.labels));
      float posterior = 0;
      if (t < walk.frames && u <= walk.labels && leads) {
        const int32_t from_end = walk.frames + walk.labels - to_t - to_u;
        const Power before = Read(alpha + int64_t{t + u} * shape.columns + u);
        const Power after = Read(beta + int64_t{from_end} * shape.columns + walk.labels - to_u);
        const float power = fmaf(Read(walk.arcs + row + i), kPerUnit, before.e + after.e - total.e);
        posterior = fminf(before.m * after.m * inverse * Exp2(power), 1.0f);  // rounding may give more than 1
      }
      Write(walk.posteriors + row + i, posterior);
    }
  }
}

}  // namespace jax_rnnt::cuda
