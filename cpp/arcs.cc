// arcs.cc: operation 1 on a range of rows; rows.h has the loops over a row. Each row is read once from memory.
#include "arcs.h"

#include "rows.h"

namespace jax_rnnt {
namespace {

// Where in its row arc k points to, or -1 if that is not in this part of the vocabulary.
JAX_RNNT_INLINE int64_t Place(const ArcsShape& shape, int64_t k, int32_t label, int32_t offset) {
  const int64_t place = (k < shape.num_columns ? shape.columns[k] : int64_t{label}) - offset;
  return place >= 0 && place < shape.width ? place : -1;
}

// offset: of this part of a divided vocabulary, or null.
template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE void Entries(const ArcsShape& shape, const T* x, int32_t label, const int32_t* offset, A log_norm,
                             A* entries) {
  const Row kind = RowKind(label, shape.vocabulary);
  const int64_t columns = shape.num_columns;
  if (kind != Row::kLive || !IsFinite(log_norm)) {
    std::fill(entries, entries + shape.num_arcs(), Constant(kind, log_norm, -kInfinity<A>));
  } else if (offset == nullptr && shape.width >= shape.vocabulary) {
    for (int64_t k = 0; k < columns; ++k) entries[k] = Widen(x[shape.columns[k]]) - log_norm;
    entries[columns] = label < 0 ? -kInfinity<A> : Widen(x[label]) - log_norm;
  } else {
    for (int64_t k = 0; k < shape.num_arcs(); ++k) {
      const int64_t place = k == columns && label < 0 ? -1 : Place(shape, k, label, offset == nullptr ? 0 : *offset);
      entries[k] = place < 0 ? -kInfinity<A> : Widen(x[place]) - log_norm;
    }
  }
}

template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE void Gradient(const ArcsShape& shape, const T* x, int32_t label, int32_t offset, A log_norm,
                              const A* cotangent, A limit, T* grad) {
  const int64_t arcs = shape.num_columns + (label >= 0 ? 1 : 0);
  A total = 0;
  for (int64_t k = 0; k < arcs; ++k) total += cotangent[k];
  const A scale = shape.normalize ? -total : A(0);
  if (scale == 0) {
    std::fill(grad, grad + shape.width, T{});
  } else if (limit < kInfinity<A>) {
    ScaledSoftmax<true>(x, shape.width, log_norm, scale, limit, grad);
  } else {
    ScaledSoftmax<false>(x, shape.width, log_norm, scale, limit, grad);
  }
  for (int64_t k = 0; k < arcs; ++k) {
    const int64_t place = Place(shape, k, label, offset);
    if (place < 0) continue;
    if (sizeof(T) == sizeof(A) && limit == kInfinity<A>) {
      grad[place] = Narrow<T>(Widen(grad[place]) + cotangent[k]);
    } else {  // what arcs add is added before the sum is clipped and rounded
      A own = scale == 0 ? A(0) : scale * Exp(Widen(x[place]) - log_norm);
      for (int64_t j = 0; j < arcs; ++j) own += Place(shape, j, label, offset) == place ? cotangent[j] : A(0);
      grad[place] = Narrow<T>(Clip(own, limit));
    }
  }
}

}  // namespace

template <class T>
JAX_RNNT_CLONES void ArcsForward(const ArcsShape& shape, const T* logits, const int32_t* labels, const int32_t* offsets,
                                 typename Compute<T>::Type* log_probs, typename Compute<T>::Type* log_norm,
                                 int64_t begin, int64_t end) {
  const auto live = [&](int64_t n) JAX_RNNT_INLINE_LAMBDA {
    return RowKind(labels[n], shape.vocabulary) == Row::kLive && shape.normalize;
  };
  const int64_t width = shape.width, tile = TileRows(width);
  for (int64_t n = begin; n < end;) {
    int64_t count = 0;
    while (count < tile && n + count < end && live(n + count)) ++count;
    if (count > 0) {
      LogSumExp(logits + n * width, count, width, log_norm + n);
    } else {
      log_norm[n] = 0;
      count = 1;
    }
    for (const int64_t stop = n + count; n < stop; ++n) {
      Entries(shape, logits + n * width, labels[n], offsets == nullptr ? nullptr : offsets + n, log_norm[n],
              log_probs + n * shape.num_arcs());
    }
  }
}

template <class T>
JAX_RNNT_CLONES void ArcsBackward(const ArcsShape& shape, const T* logits, const int32_t* labels,
                                  const int32_t* offsets, const typename Compute<T>::Type* log_norm,
                                  const typename Compute<T>::Type* cotangent, const typename Compute<T>::Type* bound,
                                  T* grad, int64_t begin, int64_t end) {
  using A = typename Compute<T>::Type;
  for (int64_t n = begin; n < end; ++n) {
    T* g = grad + n * shape.width;
    const Row kind = RowKind(labels[n], shape.vocabulary);
    if (kind == Row::kLive && IsFinite(log_norm[n])) {
      Gradient(shape, logits + n * shape.width, labels[n], offsets == nullptr ? 0 : offsets[n], log_norm[n],
               cotangent + n * shape.num_arcs(), bound == nullptr ? kInfinity<A> : bound[n], g);
    } else {
      std::fill(g, g + shape.width, Narrow<T>(Constant(kind, log_norm[n], A(0))));
    }
  }
}

#define JAX_RNNT_INSTANTIATE(T)                                                                                      \
  template void ArcsForward<T>(const ArcsShape&, const T*, const int32_t*, const int32_t*, Compute<T>::Type*,        \
                               Compute<T>::Type*, int64_t, int64_t);                                                 \
  template void ArcsBackward<T>(const ArcsShape&, const T*, const int32_t*, const int32_t*, const Compute<T>::Type*, \
                                const Compute<T>::Type*, const Compute<T>::Type*, T*, int64_t, int64_t);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
JAX_RNNT_INSTANTIATE(Half)
JAX_RNNT_INSTANTIATE(BFloat16)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt
