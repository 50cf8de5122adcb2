// short_posteriors.cuh: the posteriors of the arcs, from alpha and beta of all nodes, which lattice_short.cu has
// computed. No arc waits for another one, so many blocks share an utterance.
#pragma once

#include "lattice_walk.cuh"
#include "power.cuh"

namespace jax_rnnt::cuda {

constexpr int kPosteriorThreads = 256, kPosteriorBlocks = 4;  // of a multiprocessor: at most 64 registers a thread

// An utterance's part of the workspace: alpha [T + U + 1, U + 1], beta of the same shape, and UtteranceSums at the end.
// The walk of lattice_walk.cuh may use all of it but UtteranceSums.
struct UtteranceSums {
  Power total;                        // the probability of all paths
  float alpha_special, beta_special;  // not 0: the general kernel must walk the utterance
  float other_cost;                   // of that walk, if alpha has found the cost
  float unused;
};
constexpr int64_t kUtteranceSumsSize = sizeof(UtteranceSums) / sizeof(float);

__device__ __forceinline__ Power* ValuesOf(const Utterances<float>& shape, int64_t b, bool beta) {
  const int64_t diagonals = int64_t{shape.num_frames} + shape.num_positions;
  return reinterpret_cast<Power*>(shape.workspace + b * shape.workspace_size) +
         (beta ? diagonals * shape.num_positions : 0);
}
__device__ __forceinline__ UtteranceSums* UtteranceSumsOf(const Utterances<float>& shape, int64_t b) {
  return reinterpret_cast<UtteranceSums*>(shape.workspace + (b + 1) * shape.workspace_size - kUtteranceSumsSize);
}

struct PosteriorShape {
  Utterances<float> utterances;
  int32_t num_slices, num_rows;  // blocks of an utterance, and the rows of the array that each of them has
};

__global__ void __launch_bounds__(kPosteriorThreads, kPosteriorBlocks)
    PosteriorKernel(const __grid_constant__ PosteriorShape all) {
  JAX_RNNT_DYNAMIC_SHARED(shared);
  const Utterances<float>& shape = all.utterances;
  const int64_t b = blockIdx.x / all.num_slices;
  const int32_t slice = static_cast<int32_t>(blockIdx.x % all.num_slices), num_arcs = shape.num_arcs;
  auto walk = WalkOf<false>(shape, b, true, shared);
  if (FromLengths<float>(shape.num_frames, shape.num_positions, walk.length_t, walk.length_u).known) return;
  UtteranceSums* const sums = UtteranceSumsOf(shape, b);
  const bool alpha_special = Read(&sums->alpha_special) > 0, beta_special = Read(&sums->beta_special) > 0;
  if (alpha_special || beta_special) {
    if (slice == 0) WalkThrough<true>(walk, alpha_special ? shape.cost + b : &sums->other_cost);
    return;
  }
  const Power total = Read(&sums->total);
  struct Move {
    int32_t dt, du;
  };
  auto* moves = reinterpret_cast<Move*>(shared);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread < num_arcs) moves[thread] = {shape.dt[thread], shape.du[thread]};
  __syncthreads();
  const Power *alpha = ValuesOf(shape, b, false), *beta = ValuesOf(shape, b, true);
  const float inverse = 1 / total.m;
  const int32_t first = slice * all.num_rows,
                last = first + all.num_rows < shape.num_frames ? first + all.num_rows : shape.num_frames;
  // Of num_arcs, exact enough for a row's entries.
  const auto reciprocal = (1u << 20) / static_cast<uint32_t>(num_arcs) + 1;
  for (int32_t t = first; t < last; ++t) {
    const int64_t row = int64_t{t} * shape.num_positions * num_arcs;
    for (int32_t i = thread; i < shape.num_positions * num_arcs; i += kPosteriorThreads) {
      const auto u = static_cast<int32_t>(static_cast<uint32_t>(i) * reciprocal >> 20), k = i - u * num_arcs;
      const Move move = moves[k];
      const int32_t to_t = t + move.dt, to_u = u + move.du;
      const bool leads =
          to_u <= walk.length_u && (to_t < walk.length_t || (to_t == walk.length_t && to_u == walk.length_u));
      float posterior = 0;
      if (t < walk.length_t && u <= walk.length_u && leads) {
        const int32_t from_end = walk.length_t + walk.length_u - to_t - to_u;
        const Power before = Read(alpha + int64_t{t + u} * shape.num_positions + u);
        const Power after = Read(beta + int64_t{from_end} * shape.num_positions + walk.length_u - to_u);
        const float power = fmaf(Read(walk.arcs + row + i), kPerUnit, before.e + after.e - total.e);
        posterior = fminf(before.m * after.m * inverse * Exp2(power), 1.0f);  // rounding may give more than 1
      }
      Write(walk.posteriors + row + i, posterior);
    }
  }
}

}  // namespace jax_rnnt::cuda
