// short_cost.cuh: the cost of an utterance, from alpha and beta on both sides of the middle, which lattice_short.cu has
// computed: the sum over the arcs that cross it. Each path crosses it once.
//
// A kernel of its own does this for the cost alone. For posteriors a block of their kernel does it
// (short_posteriors.cuh). The order of the sum is the same, so the costs have the same bits.
#pragma once

#include "lattice_walk.cuh"
#include "short_workspace.cuh"

namespace jax_rnnt::cuda {

constexpr int kCostThreads = 256, kCostBlocks = 4;  // of a multiprocessor: at most 64 registers a thread

// All pairs of an arc and a diagonal from which it crosses the middle. The most are those of all moves that are short.
struct Crossings {
  static constexpr int kMost = 8 * 9 / 2 + 9 * 10 / 2;
  int32_t count;
  uint8_t arc[kMost], back[kMost];  // k; how many diagonals before the last one of alpha's half
};

struct CostShape {
  Utterances<float> utterances;
  Crossings crossings;
};

inline CostShape WithCrossings(const Utterances<float>& utterances) {
  CostShape shape{utterances, {}};
  Crossings& all = shape.crossings;
  for (int k = 0; k < utterances.num_arcs; ++k) {
    for (int back = 0; back < utterances.dt[k] + utterances.du[k]; ++back) {
      all.arc[all.count] = static_cast<uint8_t>(k);
      all.back[all.count++] = static_cast<uint8_t>(back);
    }
  }
  return shape;
}

// a + b, the same bits as b + a. m is not normalised.
__device__ __forceinline__ Power operator+(Power a, Power b) {
  const Power high = a.e < b.e ? b : a, low = a.e < b.e ? a : b;
  return {fmaf(low.m, Exp2(low.e - high.e), high.m), high.e};
}

// This thread's part of the sum. m is not normalised; NaN or a huge exponent come from arcs that are NaN or +inf.
__device__ __forceinline__ Power CrossingOf(const CostShape& all, int64_t b, int32_t length_t, int32_t length_u) {
  constexpr int kTurns = 4;
  const Utterances<float>& shape = all.utterances;
  const Middle middle(length_t, length_u);
  const bool kept_all = WithPosteriors(shape);
  const int32_t first_alpha = kept_all ? 0 : FirstKept(middle.of_alpha, shape.depth) * kChunk;
  const int32_t first_beta = kept_all ? 0 : FirstKept(middle.of_beta, shape.depth) * kChunk;
  const Power *alpha = ValuesOf(shape, b, false), *beta = ValuesOf(shape, b, true);
  const float* of_utterance = shape.arcs + b * shape.num_frames * shape.num_positions * shape.num_arcs;
  const auto width = static_cast<uint32_t>(length_u + 1), count = static_cast<uint32_t>(all.crossings.count) * width;
  Power sum{0, kLowestPower};
  for (uint32_t first = threadIdx.x; first < count; first += kTurns * kCostThreads) {
    // All loads come before the first use. An arc that does not lead on loads what is there anyway.
    float arcs[kTurns];
    Power before[kTurns], after[kTurns];
    bool leads[kTurns];
#pragma unroll
    for (int j = 0; j < kTurns; ++j) {
      const uint32_t i = first + static_cast<uint32_t>(j) * kCostThreads, pair = i < count ? i / width : 0;
      const auto u = static_cast<int32_t>(i - pair * width);
      const int32_t k = all.crossings.arc[pair], n = middle.of_alpha - all.crossings.back[pair], t = n - u;
      const int32_t to_t = t + shape.dt[k], to_u = u + shape.du[k];
      leads[j] = i < count && t >= 0 && t < length_t && to_u <= length_u &&
                 (to_t < length_t || (to_t == length_t && to_u == length_u));
      const int32_t of_alpha = (n - first_alpha) * shape.num_positions + u;
      const int32_t of_beta = (length_t + length_u - to_t - to_u - first_beta) * shape.num_positions + length_u - to_u;
      arcs[j] = Read(of_utterance + (leads[j] ? (int64_t{t} * shape.num_positions + u) * shape.num_arcs + k : 0));
      before[j] = Read(alpha + (leads[j] ? of_alpha : 0));
      after[j] = Read(beta + (leads[j] ? of_beta : 0));
    }
    float top = sum.e;
#pragma unroll
    for (int j = 0; j < kTurns; ++j) {
      arcs[j] = leads[j] ? arcs[j] : 0;
      before[j] = leads[j] ? Power{before[j].m * after[j].m, before[j].e + after[j].e} : kImpossible;
      top = fmaxf(top, fmaf(arcs[j], kPerUnit, before[j].e));
    }
    const float e = Rounded(top);
    float m = sum.m * Exp2(sum.e - e);
#pragma unroll
    for (int j = 0; j < kTurns; ++j) m = fmaf(before[j].m, Exp2(fmaf(arcs[j], kPerUnit, before[j].e - e)), m);
    sum = {m, e};
  }
  return sum;
}

// The sum over all threads; every thread gets the same bits. of_warps: shared.
__device__ __forceinline__ Power OverBlock(Power sum, Power* of_warps) {
  constexpr int kWarps = kCostThreads / static_cast<int>(kWarp);
  const auto over_lanes = [&](int lanes) {
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
      sum = sum + Power{__shfl_xor_sync(kWholeWarp, sum.m, distance), __shfl_xor_sync(kWholeWarp, sum.e, distance)};
    }
  };
  over_lanes(static_cast<int>(kWarp));
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = sum;
  __syncthreads();
  sum = of_warps[threadIdx.x % kWarps];
  over_lanes(kWarps);
  return sum;
}

// Writes the cost of an utterance that has frames, by a block. If the utterance must be walked, it walks it: with
// kPosteriors it writes the posteriors then, too. It decides about the cost by the same numbers with and without
// posteriors, and so that a walk for the cost is one for the posteriors, too: what alpha and beta find on their way to
// the end is no less strict.
template <bool kPosteriors>
__device__ __forceinline__ void WriteCost(const CostShape& all, int64_t b, int32_t length_t, int32_t length_u,
                                          unsigned char* shared) {
  const Utterances<float>& shape = all.utterances;
  UtteranceSums* const sums = UtteranceSumsOf(shape, b);
  const UtteranceSums::Special of_alpha = Read(&sums->alpha), of_beta = Read(&sums->beta);
  const Power sum = OverBlock(CrossingOf(all, b, length_t, length_u), reinterpret_cast<Power*>(shared));
  const Power total = Normalise(sum, true);
  const bool in_range =
      sum.m <= std::numeric_limits<float>::max() && sum.e < kHighestCrossing && total.e > -kFarthestCrossing;
  const bool special = of_alpha.at_middle > 0 || of_beta.at_middle > 0 || !in_range;
  float* const cost = shape.cost + b;
  if (!special && threadIdx.x == 0) {
    Write(cost, static_cast<float>(MinusLog(Scaled<float>{total.m, static_cast<int64_t>(total.e)})));
  }
  if (kPosteriors ? of_alpha.at_end > 0 || of_beta.at_end > 0 : special) {
    auto walk = WalkOf<false>(shape, b, kPosteriors, shared);
    WalkThrough<kPosteriors>(walk, special ? cost : &sums->other_cost);
  }
}

__global__ void __launch_bounds__(kCostThreads, kCostBlocks) CostKernel(const __grid_constant__ CostShape all) {
  JAX_RNNT_DYNAMIC_SHARED(shared);
  const Utterances<float>& shape = all.utterances;
  const int64_t b = blockIdx.x;
  const int32_t length_t = Read(shape.logit_lengths + b), length_u = Read(shape.target_lengths + b);
  if (FromLengths<float>(shape.num_frames, shape.num_positions, length_t, length_u).known) return;
  WriteCost<false>(all, b, length_t, length_u, shared);
}

}  // namespace jax_rnnt::cuda
