// short_posteriors.cuh: the posteriors of the arcs, from alpha and beta of all nodes, which lattice_short.cu has
// computed. No arc waits for another one, so many blocks share an utterance. One more block writes its cost.
#pragma once

#include "short_cost.cuh"

namespace jax_rnnt::cuda {

constexpr int kPosteriorThreads = kCostThreads;

// A block has a tile of the array: kTileFrames frames, and kTileEntries neighbouring arcs of each. In memory a run of
// neighbours is a part of a row of the array, but a part of a diagonal of alpha and beta. A warp takes 2 frames and 16
// arcs of each, so that its loads share sectors in both. A thread has the same arc of kTurns frames: only the distance
// in memory differs.
constexpr uint32_t kTileEntries = 64, kWarpEntries = 16;
constexpr int32_t kTurnFrames = kPosteriorThreads / kTileEntries, kTurns = 4, kTileFrames = kTurns * kTurnFrames;

template <class R>
struct PosteriorShape {
  CostShape<R> of_cost;
  uint32_t num_tiles, num_tiles_of_row;  // of an utterance, and of those next to each other
  uint32_t reciprocal;                   // of num_arcs, times 2^20 and rounded up: exact enough for a row's entries

  int64_t BlocksOfUtterance() const { return int64_t{num_tiles} + 1; }
};

template <class R>
PosteriorShape<R> Tiled(const Utterances<R>& utterances) {
  const auto tiles = [](int32_t n, uint32_t of) { return (static_cast<uint32_t>(n) + of - 1) / of; };
  const uint32_t of_row = tiles(utterances.num_positions * utterances.num_arcs, kTileEntries);
  return {WithCrossings(utterances), tiles(utterances.num_frames, kTileFrames) * of_row, of_row,
          (1u << 20) / static_cast<uint32_t>(utterances.num_arcs) + 1};
}

template <class R>
__global__ void __launch_bounds__(kPosteriorThreads, kCostBlocks<R>)
    PosteriorKernel(const __grid_constant__ PosteriorShape<R> all) {
  JAX_RNNT_DYNAMIC_SHARED(shared);
  const Utterances<R>& shape = all.of_cost.utterances;
  const int64_t b = blockIdx.x / (all.num_tiles + 1);
  const uint32_t tile = blockIdx.x % (all.num_tiles + 1), warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int32_t length_t = Read(shape.logit_lengths + b), length_u = Read(shape.target_lengths + b);
  const UtteranceSums<R>* const sums = UtteranceSumsOf(shape, b);
  const bool special = Read(&sums->alpha.at_end) > 0 || Read(&sums->beta.at_end) > 0;
  const Power<R> total = Read(&sums->total);
  if (FromLengths<R>(shape.num_frames, shape.num_positions, length_t, length_u).known) return;
  if (tile == all.num_tiles) return WriteCost<true>(all.of_cost, b, length_t, length_u, shared);
  if (special) return;
  constexpr uint32_t kWarpFrames = kWarp / kWarpEntries, kWarpsOfRow = kTileEntries / kWarpEntries;
  const uint32_t column = tile % all.num_tiles_of_row * kTileEntries + warp % kWarpsOfRow * kWarpEntries;
  const uint32_t row = tile / all.num_tiles_of_row * kTileFrames + warp / kWarpsOfRow * kWarpFrames;
  const uint32_t i = column + lane % kWarpEntries, width = static_cast<uint32_t>(shape.num_positions * shape.num_arcs);
  if (i >= width) return;
  const auto t = static_cast<int32_t>(row + lane / kWarpEntries), u = static_cast<int32_t>(i * all.reciprocal >> 20);
  const int32_t k = static_cast<int32_t>(i) - u * shape.num_arcs;
  const int32_t to_t = t + shape.dt[k], to_u = u + shape.du[k];
  const int64_t entry = b * shape.num_frames * width + int64_t{t} * width + i;
  const int32_t of_alpha = (t + u) * shape.num_positions + u;
  const int32_t of_beta = (length_t + length_u - to_t - to_u) * shape.num_positions + length_u - to_u;
  const int32_t turn = kTurnFrames * shape.num_positions;
  const Power<R>*alpha = ValuesOf(shape, b, false), *beta = ValuesOf(shape, b, true);
  // All loads come before the first use. An arc that does not lead on loads what is there anyway: a branch would make
  // the other loads wait.
  R arcs[kTurns];
  Power<R> before[kTurns], after[kTurns];
  bool leads[kTurns];
#pragma unroll
  for (int32_t j = 0; j < kTurns; ++j) {
    const int32_t to = to_t + j * kTurnFrames;
    leads[j] =
        t + j * kTurnFrames < length_t && to_u <= length_u && (to < length_t || (to == length_t && to_u == length_u));
    arcs[j] = Read(shape.arcs + (leads[j] ? entry + int64_t{j} * kTurnFrames * width : 0));
    before[j] = Read(alpha + (leads[j] ? of_alpha + j * turn : 0));
    after[j] = Read(beta + (leads[j] ? of_beta - j * turn : 0));
  }
  const R inverse = 1 / total.m;
#pragma unroll
  for (int32_t j = 0; j < kTurns; ++j) {
    const Power<R> both{before[j].m * after[j].m * inverse, Minus(Plus(before[j].e, after[j].e), total.e)};
    const R product = AddProduct(R(0), FactorOf(arcs[j]), both, {});
    const R posterior = leads[j] ? MinOf(product, R(1)) : R(0);  // rounding may give more than 1
    if (t + j * kTurnFrames < shape.num_frames) {
      Write(shape.posteriors + entry + int64_t{j} * kTurnFrames * width, posterior);
    }
  }
}

}  // namespace jax_rnnt::cuda
