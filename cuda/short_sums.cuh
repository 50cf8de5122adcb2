// short_sums.cuh: alpha or beta of a lattice whose moves are short: up to kOwn frames without a label, and up to
// kWithLabel - 1 frames with one. lattice_short.cu says who runs it.
//
// Both directions count from their own beginning: position u' and frame t' are u and t for alpha, U_b - u and T_b - t
// for beta. A step takes the nodes with n' = t' + u'; a lane has one position. A value is a sum over the nodes that
// arcs come from (alpha) or lead to (beta), at this position and at the one before. Those values are in registers. At
// the end of a step, lanes give their values to the next lane by a shuffle, and the last lane to the next warp through
// shared memory. Each warp is one chunk of steps behind the warp that it takes values from, so one barrier for each
// chunk is enough. The arcs come through a ring of chunks in shared memory. For each warp that computes, another warp
// copies the next chunk (chunk_copies.cuh).
//
// A lattice with more positions than the block has lanes for is divided into strips. The block takes one after another.
// The last warp of a strip writes the values of its last position to memory, where the first warp of the next strip
// reads them.
#pragma once

#include "chunk_copies.cuh"
#include "power.cuh"

namespace jax_rnnt::cuda {

// Slot i of a node: a move of i + 1 frames for i < kOwn, else a move of i - kOwn frames and a label.
template <int kOwn, int kWithLabel>
struct Slots {
  static constexpr int kCount = kOwn + kWithLabel;
  __host__ __device__ static constexpr bool Has(int64_t dt, int64_t du) {
    return du == 0 ? dt >= 1 && dt <= kOwn : du == 1 && dt >= 0 && dt < kWithLabel;
  }
  __host__ __device__ static constexpr int Of(int dt, int du) { return du == 0 ? dt - 1 : kOwn + dt; }

  // Chunks of the ring: the one that is copied, and those that hold the diagonals from which arcs lead to one chunk.
  static constexpr int kBack = (kOwn > kWithLabel ? kOwn : kWithLabel) - 1;
  static constexpr int kRing = 2 + (kBack + kChunk - 1) / kChunk;
  static constexpr int kRingSize = kRing * kChunkSize<kCount>;  // numbers, for each warp
};

// Writes a value to global memory by a store with a predicate. The compiler would make a branch.
__device__ __forceinline__ void WriteIf(bool wanted, Power* to, Power value) {
#if defined(__CUDA_ARCH__)
  asm volatile("{.reg .pred p; setp.ne.u32 p, %3, 0; @p st.global.v2.f32 [%2], {%0, %1};}" ::"f"(value.m), "f"(value.e),
               "l"(__cvta_generic_to_global(to)), "r"(static_cast<uint32_t>(wanted))
               : "memory");
#else
  if (wanted) Write(to, value);
#endif
}

// Which chunk a warp takes when. In a turn each warp takes one chunk, and a barrier ends the turn. Copies are one turn
// ahead.
struct WarpSchedule {
  int32_t warp, begin, end;        // its number in the block; its first chunk, and that behind its last one
  int32_t first_chunk, num_turns;  // of the block: its first warp takes that chunk in turn 0

  // first: the position of the warp's first lane; strip_first, strip_last: the first and the last one of the strip.
  __device__ __forceinline__ WarpSchedule(int32_t first, int32_t strip_first, int32_t strip_last, int32_t length_t)
      : warp((first - strip_first) / static_cast<int32_t>(kWarp)),
        begin(FirstChunk(first)),
        end(0),
        first_chunk(FirstChunk(strip_first)),
        num_turns(EndChunk(length_t, strip_last) - first_chunk +
                  (strip_last - strip_first) / static_cast<int32_t>(kWarp)) {
    if (first <= strip_last) end = EndChunk(length_t, MinOf(first + static_cast<int32_t>(kWarp) - 1, strip_last));
  }
  __device__ __forceinline__ int32_t ChunkOf(int32_t turn) const { return turn - warp + first_chunk; }

 private:
  __device__ __forceinline__ static int32_t FirstChunk(int32_t u) { return u > 0 ? (u - 1) / kChunk : 0; }
  __device__ __forceinline__ static int32_t EndChunk(int32_t length_t, int32_t u) {
    return (length_t + u + kChunk - 1) / kChunk;
  }
};

// How a warp exchanges values with other strips, through memory that has a value of each diagonal.
struct Column {
  Power* values = nullptr;  // null: it does not
  bool gives = false;       // it writes them, else it reads them
};

// The barrier of the block. PTX lets warps wait for it at different places of the program, __syncthreads() does not.
__device__ __forceinline__ void EndTurn() {
#if defined(JAX_RNNT_CUDA_ON_CPU)
  __syncthreads();
#else
  asm volatile("bar.sync 0;" ::: "memory");
#endif
}

// Copies the arcs for a warp that computes.
template <int kOwn, int kWithLabel, bool kBeta>
__device__ __forceinline__ void CopyAll(ChunkCopies<Slots<kOwn, kWithLabel>::kCount, kBeta>& chunk_copies,
                                        const WarpSchedule& schedule, int32_t lane, float* ring) {
  using S = Slots<kOwn, kWithLabel>;
  for (int i = lane; i < S::kRingSize; i += static_cast<int>(kWarp)) ring[i] = -std::numeric_limits<float>::infinity();
  __syncwarp();
  float* to = ring;
  for (int32_t turn = -1; turn < schedule.num_turns; ++turn) {
    const int32_t chunk = schedule.ChunkOf(turn + 1);
    if (chunk >= schedule.begin && chunk < schedule.end) {
      chunk_copies.Fill(to);
      to += kChunkSize<S::kCount>;
      if (to == ring + S::kRingSize) to = ring;
      FinishCopies();
    }
    EndTurn();
  }
}

constexpr int kHandedOn = 2 * kChunk;  // the values that a warp keeps for the next one: two chunks

// One lane's part of one direction.
template <int kOwn, int kWithLabel, bool kBeta, bool kStoreValues>
struct ShortSums {
  using S = Slots<kOwn, kWithLabel>;
  static constexpr int kPast = kOwn > kChunk ? kOwn : kChunk;  // a chunk's values are kept to the end

  float* ring;                         // of this warp
  Power* from;                         // kHandedOn values of the warp before
  Power* to;                           // and those for the next one
  Power* values;                       // kStoreValues: where the value of the last step stands
  int32_t num_positions, u, lane;      // U + 1; u'
  int32_t valid;                       // at how many frames this position has a node, or the end of all paths
  Power own[kPast], left[kWithLabel];  // of the last steps, the latest first, at this position and at the one before
  float highest = -std::numeric_limits<float>::infinity();
  bool special = false;  // whether a sum was NaN or +inf

  // handed_on: where the values of the warp before stand, and then those of this one; values: of this position at
  // n' = 0, a row has `num_positions`; length_t, length_u: T_b, U_b.
  __device__ __forceinline__ ShortSums(int32_t u, int32_t length_t, int32_t length_u, int32_t num_positions,
                                       float* ring, Power* handed_on, Power* values)
      : ring(ring),
        from(handed_on),
        to(handed_on + kHandedOn),
        values(values),
        num_positions(num_positions),
        u(u),
        lane(u % static_cast<int32_t>(kWarp)) {
    const int32_t nodes = kBeta || u < length_u ? length_t : length_t + 1;
    valid = u <= length_u ? nodes : 0;
#pragma unroll
    for (Power& value : own) value = kImpossible;
#pragma unroll
    for (Power& value : left) value = kImpossible;
    constexpr Power kBegin{1, 0};
    if (u == 0) own[0] = kBegin;
    if (u == 1) left[0] = kBegin;
    if (kStoreValues && u == 0) Write(values, kBegin);
  }

  // Whether a slot's term comes from the step before. The others are far.
  static constexpr bool IsNear(int slot) { return slot == 0 || slot == kOwn; }
  // The sum of the terms of the near or far slots, or both, and with kMore of `more`. m is not normalised.
  template <bool kNear, bool kFar, bool kMore>
  __device__ __forceinline__ Power Add(const float (&x)[S::kCount], Power more) const {
    const auto each = [&](const auto& f) {
#pragma unroll
      for (int i = 0; i < S::kCount; ++i) {
        if (IsNear(i) ? kNear : kFar) f(x[i], i < kOwn ? own[i] : left[i - kOwn]);
      }
    };
    float top = kMore ? more.e : kLowestPower;
    each([&](float arc, Power value) { top = fmaxf(top, fmaf(arc, kPerUnit, value.e)); });
    const float e = Rounded(top);
    float m = kMore ? more.m * Exp2(more.e - e) : 0.0f;
    each([&](float arc, Power value) { m = fmaf(value.m, Exp2(fmaf(arc, kPerUnit, value.e - e)), m); });
    return {m, e};
  }

  // Step n'. x: the arcs.
  __device__ __forceinline__ void Step(int32_t n, const float (&x)[S::kCount], Power handed_on, Power* hand_on) {
    constexpr bool kApart = S::kCount > 3;  // the far terms are added while the step before runs
    const Power far = kApart ? Add<false, true, false>(x, {}) : Power{};
    const Power sum = Add<true, !kApart, kApart>(x, far);
    const bool is_valid = static_cast<uint32_t>(n - u - (kBeta ? 1 : 0)) < static_cast<uint32_t>(valid);
    special |= is_valid && !(sum.m <= std::numeric_limits<float>::max());
    const Power value = Normalise(sum, is_valid);
    highest = fmaxf(highest, value.e);
    Power before{__shfl_up_sync(kWholeWarp, value.m, 1), __shfl_up_sync(kWholeWarp, value.e, 1)};
    before = lane == 0 ? handed_on : before;
    if (lane == static_cast<int32_t>(kWarp) - 1) *hand_on = value;
    if constexpr (kStoreValues) {
      values += num_positions;
      WriteIf(is_valid, values, value);
    }
#pragma unroll
    for (int i = kPast - 1; i > 0; --i) own[i] = own[i - 1];
#pragma unroll
    for (int i = kWithLabel - 1; i > 0; --i) left[i] = left[i - 1];
    own[0] = value;
    left[0] = before;
  }

  // The kChunk steps from n' = n on. chunks: this chunk of the ring, the one before, and so on. place: that of the
  // chunk's values among those that warps hand on. A step's operands are read while the step before runs.
  __device__ __forceinline__ void Steps(int32_t n, float* const (&chunks)[S::kRing], int32_t place) {
    float arcs[kChunk + 1][S::kCount];
    Power handed_on[kChunk + 1];
    const auto read = [&](int j) {
#pragma unroll
      for (int i = 0; i < S::kCount; ++i) {
        const int step = i < kOwn ? i + 1 : i - kOwn + 1, diagonal = kBeta ? j : j + 1 - step;
        const int back = (kChunk - 1 - diagonal) / kChunk, position = i < kOwn || kBeta ? 1 : 0;
        arcs[j][i] = chunks[back][Place<S::kCount>(diagonal + back * kChunk, lane + position, i)];
      }
      handed_on[j] = from[place + j];
    };
    read(0);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      if (j + 1 < kChunk) read(j + 1);
      Step(n + j, arcs[j], handed_on[j], to + place + j);
    }
  }

  // All steps. Each warp of the block must call as many barriers as this.
  __device__ __forceinline__ void Run(const WarpSchedule& schedule, const Column& column) {
    float* chunks[S::kRing];
#pragma unroll
    for (int i = 0; i < S::kRing; ++i) chunks[i] = ring + (S::kRing - 1 - i) * kChunkSize<S::kCount>;
    const int64_t before =
        int64_t{schedule.begin} * kChunk * num_positions;  // nvcc 11.8 refuses this in a discarded statement
    if constexpr (kStoreValues) values += before;
    const bool exchanges = column.values != nullptr && lane < kChunk, takes = exchanges && !column.gives;
    Power* exchanged = column.values + schedule.begin * kChunk + lane;
    Power taken = takes ? cuda::Read(exchanged) : kImpossible;  // of the next chunk
    for (int32_t turn = -1; turn < schedule.num_turns; ++turn) {
      const int32_t chunk = schedule.ChunkOf(turn);
      if (chunk >= schedule.begin && chunk < schedule.end) {
        float* const now = chunks[S::kRing - 1];
#pragma unroll
        for (int i = S::kRing - 1; i > 0; --i) chunks[i] = chunks[i - 1];
        chunks[0] = now;
        const int32_t place = chunk % 2 * kChunk;
        if (takes) {
          from[place + lane] = taken;
          taken = cuda::Read(exchanged + kChunk);
        }
        if (column.values != nullptr) __syncwarp();
        Steps(1 + chunk * kChunk, chunks, place);
        if (column.values != nullptr) __syncwarp();
        if (exchanges && !takes) Write(exchanged, to[place + lane]);
        exchanged += kChunk;
      }
      EndTurn();
    }
  }
};

}  // namespace jax_rnnt::cuda
