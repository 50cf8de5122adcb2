// arcs_forward.cuh: log-probabilities of arcs. A group of lanes, at most a warp, reduces a row.
//
// A row is read in vectors of 16 bytes, which are aligned whatever the length of a row is. The first and the last
// vector may reach into the neighbouring rows. Entries of those rows count as -inf.
#pragma once

#include "arcs_words.cuh"

namespace jax_rnnt::cuda {

constexpr unsigned kForwardThreads = 256;

template <class T>
struct ForwardOperands {
  using A = typename Compute<T>::Type;
  Rows<T> rows;
  A* log_probs;
  Norm<A>* norms;
};

// The aligned vectors that cover the entries [row, row + width) of an array. They may reach beyond both ends of the
// row.
template <class T>
struct Vectors {
  static constexpr int kSize = Pack<T>::kSize;
  const T* beginning;  // of the first vector, perhaps before the row
  int32_t head;        // entries of it that are before the row
  int32_t stop;        // entries from the beginning to the end of the row
  int32_t begin,
      count;  // how many vectors lie in the array as a whole; only the first and the last may lie partly outside

  __device__ __forceinline__ Vectors(const T* row, int32_t width, const T* array, const T* array_end)
      : head(static_cast<int32_t>(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(row)) % sizeof(Pack<T>) /
                                  sizeof(T))),
        stop(head + width) {
    beginning = row - head;
    begin = beginning < array ? 1 : 0;
    count = static_cast<int32_t>(static_cast<uint32_t>(stop + kSize - 1) / kSize);
    if (beginning + int64_t{count} * kSize > array_end) --count;
  }
};

template <class A>
struct MaxAndSum {  // the maximum, and the sum of exp(x - max)
  A max, sum;
};

// The number that is subtracted from exponents. It is not -inf, so that a row of -inf still shows a NaN in it.
template <class A>
__device__ __forceinline__ A Origin(A max) {
  return max == -kInfinity<A> ? A(0) : max;
}

template <class A>
__device__ __forceinline__ void Raise(MaxAndSum<A>& all, A top) {
  if (top > all.max) all = {top, all.sum * ExpApprox(all.max - top)};
}

// Adds kUnroll vectors of a lane: vector i and every kLanes-th one behind it. All of them are loaded before the first
// is used. Entries of other rows, and vectors that do not exist, count as -inf.
template <class T, int kLanes, int kUnroll, class A = typename Compute<T>::Type>
__device__ __forceinline__ void ReduceVectors(const Vectors<T>& vectors, int32_t i, MaxAndSum<A>& all) {
  constexpr int kSize = Pack<T>::kSize;
  const int32_t left = vectors.count - i;            // vectors
  const int32_t entries = vectors.stop - i * kSize;  // of the row, from vector i on
  const int32_t before = i == 0 ? vectors.head : 0;  // entries of vector i that are not of the row
  const T* from = vectors.beginning + int64_t{i} * kSize;
  Words words[kUnroll];
#pragma unroll
  for (int j = 0; j < kUnroll; ++j) {
    if (left > j * kLanes) words[j] = BitCast<Words>(ReadPack(from + j * kLanes * kSize));
  }
#pragma unroll
  for (int j = 0; j < kUnroll; ++j) {
    const int32_t first = j == 0 ? before : 0, stop = left > j * kLanes ? entries - j * kLanes * kSize : 0;
    if (first == 0 && stop >= kSize) continue;
    Exclude<T>(words[j], first, stop);
  }
  Raise(all, Largest<T>(words, all.max));
  const A origin = Origin(all.max);
#pragma unroll
  for (int j = 0; j < kUnroll; ++j) {
    A x[kSize];
    Unpack(BitCast<Pack<T>>(words[j]), x);
#pragma unroll
    for (int e = 0; e < kSize; ++e) all.sum += ExpApprox(x[e] - origin);
  }
}

// Adds the entries [first, stop) behind the beginning of a vector, one at a time. Only the ends of the array need this.
template <class T, int kLanes, class A = typename Compute<T>::Type>
__device__ __forceinline__ void ReduceEntries(const T* beginning, int32_t first, int32_t stop, MaxAndSum<A>& all) {
#pragma unroll 1
  for (int32_t p = first; p < stop; p += kLanes) {
    const A x = ToCompute(Read(beginning + p));
    Raise(all, x);
    all.sum += ExpApprox(x - Origin(all.max));
  }
}

// One lane's share of a row: every kLanes-th vector.
template <class T, int kLanes, int kUnroll, class A = typename Compute<T>::Type>
__device__ __forceinline__ MaxAndSum<A> ReduceShare(const Vectors<T>& vectors, int32_t lane) {
  constexpr int kSize = Pack<T>::kSize;
  MaxAndSum<A> all{-kInfinity<A>, 0};
  int32_t i = vectors.begin + lane;
#pragma unroll 1
  for (; i < vectors.count && (i < kLanes || vectors.count - i > kUnroll / 2 * kLanes); i += kLanes * kUnroll) {
    ReduceVectors<T, kLanes, kUnroll>(vectors, i, all);
  }
#pragma unroll 1
  for (; i < vectors.count; i += kLanes) ReduceVectors<T, kLanes, 1>(vectors, i, all);
  if (vectors.begin > 0) {
    ReduceEntries<T, kLanes>(vectors.beginning, vectors.head + lane, MinOf(kSize, vectors.stop), all);
  }
  if (vectors.count * kSize < vectors.stop) {
    ReduceEntries<T, kLanes>(vectors.beginning, MaxOf(vectors.count * kSize, vectors.head) + lane, vectors.stop, all);
  }
  return all;
}

// The log-sum-exp of a row from its lanes' shares. All lanes of the warp must call it.
template <int kLanes, class A>
__device__ __forceinline__ A Combine(MaxAndSum<A> share) {
  A max = share.max;
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    max = MaxOf(max, __shfl_xor_sync(kWholeWarp, max, distance));
  }
  A sum = share.sum * ExpApprox(share.max - Origin(max));
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, distance);
  return max + LogOf(sum);
}

template <class T, int kLanes, int kUnroll>
__global__ void __launch_bounds__(kForwardThreads) ForwardKernel(const __grid_constant__ ForwardOperands<T> operands) {
  using A = typename Compute<T>::Type;
  const Rows<T>& rows = operands.rows;
  const int64_t at = (int64_t{blockIdx.x} * kForwardThreads + threadIdx.x) / kLanes;
  const auto lane = static_cast<int32_t>(threadIdx.x % kLanes);
  const bool exists = at < rows.count;
  const int32_t label = exists ? Read(rows.labels + at) : kPadding;
  const Row kind = RowKind(label, rows.vocabulary);
  const bool live = kind == Row::kLive;
  const T* row = rows.logits + at * rows.width;
  const int32_t offset = exists ? rows.Offset(at) : 0;
  A norm = 0;
  if (rows.window.size() > 0) {
    const Window<int32_t> window = rows.InRow(offset);
    MaxAndSum<A> share{0, 1};
    if (live) {
      const Vectors<T> vectors(row + window.first, window.size(), rows.logits, rows.end);
      share = ReduceShare<T, kLanes, kUnroll>(vectors, lane);
    }
    norm = Combine<kLanes>(share);
    norm = live ? norm : 0;
  }
  if (!exists) return;
  const bool broken = IsBroken(kind, norm);
  const int32_t arcs = live && !broken ? ArcsOf(label, rows.num_columns) : 0;
  A* log_probs = operands.log_probs + at * (rows.num_columns + 1);
#pragma unroll 1
  for (int32_t k = lane; k <= rows.num_columns; k += kLanes) {
    A entry = broken ? kNaN<A> : -kInfinity<A>;
    if (k < arcs) {
      const int32_t column = rows.Column(k, label), place = column - offset;
      const A shift = rows.window.Holds(column) ? Shift(norm) : A(0);
      if (place >= 0 && place < rows.width) entry = ToCompute(Read(row + place)) - shift;
    }
    Write(log_probs + k, entry);
  }
  if (lane == 0) Write(operands.log_norm + at, norm);
}

}  // namespace jax_rnnt::cuda
