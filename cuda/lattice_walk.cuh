// lattice_walk.cuh: operation 2 of one utterance by one block, for any moves. Each step takes one diagonal of alpha and
// one of beta.
//
// As on the CPU (cpp/lattice.h), alpha comes from the beginning and beta from the end. They meet in the middle, which
// gives the cost. Then each continues over the half of the other, where the array of the posteriors holds the other's
// values, and computes the posteriors there. A thread has every blockDim-th position u of the lattice. A ring of the
// last diagonals holds what other positions need of them. One barrier ends a step; if the block is a single warp, it is
// a barrier of that warp.
#pragma once

#include "lattice_kernels.h"
#include "scaled.cuh"

namespace jax_rnnt::cuda {

template <class R, bool kWarpOnly>
struct Walk {
  const Utterances<R>& shape;
  const R* arcs;               // of this utterance
  R* posteriors;               // of this utterance
  Scaled<R>* of_warp;          // shared
  Stored<R>* ring;             // num_arcs rings of alpha's products, then one of beta
  int32_t length_t, length_u;  // T_b, U_b
  double largest;              // the size to which an arc's exponent is cut
  bool poisoned = false;

  struct Halves {
    R first, second;
  };

  __device__ __forceinline__ int32_t NumArcs() const { return shape.num_arcs; }

  __device__ __forceinline__ static void Barrier() {
    if constexpr (kWarpOnly) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  __device__ __forceinline__ bool Inside(int32_t t, int32_t u) const {
    return t >= 0 && t < length_t && u >= 0 && u <= length_u;
  }

  __device__ __forceinline__ int64_t Node(int32_t t, int32_t u) const {
    return (int64_t{t} * shape.num_positions + u) * NumArcs();
  }

  __device__ __forceinline__ Stored<R>& Product(int32_t k, int32_t n, int32_t u) const {
    return ring[(int64_t{k} * shape.depth + (n & (shape.depth - 1))) * shape.num_positions + u];
  }
  __device__ __forceinline__ Stored<R>& Beta(int32_t n, int32_t u) const { return Product(NumArcs(), n, u); }

  // Whether arc k of (t, u) leads to a node or to the end; `to_end` says whether it is the end.
  __device__ __forceinline__ bool Leads(int32_t k, int32_t t, int32_t u, bool& to_end) const {
    const int32_t to_t = t + shape.dt[k], to_u = u + shape.du[k];
    to_end = to_t == length_t && to_u == length_u;
    return to_end || Inside(to_t, to_u);
  }

  // Stores a value in the first two entries of its node, until the posteriors replace it.
  __device__ __forceinline__ void StoreValue(int32_t t, int32_t u, Scaled<R> value) const {
    R* node = posteriors + Node(t, u);
    const auto halves = BitCast<Halves>(Stored<R>::From(value));
    Write(node, halves.first);
    Write(node + 1, halves.second);
  }
  __device__ __forceinline__ Stored<R> StoredValue(int32_t t, int32_t u) const {
    const R* node = posteriors + Node(t, u);
    return BitCast<Stored<R>>(Halves{Read(node), Read(node + 1)});
  }

  // Prefetches the arcs of node (n - u, u) or, with kStored, the value that is stored there.
  template <bool kStored>
  __device__ __forceinline__ void Ask(int32_t n, int32_t u) const {
    if (!Inside(n - u, u)) return;
    const R* node = (kStored ? posteriors : arcs) + Node(n - u, u);
    Prefetch(node);
    Prefetch(node + (kStored ? 1 : NumArcs() - 1));
  }

  // total: the inverse of the probability of all paths.
  __device__ __forceinline__ void SetPosterior(int32_t k, int32_t t, int32_t u, Scaled<R> paths,
                                               Scaled<R> total) const {
    const R p = paths.m * total.m * Pow2<R>(paths.e + total.e);
    Write(posteriors + Node(t, u) + k, p > 1 ? R(1) : p);  // rounding may give more than 1
  }

  // Computes alpha of node (n - u, u) from the products of earlier diagonals, and then its own products. raw(k) is the
  // log-probability of arc k. ahead(k) is beta of the node that arc k leads to; it is called only with kPosteriors.
  template <bool kPosteriors, class Raw, class Ahead>
  __device__ __forceinline__ void AlphaStep(int32_t n, int32_t u, bool store_values, Scaled<R> total, const Raw& raw,
                                            const Ahead& ahead) {
    const int32_t t = n - u;
    if (!Inside(t, u)) return;
    Scaled<R> alpha = n == 0 ? One<R>() : Zero<R>();
    for (int32_t k = 0; k < NumArcs(); ++k) {
      const int32_t dt = shape.dt[k], du = shape.du[k];
      if (Inside(t - dt, u - du)) alpha = alpha + Product(k, n - dt - du, u - du).Value();
    }
    alpha = Normalise(alpha);
    if (store_values) StoreValue(t, u, alpha);
    for (int32_t k = 0; k < NumArcs(); ++k) {
      bool to_end;
      const bool leads = Leads(k, t, u, to_end);
      const Scaled<R> product = leads ? alpha * ExpScaled(raw(k), largest, poisoned) : Zero<R>();
      Product(k, n, u) = Stored<R>::From(product);
      if constexpr (kPosteriors) {
        const Scaled<R> beta = to_end ? One<R>() : leads ? ahead(k) : Zero<R>();
        SetPosterior(k, t, u, product * beta, total);
      }
    }
  }

  // Computes beta of node (n - u, u) from beta of later diagonals. `alpha` is that of the node; only kPosteriors uses
  // it.
  template <bool kPosteriors, class Raw>
  __device__ __forceinline__ void BetaStep(int32_t n, int32_t u, bool store_values, Scaled<R> total, const Raw& raw,
                                           Scaled<R> alpha) {
    const int32_t t = n - u;
    if (!Inside(t, u)) return;
    Scaled<R> beta = Zero<R>();
    for (int32_t k = 0; k < NumArcs(); ++k) {
      bool to_end;
      Scaled<R> product = Zero<R>();
      if (Leads(k, t, u, to_end)) {
        const int32_t dt = shape.dt[k], du = shape.du[k];
        product = ExpScaled(raw(k), largest, poisoned) * (to_end ? One<R>() : Beta(n + dt + du, u + du).Value());
      }
      beta = beta + product;
      if constexpr (kPosteriors) SetPosterior(k, t, u, alpha * product, total);
    }
    beta = Normalise(beta);
    Beta(n, u) = Stored<R>::From(beta);
    if (store_values) StoreValue(t, u, beta);
  }

  // The share of position u in the probability of all paths: paths that leave a diagonal below `middle` by an arc of u,
  // and reach `middle` or a later diagonal.
  __device__ __forceinline__ Scaled<R> Crossing(int32_t middle, int32_t u) const {
    Scaled<R> sum = Zero<R>();
    for (int32_t k = 0; k < NumArcs(); ++k) {
      const int32_t dt = shape.dt[k], du = shape.du[k];
      for (int32_t n = middle > dt + du ? middle - dt - du : 0; n < middle; ++n) {
        bool to_end;
        if (!Inside(n - u, u) || !Leads(k, n - u, u, to_end)) continue;
        sum = sum + Normalise(Product(k, n, u).Value() * (to_end ? One<R>() : Beta(n + dt + du, u + du).Value()));
      }
    }
    return sum;
  }

  // The sum over all threads, and whether any thread saw a poisoned arc. Every thread gets the same result.
  __device__ __forceinline__ Scaled<R> AllThreads(Scaled<R> share) {
    auto over_warp = [](Scaled<R> sum) {
#pragma unroll
      for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        const Scaled<R> other{__shfl_xor_sync(kWholeWarp, sum.m, distance),
                              __shfl_xor_sync(kWholeWarp, sum.e, distance)};
        sum = Normalise(sum + other);
      }
      return sum;
    };
    Scaled<R> sum = over_warp(share);
    if constexpr (kWarpOnly) {
      poisoned = __any_sync(kWholeWarp, poisoned);
    } else {
      const unsigned lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
      if (lane == 0) of_warp[threadIdx.x / kWarp] = sum;
      poisoned = __syncthreads_or(poisoned);
      sum = over_warp(lane < warps ? of_warp[lane] : Zero<R>());
    }
    return sum;
  }

  // The largest sum of arcs along a path, each cut to [-most, most], as BestScore in cpp/best_path.h. It overwrites the
  // rings.
  __device__ double BestScore(double most) const {
    constexpr double kNever = -std::numeric_limits<double>::infinity();
    double* best = reinterpret_cast<double*>(ring);
    const auto at = [&](int32_t n, int32_t u) -> double& {
      return best[int64_t{n & (shape.depth - 1)} * shape.num_positions + u];
    };
    const auto into = [&](int32_t t, int32_t u) {
      double score = t == 0 && u == 0 ? 0 : kNever;
      for (int32_t k = 0; k < NumArcs(); ++k) {
        const int32_t from_t = t - shape.dt[k], from_u = u - shape.du[k];
        if (!Inside(from_t, from_u)) continue;
        const double x = static_cast<double>(Read(arcs + Node(from_t, from_u) + k));
        const double cut = x == kNever ? x : x < -most ? -most : x > most ? most : x;
        const double sum = at(from_t + from_u, from_u) + cut;
        score = sum > score ? sum : score;
      }
      return score;
    };
    Barrier();
    for (int32_t n = 0; n < length_t + length_u; ++n) {
      for (int32_t u = static_cast<int32_t>(threadIdx.x); u <= length_u; u += static_cast<int32_t>(blockDim.x)) {
        if (Inside(n - u, u)) at(n, u) = into(n - u, u);
      }
      Barrier();
    }
    return into(length_t, length_u);
  }

  __device__ __forceinline__ static void WriteCost(R* to, double cost) {
    constexpr double kMost = std::numeric_limits<R>::max();  // +inf would say that there is no path
    if (threadIdx.x == 0) Write(to, static_cast<R>(cost < -kMost ? -kMost : cost > kMost ? kMost : cost));
  }

  __device__ __forceinline__ void Fill(int32_t first_frame, int32_t last_frame, int32_t first, int32_t last, R value) {
    const int64_t width = int64_t{last - first} * NumArcs();
    if (width <= 0) return;
    for (int32_t t = first_frame; t < last_frame; ++t) {
      R* row = posteriors + Node(t, first);
      for (int64_t i = threadIdx.x; i < width; i += blockDim.x) Write(row + i, value);
    }
  }

  // T_b and U_b + 1, cut to what the array has.
  __device__ __forceinline__ int32_t NumFrames() const {
    return length_t < 0 ? 0 : length_t > shape.num_frames ? shape.num_frames : length_t;
  }
  __device__ __forceinline__ int32_t NumPositions() const {
    return length_u < 0 ? 0 : length_u >= shape.num_positions ? shape.num_positions : length_u + 1;
  }

  // Posteriors beyond T_b and U_b.
  __device__ __forceinline__ void FillOutside(R value) {
    Fill(0, NumFrames(), NumPositions(), shape.num_positions, value);
    Fill(NumFrames(), shape.num_frames, 0, shape.num_positions, value);
  }

  __device__ __forceinline__ void Finish(const Outcome<R>& outcome, R* cost) {
    if (threadIdx.x == 0) Write(cost, outcome.cost);
    if (posteriors == nullptr) return;
    Fill(0, NumFrames(), 0, NumPositions(), outcome.inside);
    FillOutside(outcome.outside);
  }
};

// `count` steps of both directions: alpha from diagonal alpha_begin up to alpha_end - 1, beta from beta_begin down to
// beta_end. What a step needs from memory is prefetched kAhead steps before.
template <bool kPosteriors, class R, bool kWarpOnly>
__device__ __forceinline__ void Steps(Walk<R, kWarpOnly>& walk, int32_t alpha_begin, int32_t alpha_end,
                                      int32_t beta_begin, int32_t beta_end, bool store_values, Scaled<R> total) {
  const int32_t alphas = alpha_end - alpha_begin, betas = beta_begin - beta_end + 1;
  const int32_t count = alphas > betas ? alphas : betas;
  const auto& shape = walk.shape;
  constexpr int kAhead = 4;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t a = alpha_begin + i, b = beta_begin - i;
    for (int32_t u = static_cast<int32_t>(threadIdx.x); u <= walk.length_u; u += static_cast<int32_t>(blockDim.x)) {
      walk.template Ask<false>(a + kAhead, u);
      walk.template Ask<false>(b - kAhead, u);
      if constexpr (kPosteriors) {
        walk.template Ask<true>(a + kAhead + shape.depth, u);  // the longest step is shorter than the ring
        walk.template Ask<true>(b - kAhead, u);
      }
      if (i < alphas) {
        const auto raw = [&](int32_t k) { return Read(walk.arcs + walk.Node(a - u, u) + k); };
        const auto ahead = [&](int32_t k) { return walk.StoredValue(a - u + shape.dt[k], u + shape.du[k]).Value(); };
        walk.template AlphaStep<kPosteriors>(a, u, store_values, total, raw, ahead);
      }
      if (i < betas && walk.Inside(b - u, u)) {
        const auto raw = [&](int32_t k) { return Read(walk.arcs + walk.Node(b - u, u) + k); };
        const Scaled<R> alpha = kPosteriors ? walk.StoredValue(b - u, u).Value() : Zero<R>();
        walk.template BetaStep<kPosteriors>(b, u, store_values, total, raw, alpha);
      }
    }
    walk.Barrier();
  }
}

template <bool kWarpOnly, class R>
__device__ __forceinline__ Walk<R, kWarpOnly> WalkOf(const Utterances<R>& shape, int64_t b, bool posteriors,
                                                     unsigned char* shared) {
  const int64_t size = int64_t{shape.num_frames} * shape.num_positions * shape.num_arcs;
  R* memory = shape.workspace == nullptr ? reinterpret_cast<R*>(shared + kWarpBytes)
                                         : shape.workspace + b * shape.workspace_size;
  const int32_t length_t = Read(shape.logit_lengths + b), length_u = Read(shape.target_lengths + b);
  return {shape,
          shape.arcs + b * size,
          posteriors ? shape.posteriors + b * size : nullptr,
          reinterpret_cast<Scaled<R>*>(shared),
          reinterpret_cast<Stored<R>*>(memory),
          length_t,
          length_u,
          LargestExponent(length_t, length_u)};
}

// The whole of an utterance that has frames.
template <bool kPosteriors, class R, bool kWarpOnly>
__device__ __forceinline__ void WalkThrough(Walk<R, kWarpOnly>& walk, R* cost) {
  const int32_t length_u = walk.length_u, end = walk.length_t + length_u, middle = end / 2 > 1 ? end / 2 : 1;
  Steps<false>(walk, 0, middle, end - 1, middle, kPosteriors, Scaled<R>{});
  Scaled<R> share = Zero<R>();
  for (int32_t u = static_cast<int32_t>(threadIdx.x); u <= length_u; u += static_cast<int32_t>(blockDim.x)) {
    share = Normalise(share + walk.Crossing(middle, u));
  }
  const Scaled<R> total = walk.AllThreads(share);
  if (walk.poisoned) return walk.Finish(PoisonedArc<R>(), cost);
  if (total.m == 0) return walk.Finish(NoPath<R>(), cost);
  walk.WriteCost(cost, MinusLog(total));
  const bool cut = static_cast<double>(total.e) < -walk.largest / 2;
  if constexpr (kPosteriors) {
    Steps<true>(walk, middle, end, middle - 1, 0, false, Scaled<R>{1 / total.m, -total.e});
    walk.FillOutside(0);
  }
  if (cut) {  // every path that matters may cross an arc that was cut: what was cut off is added again
    const double rest = walk.BestScore(walk.largest * kLn2) - walk.BestScore(1e300);
    if (threadIdx.x == 0) walk.WriteCost(cost, static_cast<double>(Read(cost)) + rest);
  }
}

}  // namespace jax_rnnt::cuda
