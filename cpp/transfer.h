// transfer.h: gathers the numbers of a diagonal from the arrays of a lattice, and scatters them back.
//
// The nodes of a diagonal are far apart in these arrays. Two entries of a node are copied together, because the
// commonest topologies have two arcs, and because a stored value fills two entries (packed.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "sweep.h"

namespace jax_rnnt {

// Calls f(place, u) for every node of diagonal n; place is the address of the node in an array of the lattice's shape.
// The places are far apart, so the compiler cannot vectorise f. It must do as little as possible.
template <class R, class A, class F>
JAX_RNNT_INLINE void ForPlaces(const Sweep<R>& s, A* array, int64_t n, const F& f) {
  const Range nodes = s.Nodes(n);
  const int64_t num_arcs = s.shape.num_arcs(), stride = (1 - s.shape.num_positions) * num_arcs;
  A* place = array + ((n - nodes.first) * s.shape.num_positions + nodes.first) * num_arcs;
  for (int64_t u = nodes.first; u <= nodes.last; ++u, place += stride) f(place, u);
}

// Copies the first two entries of every node to neighbouring places: as two numbers of type E, or as one.
template <class R, class E>
JAX_RNNT_INLINE void GatherPairs(const Sweep<R>& s, const R* array, int64_t n, E* pairs) {
  constexpr int64_t kEach = 2 * sizeof(R) / sizeof(E);
  ForPlaces(s, array, n, [=](const R* place, int64_t u) { std::memcpy(pairs + kEach * u, place, 2 * sizeof(R)); });
}

template <class R, class E>
JAX_RNNT_INLINE void ScatterPairs(const Sweep<R>& s, const E* pairs, int64_t n, R* array) {
  constexpr int64_t kEach = 2 * sizeof(R) / sizeof(E);
  ForPlaces(s, array, n, [=](R* place, int64_t u) { std::memcpy(place, pairs + kEach * u, 2 * sizeof(R)); });
}

// Sets x[stride * u] to -inf for the nodes of diagonal n from which the move leaves the lattice.
template <class R>
JAX_RNNT_INLINE void Close(const Sweep<R>& s, int64_t n, const Move& move, R* x, int64_t stride) {
  constexpr R kNever = -std::numeric_limits<R>::infinity();
  const Range nodes = s.Nodes(n), from = s.Sources(n, move);
  const int64_t open = from.first > from.last ? nodes.last + 1 : from.first;
  for (int64_t u = nodes.first; u < open; ++u) x[stride * u] = kNever;
  for (int64_t u = std::max(from.last + 1, open); u <= nodes.last; ++u) x[stride * u] = kNever;
}

// Computes the probabilities of the arcs on diagonal n. They are zero where an arc leaves the lattice.
template <class R>
JAX_RNNT_INLINE void LoadArcs(Sweep<R>& s, int64_t n) {
  constexpr R kInfinity = std::numeric_limits<R>::infinity();
  const Range nodes = s.Nodes(n);
  const int64_t num_arcs = s.shape.num_arcs(), width = s.width;
  const double largest = s.largest;
  R* x = s.buffer.data();
  R wrong[kNodes] = {};
  const auto load = [&](int64_t u, int64_t i, R raw, R* m, double* e) JAX_RNNT_INLINE_LAMBDA {
    const Scaled<R> p = ExpScaled(raw, largest);
    wrong[i] = raw < kInfinity ? wrong[i] : R(1);
    m[u] = p.m;
    e[u] = p.e;
  };
  if (num_arcs == 2) {
    GatherPairs(s, s.arcs, n, x);
    for (int64_t k = 0; k < 2; ++k) Close(s, n, s.shape.moves[k], x + k, 2);
    R *m0 = s.ArcM(0), *m1 = s.ArcM(1);
    double *e0 = s.ArcE(0), *e1 = s.ArcE(1);
    for (int64_t first = nodes.first; first <= nodes.last; first += kNodes) {
#pragma omp simd
      for (int64_t i = 0; i < kNodes; ++i) {
        const R raw0 = x[2 * (first + i)], raw1 = x[2 * (first + i) + 1];
        load(first + i, i, raw0, m0, e0);
        load(first + i, i, raw1, m1, e1);
      }
    }
  } else {
    ForPlaces(s, s.arcs, n, [=](const R* place, int64_t u) {
      for (int64_t k = 0; k < num_arcs; ++k) x[k * width + u] = place[k];
    });
    for (int64_t k = 0; k < num_arcs; ++k) {
      const R* row = x + k * width;
      Close(s, n, s.shape.moves[k], x + k * width, 1);
      R* m = s.ArcM(k);
      double* e = s.ArcE(k);
      for (int64_t first = nodes.first; first <= nodes.last; first += kNodes) {
#pragma omp simd
        for (int64_t i = 0; i < kNodes; ++i) load(first + i, i, row[first + i], m, e);
      }
    }
  }
  for (int64_t i = 0; i < kNodes; ++i) s.poisoned |= wrong[i] != 0;
}

// The code reads this diagonal up to one step beyond its nodes. There must be zeros.
template <class R>
JAX_RNNT_INLINE void ClearMargins(const Sweep<R>& s, Diagonal d, Range nodes) {
  for (int64_t i = 1; i <= s.shape.span; ++i) {
    const int64_t before = nodes.first - i, after = nodes.last + i;
    if (before >= -s.shape.span) d.m[before] = 0.0, d.e[before] = kZeroExponent;
    if (after <= s.length_u + s.shape.span) d.m[after] = 0.0, d.e[after] = kZeroExponent;
  }
}

// Stores the values of diagonal n in the first two entries of their nodes.
template <class R>
JAX_RNNT_INLINE void Store(Sweep<R>& s, Diagonal d, int64_t n) {
  Packed<R>* packed = s.packed.data();
  ForNodes(s.Nodes(n), [=](int64_t u) JAX_RNNT_INLINE_LAMBDA { packed[u] = Packed<R>::From(d.m[u], d.e[u]); });
  ScatterPairs(s, packed, n, s.store);
}

template <class R>
JAX_RNNT_INLINE void Load(Sweep<R>& s, Diagonal d, int64_t n) {
  if (n == s.end) return s.SetEnd(d);
  Packed<R>* packed = s.packed.data();
  GatherPairs(s, static_cast<const R*>(s.store), n, packed);
  ForNodes(s.Nodes(n), [=](int64_t u) JAX_RNNT_INLINE_LAMBDA {
    const Scaled<double> value = packed[u].Value();
    d.m[u] = value.m;
    d.e[u] = value.e;
  });
  ClearMargins(s, d, s.Nodes(n));
}

}  // namespace jax_rnnt
