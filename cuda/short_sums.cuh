// short_sums.cuh: alpha or beta of a lattice whose moves are short: up to kOwn frames without a label, and up to
// kWithLabel - 1 frames with one. lattice_short.cu says who runs it.
//
// Both directions count from their own beginning: position u' and frame t' are u and t for alpha, U_b - u and T_b - t
// for beta. A step takes the nodes with n' = t' + u'; a lane has one position. A value is a sum over the nodes that
// arcs come from (alpha) or lead to (beta), at this position and at the one before. Those values are in registers. At
// the end of a step, lanes give their values to the next lane by a shuffle, and the last lane to the next warp through
// shared memory. Each warp is at least one chunk of steps behind the warp that it takes values from. The arcs come
// through a ring of chunks in shared memory. For each warp that computes, another warp copies the next chunks
// (chunk_copies.cuh), as many ahead as shared memory allows. A warp waits only for the warps next to it and for the one
// that copies for it (progress.cuh).
//
// A lattice with more positions than the block has lanes for is divided into strips, which the block takes one after
// another. The values between strips go through memory. Warps that copy bring them to the first warp and take them from
// the last one, in place of the neighbours that these warps do not have.
#pragma once

#include "chunk_copies.cuh"
#include "power.cuh"
#include "progress.cuh"

namespace jax_rnnt::cuda {

// Slot i of a node: a move of i + 1 frames for i < kOwn, else a move of i - kOwn frames and a label.
template <int kOwn, int kWithLabel>
struct Slots {
  static constexpr int kCount = kOwn + kWithLabel;
  __host__ __device__ static constexpr bool Has(int64_t dt, int64_t du) {
    return du == 0 ? dt >= 1 && dt <= kOwn : du == 1 && dt >= 0 && dt < kWithLabel;
  }
  __host__ __device__ static constexpr int Of(int dt, int du) { return du == 0 ? dt - 1 : kOwn + dt; }

  // Chunks of the ring that a chunk of steps needs: those of the diagonals from which arcs lead to it.
  static constexpr int kBack = (kOwn > kWithLabel ? kOwn : kWithLabel) - 1;
  static constexpr int kNeeded = 1 + (kBack + kChunk - 1) / kChunk;
};

constexpr int kMostAhead = 3;  // chunks that the copies are ahead of the steps; CopyAll takes no more

__device__ __forceinline__ int32_t ChunksOf(int32_t steps) { return (steps + kChunk - 1) / kChunk; }

// The chunks that a direction takes: up to the middle, and all; from which one on its values are kept.
struct DirectionChunks {
  int32_t middle, end, kept;
};

// The chunks that a warp takes. If there are none, the end is not behind the beginning.
struct WarpChunks {
  int32_t warp, begin, end;  // its number in the block; its first chunk, that behind its last one
  int32_t middle;            // that behind its last one of the first half
  int32_t kept;              // from which one on its values are kept

  // first: u' of the warp's first position.
  __device__ __forceinline__ WarpChunks(int32_t warp, int32_t first, int32_t length_t, int32_t length_u,
                                        const DirectionChunks& of_direction)
      : warp(warp), begin(first > 0 ? (first - 1) / kChunk : 0), kept(of_direction.kept) {
    const int32_t last = MinOf(first + static_cast<int32_t>(kWarp) - 1, length_u);
    const int32_t all = first <= length_u ? ChunksOf(length_t + last) : 0;
    end = MinOf(all, of_direction.end);
    middle = MinOf(all, of_direction.middle);
  }
};

// A warp's counts of chunks (progress.cuh), beside those of its neighbours.
struct ChunkCounts {
  int32_t* filled;  // by the warp that copies: chunks before this number are in the ring
  int32_t* taken;   // by the warp that computes: it is done with chunks before this number

  // Those of one warp of `warps`. An end of the block counts as a warp that has finished, except behind the last warp
  // of a strip that is not the last one: there it is the warp that takes the values.
  __device__ __forceinline__ ChunkCounts(int32_t* counts, int32_t warps, int32_t warp)
      : filled(counts + warp), taken(counts + warps + 1 + warp) {}
  static constexpr int32_t Size(int32_t warps) { return 2 * warps + 2; }

  __device__ __forceinline__ void Begin(const WarpChunks& chunks, int32_t warps, bool is_last_strip) const {
    *filled = chunks.begin;
    *taken = chunks.begin < chunks.end ? chunks.begin : kFinished;
    if (chunks.warp == 0) taken[-1] = kFinished;
    if (chunks.warp == warps - 1) taken[1] = is_last_strip ? kFinished : chunks.begin;
  }
};

constexpr int kChunksHandedOn = 4;  // places for the chunks of values that a warp is ahead of the next one
constexpr int kHandedOn = kChunksHandedOn * kChunk;
static_assert(kMostAhead < kChunksHandedOn);  // what CopyAll copies or takes then has its place

// The place of a chunk among the values that warps hand on.
__device__ __forceinline__ int32_t PlaceHandedOn(int32_t chunk) {
  return static_cast<int32_t>(static_cast<uint32_t>(chunk) % kChunksHandedOn * kChunk);
}

// Values of the last position of a strip, at each step from the first one on. Null: this warp has nothing to do there.
// They are in shared memory, because a warp that copies has no register to spare on sm_75.
template <class R>
struct Columns {
  const Power<R>* before;  // of the strip before; a copying warp brings them to the first warp of the block
  Power<R>* after;         // of this one; a copying warp takes them from the last warp of the block
};

// Copies the arcs for a warp that computes, and exchanges values with other strips. ring: kNeeded + ahead chunks;
// handed_on: where the values of the warp before stand, and then those of the warp.
template <class S, class R, bool kBeta>
__device__ __forceinline__ void CopyAll(ChunkCopies<R, S::kCount, kBeta>& chunk_copies, const WarpChunks& chunks,
                                        const ChunkCounts& counts, int32_t ahead, int32_t lane, R* ring,
                                        Power<R>* handed_on, const Columns<R>* columns) {
  R* const ring_end = ring + (S::kNeeded + ahead) * kChunkSize<S::kCount>;
  for (R* p = ring + lane; p < ring_end; p += kWarp) *p = -std::numeric_limits<R>::infinity();
  Awaited taken(counts.taken);
  // The chunks before `end` are in the ring, but for the last `under_way`, 0 or 1.
  const auto publish = [&](int32_t end, int32_t under_way) {
    FinishCopies(under_way == 1);
    if (end - under_way > chunks.begin) Publish(counts.filled, end - under_way, lane);
  };
  const int32_t late = kAsyncCopies ? ahead - 1 : 0;  // how many chunks later than its copies a chunk is waited for
  const auto give = [&](int32_t chunk) {
    Power<R>* const after = columns->after;
    if (after == nullptr || chunk < chunks.begin) return;
    if (lane < kChunk) {
      WriteIf(true, after + chunk * kChunk + lane, handed_on[kHandedOn + PlaceHandedOn(chunk) + lane]);
    }
    Publish(counts.taken + 1, chunk + 1, lane);
  };
  R* to = ring;
  for (int32_t chunk = chunks.begin; chunk < chunks.end + late; ++chunk) {
    if (chunk < chunks.end) {
      taken.Wait(chunk - ahead);
      give(chunk - ahead - 1);
    }
    if (late > 0) publish(chunk, late - 1);
    if (chunk < chunks.end) {
      chunk_copies.Fill(to);
      if (columns->before != nullptr) {
        CopyNumbers(reinterpret_cast<R*>(handed_on + PlaceHandedOn(chunk)),
                    reinterpret_cast<const R*>(columns->before + chunk * kChunk),
                    kChunk * static_cast<int32_t>(sizeof(Power<R>) / sizeof(R)), lane);
      }
      to += kChunkSize<S::kCount>;
      if (to == ring_end) to = ring;
    }
    EndGroup();
    if (late == 0) publish(chunk + 1, 0);
  }
  if (columns->after == nullptr) return;
  taken.Wait(chunks.end);
  for (int32_t chunk = chunks.end - ahead - 1; chunk < chunks.end; ++chunk) give(chunk);
}

// One lane's part of one direction.
template <class R, int kOwn, int kWithLabel, bool kBeta>
struct ShortSums {
  using S = Slots<kOwn, kWithLabel>;
  using Number = Power<R>;
  static constexpr int kPast = kOwn > kChunk ? kOwn : kChunk;  // a chunk's values are kept to the end

  R *ring, *ring_end;                   // of this warp
  const Number* from;                   // kHandedOn values of the warp before
  Number* to;                           // and those for the next one
  Number* values;                       // where the value of the last step stands, or would stand
  int32_t num_positions, u, lane;       // U + 1; u'
  int32_t valid;                        // at how many frames this position has a node, or the end of all paths
  Number own[kPast], left[kWithLabel];  // of the last steps, the latest first, at this position and at the one before
  decltype(Number::e) highest = Bounds<R>::kImpossible;  // of the values
  bool special = false, special_at_middle = false;       // whether a sum was NaN or +inf; IsSpecial() there

  // ring: its end is ring_end; handed_on: where the values of the warp before stand, and then those of this one;
  // values: row 0 of this position's values, a row has `num_positions`; length_t, length_u: T_b, U_b.
  __device__ __forceinline__ ShortSums(int32_t u, int32_t length_t, int32_t length_u, int32_t num_positions, R* ring,
                                       R* ring_end, Number* handed_on, Number* values)
      : ring(ring),
        ring_end(ring_end),
        from(handed_on),
        to(handed_on + kHandedOn),
        values(values),
        num_positions(num_positions),
        u(u),
        lane(u % static_cast<int32_t>(kWarp)) {
    const int32_t nodes = kBeta || u < length_u ? length_t : length_t + 1;
    valid = u <= length_u ? nodes : 0;
#pragma unroll
    for (Number& value : own) value = kImpossible<R>;
#pragma unroll
    for (Number& value : left) value = kImpossible<R>;
    if (u == 0) own[0] = kBegin<R>;
    if (u == 1) left[0] = kBegin<R>;
  }

  // Whether a value was outside the bounds of power.cuh, so that the general kernel must walk the lattice.
  __device__ __forceinline__ bool IsSpecial() const { return special || highest > Bounds<R>::kHighest; }

  // Whether a slot's term comes from the step before. The others are far.
  static constexpr bool IsNear(int slot) { return slot == 0 || slot == kOwn; }
  // The sum of the terms of the near or far slots, or both, and with kMore of `more`. m is not normalised.
  template <bool kNear, bool kFar, bool kMore>
  __device__ __forceinline__ Number Add(const Factor<R> (&arcs)[S::kCount], Number more) const {
    const auto each = [&](const auto& f) {
#pragma unroll
      for (int i = 0; i < S::kCount; ++i) {
        if (IsNear(i) ? kNear : kFar) f(arcs[i], i < kOwn ? own[i] : left[i - kOwn]);
      }
    };
    decltype(more.e) top = kMore ? more.e : Bounds<R>::kLowest;
    each([&](Factor<R> arc, Number value) { top = MaxOf(top, ExponentOf(arc, value.e)); });
    const auto e = Rounded(top);
    R m = kMore ? more.m * TwoTo(Minus(more.e, e)) : R(0);
    each([&](Factor<R> arc, Number value) { m = AddProduct(m, arc, value, e); });
    return {m, e};
  }

  // Step n'. kept: whether its value is written. meanwhile: what is done while the lanes wait for the
  // shuffle.
  template <class Meanwhile>
  __device__ __forceinline__ void Step(int32_t n, const Factor<R> (&arcs)[S::kCount], Number handed_on, Number* hand_on,
                                       bool kept, const Meanwhile& meanwhile) {
    constexpr bool kApart = S::kCount > 3;  // the far terms are added while the step before runs
    const Number far = kApart ? Add<false, true, false>(arcs, {}) : Number{};
    const Number sum = Add<true, !kApart, kApart>(arcs, far);
    const bool is_valid = static_cast<uint32_t>(n - u - (kBeta ? 1 : 0)) < static_cast<uint32_t>(valid);
    special |= is_valid && !(sum.m <= std::numeric_limits<R>::max());
    const Number value = Normalise(sum, is_valid);
    if constexpr (std::is_same_v<R, float>) highest = MaxOf(highest, value.e);  // that of a double is bounded
    Number before{__shfl_up_sync(kWholeWarp, value.m, 1), __shfl_up_sync(kWholeWarp, value.e, 1)};
    if (lane == static_cast<int32_t>(kWarp) - 1) *hand_on = value;
    meanwhile();
    before = lane == 0 ? handed_on : before;
    values += num_positions;
    WriteIf(is_valid && kept, values, value);
#pragma unroll
    for (int i = kPast - 1; i > 0; --i) own[i] = own[i - 1];
#pragma unroll
    for (int i = kWithLabel - 1; i > 0; --i) left[i] = left[i - 1];
    own[0] = value;
    left[0] = before;
  }

  // What step j of a chunk reads from shared memory.
  struct Operands {
    Factor<R> arcs[S::kCount];
    Number handed_on;
  };
  // chunks: the step's chunk of the ring, the one before, and so on. place: that of the chunk's values among those that
  // warps hand on.
  __device__ __forceinline__ void Read(Operands& to, int j, R* const (&chunks)[S::kNeeded], int32_t place) const {
#pragma unroll
    for (int i = 0; i < S::kCount; ++i) {
      const int step = i < kOwn ? i + 1 : i - kOwn + 1, diagonal = kBeta ? j : j + 1 - step;
      const int back = (kChunk - 1 - diagonal) / kChunk, position = i < kOwn || kBeta ? 1 : 0;
      to.arcs[i] = FactorOf(chunks[back][Place<S::kCount>(diagonal + back * kChunk, lane + position, i)]);
    }
    to.handed_on = from[place + j];
  }

  // All steps. A step's operands are read while the step before runs. So a warp waits, before the last step of a chunk,
  // for what the next chunk needs: its arcs, the values of the warp before, and that the next warp has taken those that
  // this one overwrites. Lanes 0, 1 and all others watch the counts of these.
  __device__ __forceinline__ void Run(const WarpChunks& of_warp, const ChunkCounts& counts) {
    if (of_warp.begin >= of_warp.end) return;
    Awaited awaited(lane == 0 ? counts.filled : lane == 1 ? counts.taken - 1 : counts.taken + 1);
    const int32_t lead = lane <= 1 ? 1 : 1 - kChunksHandedOn;
    values += int64_t{of_warp.begin - of_warp.kept} * kChunk * num_positions;
    R* chunks[S::kNeeded];
    chunks[0] = ring;
#pragma unroll
    for (int i = 1; i < S::kNeeded; ++i) chunks[i] = ring_end - i * kChunkSize<S::kCount>;
    Operands now;
    int32_t place = PlaceHandedOn(of_warp.begin);
    awaited.Ask();
    awaited.Wait(of_warp.begin + lead);
    Read(now, 0, chunks, place);
    for (int32_t chunk = of_warp.begin; chunk < of_warp.end; ++chunk) {
      const bool is_last = chunk + 1 == of_warp.end;  // then the operands of the next one are not used
      const int32_t next_place = PlaceHandedOn(chunk + 1);
      R* next[S::kNeeded];
      next[0] = chunks[0] + kChunkSize<S::kCount>;
      if (next[0] == ring_end) next[0] = ring;
#pragma unroll
      for (int i = 1; i < S::kNeeded; ++i) next[i] = chunks[i - 1];
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        Operands after;
        if (j + 1 < kChunk) {
          Read(after, j + 1, chunks, place);
        } else {
          awaited.Wait(is_last ? 0 : chunk + 1 + lead);
          Read(after, 0, next, next_place);
        }
        Step(1 + chunk * kChunk + j, now.arcs, now.handed_on, to + place + j, chunk >= of_warp.kept, [&] {
          if (j == kChunk - 2) awaited.Ask();
          if (j == kChunk - 1) Publish(counts.taken, is_last ? kFinished : chunk + 1, lane);
        });
        now = after;
      }
      if (chunk + 1 == of_warp.middle) special_at_middle = IsSpecial();
      place = next_place;
#pragma unroll
      for (int i = 0; i < S::kNeeded; ++i) chunks[i] = next[i];
    }
  }
};

}  // namespace jax_rnnt::cuda
