// arcs.cu: operation 1 on a GPU. A group of lanes, at most a warp, shares a row; no group waits for another.
//
// A row is read once, in vectors of 16 bytes that are aligned whatever its length: the first and the last of them may
// reach into the neighbouring rows, and there single entries are read and written instead.
#include "arcs.h"
#include "device.cuh"

namespace jax_rnnt::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <class T, class A = typename Compute<T>::Type>
struct Rows {
  const T* logits;
  const int32_t* labels;
  const int32_t* offsets;  // or null
  int64_t count;
  int32_t width, vocabulary;
  int32_t num_columns, columns[kMaxColumns];
  Window<int32_t> window;  // in the whole vocabulary
  A* log_probs;            // forward writes
  A* log_norm;             // forward writes, backward reads
  const A* cotangent;      // backward reads
  const A* bound;          // backward reads, or null
  T* grad;                 // backward writes
};

// The aligned vectors over one row.
template <class T>
struct Vectors {
  static constexpr int kSize = Pack<T>::kSize;
  int32_t head;  // entries between the first vector's beginning and the row's
  int32_t width, count;

  __device__ __forceinline__ Vectors(const T* row, int32_t width)
      : head(static_cast<int32_t>(reinterpret_cast<uintptr_t>(row) % sizeof(Pack<T>) / sizeof(T))),
        width(width),
        count((head + width + kSize - 1) / kSize) {}

  // The place in the row of a vector's first entry: negative in the first vector if it reaches before the row.
  __device__ __forceinline__ int32_t First(int32_t i) const { return i * kSize - head; }

  // A vector, with `outside` for what is not of the row.
  __device__ __forceinline__ Pack<T> Load(const T* row, int32_t i, T outside) const {
    const int32_t first = First(i);
    if (first >= 0 && first + kSize <= width) return ReadPack(row + first);
    Pack<T> pack;
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const int32_t place = first + e;
      pack.at[e] = place >= 0 && place < width ? Read(row + place) : outside;
    }
    return pack;
  }

  // To another row, which is `alike` if it is aligned as this one is.
  __device__ __forceinline__ void Store(T* row, int32_t i, const Pack<T>& pack, bool alike) const {
    const int32_t first = First(i);
    if (alike && first >= 0 && first + kSize <= width) return WritePack(row + first, pack);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const int32_t place = first + e;
      if (place >= 0 && place < width) Write(row + place, pack.at[e]);
    }
  }
};

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();
template <class A>
constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();

template <class A>
struct MaxAndSum {  // the maximum, and the sum of exp(x - max)
  A max, sum;
};

// exp(x - max), also for entries of -inf where no others have been seen; NaN and +inf must show.
template <class A>
__device__ __forceinline__ A Shifted(A x, A max) {
  return ExpOf(x - (max == -kInfinity<A> ? A(0) : max));
}

// One lane's share of a row: every kLanes-th vector, kUnroll of them on their way from memory at once.
template <class T, int kLanes, int kUnroll, class A = typename Compute<T>::Type>
__device__ __forceinline__ MaxAndSum<A> ReduceShare(const T* row, int32_t width, int32_t lane) {
  const Vectors<T> vectors(row, width);
  const T nothing = FromCompute<T>(-kInfinity<A>);
  MaxAndSum<A> all{-kInfinity<A>, 0};
  for (int32_t i = lane; i < vectors.count; i += kLanes * kUnroll) {
    Pack<T> packs[kUnroll];
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) packs[j] = vectors.Load(row, i + j * kLanes, nothing);
    A top = all.max;
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
#pragma unroll
      for (int e = 0; e < Pack<T>::kSize; ++e) {
        const A x = ToCompute(packs[j].at[e]);
        top = x > top ? x : top;
      }
    }
    if (top > all.max) all = {top, all.sum * Shifted(all.max, top)};
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
#pragma unroll
      for (int e = 0; e < Pack<T>::kSize; ++e) all.sum += Shifted(ToCompute(packs[j].at[e]), all.max);
    }
  }
  return all;
}

// The log-sum-exp of a row from its lanes' shares. All lanes of the warp must call it.
template <int kLanes, class A>
__device__ __forceinline__ A Combine(MaxAndSum<A> share) {
  A max = share.max;
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const A other = __shfl_xor_sync(kWholeWarp, max, distance);
    max = other > max ? other : max;
  }
  A sum = share.sum * Shifted(share.max, max);
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, distance);
  return max + LogOf(sum);
}

// The entry of the vocabulary that arc k of a live row points to.
template <class T>
__device__ __forceinline__ int32_t Column(const Rows<T>& rows, int32_t k, int32_t label) {
  return k < rows.num_columns ? rows.columns[k] : label;
}

template <int kLanes>
struct Lane {
  int64_t row;
  int32_t lane;
  __device__ __forceinline__ Lane()
      : row((int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanes),
        lane(static_cast<int32_t>(threadIdx.x) % kLanes) {}
};

template <class T, int kLanes, int kUnroll>
__global__ void __launch_bounds__(kThreads) ForwardKernel(const __grid_constant__ Rows<T> rows) {
  using A = typename Compute<T>::Type;
  const Lane<kLanes> at;
  const bool exists = at.row < rows.count;
  const int32_t label = exists ? Read(rows.labels + at.row) : kPadding;
  const Row kind = RowKind(label, rows.vocabulary);
  const T* row = rows.logits + at.row * rows.width;
  const int32_t offset = rows.offsets == nullptr || !exists ? 0 : Read(rows.offsets + at.row);
  A norm = 0;
  if (rows.window.size() > 0) {
    const Window<int32_t> window = rows.window.InRow(offset, rows.width);
    MaxAndSum<A> share{0, 1};
    if (kind == Row::kLive) share = ReduceShare<T, kLanes, kUnroll>(row + window.first, window.size(), at.lane);
    norm = Combine<kLanes>(share);
    if (kind != Row::kLive) norm = 0;
  }
  if (!exists) return;
  const bool broken = IsBroken(kind, norm);
  const int32_t arcs = kind == Row::kLive && !broken ? ArcsOf(label, rows.num_columns) : 0;
  for (int32_t k = at.lane; k <= rows.num_columns; k += kLanes) {
    A entry = broken ? kNaN<A> : -kInfinity<A>;
    if (k < arcs) {
      const int32_t column = Column(rows, k, label), place = column - offset;
      const A shift = rows.window.Holds(column) ? Shift(norm) : A(0);
      if (place >= 0 && place < rows.width) entry = ToCompute(Read(row + place)) - shift;
    }
    Write(rows.log_probs + at.row * (rows.num_columns + 1) + k, entry);
  }
  if (at.lane == 0) Write(rows.log_norm + at.row, norm);
}

template <class T, int kLanes, int kUnroll>
__global__ void __launch_bounds__(kThreads) BackwardKernel(const __grid_constant__ Rows<T> rows) {
  using A = typename Compute<T>::Type;
  constexpr int kSize = Pack<T>::kSize;
  const Lane<kLanes> at;
  if (at.row >= rows.count) return;
  const int32_t label = Read(rows.labels + at.row);
  const Row kind = RowKind(label, rows.vocabulary);
  const A norm = Read(rows.log_norm + at.row);
  const T* row = rows.logits + at.row * rows.width;
  T* grad = rows.grad + at.row * rows.width;
  const Vectors<T> vectors(row, rows.width);
  const bool alike = Vectors<T>(grad, rows.width).head == vectors.head;  // XLA's arrays are
  const int32_t arcs = ArcsOf(label, rows.num_columns);
  const A* cotangent = rows.cotangent + at.row * (rows.num_columns + 1);
  const bool broken = IsBroken(kind, norm);
  if (kind == Row::kPadding || broken) {
    A value = 0;
#pragma unroll 1
    for (int32_t k = 0; broken && k < arcs; ++k) value = Read(cotangent + k) == 0 ? value : kNaN<A>;
    Pack<T> constant;
#pragma unroll
    for (int e = 0; e < kSize; ++e) constant.at[e] = FromCompute<T>(value);
    for (int32_t i = at.lane; i < vectors.count; i += kLanes) vectors.Store(grad, i, constant, alike);
    return;
  }
  const int32_t offset = rows.offsets == nullptr ? 0 : Read(rows.offsets + at.row);
  const Window<int32_t> window = rows.window.InRow(offset, rows.width);
  const bool massless = IsMassless(norm);
  A total = 0;
#pragma unroll 1
  for (int32_t k = 0; k < arcs; ++k) total += rows.window.Holds(Column(rows, k, label)) ? Read(cotangent + k) : A(0);
  const A scale = massless || window.size() == 0 ? A(0) : -total, shift = Shift(norm);
  const A limit = rows.bound == nullptr ? kInfinity<A> : Read(rows.bound + at.row);
  // Of this lane's vectors, the i-th of every 32 may hold more than a softmax where bit i is set: an arc's entry, or
  // entries outside of the window.
  uint32_t special = 0;
#pragma unroll 1
  for (int32_t k = 0; k < arcs; ++k) {
    const int32_t column = Column(rows, k, label), place = column - offset;
    if (place < 0 || place >= rows.width) continue;  // in another part of the vocabulary
    const int32_t i = (place + vectors.head) / kSize;
    if (i % kLanes == at.lane) special |= 1u << (i / kLanes % 32);
  }
#pragma unroll 1
  for (int32_t i = at.lane; window.size() < rows.width && i < vectors.count; i += kLanes) {
    const int32_t first = vectors.First(i);
    if (first < window.first || first + kSize > window.stop) special |= 1u << (i / kLanes % 32);
  }
  const T nothing = FromCompute<T>(-kInfinity<A>);  // has the gradient 0
  for (int32_t step = 0; step * kLanes < vectors.count; step += kUnroll) {
    Pack<T> packs[kUnroll];
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      const int32_t i = (step + j) * kLanes + at.lane;
      packs[j] = vectors.Load(row, scale == 0 ? vectors.count : i, nothing);  // without a gradient, a row is not read
    }
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      const int32_t i = (step + j) * kLanes + at.lane;
      A g[kSize];
#pragma unroll
      for (int e = 0; e < kSize; ++e) g[e] = scale * ExpOf(ToCompute(packs[j].at[e]) - shift);
      if (special >> ((step + j) % 32) & 1u) {
#pragma unroll
        for (int e = 0; e < kSize; ++e) g[e] = rows.window.Holds(vectors.First(i) + e + offset) ? g[e] : A(0);
#pragma unroll 1
        for (int32_t k = 0; k < arcs; ++k) {
          const int32_t column = Column(rows, k, label), place = column - offset - vectors.First(i);
          if (place < 0 || place >= kSize || (massless && rows.window.Holds(column))) continue;
          const A own = Read(cotangent + k);
#pragma unroll
          for (int e = 0; e < kSize; ++e) g[e] += place == e ? own : A(0);
        }
      }
      Pack<T> result;
#pragma unroll
      for (int e = 0; e < kSize; ++e) result.at[e] = FromCompute<T>(Clip(g[e], limit));
      vectors.Store(grad, i, result, alike);
    }
  }
}

// Lanes for a row and vectors for a lane, so that little of either is left over.
template <class T, class F>
LaunchResult ForWidth(int64_t width, const F& f) {
  const int64_t vectors = width / Pack<T>::kSize + (width % Pack<T>::kSize == 0 ? 0 : 2);
  if (vectors <= 8) return f(std::integral_constant<int, 8>{}, std::integral_constant<int, 1>{});
  if (vectors <= 16) return f(std::integral_constant<int, 8>{}, std::integral_constant<int, 2>{});
  if (vectors <= 32) return f(std::integral_constant<int, 16>{}, std::integral_constant<int, 2>{});
  return f(std::integral_constant<int, 32>{}, std::integral_constant<int, 4>{});
}

template <class T>
Rows<T> Describe(const ArcsShape& shape, int64_t count, const T* logits, const int32_t* labels,
                 const int32_t* offsets) {
  Rows<T> rows{};
  rows.logits = logits;
  rows.labels = labels;
  rows.offsets = offsets;
  rows.count = count;
  rows.width = static_cast<int32_t>(shape.width);
  rows.vocabulary = static_cast<int32_t>(shape.vocabulary);
  rows.num_columns = static_cast<int32_t>(shape.num_columns);
  for (int64_t k = 0; k < shape.num_columns; ++k) rows.columns[k] = static_cast<int32_t>(shape.columns[k]);
  rows.window = {static_cast<int32_t>(shape.window.first), static_cast<int32_t>(shape.window.stop)};
  return rows;
}

int64_t Blocks(int64_t rows, int lanes) {
  const int64_t rows_a_block = kThreads / lanes;
  return (rows + rows_a_block - 1) / rows_a_block;
}

}  // namespace

template <class T>
LaunchResult ArcsForward(cudaStream_t stream, const ArcsShape& shape, int64_t count, const T* logits,
                         const int32_t* labels, const int32_t* offsets, typename Compute<T>::Type* log_probs,
                         typename Compute<T>::Type* log_norm) {
  Rows<T> rows = Describe(shape, count, logits, labels, offsets);
  rows.log_probs = log_probs;
  rows.log_norm = log_norm;
  return ForWidth<T>(shape.width, [&](auto lanes, auto unroll) {
    return Launch("ArcsForward", &ForwardKernel<T, lanes(), unroll()>, Blocks(count, lanes()), kThreads, 0, stream,
                  rows);
  });
}

template <class T>
LaunchResult ArcsBackward(cudaStream_t stream, const ArcsShape& shape, int64_t count, const T* logits,
                          const int32_t* labels, const int32_t* offsets, const typename Compute<T>::Type* log_norm,
                          const typename Compute<T>::Type* cotangent, const typename Compute<T>::Type* bound, T* grad) {
  Rows<T> rows = Describe(shape, count, logits, labels, offsets);
  rows.log_norm = const_cast<typename Compute<T>::Type*>(log_norm);
  rows.cotangent = cotangent;
  rows.bound = bound;
  rows.grad = grad;
  return ForWidth<T>(shape.width, [&](auto lanes, auto unroll) {
    return Launch("ArcsBackward", &BackwardKernel<T, lanes(), unroll()>, Blocks(count, lanes()), kThreads, 0, stream,
                  rows);
  });
}

#define JAX_RNNT_INSTANTIATE(T)                                                                            \
  template LaunchResult ArcsForward<T>(cudaStream_t, const ArcsShape&, int64_t, const T*, const int32_t*,  \
                                       const int32_t*, Compute<T>::Type*, Compute<T>::Type*);              \
  template LaunchResult ArcsBackward<T>(cudaStream_t, const ArcsShape&, int64_t, const T*, const int32_t*, \
                                        const int32_t*, const Compute<T>::Type*, const Compute<T>::Type*,  \
                                        const Compute<T>::Type*, T*);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
JAX_RNNT_INSTANTIATE(Half)
JAX_RNNT_INSTANTIATE(BFloat16)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
