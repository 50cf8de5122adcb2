// rows.h: the loops of operation 1 over one long row of logits, or over a tile of short ones.
//
// The exponential of a row's softmax is vectorised along the row. Where rows are short, what a row costs beside its
// entries (horizontal sums, remainders, a logarithm) outweighs them; kTile rows are then transposed and reduced
// together, one row a lane.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "fast_exp.h"
#include "float16.h"
#include "row_rules.h"

namespace jax_rnnt {

constexpr int64_t kBlock = 2048;      // entries of a row that are looked at twice: they stay in the first-level cache
constexpr int64_t kStride = 512;      // entries that are prefetched at once
constexpr int64_t kTile = 16;         // rows of a tile
constexpr int64_t kTileEntries = 64;  // rows longer than this are reduced one by one
constexpr int64_t kPiece = 16;        // a multiple of every vector's length
constexpr int64_t kRun = 1024;        // entries of a gradient that wait for their conversion to 16 bits

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();

template <class A>
struct MaxAndSum {  // the maximum, and the sum of exp(x - max)
  A max, sum;
};

// The block as floats (or doubles): itself, or widened into the buffer.
JAX_RNNT_INLINE const float* WidenBlock(const float* x, int64_t, float*) { return x; }
JAX_RNNT_INLINE const double* WidenBlock(const double* x, int64_t, double*) { return x; }
JAX_RNNT_INLINE const float* WidenBlock(const Half* x, int64_t n, float* buffer) {
  WidenRun(x, n, buffer);
  return buffer;
}
JAX_RNNT_INLINE const float* WidenBlock(const BFloat16* x, int64_t n, float* buffer) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) buffer[i] = Widen(x[i]);
  return buffer;
}

// The inverse, where an array is written.
JAX_RNNT_INLINE void NarrowBlock(const float* x, int64_t n, Half* to) { NarrowRun(x, n, to); }
JAX_RNNT_INLINE void NarrowBlock(const float* x, int64_t n, BFloat16* to) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = Narrow<BFloat16>(x[i]);
}

// Asks for the cache lines of n entries. An address beyond the array does no harm.
template <class T>
JAX_RNNT_INLINE void Prefetch(const T* x, int64_t n) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < n; i += kLine) __builtin_prefetch(x + i);
}

// While it computes, `next`, what will be read after this block, is on its way from memory: the exponentials would
// otherwise begin only when the maximum has waited for it.
template <class T, class A>
JAX_RNNT_INLINE MaxAndSum<A> ReduceBlock(const A* x, int64_t n, const T* next) {
  A max = -kInfinity<A>, sum = 0;
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < n; ++i) max = x[i] > max ? x[i] : max;
  // A block of -inf is not shifted: it must still show a NaN that it holds.
  const A shift = max == -kInfinity<A> ? A(0) : max;
  for (int64_t begin = 0; begin < n; begin += kStride) {
    const int64_t end = std::min(n, begin + kStride);
    Prefetch(next + begin, end - begin);
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += Exp(x[i] - shift);
  }
  return {max, sum};
}

// log sum exp of a row: NaN where it holds NaN or +inf, -inf where it is -inf throughout.
template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE A LogSumExp(const T* row, int64_t vocabulary) {
  alignas(64) A buffer[kBlock];
  MaxAndSum<A> all{-kInfinity<A>, 0};
  for (int64_t v = 0; v < vocabulary; v += kBlock) {
    const int64_t n = std::min(kBlock, vocabulary - v);
    const MaxAndSum<A> block = ReduceBlock(WidenBlock(row + v, n, buffer), n, row + v + n);
    const A top = block.max > all.max ? block.max : all.max;
    if (top != all.max) all.sum *= std::exp(all.max - top);
    all = {top, all.sum + (top != block.max ? block.sum * std::exp(block.max - top) : block.sum)};
  }
  return all.max + std::log(all.sum);
}

// log sum exp of kTile rows of at most kTileEntries entries.
template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE void LogSumExpTile(const T* rows, int64_t vocabulary, A* log_norm) {
  alignas(64) T raw[kTileEntries * kTile];
  alignas(64) A buffer[kTileEntries * kTile];
  for (int64_t j = 0; j < kTile; ++j) {
    for (int64_t v = 0; v < vocabulary; ++v) raw[v * kTile + j] = rows[j * vocabulary + v];
  }
  const A* x = WidenBlock(raw, vocabulary * kTile, buffer);
  alignas(64) A max[kTile], shift[kTile], sum[kTile] = {};
  for (int64_t j = 0; j < kTile; ++j) max[j] = -kInfinity<A>;
  for (int64_t v = 0; v < vocabulary; ++v) {
#pragma omp simd
    for (int64_t j = 0; j < kTile; ++j) max[j] = x[v * kTile + j] > max[j] ? x[v * kTile + j] : max[j];
  }
  for (int64_t j = 0; j < kTile; ++j) shift[j] = max[j] == -kInfinity<A> ? A(0) : max[j];
  for (int64_t v = 0; v < vocabulary; ++v) {
    Prefetch(rows + (vocabulary + v) * kTile, kTile);
#pragma omp simd
    for (int64_t j = 0; j < kTile; ++j) sum[j] += Exp(x[v * kTile + j] - shift[j]);
  }
  for (int64_t j = 0; j < kTile; ++j) log_norm[j] = max[j] + std::log(sum[j]);
}

// grad = scale * exp(x - log_norm), clipped if there is a limit.
template <bool kClipped, class T, class A>
JAX_RNNT_INLINE void SoftmaxRun(const T* x, int64_t n, A log_norm, A scale, A limit, T* grad) {
  auto entry = [&](A value) JAX_RNNT_INLINE_LAMBDA {
    const A g = scale * Exp(value - log_norm);
    return kClipped ? Clip(g, limit) : g;
  };
  if constexpr (sizeof(T) == sizeof(A)) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) grad[i] = entry(x[i]);
  } else {  // conversions are fast in loops of their own only
    alignas(64) A buffer[kRun], g[kRun];
    const A* values = WidenBlock(x, n, buffer);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) g[i] = entry(values[i]);
    NarrowBlock(g, n, grad);
  }
}

// The same over a row of any length, without scalar remainders: its last piece overlaps the one before.
template <bool kClipped, class T, class A>
JAX_RNNT_INLINE void ScaledSoftmax(const T* x, int64_t n, A log_norm, A scale, A limit, T* grad) {
  if (n < kPiece) {
    T in[kPiece] = {}, out[kPiece];
    std::copy(x, x + n, in);
    SoftmaxRun<kClipped>(in, kPiece, log_norm, scale, limit, out);
    std::copy(out, out + n, grad);
    return;
  }
  const int64_t whole = n / kPiece * kPiece;
  for (int64_t i = 0; i < whole; i += kRun) {
    SoftmaxRun<kClipped>(x + i, std::min(kRun, whole - i), log_norm, scale, limit, grad + i);
  }
  if (whole < n) SoftmaxRun<kClipped>(x + n - kPiece, kPiece, log_norm, scale, limit, grad + n - kPiece);
}

}  // namespace jax_rnnt
