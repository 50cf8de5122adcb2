// rows.h: the loops of operation 1 over rows of logits.
//
// Everything runs in lanes: entries l, l + kLanes, l + 2 kLanes ... of a row belong to lane l, and loops over the lanes
// have a constant length, which compilers turn into vectors without remainders. Where a row is no multiple of kLanes
// long, its last piece overlaps the one before. What a row costs beside its entries (the sum over its lanes, a
// logarithm) outweighs them where rows are short, so several short rows are reduced together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "fast_exp.h"
#include "float16.h"
#include "row_rules.h"

namespace jax_rnnt {

constexpr int64_t kLanes = 16;    // a multiple of every vector's length
constexpr int64_t kFolds = 4;     // lanes that are left of a row when several are reduced together
constexpr int64_t kTile = 16;     // rows that are, at most
constexpr int64_t kBlock = 2048;  // entries that are read twice: with as many prefetched, they fit the nearest cache
constexpr int64_t kRun = 1024;    // entries of a gradient that wait for their conversion to 16 bits

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();
template <class A>
constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();

// Calls f(i) for the beginning i of each of the pieces that n >= kLanes entries consist of.
template <class F>
JAX_RNNT_INLINE void ForPieces(int64_t n, const F& f) {
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) f(i);
  if (whole < n) f(n - kLanes);
}

// n >= kLanes entries as floats.
JAX_RNNT_INLINE void WidenBlock(const Half* x, int64_t n, float* buffer) { WidenRun(x, n, buffer); }
JAX_RNNT_INLINE void WidenBlock(const BFloat16* x, int64_t n, float* buffer) {
  ForPieces(n, [=](int64_t i) JAX_RNNT_INLINE_LAMBDA {
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) buffer[i + l] = Widen(x[i + l]);
  });
}

// `count` rows of n >= kLanes entries, `stride` apart, as floats (or doubles): themselves, or widened into the buffer,
// where nothing lies between them.
JAX_RNNT_INLINE const float* WidenRows(const float* rows, int64_t, int64_t, int64_t, float*) { return rows; }
JAX_RNNT_INLINE const double* WidenRows(const double* rows, int64_t, int64_t, int64_t, double*) { return rows; }
template <class T>
JAX_RNNT_INLINE const float* WidenRows(const T* rows, int64_t count, int64_t n, int64_t stride, float* buffer) {
  if (n == stride) {
    WidenBlock(rows, count * n, buffer);
  } else {
    for (int64_t j = 0; j < count; ++j) WidenBlock(rows + j * stride, n, buffer + j * n);
  }
  return buffer;
}

// The inverse of WidenBlock, where an array is written.
JAX_RNNT_INLINE void NarrowBlock(const float* x, int64_t n, Half* to) { NarrowRun(x, n, to); }
JAX_RNNT_INLINE void NarrowBlock(const float* x, int64_t n, BFloat16* to) {
  ForPieces(n, [=](int64_t i) JAX_RNNT_INLINE_LAMBDA {
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) to[i + l] = Narrow<BFloat16>(x[i + l]);
  });
}

// Asks for the cache lines of a piece. An address beyond the array does no harm.
template <class T>
JAX_RNNT_INLINE void PrefetchPiece(const T* x) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < kLanes; i += kLine) __builtin_prefetch(x + i);
}

// From kLanes lanes of a row to kFolds.
template <class A, class F>
JAX_RNNT_INLINE void Fold(const A* lanes, A* folded, const F& combine) {
  A half[kLanes / 2];
#pragma omp simd
  for (int64_t l = 0; l < kLanes / 2; ++l) half[l] = combine(lanes[l], lanes[l + kLanes / 2]);
#pragma omp simd
  for (int64_t l = 0; l < kFolds; ++l) folded[l] = combine(half[l], half[l + kFolds]);
}

// From kFolds numbers of each row to one.
template <class A, class F>
JAX_RNNT_INLINE void FoldRows(const A* folded, A* all, const F& combine) {
#pragma omp simd
  for (int64_t j = 0; j < kTile; ++j) {
    const A* f = folded + kFolds * j;
    all[j] = combine(combine(f[0], f[1]), combine(f[2], f[3]));
  }
}

// max[j], the maximum of row j, and sum[j], the sum of exp(x - max[j]), for `count` rows of n >= kLanes entries,
// `stride` apart. While it computes, `next`, what will be read after these rows, is on its way from memory, a piece for
// a piece: the exponentials would otherwise begin only when the maximum has waited for it.
template <class T, class A>
JAX_RNNT_INLINE void ReduceRows(const A* x, int64_t count, int64_t n, int64_t stride, const T* next,
                                int64_t next_stride, A* max, A* sum) {
  const auto larger = [](A a, A b) JAX_RNNT_INLINE_LAMBDA { return b > a ? b : a; };
  const auto plus = [](A a, A b) JAX_RNNT_INLINE_LAMBDA { return a + b; };
  const int64_t whole = n / kLanes * kLanes, tail = n - whole;
  alignas(64) A folded[kTile * kFolds], kept[kLanes];
  std::fill(folded + count * kFolds, folded + kTile * kFolds, A(0));
  for (int64_t l = 0; l < kLanes; ++l) kept[l] = l >= kLanes - tail ? A(1) : A(0);  // of the piece that overlaps
  for (int64_t j = 0; j < count; ++j) {
    const A* row = x + j * stride;
    alignas(64) A lanes[kLanes];
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] = -kInfinity<A>;
    ForPieces(n, [&](int64_t i) JAX_RNNT_INLINE_LAMBDA {
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) lanes[l] = row[i + l] > lanes[l] ? row[i + l] : lanes[l];
    });
    Fold(lanes, folded + kFolds * j, larger);
  }
  FoldRows(folded, max, larger);
  alignas(64) A shifts[kTile];
  // A row of -inf is not shifted: it must still show a NaN that it holds.
#pragma omp simd
  for (int64_t j = 0; j < kTile; ++j) shifts[j] = max[j] == -kInfinity<A> ? A(0) : max[j];
  for (int64_t j = 0; j < count; ++j) {
    const A *row = x + j * stride, shift = shifts[j];
    const T* ahead = next + j * next_stride;
    alignas(64) A lanes[kLanes] = {};
    for (int64_t i = 0; i < whole; i += kLanes) {
      PrefetchPiece(ahead + i);
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) lanes[l] += Exp(row[i + l] - shift);
    }
    if (tail > 0) {
      const A* last = row + n - kLanes;
      PrefetchPiece(ahead + whole);
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) lanes[l] += kept[l] * Exp(last[l] - shift);
    }
    Fold(lanes, folded + kFolds * j, plus);
  }
  FoldRows(folded, sum, plus);
}

// Rows that are reduced together.
JAX_RNNT_INLINE int64_t TileRows(int64_t length) {
  return std::clamp<int64_t>(kBlock / std::max(length, kLanes), 1, kTile);
}

// log sum exp of `count` rows, at most TileRows of them, whose beginnings are `stride` apart: NaN where a row holds NaN
// or +inf, -inf where it is -inf throughout or empty.
template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE void LogSumExp(const T* rows, int64_t count, int64_t length, int64_t stride, A* log_norm) {
  alignas(64) A buffer[kBlock], max[kTile], sum[kTile], all_max[kTile], all_sum[kTile];
  if (length == 0) {
    std::fill(all_max, all_max + kTile, -kInfinity<A>);
    std::fill(all_sum, all_sum + kTile, A(0));
  }
  for (int64_t v = 0; v < length; v += kBlock) {  // more than once for a single row only
    int64_t n = std::min(kBlock, length - v), apart = kLanes;
    const T* next = rows + count * stride;
    const A* x = buffer;
    if (n >= kLanes) {
      x = WidenRows(rows + v, count, n, stride, buffer);
      apart = std::is_same_v<T, A> ? stride : n;
      if (v + n < length) next = rows + v + n;
    } else {
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t i = 0; i < kLanes; ++i) {
          buffer[j * kLanes + i] = i < n ? Widen(rows[j * stride + v + i]) : -kInfinity<A>;
        }
      }
      n = kLanes;
    }
    ReduceRows(x, count, n, apart, next, stride, max, sum);
    if (v == 0) {
      std::copy(max, max + kTile, all_max);
      std::copy(sum, sum + kTile, all_sum);
      continue;
    }
    const A top = max[0] > all_max[0] ? max[0] : all_max[0];
    if (top != all_max[0]) all_sum[0] *= Exp(all_max[0] - top);
    all_sum[0] += top != max[0] ? sum[0] * Exp(max[0] - top) : sum[0];
    all_max[0] = top;
  }
#pragma omp simd
  for (int64_t j = 0; j < kTile; ++j) all_sum[j] = all_max[j] + Log(all_sum[j]);
  std::copy(all_sum, all_sum + count, log_norm);
}

// grad = scale * exp(x - log_norm), clipped if there is a limit, for a row of any length.
template <bool kClipped, class T, class A>
JAX_RNNT_INLINE void ScaledSoftmax(const T* x, int64_t n, A log_norm, A scale, A limit, T* grad) {
  const auto entry = [=](A value) JAX_RNNT_INLINE_LAMBDA {
    const A g = scale * Exp(value - log_norm);
    return kClipped ? Clip(g, limit) : g;
  };
  const auto piece = [&](const auto* from, auto* to) JAX_RNNT_INLINE_LAMBDA {
    using To = std::remove_reference_t<decltype(*to)>;
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) to[l] = Narrow<To>(entry(Widen(from[l])));
  };
  if (n < kLanes) {
    alignas(64) T in[kLanes] = {}, out[kLanes];
    std::copy(x, x + n, in);
    piece(in, out);
    std::copy(out, out + n, grad);
  } else if constexpr (sizeof(T) == sizeof(A)) {
    ForPieces(n, [&](int64_t i) JAX_RNNT_INLINE_LAMBDA { piece(x + i, grad + i); });
  } else {  // conversions are fast in loops of their own only
    alignas(64) A in[kRun], out[kRun];
    for (int64_t begin = 0; begin < n; begin += kRun) {
      const int64_t here = std::min(begin, std::max<int64_t>(n - kRun, 0)), size = std::min(kRun, n - here);
      WidenBlock(x + here, size, in);
      ForPieces(size, [&](int64_t i) JAX_RNNT_INLINE_LAMBDA { piece(in + i, out + i); });
      NarrowBlock(out, size, grad + here);
    }
  }
}

}  // namespace jax_rnnt
