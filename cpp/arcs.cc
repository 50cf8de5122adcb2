// arcs.cc: operation 1 on a range of rows. rows.h has the loops over a row. Each row is read from memory once.
#include "arcs.h"

#include "rows.h"

namespace jax_rnnt {
namespace {

// The entry of the vocabulary that arc k of a live row points to.
JAX_RNNT_INLINE int64_t Column(const ArcsShape& shape, int64_t k, int32_t label) {
  return k < shape.num_columns ? shape.columns[k] : int64_t{label};
}

// Whether that entry is in the window.
JAX_RNNT_INLINE bool IsInside(const ArcsShape& shape, int64_t k, int32_t label) {
  return shape.window.size() == shape.vocabulary || shape.window.Holds(Column(shape, k, label));
}

// The place of that entry in its row, or -1 if it is not in this part of the vocabulary.
JAX_RNNT_INLINE int64_t Place(const ArcsShape& shape, int64_t column, int32_t offset) {
  const int64_t place = column - offset;
  return place >= 0 && place < shape.width ? place : -1;
}

template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE void Entries(const ArcsShape& shape, const T* x, int32_t label, int32_t offset, Norm<A> norm,
                             A* entries) {
  const Row kind = RowKind(label, shape.vocabulary);
  const int64_t columns = shape.num_columns;
  if (kind == Row::kPadding || IsBroken(kind, norm)) {
    std::fill(entries, entries + shape.num_arcs(), kind == Row::kPadding ? -kInfinity<A> : kNaN<A>);
  } else if (shape.window.size() == shape.width && shape.width == shape.vocabulary) {
    for (int64_t k = 0; k < columns; ++k) entries[k] = Normalised(Widen(x[shape.columns[k]]), norm);
    entries[columns] = label == kNoLabel ? -kInfinity<A> : Normalised(Widen(x[label]), norm);
  } else {
    entries[columns] = -kInfinity<A>;
    for (int64_t k = 0; k < ArcsOf(label, columns); ++k) {
      const int64_t column = Column(shape, k, label), place = Place(shape, column, offset);
      if (place < 0) {
        entries[k] = -kInfinity<A>;
      } else {
        entries[k] = IsInside(shape, k, label) ? Normalised(Widen(x[place]), norm) : Widen(x[place]);
      }
    }
  }
}

// Calls f(offset, begin, end) for each run of rows that hold the same part of the vocabulary.
template <class F>
JAX_RNNT_INLINE void ForParts(const int32_t* offsets, int64_t begin, int64_t end, const F& f) {
  for (int64_t n = begin, stop; n < end; n = stop) {
    stop = offsets == nullptr ? end : n + 1;
    while (stop < end && offsets[stop] == offsets[n]) ++stop;
    f(offsets == nullptr ? 0 : offsets[n], n, stop);  // called once only: inlined twice, its loops are 10% slower
  }
}

template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE void ForwardPart(const ArcsShape& shape, const T* logits, const int32_t* labels, int32_t offset,
                                 A* log_probs, Norm<A>* norms, int64_t begin, int64_t end) {
  const Window<int64_t> window = shape.window.InRow(offset, shape.width);
  const auto live = [&](int64_t n) JAX_RNNT_INLINE_LAMBDA {
    return RowKind(labels[n], shape.vocabulary) == Row::kLive && shape.window.size() > 0;
  };
  const int64_t width = shape.width, tile = TileRows(window.size());
  for (int64_t n = begin; n < end;) {
    int64_t count = 0;
    while (count < tile && n + count < end && live(n + count)) ++count;
    if (count > 0) {
      LogSumExp(logits + n * width + window.first, count, window.size(), width, norms + n);
    } else {
      norms[n] = {0, 0};
      count = 1;
    }
    for (const int64_t stop = n + count; n < stop; ++n) {
      Entries(shape, logits + n * width, labels[n], offset, norms[n], log_probs + n * shape.num_arcs());
    }
  }
}

// Minus the sum of the cotangents of the arcs in the window: the factor of the probabilities in the gradient of a row.
template <class A>
JAX_RNNT_INLINE A Scale(const ArcsShape& shape, int32_t label, const A* cotangent) {
  A total = 0;
  for (int64_t k = 0; k < ArcsOf(label, shape.num_columns); ++k) {
    total += IsInside(shape, k, label) ? cotangent[k] : A(0);
  }
  return -total;
}

// The gradient of a live row that is not NaN. `window` is the part of the window in this row.
template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE void Gradient(const ArcsShape& shape, const Window<int64_t>& window, const T* x, int32_t label,
                              int32_t offset, A top, A scale, const A* cotangent, A limit, T* grad) {
  const int64_t arcs = ArcsOf(label, shape.num_columns);
  if (scale == 0) {
    std::fill(grad, grad + shape.width, T{});
  } else {
    if (window.size() < shape.width) {
      std::fill(grad, grad + window.first, T{});
      std::fill(grad + window.stop, grad + shape.width, T{});
    }
    if (limit < kInfinity<A>) {
      ScaledSoftmax<true>(x + window.first, window.size(), top, scale, limit, grad + window.first);
    } else {
      ScaledSoftmax<false>(x + window.first, window.size(), top, scale, limit, grad + window.first);
    }
  }
  for (int64_t k = 0; k < arcs; ++k) {
    const int64_t column = Column(shape, k, label), place = Place(shape, column, offset);
    if (place < 0 || (top == -kInfinity<A> && IsInside(shape, k, label))) continue;
    if (sizeof(T) == sizeof(A) && limit == kInfinity<A>) {
      grad[place] = Narrow<T>(Widen(grad[place]) + cotangent[k]);
    } else {  // the parts of the arcs are added before the sum is clipped and rounded
      A own = scale == 0 || !IsInside(shape, k, label) ? A(0) : scale * Exp(Widen(x[place]) - top);
      for (int64_t j = 0; j < arcs; ++j) own += Column(shape, j, label) == column ? cotangent[j] : A(0);
      grad[place] = Narrow<T>(Clip(own, limit));
    }
  }
}

template <class T, class A = typename Compute<T>::Type>
JAX_RNNT_INLINE void BackwardPart(const ArcsShape& shape, const T* logits, const int32_t* labels, int32_t offset,
                                  const Norm<A>* norms, const A* cotangent, const A* bound, T* grad, int64_t begin,
                                  int64_t end) {
  const Window<int64_t> window = shape.window.InRow(offset, shape.width);
  for (int64_t first = begin, stop; first < end; first = stop) {
    stop = std::min(first + kTile, end);
    // Straight from the norms: a vector of scalars that have just been stored would wait for all stores before them.
    alignas(64) A one_over_sum[kTile];
#pragma omp simd
    for (int64_t j = 0; j < stop - first; ++j) one_over_sum[j] = Exp(-norms[first + j].log_sum);
    for (int64_t n = first; n < stop; ++n) {
      T* g = grad + n * shape.width;
      const A* ct = cotangent + n * shape.num_arcs();
      const Row kind = RowKind(labels[n], shape.vocabulary);
      if (kind == Row::kPadding || IsBroken(kind, norms[n])) {
        const A* of_arcs = ct + ArcsOf(labels[n], shape.num_columns);
        const bool zero = kind == Row::kPadding || std::all_of(ct, of_arcs, [](A c) { return c == 0; });
        std::fill(g, g + shape.width, zero ? T{} : Narrow<T>(kNaN<A>));
      } else {
        const A scale = IsMassless(norms[n]) ? A(0) : Scale(shape, labels[n], ct) * one_over_sum[n - first];
        Gradient(shape, window, logits + n * shape.width, labels[n], offset, norms[n].top, scale, ct,
                 bound == nullptr ? kInfinity<A> : bound[n], g);
      }
    }
  }
}

}  // namespace

template <class T>
JAX_RNNT_CLONES void ArcsForward(const ArcsShape& shape, const T* logits, const int32_t* labels, const int32_t* offsets,
                                 typename Compute<T>::Type* log_probs, Norm<typename Compute<T>::Type>* norms,
                                 int64_t begin, int64_t end) {
  ForParts(offsets, begin, end, [&](int32_t offset, int64_t first, int64_t stop) JAX_RNNT_INLINE_LAMBDA {
    ForwardPart(shape, logits, labels, offset, log_probs, norms, first, stop);
  });
}

template <class T>
JAX_RNNT_CLONES void ArcsBackward(const ArcsShape& shape, const T* logits, const int32_t* labels,
                                  const int32_t* offsets, const Norm<typename Compute<T>::Type>* norms,
                                  const typename Compute<T>::Type* cotangent, const typename Compute<T>::Type* bound,
                                  T* grad, int64_t begin, int64_t end) {
  ForParts(offsets, begin, end, [&](int32_t offset, int64_t first, int64_t stop) JAX_RNNT_INLINE_LAMBDA {
    BackwardPart(shape, logits, labels, offset, norms, cotangent, bound, grad, first, stop);
  });
}

#define JAX_RNNT_INSTANTIATE(T)                                                                                      \
  template void ArcsForward<T>(const ArcsShape&, const T*, const int32_t*, const int32_t*, Compute<T>::Type*,        \
                               Norm<Compute<T>::Type>*, int64_t, int64_t);                                           \
  template void ArcsBackward<T>(const ArcsShape&, const T*, const int32_t*, const int32_t*,                          \
                                const Norm<Compute<T>::Type>*, const Compute<T>::Type*, const Compute<T>::Type*, T*, \
                                int64_t, int64_t);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
JAX_RNNT_INSTANTIATE(Half)
JAX_RNNT_INSTANTIATE(BFloat16)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt
