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

// In a row that is sure, the maximum's 1 takes digits of a sum. Where few lanes share a row, each lane leaves out its
// maxima and counts them. Elsewhere the row is long, and that would cost more than to add up one share again, but not
// in float64, whose exponentials take many instructions.
template <class A, int kLanes>
constexpr bool kLeavesOut = kLanes < 8 || sizeof(A) == 8;

template <class A>
struct Share {
  A max, sum;      // sum of exp(x - max), without the maxima that were left out
  int32_t maxima;  // that were left out
};

// The number that is subtracted from exponents. It is not -inf, so that a row of -inf still shows a NaN in it.
template <class A>
__device__ __forceinline__ A Origin(A max) {
  return max == -kInfinity<A> ? A(0) : max;
}

template <bool kLeaveOut, class A>
__device__ __forceinline__ void Raise(Share<A>& all, A top) {
  if (!(top > all.max)) return;
  const A before = kLeaveOut ? all.sum + static_cast<A>(all.maxima) : all.sum;
  all = {top, before * ExpApprox(all.max - top), 0};
}

template <bool kLeaveOut, class A>
__device__ __forceinline__ void Add(Share<A>& all, A x, A origin) {
  const A below = x - origin, e = ExpApprox(below);
  const bool out = kLeaveOut && below == 0;  // not where the maximum is +inf: there it is NaN
  if constexpr (sizeof(A) == 8) {            // as a choice, nvcc would jump around each exponential
    all.sum += e - (out ? A(1) : A(0));
    all.maxima += out ? 1 : 0;
  } else if (out) {
    ++all.maxima;
  } else {
    all.sum += e;
  }
}

// Adds kUnroll vectors of a lane: vector i and every kLanes-th one behind it. All of them are loaded before the first
// is used. Entries of other rows, and vectors that do not exist, count as -inf.
template <class T, int kLanes, int kUnroll, class A = typename Compute<T>::Type>
__device__ __forceinline__ void ReduceVectors(const Vectors<T>& vectors, int32_t i, Share<A>& all) {
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
  Raise<kLeavesOut<A, kLanes>>(all, Largest<T>(words, all.max));
  const A origin = Origin(all.max);
#pragma unroll
  for (int j = 0; j < kUnroll; ++j) {
    A x[kSize];
    Unpack(BitCast<Pack<T>>(words[j]), x);
#pragma unroll
    for (int e = 0; e < kSize; ++e) Add<kLeavesOut<A, kLanes>>(all, x[e], origin);
  }
}

// Calls f with each entry of a lane's share that lies in no whole vector of the array. Only the array's ends have some.
template <int kLanes, class T, class F>
__device__ __forceinline__ void ForEdges(const Vectors<T>& vectors, int32_t lane, const F& f) {
  constexpr int kSize = Pack<T>::kSize;
  if (vectors.begin > 0) {
#pragma unroll 1
    for (int32_t p = vectors.head + lane; p < MinOf(kSize, vectors.stop); p += kLanes) {
      f(ToCompute(Read(vectors.beginning + p)));
    }
  }
  if (vectors.count * kSize < vectors.stop) {
#pragma unroll 1
    for (int32_t p = MaxOf(vectors.count * kSize, vectors.head) + lane; p < vectors.stop; p += kLanes) {
      f(ToCompute(Read(vectors.beginning + p)));
    }
  }
}

// One lane's share of a row: every kLanes-th vector.
template <class T, int kLanes, int kUnroll, class A = typename Compute<T>::Type>
__device__ __forceinline__ Share<A> ReduceShare(const Vectors<T>& vectors, int32_t lane) {
  Share<A> all{-kInfinity<A>, 0, 0};
  int32_t i = vectors.begin + lane;
#pragma unroll 1
  for (; i < vectors.count && (i < kLanes || vectors.count - i > kUnroll / 2 * kLanes); i += kLanes * kUnroll) {
    ReduceVectors<T, kLanes, kUnroll>(vectors, i, all);
  }
#pragma unroll 1
  for (; i < vectors.count; i += kLanes) ReduceVectors<T, kLanes, 1>(vectors, i, all);
  ForEdges<kLanes>(vectors, lane, [&](A x) {
    Raise<kLeavesOut<A, kLanes>>(all, x);
    Add<kLeavesOut<A, kLanes>>(all, x, Origin(all.max));
  });
  return all;
}

// The sum of exp(x - max) over the share of the lane `owner` that holds the maximum of its row, without the maximum,
// which occurs once. All lanes of the row work on it: this is what `lane` of them finds.
template <class T, int kLanes, class A = typename Compute<T>::Type>
__device__ __forceinline__ A RestOfShare(const Vectors<T>& vectors, int32_t owner, int32_t lane, A max) {
  constexpr int kSize = Pack<T>::kSize;
  A rest = 0;
#pragma unroll 1
  for (int32_t i = vectors.begin + owner + lane * kLanes; i < vectors.count; i += kLanes * kLanes) {
    Words words = BitCast<Words>(ReadPack(vectors.beginning + int64_t{i} * kSize));
    const int32_t first = i == 0 ? vectors.head : 0, stop = vectors.stop - i * kSize;
    if (first > 0 || stop < kSize) Exclude<T>(words, first, stop);
    A x[kSize];
    Unpack(BitCast<Pack<T>>(words), x);
#pragma unroll
    for (int e = 0; e < kSize; ++e) rest += x[e] == max ? A(0) : ExpApprox(x[e] - max);
  }
  if (lane != owner) return rest;
  ForEdges<kLanes>(vectors, lane, [&](A x) { rest += x == max ? A(0) : ExpApprox(x - max); });
  return rest;
}

// The norm of a row from its lanes' shares. All lanes of the warp must call it. Where the sum is below 1.5, the maximum
// occurs once, and its 1 has taken digits of the sum of its lane.
template <class T, int kLanes, class A = typename Compute<T>::Type>
__device__ __forceinline__ Norm<A> Combine(const Vectors<T>& vectors, int32_t lane, bool live, Share<A> share) {
  A max = share.max;
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    max = MaxOf(max, __shfl_xor_sync(kWholeWarp, max, distance));
  }
  const A below = ExpApprox(share.max - Origin(max));
  if constexpr (kLeavesOut<A, kLanes>) {
    const bool has = share.max == max;  // else its maxima are some of the others
    A rest = has ? share.sum : (share.sum + static_cast<A>(share.maxima)) * below;
    int32_t maxima = has ? share.maxima : 0;
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      rest += __shfl_xor_sync(kWholeWarp, rest, distance);
      maxima += __shfl_xor_sync(kWholeWarp, maxima, distance);
    }
    return {max, Log1pOf(max == -kInfinity<A> ? rest : rest + static_cast<A>(maxima - 1))};
  } else {
    const A own = share.sum * below;
    A sum = own;
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, distance);
    A rest = max == -kInfinity<A> ? sum : sum - 1;
    const bool sure = live && rest < A(0.5) && max > -kInfinity<A>;
    if (__any_sync(kWholeWarp, sure)) {  // what that lane has added up is added up again
      int32_t owner = share.max == max ? lane : 0;
#pragma unroll
      for (int distance = kLanes / 2; distance > 0; distance /= 2) {
        owner = MaxOf(owner, __shfl_xor_sync(kWholeWarp, owner, distance));
      }
      A again = lane == owner ? A(0) : own;
      if (sure) again += RestOfShare<T, kLanes>(vectors, owner, lane, max);
#pragma unroll
      for (int distance = kLanes / 2; distance > 0; distance /= 2) {
        again += __shfl_xor_sync(kWholeWarp, again, distance);
      }
      rest = sure ? again : rest;
    }
    return {max, Log1pOf(rest)};
  }
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
  Norm<A> norm{0, 0};
  if (rows.window.size() > 0) {
    const Window<int32_t> window = rows.InRow(offset);
    const Vectors<T> vectors(row + window.first, window.size(), rows.logits, rows.end);
    Share<A> share{0, 1, 0};
    if (live) share = ReduceShare<T, kLanes, kUnroll>(vectors, lane);
    norm = Combine<T, kLanes>(vectors, lane, live, share);
    if (!live) norm = {0, 0};
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
      if (place >= 0 && place < rows.width) {
        const A x = ToCompute(Read(row + place));
        entry = rows.window.Holds(column) ? Normalised(x, norm) : x;
      }
    }
    Write(log_probs + k, entry);
  }
  if (lane == 0) Write(operands.norms + at, norm);
}

}  // namespace jax_rnnt::cuda
