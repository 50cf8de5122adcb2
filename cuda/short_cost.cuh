// short_cost.cuh: the cost of an utterance, from alpha and beta on both sides of the middle, which lattice_short.cu has
// computed: the sum over the arcs that cross it. Each path crosses it once.
//
// A kernel of its own does this for the cost alone. For posteriors a block of their kernel does it
// (short_posteriors.cuh). The order of the sum is the same, so the costs have the same bits.
#pragma once

#include "lattice_walk.cuh"
#include "short_workspace.cuh"

namespace jax_rnnt::cuda {

constexpr int kCostThreads = 256;
template <class R>
constexpr int kCostBlocks = 16 / sizeof(R);  // of a multiprocessor: at most 64 registers a thread, or 128

// All pairs of an arc and a diagonal from which it crosses the middle. The most are those of all moves that are short.
struct Crossings {
  static constexpr int kMost = 8 * 9 / 2 + 9 * 10 / 2;
  int32_t count;
  uint8_t arc[kMost], back[kMost];  // k; how many diagonals before the last one of alpha's half
};

template <class R>
struct CostShape {
  Utterances<R> utterances;
  Crossings crossings;
};

template <class R>
CostShape<R> WithCrossings(const Utterances<R>& utterances) {
  CostShape<R> shape{utterances, {}};
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
template <class R>
__device__ __forceinline__ Power<R> operator+(Power<R> a, Power<R> b) {
  const Power<R> high = a.e < b.e ? b : a, low = a.e < b.e ? a : b;
  return {FmaOf(low.m, TwoTo(Minus(low.e, high.e)), high.m), high.e};
}

// This thread's part of the sum. m is not normalised; NaN or a huge exponent come from arcs that are NaN or +inf.
template <class R>
__device__ __forceinline__ Power<R> CrossingOf(const CostShape<R>& all, int64_t b, int32_t length_t, int32_t length_u) {
  constexpr int kTurns = 4;
  const Utterances<R>& shape = all.utterances;
  const Middle middle(length_t, length_u);
  const bool kept_all = WithPosteriors(shape);
  const int32_t first_alpha = kept_all ? 0 : FirstKept(middle.of_alpha, shape.depth) * kChunk;
  const int32_t first_beta = kept_all ? 0 : FirstKept(middle.of_beta, shape.depth) * kChunk;
  const Power<R>*alpha = ValuesOf(shape, b, false), *beta = ValuesOf(shape, b, true);
  const R* of_utterance = shape.arcs + b * shape.num_frames * shape.num_positions * shape.num_arcs;
  const auto width = static_cast<uint32_t>(length_u + 1), count = static_cast<uint32_t>(all.crossings.count) * width;
  Power<R> sum{0, Bounds<R>::kLowest};
  for (uint32_t first = threadIdx.x; first < count; first += kTurns * kCostThreads) {
    // All loads come before the first use. An arc that does not lead on loads what is there anyway.
    R read[kTurns];
    Power<R> before[kTurns], after[kTurns];
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
      read[j] = Read(of_utterance + (leads[j] ? (int64_t{t} * shape.num_positions + u) * shape.num_arcs + k : 0));
      before[j] = Read(alpha + (leads[j] ? of_alpha : 0));
      after[j] = Read(beta + (leads[j] ? of_beta : 0));
    }
    Factor<R> arcs[kTurns];
    auto top = sum.e;
#pragma unroll
    for (int j = 0; j < kTurns; ++j) {
      arcs[j] = FactorOf(leads[j] ? read[j] : R(0));
      before[j] = leads[j] ? Power<R>{before[j].m * after[j].m, Plus(before[j].e, after[j].e)} : kImpossible<R>;
      top = MaxOf(top, ExponentOf(arcs[j], before[j].e));
    }
    const auto e = Rounded(top);
    R m = sum.m * TwoTo(Minus(sum.e, e));
#pragma unroll
    for (int j = 0; j < kTurns; ++j) m = AddProduct(m, arcs[j], before[j], e);
    sum = {m, e};
  }
  return sum;
}

// The sum over all threads; every thread gets the same bits. of_warps: shared.
template <class R>
__device__ __forceinline__ Power<R> OverBlock(Power<R> sum, Power<R>* of_warps) {
  constexpr int kWarps = kCostThreads / static_cast<int>(kWarp);
  const auto over_lanes = [&](int lanes) {
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
      sum = sum + Power<R>{__shfl_xor_sync(kWholeWarp, sum.m, distance), __shfl_xor_sync(kWholeWarp, sum.e, distance)};
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
template <bool kPosteriors, class R>
__device__ __forceinline__ void WriteCost(const CostShape<R>& all, int64_t b, int32_t length_t, int32_t length_u,
                                          unsigned char* shared) {
  const Utterances<R>& shape = all.utterances;
  UtteranceSums<R>* const sums = UtteranceSumsOf(shape, b);
  const typename UtteranceSums<R>::Special of_alpha = Read(&sums->alpha), of_beta = Read(&sums->beta);
  const Power<R> sum = OverBlock(CrossingOf(all, b, length_t, length_u), reinterpret_cast<Power<R>*>(shared));
  const Power<R> total = Normalise(sum, true);
  using B = Bounds<R>;
  const bool in_range =
      sum.m <= std::numeric_limits<R>::max() && B::kHighestCrossing > sum.e && total.e > -B::kFarthestCrossing;
  const bool special = of_alpha.at_middle > 0 || of_beta.at_middle > 0 || !in_range;
  R* const cost = shape.cost + b;
  if (!special && threadIdx.x == 0) {
    Write(cost, static_cast<R>(MinusLog(Scaled<R>{total.m, static_cast<int64_t>(total.e)})));
  }
  if (kPosteriors ? of_alpha.at_end > 0 || of_beta.at_end > 0 : special) {
    auto walk = WalkOf<false>(shape, b, kPosteriors, shared);
    WalkThrough<kPosteriors>(walk, special ? cost : &sums->other_cost);
  }
}

template <class R>
__global__ void __launch_bounds__(kCostThreads, kCostBlocks<R>) CostKernel(const __grid_constant__ CostShape<R> all) {
  JAX_RNNT_DYNAMIC_SHARED(shared);
  const Utterances<R>& shape = all.utterances;
  const int64_t b = blockIdx.x;
  const int32_t length_t = Read(shape.logit_lengths + b), length_u = Read(shape.target_lengths + b);
  if (FromLengths<R>(shape.num_frames, shape.num_positions, length_t, length_u).known) return;
  WriteCost<false>(all, b, length_t, length_u, shared);
}

}  // namespace jax_rnnt::cuda
