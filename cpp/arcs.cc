// arcs.cc: the rows of operation 1. Each row is read once from memory: the second look at it finds it in the cache.
#include "arcs.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace jax_rnnt {
namespace {

constexpr int64_t kBlock = 2048;  // entries of a row that are looked at together: two arrays of them fit the L1 cache

// The block as floats (or doubles): itself, or widened into the buffer.
JAX_RNNT_INLINE const float* WidenBlock(const float* x, int64_t, float*) { return x; }
JAX_RNNT_INLINE const double* WidenBlock(const double* x, int64_t, double*) { return x; }
template <class T>
JAX_RNNT_INLINE const float* WidenBlock(const T* x, int64_t n, float* buffer) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) buffer[i] = Widen(x[i]);
  return buffer;
}

template <class A>
JAX_RNNT_INLINE A Max(const A* x, int64_t n) {
  A m = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : m)
  for (int64_t i = 0; i < n; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

template <class A>
JAX_RNNT_INLINE A SumExp(const A* x, int64_t n, A shift) {
  A s = 0;
#pragma omp simd reduction(+ : s)
  for (int64_t i = 0; i < n; ++i) s += Exp(x[i] - shift);
  return s;
}

// NaN for a row with NaN or +inf, -inf for a row of -inf alone.
template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE A LogSumExp(const T* row, int64_t vocabulary) {
  constexpr A kInfinity = std::numeric_limits<A>::infinity();
  alignas(64) A buffer[kBlock];
  A max = -kInfinity, sum = 0;
  for (int64_t v = 0; v < vocabulary; v += kBlock) {
    const int64_t n = std::min(kBlock, vocabulary - v);
    const A* x = WidenBlock(row + v, n, buffer);
    const A block_max = Max(x, n);
    if (block_max > max) {
      sum *= std::exp(max - block_max);
      max = block_max;
    }
    // A block of -inf is not shifted: it must still show the NaN that it may hold.
    sum += SumExp(x, n, max == -kInfinity ? A(0) : max);
  }
  return max + std::log(sum);
}

enum class Row { kLive, kPadding, kInvalid };

JAX_RNNT_INLINE Row RowKind(int32_t label, int64_t vocabulary) {
  if (label == kPadding) return Row::kPadding;
  return label < kPadding || label >= vocabulary ? Row::kInvalid : Row::kLive;
}

template <class A>
JAX_RNNT_INLINE A Clip(A x, A limit) {  // NaN stays NaN
  x = x > limit ? limit : x;
  return x < -limit ? -limit : x;
}

template <class T, class A>
JAX_RNNT_INLINE void ScaledSoftmax(const T* x, int64_t n, A log_norm, A scale, A limit, T* grad) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) grad[i] = Narrow<T>(Clip(scale * Exp(Widen(x[i]) - log_norm), limit));
}

template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE void BackwardRow(const ArcsShape& shape, const T* x, int32_t label, A log_norm, const A* cotangent,
                                 A limit, T* grad) {
  const int64_t vocabulary = shape.vocabulary;
  const int64_t arcs = shape.num_columns + (label >= 0 ? 1 : 0);
  // The entries that an arc points to are computed apart, before the row is overwritten: grad may be x.
  auto column = [&](int64_t k) { return k < shape.num_columns ? shape.columns[k] : int64_t{label}; };
  A total = 0;
  for (int64_t k = 0; k < arcs; ++k) total += cotangent[k];
  const A scale = shape.normalize ? -total : A(0);
  A picked[kMaxArcs];
  for (int64_t k = 0; k < arcs; ++k) {
    A own = scale == 0 ? A(0) : scale * Exp(Widen(x[column(k)]) - log_norm);
    for (int64_t j = 0; j < arcs; ++j) own += column(j) == column(k) ? cotangent[j] : A(0);
    picked[k] = Clip(own, limit);
  }
  if (scale == 0) {
    std::fill(grad, grad + vocabulary, T{});
  } else {
    ScaledSoftmax(x, vocabulary, log_norm, scale, limit, grad);
  }
  for (int64_t k = 0; k < arcs; ++k) grad[column(k)] = Narrow<T>(picked[k]);
}

}  // namespace

template <class T>
JAX_RNNT_CLONES void ArcsForward(const ArcsShape& shape, const T* logits, const int32_t* labels,
                                 typename Compute<T>::Type* log_probs, typename Compute<T>::Type* log_norm,
                                 int64_t begin, int64_t end) {
  using A = typename Compute<T>::Type;
  constexpr A kInfinity = std::numeric_limits<A>::infinity();
  constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();
  for (int64_t n = begin; n < end; ++n) {
    const T* x = logits + n * shape.vocabulary;
    A* entries = log_probs + n * shape.num_arcs();
    const Row kind = RowKind(labels[n], shape.vocabulary);
    const A norm = kind == Row::kLive && shape.normalize ? LogSumExp(x, shape.vocabulary) : A(0);
    log_norm[n] = norm;
    if (kind != Row::kLive || !(norm < kInfinity) || norm == -kInfinity) {
      const bool nan = kind == Row::kInvalid || (kind == Row::kLive && norm != -kInfinity);
      std::fill(entries, entries + shape.num_arcs(), nan ? kNaN : -kInfinity);
      continue;
    }
    for (int64_t k = 0; k < shape.num_columns; ++k) entries[k] = Widen(x[shape.columns[k]]) - norm;
    entries[shape.num_columns] = labels[n] >= 0 ? Widen(x[labels[n]]) - norm : -kInfinity;
  }
}

template <class T>
JAX_RNNT_CLONES void ArcsBackward(const ArcsShape& shape, const T* logits, const int32_t* labels,
                                  const typename Compute<T>::Type* log_norm, const typename Compute<T>::Type* cotangent,
                                  const typename Compute<T>::Type* bound, T* grad, int64_t begin, int64_t end) {
  using A = typename Compute<T>::Type;
  constexpr A kInfinity = std::numeric_limits<A>::infinity();
  constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();
  for (int64_t n = begin; n < end; ++n) {
    T* g = grad + n * shape.vocabulary;
    const Row kind = RowKind(labels[n], shape.vocabulary);
    const A norm = log_norm[n];
    if (kind == Row::kLive && norm < kInfinity && norm > -kInfinity) {
      BackwardRow(shape, logits + n * shape.vocabulary, labels[n], norm, cotangent + n * shape.num_arcs(),
                  bound == nullptr ? kInfinity : bound[n], g);
    } else {
      const bool nan = kind == Row::kInvalid || (kind == Row::kLive && norm != -kInfinity);
      std::fill(g, g + shape.vocabulary, nan ? Narrow<T>(kNaN) : T{});
    }
  }
}

#define JAX_RNNT_INSTANTIATE(T)                                                                                  \
  template void ArcsForward<T>(const ArcsShape&, const T*, const int32_t*, Compute<T>::Type*, Compute<T>::Type*, \
                               int64_t, int64_t);                                                                \
  template void ArcsBackward<T>(const ArcsShape&, const T*, const int32_t*, const Compute<T>::Type*,             \
                                const Compute<T>::Type*, const Compute<T>::Type*, T*, int64_t, int64_t);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
JAX_RNNT_INSTANTIATE(Half)
JAX_RNNT_INSTANTIATE(BFloat16)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt
