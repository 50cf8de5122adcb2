// rows.h: the loops of operation 1 over rows of logits.
//
// The loops work in lanes: entries l, l + kLanes, l + 2 kLanes, ... of a row belong to lane l. A loop over the lanes
// has a constant length, so compilers turn it into vector code without a remainder. If the length of a row is no
// multiple of kLanes, its last piece overlaps the piece before it. Each row also costs a sum over its lanes and a
// logarithm. For short rows this costs more than the entries, so the code reduces several short rows together.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "fast_exp.h"
#include "float16.h"
#include "row_rules.h"

namespace jax_rnnt {

constexpr int64_t kLanes = 16;    // a multiple of every vector's length
constexpr int64_t kFolds = 4;     // where rows are reduced together, the lanes of each row are first reduced to these
constexpr int64_t kTile = 16;     // the largest number of rows that are reduced together
constexpr int64_t kBlock = 2048;  // entries of a block, which is read twice: it and the next one fit the first cache
constexpr int64_t kRun = 1024;    // entries of a gradient that are computed before they are converted to 16 bits

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();
template <class A>
constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();

// Divides n >= kLanes entries into pieces of kLanes, and calls f(i) with the beginning i of each piece.
template <class F>
JAX_RNNT_INLINE void ForPieces(int64_t n, const F& f) {
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) f(i);
  if (whole < n) f(n - kLanes);
}

// Converts n >= kLanes entries to float.
JAX_RNNT_INLINE void WidenBlock(const Half* x, int64_t n, float* buffer) { WidenRun(x, n, buffer); }
JAX_RNNT_INLINE void WidenBlock(const BFloat16* x, int64_t n, float* buffer) {
  ForPieces(n, [=](int64_t i) JAX_RNNT_INLINE_LAMBDA {
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) buffer[i + l] = Widen(x[i + l]);
  });
}

// `count` rows of n >= kLanes entries as float or double. Rows of float and double are returned as they are, `stride`
// apart. Rows of 16-bit types are converted into the buffer, one directly behind the other.
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

// The inverse of WidenBlock, from float to the type of the array.
JAX_RNNT_INLINE void NarrowBlock(const float* x, int64_t n, Half* to) { NarrowRun(x, n, to); }
JAX_RNNT_INLINE void NarrowBlock(const float* x, int64_t n, BFloat16* to) {
  ForPieces(n, [=](int64_t i) JAX_RNNT_INLINE_LAMBDA {
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) to[i + l] = Narrow<BFloat16>(x[i + l]);
  });
}

// Prefetches the cache lines of a piece. An address beyond the array does no harm.
template <class T>
JAX_RNNT_INLINE void PrefetchPiece(const T* x) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < kLanes; i += kLine) __builtin_prefetch(x + i);
}

// Reduces the kLanes lanes of a row to kFolds numbers.
template <class A, class F>
JAX_RNNT_INLINE void Fold(const A* lanes, A* folded, const F& combine) {
  A half[kLanes / 2];
#pragma omp simd
  for (int64_t l = 0; l < kLanes / 2; ++l) half[l] = combine(lanes[l], lanes[l + kLanes / 2]);
#pragma omp simd
  for (int64_t l = 0; l < kFolds; ++l) folded[l] = combine(half[l], half[l + kFolds]);
}

// Reduces the kFolds numbers of each row to one.
template <class A, class F>
JAX_RNNT_INLINE void FoldRows(const A* folded, A* all, const F& combine) {
#pragma omp simd
  for (int64_t j = 0; j < kTile; ++j) {
    const A* f = folded + kFolds * j;
    all[j] = combine(combine(f[0], f[1]), combine(f[2], f[3]));
  }
}

// How often the maximum of a row occurs.
template <class A>
JAX_RNNT_INLINE A CountOf(const A* row, int64_t n, A max) {
  A count = 0;
#pragma omp simd reduction(+ : count)
  for (int64_t i = 0; i < n; ++i) count += row[i] == max ? A(1) : A(0);
  return count;
}

// For `count` rows of n >= kLanes entries, `stride` apart: max[j] is the maximum of row j, and rest[j] is the sum of
// exp(x - max[j]) over all entries but one that is the maximum. In a row that is sure the rest is small, and in a sum
// with the maximum's 1 it would lose its digits. So the loop leaves out every entry that is the maximum, and counts the
// other entries of all rows together. If they are too few, the maximum of a row occurs more than once. Only then the
// maxima of each row are counted.
//
// `next` is what will be read after these rows. For each piece of the rows the code prefetches a piece of `next`.
// Without that, the maximum of the next rows would wait for memory before their first exponential could begin.
template <class T, class A>
JAX_RNNT_INLINE void ReduceRows(const A* x, int64_t count, int64_t n, int64_t stride, const T* next,
                                int64_t next_stride, A* max, A* rest) {
  const auto larger = [](A a, A b) JAX_RNNT_INLINE_LAMBDA { return b > a ? b : a; };
  const auto plus = [](A a, A b) JAX_RNNT_INLINE_LAMBDA { return a + b; };
  const int64_t whole = n / kLanes * kLanes, tail = n - whole;
  alignas(64) A folded[kTile * kFolds], kept[kLanes], others[kLanes] = {};
  const A lowest = LowestExponent<A>();
  std::fill(folded + count * kFolds, folded + kTile * kFolds, A(0));
  // The last piece overlaps the one before it: only its last `tail` lanes count.
  for (int64_t l = 0; l < kLanes; ++l) kept[l] = l >= kLanes - tail ? A(1) : A(0);
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
  // If the maximum is -inf the row is not shifted, because a NaN in it must stay visible.
#pragma omp simd
  for (int64_t j = 0; j < kTile; ++j) shifts[j] = max[j] == -kInfinity<A> ? A(0) : max[j];
  for (int64_t j = 0; j < count; ++j) {
    const A *row = x + j * stride, shift = shifts[j];
    const T* ahead = next + j * next_stride;
    alignas(64) A lanes[kLanes] = {};
    for (int64_t i = 0; i < whole; i += kLanes) {
      PrefetchPiece(ahead + i);
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) {
        const A d = row[i + l] - shift, with = lanes[l] + Exp(d, lowest);
        lanes[l] = d != 0 ? with : lanes[l];
      }
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) {  // in a loop of its own, or GCC makes no vector code
        const A with = others[l] + 1;
        others[l] = row[i + l] - shift != 0 ? with : others[l];
      }
    }
    if (tail > 0) {
      const A* last = row + n - kLanes;
      PrefetchPiece(ahead + whole);
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) {
        const A d = last[l] - shift, with = lanes[l] + kept[l] * Exp(d, lowest);
        lanes[l] = d != 0 ? with : lanes[l];
      }
#pragma omp simd
      for (int64_t l = 0; l < kLanes; ++l) {
        const A with = others[l] + kept[l];
        others[l] = last[l] - shift != 0 ? with : others[l];
      }
    }
    Fold(lanes, folded + kFolds * j, plus);
  }
  FoldRows(folded, rest, plus);
  // Where a maximum is not finite, nothing was left out. Behind the rows, the maxima are 0.
  A entries = 0;
#pragma omp simd reduction(+ : entries)
  for (int64_t l = 0; l < kLanes; ++l) entries += others[l];
#pragma omp simd reduction(+ : entries)
  for (int64_t j = 0; j < kTile; ++j) entries += std::fabs(max[j]) < kInfinity<A> ? A(1) : A(0);
  if (entries == static_cast<A>(count * n + kTile - count)) return;
  for (int64_t j = 0; j < count; ++j) {
    if (std::fabs(max[j]) < kInfinity<A>) rest[j] += CountOf(x + j * stride, n, max[j]) - 1;
  }
}

// The number of rows that are reduced together.
JAX_RNNT_INLINE int64_t TileRows(int64_t length) {
  return std::clamp<int64_t>(kBlock / std::max(length, kLanes), 1, kTile);
}

// The norms of `count` rows whose beginnings are `stride` apart; `count` is at most TileRows. One of the two numbers is
// NaN or +inf where a row holds NaN or +inf. `top` is -inf where every entry of a row is -inf, and where a row is
// empty.
template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE void LogSumExp(const T* rows, int64_t count, int64_t length, int64_t stride, Norm<A>* norms) {
  alignas(64) A buffer[kBlock], max[kTile], rest[kTile] = {}, all_max[kTile], all_rest[kTile];
  if (length == 0) {
    std::fill(all_max, all_max + kTile, -kInfinity<A>);
    std::fill(all_rest, all_rest + kTile, A(0));
  }
  for (int64_t v = 0; v < length; v += kBlock) {  // more than one turn only for a single long row
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
    ReduceRows(x, count, n, apart, next, stride, max, rest);
    if (v == 0) {
      std::copy(max, max + kTile, all_max);
      std::copy(rest, rest + kTile, all_rest);
    } else if (max[0] > all_max[0]) {  // the maximum so far becomes one of the others
      all_rest[0] = rest[0] + (1 + all_rest[0]) * Exp(all_max[0] - max[0]);
      all_max[0] = max[0];
    } else {
      all_rest[0] += max[0] == -kInfinity<A> ? rest[0] : (1 + rest[0]) * Exp(max[0] - all_max[0]);
    }
  }
#pragma omp simd
  for (int64_t j = 0; j < kTile; ++j) all_rest[j] = Log1p(all_rest[j]);
  for (int64_t j = 0; j < count; ++j) norms[j] = {all_max[j], all_rest[j]};
}

// grad = scale * exp(x - top) for a row of any length. With kClipped the result is clipped to the limit.
template <bool kClipped, class T, class A>
JAX_RNNT_INLINE void ScaledSoftmax(const T* x, int64_t n, A top, A scale, A limit, T* grad) {
  const auto entry = [=](A value) JAX_RNNT_INLINE_LAMBDA {
    const A g = scale * Exp(value - top);
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
  } else {  // conversions are fast only in loops of their own
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
