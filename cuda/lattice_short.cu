// lattice_short.cu: a lattice of short moves: RNN-T, HAT, monotonic RNN-T, multi-blank and TDT.
//
// Alpha and beta of an utterance have a block each (short_sums.cuh). For posteriors they run over the whole lattice and
// keep all their values in the workspace. A second kernel computes the posteriors from them (short_posteriors.cuh), and
// the cost. For the cost alone each of them runs to the middle, and keeps the values that arcs across the middle need.
// Then the second kernel adds up these arcs (short_cost.cuh). No block waits for another one.
//
// If a lattice needs longer exponents, or an arc is NaN or +inf, lattice_walk.cuh walks it again.
#include <algorithm>

#include "lattice_kernels.h"
#include "short_posteriors.cuh"
#include "short_sums.cuh"

namespace jax_rnnt::cuda {
namespace {

constexpr int64_t kWidest = 2048;  // the largest U + 1: PosteriorKernel divides by num_arcs exactly up to it

// The largest number of warps. Nodes of many slots need registers, and shared memory: for 17 slots no GPU has enough
// for more warps. A double takes twice as much of both.
template <class R, class S>
constexpr int64_t kWarps = S::kCount <= 3   ? 16
                           : S::kCount <= 9 ? 8
                                            : 5;
template <class S>
constexpr int64_t kWarps<double, S> = S::kCount <= 3   ? 6
                                      : S::kCount <= 9 ? 4
                                                       : 2;
template <class R, class S>
constexpr int kThreads =
    static_cast<int>(2 * kWarps<R, S> * kWarp);  // a warp that computes has another one that copies

// Shared memory: that for sums over a block, where Columns stand before, then the ring of each warp, then the values
// that the first warp gets and those that each warp hands on, then the counts of chunks. ahead: how far copies are
// ahead of the steps.
template <class R, class S>
size_t SharedOfSums(int32_t warps, int32_t ahead) {
  const int64_t ring = (S::kNeeded + ahead) * kChunkSize<S::kCount>;
  return kWarpBytes + static_cast<size_t>(warps * ring) * sizeof(R) +
         static_cast<size_t>((warps + 1) * kHandedOn) * sizeof(Power<R>) +
         static_cast<size_t>(ChunkCounts::Size(warps)) * sizeof(int32_t);
}

// The warps that compute, as many as there is shared memory for. A wider lattice has strips of equally many warps.
template <class R, class S>
int32_t NumWarps(int32_t num_positions) {
  constexpr auto kLanes = static_cast<int32_t>(kWarp);
  const size_t memory = SharedOfBlock();
  int32_t most = kWarps<R, S>;
  while (most > 1 && SharedOfSums<R, S>(most, 1) > memory) --most;
  const int32_t all = (num_positions + kLanes - 1) / kLanes, strips = (all + most - 1) / most;
  return (all + strips - 1) / strips;
}

template <class R>
struct SumsShape {
  Utterances<R> utterances;
  int32_t ahead;  // of SharedOfSums
};

template <class R>
struct SumsEnd {
  Power<R> total;          // of the thread that has the last position, of other threads nothing of use
  bool special;            // a number was out of bounds, so the general kernel must walk; of every thread
  bool special_at_middle;  // the same, up to there
  bool has_last = false;   // position U_b, in the last strip
};

template <int kOwn, int kWithLabel, bool kBeta, class R>
__device__ __forceinline__ SumsEnd<R> SumsOf(const SumsShape<R>& all, const Walk<R, false>& walk, int64_t b,
                                             unsigned char* shared) {
  using S = Slots<kOwn, kWithLabel>;
  const Utterances<R>& shape = all.utterances;
  const auto half = static_cast<int32_t>(blockDim.x / 2), thread = static_cast<int32_t>(threadIdx.x);
  const bool copies = thread >= half;  // the second half of the warps
  const int32_t of_strip = copies ? thread - half : thread, lane = of_strip % static_cast<int32_t>(kWarp);
  const int32_t warps = half / static_cast<int32_t>(kWarp), length_t = walk.length_t, length_u = walk.length_u;
  const int32_t ring_size = (S::kNeeded + all.ahead) * kChunkSize<S::kCount>,
                warp = of_strip / static_cast<int32_t>(kWarp);
  auto* rings = reinterpret_cast<R*>(shared + kWarpBytes);
  auto* handed_on = reinterpret_cast<Power<R>*>(rings + warps * ring_size);
  const ChunkCounts counts(reinterpret_cast<int32_t*>(handed_on + (warps + 1) * kHandedOn), warps, warp);
  R* ring = rings + warp * ring_size;
  Power<R>* of_warp_before = handed_on + warp * kHandedOn;
  if (thread < kHandedOn) handed_on[thread] = kImpossible<R>;
  const bool to_end = WithPosteriors(shape);
  const int32_t middle = Middle(length_t, length_u).Of(kBeta);
  const DirectionChunks of_direction{ChunksOf(middle), ChunksOf(to_end ? length_t + length_u : middle),
                                     to_end ? 0 : FirstKept(middle, shape.depth)};
  const int32_t reached = MinOf(length_u, of_direction.end * kChunk);  // no step has a node at a position behind this
  Power<R>* values = ValuesOf(shape, b, kBeta);
  if (thread == 0 && of_direction.kept == 0) Write(values, kBegin<R>);
  SumsEnd<R> end{};
  for (int32_t first = 0; first <= reached; first += half) {  // strips
    const int32_t u = first + of_strip;
    const WarpChunks chunks(warp, u - lane, length_t, length_u, of_direction);
    const bool is_last = first + half > reached;
    if (!copies && lane == 0) counts.Begin(chunks, warps, is_last);
    __syncthreads();
    if (copies) {
      Columns<R>* columns = reinterpret_cast<Columns<R>*>(shared) + warp;
      if (lane == 0) {
        const int32_t strip = first / half;
        *columns = {warp == 0 && first > 0 ? ColumnOf(shape, b, kBeta, (strip - 1) % kColumns) : nullptr,
                    warp == warps - 1 && !is_last ? ColumnOf(shape, b, kBeta, strip % kColumns) : nullptr};
      }
      __syncwarp();
      const auto slot = [&](int32_t k) { return S::Of(shape.dt[k], shape.du[k]); };
      ChunkCopies<R, S::kCount, kBeta> chunk_copies(walk.arcs, shape.num_positions, shape.num_arcs, length_t, length_u,
                                                    u - lane, chunks.begin, lane, slot);
      CopyAll<S>(chunk_copies, chunks, counts, all.ahead, lane, ring, of_warp_before, columns);
      end.total = kImpossible<R>;
    } else {
      ShortSums<R, kOwn, kWithLabel, kBeta> sums(u, length_t, length_u, shape.num_positions, ring, ring + ring_size,
                                                 of_warp_before, values + u);
      sums.Run(chunks, counts);
      const int32_t beyond = (kChunk - (length_t + length_u) % kChunk) % kChunk;  // steps after that of the last node
      end.total = kImpossible<R>;
#pragma unroll
      for (int i = 0; i < kChunk; ++i) end.total = i == beyond ? sums.own[i] : end.total;
      end.special |= sums.IsSpecial() || (to_end && u == length_u && !(end.total.e > -Bounds<R>::kFarthest));
      end.special_at_middle |= sums.special_at_middle;
    }
    end.special = __syncthreads_or(end.special);
  }
  end.special_at_middle = __syncthreads_or(end.special_at_middle);
  end.has_last = !copies && length_u % half == of_strip;
  return end;
}

template <class R, int kOwn, int kWithLabel>
__global__ void __launch_bounds__(kThreads<R, Slots<kOwn, kWithLabel>>, 1)
    ShortKernel(const __grid_constant__ SumsShape<R> all) {
  JAX_RNNT_DYNAMIC_SHARED(shared);
  const Utterances<R>& shape = all.utterances;
  const int64_t b = blockIdx.x / 2;
  const bool beta = blockIdx.x % 2 == 1;
  auto walk = WalkOf<false>(shape, b, WithPosteriors(shape), shared);
  const auto outcome = FromLengths<R>(shape.num_frames, shape.num_positions, walk.length_t, walk.length_u);
  if (outcome.known) {
    if (!beta) walk.Finish(outcome, shape.cost + b);
    return;
  }
  SumsEnd<R> end;
  if (beta) {
    end = SumsOf<kOwn, kWithLabel, true>(all, walk, b, shared);
  } else {
    end = SumsOf<kOwn, kWithLabel, false>(all, walk, b, shared);
  }
  UtteranceSums<R>* sums = UtteranceSumsOf(shape, b);
  if (end.has_last && !beta) Write(&sums->total, end.total);
  if (threadIdx.x == 0) {
    const typename UtteranceSums<R>::Special special{R(end.special_at_middle ? 1 : 0), R(end.special ? 1 : 0)};
    Write(beta ? &sums->beta : &sums->alpha, special);
  }
}

// How far copies are ahead: as far as shared memory allows. But where a multiprocessor has several blocks to run, each
// of them takes less memory if one more then runs at the same time.
template <class S, class R>
int32_t Ahead(void (*kernel)(SumsShape<R>), int64_t blocks, unsigned threads, int32_t warps) {
  int32_t ahead = kMostAhead;
  while (ahead > 1 && SharedOfSums<R, S>(warps, ahead) > SharedOfBlock()) --ahead;
  const int64_t wanted = BlocksOfMultiprocessor(blocks);
  if (wanted <= 1 || ahead == 1) return ahead;
  const auto at_once = [&](int32_t chunks) { return BlocksAtOnce(kernel, threads, SharedOfSums<R, S>(warps, chunks)); };
  const int64_t least = std::min(wanted, at_once(1));
  while (ahead > 1 && at_once(ahead) < least) --ahead;
  return ahead;
}

template <class R, int kOwn, int kWithLabel>
LaunchResult LaunchOf(Slots<kOwn, kWithLabel>, cudaStream_t stream, int64_t batch, const Utterances<R>& utterances,
                      bool& fits) {
  using S = Slots<kOwn, kWithLabel>;
  const int32_t warps = NumWarps<R, S>(utterances.num_positions);
  const bool with_posteriors = utterances.posteriors != nullptr;
  const auto kernel = &ShortKernel<R, kOwn, kWithLabel>;
  const unsigned threads = 2 * static_cast<unsigned>(warps) * kWarp;
  const int32_t ahead = Ahead<S>(kernel, 2 * batch, threads, warps);
  const size_t shared = SharedOfSums<R, S>(warps, ahead);
  const PosteriorShape<R> tiled = Tiled(utterances);
  const int64_t blocks = std::max<int64_t>(with_posteriors ? tiled.BlocksOfUtterance() : 1, 2);
  fits = shared <= SharedOfBlock() && batch * blocks <= kMaxBlocks;
  if (!fits) return {};
  auto result = Launch("LatticeSums", kernel, 2 * batch, threads, shared, stream, SumsShape<R>{utterances, ahead});
  if (!result.empty()) return result;
  const size_t of_walk = SharedOfWalk(utterances);
  if (!with_posteriors)
    return Launch("LatticeCost", &CostKernel<R>, batch, kCostThreads, of_walk, stream, tiled.of_cost);
  return Launch("LatticePosteriors", &PosteriorKernel<R>, batch * blocks, kPosteriorThreads, of_walk, stream, tiled);
}

template <int kOwn, int kWithLabel>
bool Takes(const std::vector<Move>& moves) {
  using S = Slots<kOwn, kWithLabel>;
  return std::all_of(moves.begin(), moves.end(), [](const Move& m) { return S::Has(m.dt, m.du); });
}

// Calls f with the numbers of slots that fit the moves best: two arcs a node, few and many blanks, TDT, all others.
// Gives f's result, or `none` if no kernel takes the moves.
template <class R, class Result, class F>
Result WithSlots(const std::vector<Move>& moves, const F& f, Result none) {
  if (Takes<1, 1>(moves)) return f(Slots<1, 1>{});
  if (Takes<1, 2>(moves)) return f(Slots<1, 2>{});
  if constexpr (std::is_same_v<R, float>) {
    if (Takes<4, 1>(moves)) return f(Slots<4, 1>{});
  }
  if (Takes<8, 1>(moves)) return f(Slots<8, 1>{});
  if (Takes<4, 5>(moves)) return f(Slots<4, 5>{});
  if (Takes<8, 9>(moves)) return f(Slots<8, 9>{});
  return none;
}

}  // namespace

bool AreShort(const std::vector<Move>& moves) {
  if (moves.empty()) return false;
  for (size_t k = 0; k < moves.size(); ++k) {
    for (size_t j = 0; j < k; ++j) {
      if (moves[j].dt == moves[k].dt && moves[j].du == moves[k].du) return false;
    }
  }
  return WithSlots<float>(moves, [](auto) { return true; }, false);
}

bool AreTooMany(int64_t num_frames, int64_t num_positions) {
  return num_positions > kWidest || num_frames + num_positions > kLongest;
}

WorkspaceSize ShortWorkspace(bool with_posteriors, int64_t depth) {
  constexpr int64_t kNumbers = 2 * kPowerSize, kOfColumns = kNumbers * kColumns;  // 2 directions
  const int64_t of_values = with_posteriors ? 0 : kNumbers * (depth + kRowMargin);
  return {with_posteriors ? kNumbers : 0, kOfColumns, of_values, kOfColumns * kColumnMargin + kUtteranceSumsSize};
}

template <class R>
LaunchResult LaunchShort(cudaStream_t stream, const LatticeShape& shape, int64_t batch, const Utterances<R>& utterances,
                         bool& fits) {
  fits = false;
  if (AreTooMany(shape.num_frames, shape.num_positions) || !AreShort(shape.moves)) return {};
  return WithSlots<R>(
      shape.moves, [&](auto slots) { return LaunchOf(slots, stream, batch, utterances, fits); }, LaunchResult());
}

#define JAX_RNNT_INSTANTIATE(R) \
  template LaunchResult LaunchShort<R>(cudaStream_t, const LatticeShape&, int64_t, const Utterances<R>&, bool&);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
