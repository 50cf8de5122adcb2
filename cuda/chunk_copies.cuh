// chunk_copies.cuh: copies the arcs of 32 positions from the array into a ring of shared memory, for short_sums.cuh.
//
// A chunk is kChunk diagonals. On a row of the array its nodes are a run of kChunk neighbours. Four lanes copy a run,
// and a request of the warp copies 4 numbers of each of 8 runs. So each arc of a node takes one request for 8 runs. In
// shared memory the arcs of a node lie in the order of the kernel's slots. A slot that no arc has stays -inf.
#pragma once

#include "device.cuh"

namespace jax_rnnt::cuda {

constexpr int kChunk = 4;  // diagonals
constexpr int kRunsOfRequest = static_cast<int>(kWarp) / kChunk;
constexpr int kNumPositions = static_cast<int>(kWarp) + 1;  // the position before the warp's own, and those
constexpr int kMargin = kChunk - 1;                         // positions on each side, of parts of runs
constexpr int kRuns = kNumPositions + kMargin;              // of a chunk
constexpr int kGroups = (kRuns + kRunsOfRequest - 1) / kRunsOfRequest;
constexpr int kLastRuns = kRuns - (kGroups - 1) * kRunsOfRequest;  // of the last group

// Whether copies end later than they begin. sm_75 has no such copies: its lanes load and store.
#if (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800) || defined(JAX_RNNT_CUDA_ON_CPU_75)
constexpr bool kAsyncCopies = false;
#else
constexpr bool kAsyncCopies = true;
#endif

// Copies a number to shared memory if `active`. If bit `bit` of `wanted` is 0, the copy is 0. The copy may end as late
// as FinishCopies().
template <class R>
__device__ __forceinline__ void CopyLater(R* to, const R* from, uint32_t wanted, int bit, bool active) {
#if defined(JAX_RNNT_CUDA_ON_CPU)
  if (active) ::cuda_on_cpu::CopyLater(to, from, sizeof(R), (wanted >> bit & 1) != 0);
#else
  asm volatile(
      "{.reg .pred ignored, active; .reg .u32 is_wanted; and.b32 is_wanted, %2, %3; setp.eq.u32 ignored, is_wanted, 0;"
      "setp.ne.u32 active, %4, 0; @active cp.async.ca.shared.global [%0], [%1], %5, ignored;}" ::"r"(
          static_cast<uint32_t>(__cvta_generic_to_shared(to))),
      "l"(__cvta_generic_to_global(from)), "r"(wanted), "r"(1u << bit), "r"(static_cast<uint32_t>(active)),
      "n"(sizeof(R))
      : "memory");
#endif
}

// Copies numbers that lie together, at most as many as a warp has lanes.
template <class R>
__device__ __forceinline__ void CopyNumbers(R* to, const R* from, int32_t count, int32_t lane) {
  if constexpr (kAsyncCopies) {
    CopyLater(to + lane, from + lane, 1, 0, lane < count);
  } else if (lane < count) {
    to[lane] = Read(from + lane);
  }
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void EndGroup() {
#if defined(JAX_RNNT_CUDA_ON_CPU)
  ::cuda_on_cpu::EndGroup();
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for this thread's copies, but not for those of the last group if `one_under_way`.
__device__ __forceinline__ void FinishCopies([[maybe_unused]] bool one_under_way) {
#if defined(JAX_RNNT_CUDA_ON_CPU)
  ::cuda_on_cpu::FinishCopies(one_under_way ? 1 : 0);
#elif __CUDA_ARCH__ >= 800
  if (one_under_way) {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
  } else {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
  }
#endif
}

template <int kSlots>
constexpr int kNode = kSlots | 1;  // the numbers of a node: an odd number, so that lanes use different banks

// A place in a chunk. position: 0 for the one before the warp's own.
template <int kSlots>
__device__ __forceinline__ constexpr int Place(int diagonal, int position, int slot) {
  return (diagonal * (kNumPositions + 2 * kMargin) + position + kMargin) * kNode<kSlots> + slot;
}

template <int kSlots>
constexpr int kChunkSize = Place<kSlots>(kChunk, -kMargin, 0);  // numbers

// One lane's part of the copies. t' and u' count from the beginning of the direction (short_sums.cuh).
template <class R, int kSlots, bool kBeta>
struct ChunkCopies {
  const R* from;                // of request 0 of group 0 in the next chunk
  int64_t to_chunk, to_group;   // distances in the array
  int32_t places[kSlots];       // of a request, in a chunk of the ring, of group 0
  uint32_t in_lattice[kSlots];  // a bit for each group of a request: whether its position is one of the lattice
  int32_t t, length_t;          // t' of the run of group 0 in the next chunk; T_b
  int32_t requests;             // of a group: the number of arcs
  bool in_last;                 // whether the last group has this lane's run

  // arcs: of the utterance; first: u' of the warp's first position; chunk: the first one; slot(k): the slot of arc k.
  template <class Slot>
  __device__ __forceinline__ ChunkCopies(const R* arcs, int32_t num_positions, int32_t num_arcs, int32_t length_t,
                                         int32_t length_u, int32_t first, int32_t chunk, int32_t lane, const Slot& slot)
      : length_t(length_t), requests(num_arcs), in_last(lane / kChunk < kLastRuns) {
    const int32_t run = lane / kChunk, entry = lane % kChunk;
    const int32_t position = kNumPositions - 1 - run;  // of the run's first node; those of the next group are lower
    const int32_t u = first - 1 + position;
    t = (kBeta ? 1 : 0) - u + chunk * kChunk;
    const int64_t row = kBeta ? length_t - t : t, last = kBeta ? length_u - u - (kChunk - 1) : u;
    from = arcs + (row * num_positions + last) * num_arcs + entry;
    const int64_t forward = kBeta ? -1 : 1;
    to_chunk = forward * kChunk * num_positions * num_arcs;
    to_group = forward * kRunsOfRequest * (num_positions - 1) * num_arcs;
#pragma unroll
    for (int q = 0; q < kSlots; ++q) {
      const int32_t i = entry + q * kChunk, node = i / num_arcs, k = i % num_arcs;
      const int32_t diagonal = kBeta ? kChunk - 1 - node : node;
      places[q] = q < num_arcs ? Place<kSlots>(diagonal, position + diagonal, slot(k)) : 0;
      in_lattice[q] = 0;
      for (int g = 0; g < kGroups; ++g) {
        const int32_t of_group = u + diagonal - g * kRunsOfRequest;
        in_lattice[q] |= static_cast<uint32_t>(of_group >= 0 && of_group <= length_u) << g;
      }
    }
  }

  // A bit for each group: whether the array has the run's frame in the next chunk.
  __device__ __forceinline__ uint32_t WithFrames() const {
    const int32_t before = (kBeta ? 1 : 0) - t + kRunsOfRequest - 1;
    const auto below = [](int32_t g) { return ~(~0u << (g < 0 ? 0 : g > 31 ? 31 : g)); };
    return below((before + length_t) / kRunsOfRequest) & ~below(before / kRunsOfRequest);
  }

  // Calls f(q, g, place, address, groups that are wanted, whether the lane has this run) for the requests from first
  // on.
  template <class F>
  __device__ __forceinline__ void ForRequests(int first, int last, R* to, uint32_t with_frames, const F& f) const {
#pragma unroll
    for (int q = first; q < last; ++q) {
      if (q >= requests) break;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        f(q, g, to + places[q] - g * kRunsOfRequest * kNode<kSlots>, from + q * kChunk + g * to_group,
          in_lattice[q] & with_frames, g + 1 < kGroups || in_last);
      }
    }
  }

  // Begins to copy the next chunk.
  __device__ __forceinline__ void Fill(R* to) {
    const uint32_t with_frames = WithFrames();
    if constexpr (kAsyncCopies) {
      ForRequests(0, kSlots, to, with_frames, [](int, int g, R* place, const R* address, uint32_t wanted, bool active) {
        CopyLater(place, address, wanted, g, active);
      });
    } else {                                                            // many loads before the first store
      constexpr int kHeld = kSlots < 4 ? 1 : kSlots < 10 ? kSlots : 2;  // requests of a group: as registers allow
#pragma unroll
      for (int first = 0; first < kSlots; first += kHeld) {
        const int last = first + kHeld < kSlots ? first + kHeld : kSlots;
        R held[kHeld][kGroups];
        ForRequests(first, last, to, with_frames,
                    [&](int q, int g, R*, const R* address, uint32_t wanted, bool active) {
                      held[q - first][g] = active && (wanted >> g & 1) != 0 ? Read(address) : R(0);
                    });
        ForRequests(first, last, to, with_frames, [&](int q, int g, R* place, const R*, uint32_t, bool active) {
          if (active) *place = held[q - first][g];
        });
      }
    }
    from += to_chunk;
    t += kChunk;
  }
};

}  // namespace jax_rnnt::cuda
