// hidden_rows.cuh: hidden rows, and the sums of their gradients over each frame and over each position.
//
// A thread of the first kernel makes four vectors of rows, or two of float64. The inputs are small, so they come from
// the caches: the kernel moves the bytes that it writes. In the second one a thread owns a vector of columns of a
// frame, or of a position, and adds up the rows of its nodes. So no two threads write to one place, and the order of
// the sums does not depend on who runs first. The derivative is computed from encoded + predicted, which stand in the
// caches. So each of the two launches reads the gradient of the rows once and nothing else of their size.
#pragma once

#include "activation.cuh"
#include "divisor.h"
#include "hidden_rows.h"
#include "philox.cuh"

namespace jax_rnnt::cuda {

constexpr int kHiddenThreads = 256;
template <class T>
constexpr int kHiddenVectors = sizeof(T) == 8 ? 2 : 4;  // of a thread
constexpr int kSumThreads = 256;
constexpr int kSumParts = 4;  // that share the rows of a frame or a position
constexpr int kSumVectors = kSumThreads / kSumParts;
constexpr int kSumRows = 4;  // under way at once

template <class A>
struct Dropout {
  const uint32_t* seed;
  uint32_t dropped;
  A scale;

  Dropout(const uint32_t* seed, int32_t dropped)
      : seed(seed),
        dropped(static_cast<uint32_t>(dropped)),
        scale(static_cast<A>(double{kDropoutSteps} / (kDropoutSteps - dropped))) {}
};

// Multiplies the entries of vector v of a node's row by the factors of dropout.
template <class T, class A = typename Compute<T>::Type>
__device__ __forceinline__ void Drop(const Dropout<A>& dropout, int32_t b, int32_t t, int32_t u, int32_t v,
                                     A (&x)[Pack<T>::kSize]) {
  if (dropout.dropped == 0) return;
  constexpr int kSize = Pack<T>::kSize, kVectors = kColumnsOfBits / kSize;
  const Philox bits = PhiloxOf(static_cast<uint32_t>(v / kVectors), static_cast<uint32_t>(u), static_cast<uint32_t>(t),
                               static_cast<uint32_t>(b), Read(dropout.seed), Read(dropout.seed + 1));
  const int first = v % kVectors * kSize;
#pragma unroll
  for (int e = 0; e < kColumnsOfBits; ++e) {
    const bool stays = BitsOf(bits, e) >= dropout.dropped;
    if (e >= first && e < first + kSize) x[e % kSize] = stays ? x[e % kSize] * dropout.scale : A(0);
  }
}

template <class T>
struct HiddenOperands {
  const T *encoded, *predicted;
  const int32_t* place;
  T* hidden;
  Dropout<typename Compute<T>::Type> dropout;
  int64_t rows;
  int32_t nodes, vectors;
  Divisor of_vectors, positions, frames;
};

template <class T, int kActivation>
__global__ void __launch_bounds__(kHiddenThreads) HiddenKernel(const __grid_constant__ HiddenOperands<T> operands) {
  using A = typename Compute<T>::Type;
  constexpr int kSize = Pack<T>::kSize, kVectors = kHiddenVectors<T>;
  const int32_t vectors = operands.vectors;
  const int64_t begin = int64_t{blockIdx.x} * (kHiddenThreads * kVectors);
  const int64_t first_row = begin / vectors;
  const auto ahead = static_cast<int32_t>(begin - first_row * vectors + threadIdx.x);
  int64_t to[kVectors];
  int32_t b[kVectors], t[kVectors], u[kVectors], v[kVectors];
  Pack<T> of_frame[kVectors], of_position[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int32_t item = ahead + i * kHiddenThreads, down = operands.of_vectors(item);
    const int64_t row = first_row + down;
    v[i] = item - down * vectors;
    to[i] = row < operands.rows ? row * vectors + v[i] : -1;
    const int32_t place = to[i] < 0 ? 0 : MinOf(MaxOf(Read(operands.place + row), 0), operands.nodes - 1);
    const int32_t frame = operands.positions(place);
    b[i] = operands.frames(frame);
    t[i] = frame - b[i] * static_cast<int32_t>(operands.frames.divisor);
    const auto of_utterance = static_cast<int32_t>(operands.positions.divisor);
    u[i] = place - frame * of_utterance;
    const int64_t position = int64_t{b[i]} * of_utterance + u[i];
    of_frame[i] = ReadPack(operands.encoded + (int64_t{frame} * vectors + v[i]) * kSize);
    of_position[i] = ReadPack(operands.predicted + (position * vectors + v[i]) * kSize);
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (to[i] < 0) continue;
    A x[kSize], y[kSize];
    Unpack(of_frame[i], x);
    Unpack(of_position[i], y);
#pragma unroll
    for (int e = 0; e < kSize; ++e) x[e] = Activation<T, kActivation>::Value(x[e] + y[e]);
    Drop<T>(operands.dropout, b[i], t[i], u[i], v[i], x);
    WritePack(operands.hidden + to[i] * kSize, PackOf<T>(x));
  }
}

// The sums of frames or of positions, which are the lines here. Along a line, the steps are the other ones.
template <class T>
struct SumOperands {
  using A = typename Compute<T>::Type;
  const T *gradient, *own, *other;  // rows of the tile, of lines, of steps
  const A* before;
  A* sums;
  const int32_t *place, *row;
  Dropout<A> dropout;
  int64_t rows, lines;
  int32_t nodes, vectors;
  int32_t frames, positions;  // of an utterance
  int32_t blocks;
  bool of_frames;
};

// What of the lines and steps the tile has rows of.
struct Range {
  int32_t first_row;                // of the tile, counted from the first tile on
  int32_t first_frame, last_frame;  // in the batch
  int32_t first_utterance, last_utterance;
};

template <class T>
__device__ __forceinline__ Range RangeOf(const SumOperands<T>& operands) {
  const int32_t first = MinOf(MaxOf(Read(operands.place), 0), operands.nodes - 1);
  const int32_t last = MinOf(MaxOf(Read(operands.place + operands.rows - 1), 0), operands.nodes - 1);
  const int32_t from = first / operands.positions, to = last / operands.positions;
  return {Read(operands.row + first), from, to, from / operands.frames, to / operands.frames};
}

// Adds the rows of steps [begin, stop) of a line to x. A node's place is node + step * stride.
template <class T, int kActivation, class A = typename Compute<T>::Type>
__device__ __forceinline__ void AddSteps(const SumOperands<T>& operands, int32_t first_row, int32_t b, int32_t j,
                                         int32_t v, int32_t begin, int32_t stop, A (&sum)[Pack<T>::kSize]) {
  constexpr int kSize = Pack<T>::kSize;
  const int32_t frames = operands.frames, positions = operands.positions;
  const bool of_frames = operands.of_frames;
  const int64_t line = int64_t{b} * (of_frames ? frames : positions) + j;
  const int64_t first_step = int64_t{b} * (of_frames ? positions : frames);
  const int32_t node = of_frames ? (b * frames + j) * positions : b * frames * positions + j;
  const int32_t stride = of_frames ? 1 : positions;
  A own[kSize];
  Unpack(ReadPack(operands.own + (line * operands.vectors + v) * kSize), own);
#pragma unroll 1
  for (int32_t step = begin; step < stop; step += kSumRows) {
    int32_t row[kSumRows];
#pragma unroll
    for (int i = 0; i < kSumRows; ++i) {
      row[i] = step + i < stop ? Read(operands.row + node + (step + i) * stride) - first_row : -1;
    }
    Pack<T> gradient[kSumRows] = {}, other[kSumRows] = {};
#pragma unroll
    for (int i = 0; i < kSumRows; ++i) {
      if (row[i] < 0 || row[i] >= operands.rows) continue;
      gradient[i] = ReadPack(operands.gradient + (int64_t{row[i]} * operands.vectors + v) * kSize);
      other[i] = ReadPack(operands.other + ((first_step + step + i) * operands.vectors + v) * kSize);
    }
#pragma unroll
    for (int i = 0; i < kSumRows; ++i) {
      if (row[i] < 0 || row[i] >= operands.rows) continue;
      A g[kSize], x[kSize];
      Unpack(gradient[i], g);
      Unpack(other[i], x);
#pragma unroll
      for (int e = 0; e < kSize; ++e) g[e] *= Activation<T, kActivation>::Slope(own[e] + x[e]);
      Drop<T>(operands.dropout, b, of_frames ? j : step + i, of_frames ? step + i : j, v, g);
#pragma unroll
      for (int e = 0; e < kSize; ++e) sum[e] += g[e];
    }
  }
}

template <class T, int kActivation>
__global__ void __launch_bounds__(kSumThreads) HiddenSumsKernel(const __grid_constant__ SumOperands<T> operands) {
  using A = typename Compute<T>::Type;
  constexpr int kSize = Pack<T>::kSize;
  JAX_RNNT_DYNAMIC_SHARED(memory);
  A* const of_parts = reinterpret_cast<A*>(memory);
  const auto part = static_cast<int32_t>(threadIdx.x) / kSumVectors;
  const auto lane = static_cast<int32_t>(threadIdx.x) % kSumVectors;
  const Range range = RangeOf(operands);
  const int32_t of_utterance = operands.of_frames ? operands.frames : operands.positions;
  // In place, what the tile has no rows of stays as it is.
  const bool everything = operands.sums != operands.before;
  int64_t begin = 0, end = operands.lines;
  if (!everything) {
    begin = operands.of_frames ? range.first_frame : int64_t{range.first_utterance} * of_utterance;
    end = operands.of_frames ? range.last_frame + 1 : int64_t{range.last_utterance + 1} * of_utterance;
  }
  begin *= operands.vectors;
  end *= operands.vectors;
  const int64_t jump = int64_t{operands.blocks} * kSumVectors;
  for (int64_t start = begin + int64_t{blockIdx.x} * kSumVectors; start < end; start += jump) {
    const int64_t item = start + lane;
    A sum[kSize] = {};
    if (item < end) {
      const auto line = static_cast<int32_t>(item / operands.vectors);
      const auto v = static_cast<int32_t>(item - int64_t{line} * operands.vectors);
      const int32_t b = line / of_utterance, j = line - b * of_utterance;
      int32_t from = 0, to = operands.positions;
      if (!operands.of_frames) {
        from = b == range.first_utterance ? range.first_frame - b * operands.frames : 0;
        to = b == range.last_utterance ? range.last_frame - b * operands.frames + 1 : operands.frames;
      }
      const int32_t share = (to - from + kSumParts - 1) / kSumParts;
      AddSteps<T, kActivation>(operands, range.first_row, b, j, v, from + part * share,
                               MinOf(from + (part + 1) * share, to), sum);
    }
    if (part > 0) {
#pragma unroll
      for (int e = 0; e < kSize; ++e) of_parts[((part - 1) * kSize + e) * kSumVectors + lane] = sum[e];
    }
    __syncthreads();
    if (part == 0 && item < end) {
#pragma unroll
      for (int e = 0; e < kSize; ++e) {
#pragma unroll
        for (int p = 0; p < kSumParts - 1; ++p) sum[e] += of_parts[(p * kSize + e) * kSumVectors + lane];
        Write(operands.sums + item * kSize + e, Read(operands.before + item * kSize + e) + sum[e]);
      }
    }
    __syncthreads();
  }
}

}  // namespace jax_rnnt::cuda
