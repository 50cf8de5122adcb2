// strip.cuh: moves nodes between an array and a tile in shared memory, for a warp that walks 32 columns of a lattice
// and takes one diagonal (or frame) in each step. lattice_pair.cu defines t', u' and n'.
#pragma once

#include <type_traits>

#include "device.cuh"

namespace jax_rnnt::cuda {

constexpr int kTileWidth = kWarp + 1;  // a warp's columns and the next one

struct alignas(8) Node {
  float of[2];
};

// Makes the compiler keep a number in a register. Without it the compiler computes the number again for each use.
__device__ __forceinline__ int32_t InRegister(int32_t x) {
#if defined(__CUDA_ARCH__)
  asm("" : "+r"(x));
#endif
  return x;
}

// Reads a node of global memory if `wanted` is not 0, else gives zeros. It is a load with a predicate. The compiler
// would make a branch, and compute the address behind it.
__device__ __forceinline__ Node ReadIf(uint32_t wanted, const Node* from) {
  Node node{};
#if defined(__CUDA_ARCH__)
  asm volatile("{.reg .pred p; setp.ne.u32 p, %3, 0; @p ld.global.v2.f32 {%0, %1}, [%2];}"
               : "+f"(node.of[0]), "+f"(node.of[1])
               : "l"(__cvta_generic_to_global(from)), "r"(wanted)
               : "memory");
#else
  if (wanted != 0) node = Read(from);
#endif
  return node;
}
__device__ __forceinline__ void WriteIf(uint32_t wanted, Node* to, Node node) {
#if defined(__CUDA_ARCH__)
  asm volatile("{.reg .pred p; setp.ne.u32 p, %3, 0; @p st.global.v2.f32 [%2], {%0, %1};}" ::"f"(node.of[0]),
               "f"(node.of[1]), "l"(__cvta_generic_to_global(to)), "r"(wanted)
               : "memory");
#else
  if (wanted != 0) Write(to, node);
#endif
}

// Which nodes of a chunk each lane reads, one node for each request. With kSkew, a request of the warp takes kRows rows
// of kChunk nodes. Without, it takes one row of all columns, and the last request takes the column beyond them.
template <int kSkew, int kChunk>
struct Strip {
  static constexpr int kRows = static_cast<int>(kWarp) / kChunk;
  static constexpr int kRequests = kSkew == 0 ? kChunk + 1 : (kTileWidth + kChunk - 1 + kRows - 1) / kRows;
  static constexpr int kFrames = kSkew == 0 ? 1 : kRows;  // how much t' grows from one request to the next
  static constexpr int kLogFrames = kFrames == 1 ? 0 : kFrames == 4 ? 2 : 3;
  static_assert(1 << kLogFrames == kFrames);
  static constexpr bool kBeyond = kSkew == 0;

  const Node* arcs;                  // the node of request 0 in the chunk at n' = 0
  Node* posteriors;                  // the same node
  int32_t lane, frames, from_frame;  // from_frame: t' of the first frame that is in the array, 1 for beta
  int32_t first_t, first_place;      // of request 0 in the chunk at n' = 0: t', and the place in the tile
  int32_t to_step, to_request;       // distance in bytes from one n' to the next, and from one request to the next
  int32_t to_beyond;                 // distance in bytes from request 0 to that of the column beyond
  // A bit for each request: whether its node is in the tile; in a column of the lattice; in one of the warp's own
  // columns.
  uint32_t in_tile, readable, writable;

  // arcs, posteriors: the node t' = u' = 0; sign: -1 where t and u fall as t' and u' rise; first: u' of the first
  // column.
  __device__ __forceinline__ Strip(const Node* arcs_origin, Node* posteriors_origin, int32_t sign, int32_t stride,
                                   int32_t frames, int32_t last, int32_t first, int32_t lane)
      : lane(lane), frames(frames), from_frame(sign < 0 ? 1 : 0), in_tile(0), readable(0), writable(0) {
    const int32_t j = kSkew == 0 ? 0 : lane % kChunk, row = kSkew == 0 ? 0 : lane / kChunk;
    const int32_t column = kSkew == 0 ? lane : j + kTileWidth - 1 - row;
    first_t = j - kSkew * (first + column);
    first_place = j * kTileWidth + column;
    const int64_t node = sign * (int64_t{first_t} * stride + first + column);
    arcs = arcs_origin + node;
    posteriors = posteriors_origin + node;
    constexpr auto kBytes = static_cast<int32_t>(sizeof(Node));
    to_step = InRegister(kBytes * sign * stride);
    to_request = InRegister(kBytes * sign * kFrames * (stride - kSkew));
    to_beyond = kBytes * sign * (lane * (stride - 1) + kTileWidth - 1);
    for (int q = 0; q < kRequests; ++q) {
      const bool beyond = kBeyond && q == kChunk;
      const int32_t of_q = beyond ? kTileWidth - 1 : column - kSkew * q * kRows;
      const bool has = beyond ? lane < kChunk : of_q >= 0 && of_q < kTileWidth;
      in_tile |= static_cast<uint32_t>(has) << q;
      readable |= static_cast<uint32_t>(has && first + of_q <= last) << q;
      writable |= static_cast<uint32_t>(has && first + of_q <= last && of_q < kTileWidth - 1) << q;
    }
  }

  // A bit for each request: whether the array has its frame, in the chunk that begins at n'.
  __device__ __forceinline__ uint32_t WithFrames(int32_t n) const {
    const int32_t before = from_frame - (n + first_t) + kFrames - 1;
    const auto below = [](int32_t q) { return ~(~0u << (q < 0 ? 0 : q > 31 ? 31 : q)); };
    const uint32_t rows = below((before + frames) >> kLogFrames) & ~below(before >> kLogFrames);
    if constexpr (!kBeyond) return rows;
    const bool beyond = static_cast<uint32_t>(n + lane - from_frame) < static_cast<uint32_t>(frames);
    return (rows & ((1u << kChunk) - 1)) | static_cast<uint32_t>(beyond) << kChunk;
  }

  // Calls f(request, its bit of `bits`, address of its node) for the chunk that begins at n'.
  template <class T, class F>
  __device__ __forceinline__ void ForNodes(T* first, uint32_t bits, int32_t n, const F& f) const {
    using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
    Byte* const node = reinterpret_cast<Byte*>(first) + int64_t{n} * to_step;
#pragma unroll
    for (int q = 0; q < kRequests; ++q) {
      const int64_t distance = kBeyond && q == kChunk ? int64_t{to_beyond} : int64_t{q} * to_request;
      f(q, bits & 1u << q, reinterpret_cast<T*>(node + distance));
    }
  }

  // Calls f(request, place in the tile) for the requests that have a place in the tile.
  template <class F>
  __device__ __forceinline__ void ForPlaces(const F& f) const {
#pragma unroll
    for (int q = 0; q < kRequests; ++q) {
      const bool beyond = kBeyond && q == kChunk;
      const bool always = kBeyond ? !beyond : q * kRows >= kChunk - 1 && (q + 1) * kRows <= kTileWidth;
      const int32_t row = beyond ? lane : q, column = beyond ? kTileWidth - 1 : lane;
      const int32_t place = kSkew == 1 ? first_place - q * kRows : row * kTileWidth + column;
      if (always || (in_tile >> q & 1) != 0) f(q, place);
    }
  }
};

}  // namespace jax_rnnt::cuda
