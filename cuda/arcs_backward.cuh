// arcs_backward.cuh: the gradient of log-probabilities of arcs. A warp owns a tile of rows, as many as fill whole
// vectors.
//
// So no two warps write into one vector, and only the entries that arcs point to are written one by one. The gradient
// may overwrite the logits. So a warp first computes the entries that arcs point to, and writes them last. The kernel
// takes tiles from the end of the array, because the forward kernel has read that part last: a part of it is still in
// the L2 cache.
#pragma once

#include "rows.cuh"

namespace jax_rnnt::cuda {

constexpr unsigned kBackwardThreads = 128;
constexpr int kBackwardUnroll = 4;
constexpr int64_t kTileEntries = 2048;                                            // about; a warp has 32 rows at most
constexpr int64_t kTileBytes = (int64_t{47} << 10) / (kBackwardThreads / kWarp);  // of shared memory

// floor(n / divisor), by a multiplication, where n * divisor < 2^31 or n < divisor.
struct Quotient {
  uint32_t factor;
  explicit Quotient(int64_t divisor) : factor(static_cast<uint32_t>(((int64_t{1} << 31) + divisor - 1) / divisor)) {}
  __device__ __forceinline__ int32_t operator()(int32_t n) const {
    return static_cast<int32_t>(uint64_t{static_cast<uint32_t>(n)} * factor >> 31);
  }
};

// How the gradient of a row is computed: scale * exp(x - shift), clipped to the limit.
enum class Gradient : int32_t {
  kConstant,  // all entries are `scale`
  kArcs,      // only the entries that arcs point to are not 0
  kSoftmax,   // the softmax, and the arcs
};
template <class A>
struct alignas(16) Terms {
  A shift, scale, limit;
  Gradient gradient;
};

// The description of a warp's tile, in shared memory.
template <class A>
struct Tile {
  Terms<A>* terms;          // of each row
  Window<int32_t>* window;  // of each row
  A* value;                 // of each arc
  int32_t* place;           // of each arc in its row, or -1

  static constexpr size_t Bytes(int32_t rows, int32_t arcs) {
    return (rows * (sizeof(Terms<A>) + sizeof(Window<int32_t>) + arcs * (sizeof(A) + sizeof(int32_t))) + 15) / 16 * 16;
  }
  __device__ __forceinline__ Tile(unsigned char* memory, int32_t rows, int32_t arcs)
      : terms(reinterpret_cast<Terms<A>*>(memory)),
        window(reinterpret_cast<Window<int32_t>*>(terms + rows)),
        value(reinterpret_cast<A*>(window + rows)),
        place(reinterpret_cast<int32_t*>(value + rows * arcs)) {}
};

template <class T>
struct BackwardOperands {
  using A = typename Compute<T>::Type;
  Rows<T> rows;
  const Norm<A>* norms;
  const A *cotangent, *bound;  // bound may be null
  T* grad;
  int32_t tile_rows, tile_bytes;
  int64_t tiles;
  bool aligned;           // the arrays, to vectors
  bool windowed;          // the window is not the whole vocabulary
  bool clipped;           // there is a bound
  Quotient width, arcs;   // to find the row of a lane's first vector, and the row of an arc
  int32_t ahead, beyond;  // the distance from a lane's vector to its next one: whole rows, and further entries
};

// Describes the gradient of row r of a tile whose first row is `begin`. One lane reads the arcs of the row.
template <class T, class A = typename Compute<T>::Type>
__device__ __forceinline__ void DescribeRow(const BackwardOperands<T>& operands, int64_t begin, int32_t r,
                                            const Tile<A>& tile) {
  const Rows<T>& rows = operands.rows;
  const int32_t label = Read(rows.labels + begin + r);
  const Row kind = RowKind(label, rows.vocabulary);
  const Norm<A> norm = Read(operands.norms + begin + r);
  const Window<int32_t> window = rows.InRow(rows.Offset(begin + r));
  const bool broken = IsBroken(kind, norm);
  const A* cotangent = operands.cotangent + begin * (rows.num_columns + 1) + r * (rows.num_columns + 1);
  const int32_t arcs = kind == Row::kPadding ? 0 : ArcsOf(label, rows.num_columns);
  A total = 0;
  bool asked = false;
#pragma unroll 1
  for (int32_t k = 0; k < arcs; ++k) {
    const A own = Read(cotangent + k);
    asked = asked || own != 0;
    if (rows.window.Holds(rows.Column(k, label))) total += own;
  }
  Terms<A> terms;
  terms.shift = IsMassless(norm) ? kInfinity<A> : norm.top;
  terms.limit = operands.bound == nullptr ? kInfinity<A> : Read(operands.bound + begin + r);
  if (kind == Row::kPadding || broken) {
    terms.scale = broken && asked ? kNaN<A> : A(0);
    terms.gradient = Gradient::kConstant;
  } else {
    terms.scale = IsMassless(norm) || window.size() == 0 ? A(0) : -total * ExpApprox(-norm.log_sum);
    terms.gradient = terms.scale == 0 ? Gradient::kArcs : Gradient::kSoftmax;
  }
  tile.terms[r] = terms;
  tile.window[r] = window;
}

// For arc i of a tile: the place that it points to, and the gradient there. If several arcs point to one place, the
// first of them has the sum.
template <class T, class A = typename Compute<T>::Type>
__device__ __forceinline__ void DescribeArc(const BackwardOperands<T>& operands, int64_t begin, int32_t i,
                                            const Tile<A>& tile) {
  const Rows<T>& rows = operands.rows;
  const int32_t r = operands.arcs(i), of_row = r * (rows.num_columns + 1), k = i - of_row;
  const Terms<A> terms = tile.terms[r];
  const int32_t label = Read(rows.labels + begin + r), arcs = ArcsOf(label, rows.num_columns);
  bool has = terms.gradient != Gradient::kConstant && k < arcs;
  const int32_t column = has ? rows.Column(k, label) : 0;  // an invalid label may be any number
  const int32_t place = column - rows.Offset(begin + r);
  const bool inside = rows.window.Holds(column);
  has = has && place >= 0 && place < rows.width;
  if (has) {
    A value = 0;
    if (inside && terms.gradient == Gradient::kSoftmax) {
      const A x = ToCompute(Read(rows.logits + begin * rows.width + int64_t{r} * rows.width + place));
      value = terms.scale * ExpApprox(x - terms.shift);
    }
    const A* cotangent = operands.cotangent + begin * (rows.num_columns + 1) + of_row;
    const bool massless = terms.shift == kInfinity<A>;
#pragma unroll 1
    for (int32_t other = 0; other < arcs; ++other) {
      if (rows.Column(other, label) != column) continue;
      has = has && other >= k;
      if (!(massless && inside)) value += Read(cotangent + other);
    }
    tile.value[i] = Clip(value, terms.limit);
  }
  tile.place[i] = has ? place : -1;
}

// The place of a vector: the row of its first entry, and how many entries of that row come before it.
struct Position {
  int32_t row, before;
};

// Replaces the entries from `first` on, which belong to one row, by their gradient. The entries before it stay.
template <class T, class A, int kSize>
__device__ __forceinline__ void Differentiate(const BackwardOperands<T>& operands, const Tile<A>& tile,
                                              const Terms<A>& terms, Position at, int32_t first, const A (&x)[kSize],
                                              A (&g)[kSize]) {
  if (terms.gradient != Gradient::kSoftmax) {
    const A value = terms.gradient == Gradient::kConstant ? terms.scale : A(0);
#pragma unroll
    for (int e = 0; e < kSize; ++e) g[e] = e < first ? g[e] : value;
    return;
  }
#pragma unroll
  for (int e = 0; e < kSize; ++e) {
    const A softmax = terms.scale * ExpApprox(x[e] - terms.shift);
    g[e] = e < first ? g[e] : softmax;
  }
  if (operands.windowed) {
    const Window<int32_t> window = tile.window[at.row];
#pragma unroll
    for (int e = 0; e < kSize; ++e) g[e] = e < first || window.Holds(at.before + e) ? g[e] : A(0);
  }
  if (operands.clipped) {
#pragma unroll
    for (int e = 0; e < kSize; ++e) g[e] = e < first ? g[e] : Clip(g[e], terms.limit);
  }
}

template <class T>
__global__ void __launch_bounds__(kBackwardThreads)
    BackwardKernel(const __grid_constant__ BackwardOperands<T> operands) {
  using A = typename Compute<T>::Type;
  constexpr int kSize = Pack<T>::kSize, kStep = kWarp;
  const Rows<T>& rows = operands.rows;
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
  const int64_t warp = int64_t{blockIdx.x} * (kBackwardThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t begin = (operands.tiles - 1 - warp) * operands.tile_rows;
  if (begin < 0) return;
  const auto count =
      static_cast<int32_t>(rows.count - begin < operands.tile_rows ? rows.count - begin : operands.tile_rows);
  const int32_t arcs = rows.num_columns + 1;
  JAX_RNNT_DYNAMIC_SHARED(shared);
  const Tile<A> tile(shared + threadIdx.x / kWarp * operands.tile_bytes, operands.tile_rows, arcs);
  if (lane < count) DescribeRow(operands, begin, lane, tile);
  __syncwarp();
#pragma unroll 1
  for (int32_t i = lane; i < count * arcs; i += kWarp) DescribeArc(operands, begin, i, tile);
  __syncwarp();

  const T* logits = rows.logits + begin * rows.width;
  T* grad = operands.grad + begin * rows.width;
  const int64_t entries = int64_t{count} * rows.width;
  const auto vectors = static_cast<int32_t>(operands.aligned ? entries / kSize : 0);
  Position next;
  next.row = operands.width(lane * kSize);
  next.before = lane * kSize - next.row * rows.width;
  for (int32_t i = lane; i < vectors; i += kStep * kBackwardUnroll) {
    Pack<T> packs[kBackwardUnroll];
    Position position[kBackwardUnroll];
    Terms<A> terms[kBackwardUnroll];
#pragma unroll
    for (int j = 0; j < kBackwardUnroll; ++j) {
      const int32_t v = i + j * kStep;
      position[j] = next;
      next.row += operands.ahead;
      next.before += operands.beyond;
      if (next.before >= rows.width) {
        next.before -= rows.width;
        ++next.row;
      }
      if (v >= vectors) continue;
      terms[j] = tile.terms[position[j].row];
      // A row whose gradient is 0 is not read, unless a vector of a neighbouring row reaches into it.
      if (terms[j].gradient == Gradient::kSoftmax || position[j].before > rows.width - kSize) {
        packs[j] = ReadPack(logits + int64_t{v} * kSize);
      }
    }
#pragma unroll
    for (int j = 0; j < kBackwardUnroll; ++j) {
      const int32_t v = i + j * kStep;
      if (v >= vectors) continue;
      A x[kSize], g[kSize];
      Unpack(packs[j], x);
      Position at = position[j];
      Differentiate<T>(operands, tile, terms[j], at, 0, x, g);
#pragma unroll 1
      for (int32_t first = rows.width - at.before; first < kSize; first += rows.width) {
        ++at.row;
        at.before = -first;
        Differentiate<T>(operands, tile, tile.terms[at.row], at, first, x, g);
      }
      WritePack(grad + int64_t{v} * kSize, PackOf<T>(g));
    }
  }
  // The entries at the array's end that fill no vector. If XLA's arrays are not aligned, all entries.
#pragma unroll 1
  for (int64_t p = int64_t{vectors} * kSize + lane; p < entries; p += kWarp) {
    const auto row = static_cast<int32_t>(p / rows.width);
    const Position at{row, static_cast<int32_t>(p - int64_t{row} * rows.width)};
    const A x[1] = {ToCompute(Read(logits + p))};
    A g[1];
    Differentiate<T>(operands, tile, tile.terms[row], at, 0, x, g);
    Write(grad + p, FromCompute<T>(g[0]));
  }
  __syncwarp();
#pragma unroll 1
  for (int32_t i = lane; i < count * arcs; i += kWarp) {
    const int32_t r = operands.arcs(i);
    if (tile.place[i] >= 0) Write(grad + int64_t{r} * rows.width + tile.place[i], FromCompute<T>(tile.value[i]));
  }
}

}  // namespace jax_rnnt::cuda
