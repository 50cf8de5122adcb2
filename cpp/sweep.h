// sweep.h: the state of one direction of the lattice recursion over one utterance, with its last diagonals.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "diagonal.h"
#include "lattice.h"
#include "packed.h"

namespace jax_rnnt {

// The last diagonals of a quantity. Their number is a power of two. A diagonal that was never set holds zeros.
struct Ring {
  std::vector<Diagonal> slots;
  Diagonal At(int64_t n) const { return slots[n & (static_cast<int64_t>(slots.size()) - 1)]; }
};

template <class R>
struct Sweep {
  Sweep(const LatticeShape& shape, const R* arcs, R* store, int64_t length_t, int64_t length_u, int direction)
      : shape(shape),
        arcs(arcs),
        store(store),
        length_t(length_t),
        length_u(length_u),
        end(length_t + length_u),
        largest(LargestExponent(length_t, length_u)) {
    const int64_t num_arcs = shape.num_arcs(), span = shape.span;
    const auto depth = [](int64_t n) {
      int64_t power = 1;
      while (power < n) power *= 2;
      return power;
    };
    // alpha needs the products of an arc from as many past diagonals as the arc's step is long.
    const auto past = [&](const Move& move) { return direction == 0 ? depth(move.step()) : 1; };
    int64_t slots = 2 * depth(span + 1);
    for (const Move& move : shape.moves) slots += past(move);
    width = length_u + kNodes + 2 * span;  // indices from -span to U_b + span, and what a block of kNodes adds
    memory.assign(static_cast<size_t>(2 * width * slots), 0.0);
    double* next = memory.data();
    const auto fill = [&](Ring& ring, int64_t count) {
      for (; count > 0; --count, next += 2 * width) {
        ring.slots.push_back({next + span, next + width + span});
        std::fill(next + width, next + 2 * width, kZeroExponent);
      }
    };
    product.resize(shape.moves.size());
    for (size_t k = 0; k < shape.moves.size(); ++k) fill(product[k], past(shape.moves[k]));
    fill(value, depth(span + 1));
    fill(other, depth(span + 1));
    buffer.resize(static_cast<size_t>(std::max<int64_t>(num_arcs, 2) * width));
    packed.resize(static_cast<size_t>(width));
    arc_m.resize(static_cast<size_t>(num_arcs * width));
    arc_e.resize(static_cast<size_t>(num_arcs * width));
    int64_t bits = 1;  // a step from one diagonal to the next multiplies m by less than 2^bits
    while ((int64_t{1} << bits) < 2 * num_arcs) ++bits;
    period = std::max<int64_t>(1, 60 / bits);
    if (direction == 1) SetEnd(value.At(end));
  }

  void SetEnd(Diagonal d) const {  // beta is 1 at the end node; no arc leads to other nodes of its diagonal
    d.m[length_u] = 1.0;
    d.e[length_u] = 0.0;
  }

  // The positions u of the nodes on diagonal n < end.
  Range Nodes(int64_t n) const { return {std::max<int64_t>(0, n - length_t + 1), std::min(length_u, n)}; }

  // The nodes of diagonal n from which this move leads to a node or to the end. first > last if there are none.
  Range Sources(int64_t n, const Move& move) const {
    const Range nodes = Nodes(n);
    if (n + move.step() == end && move.dt > 0) {
      const int64_t u = length_u - move.du;
      return u >= nodes.first && u <= nodes.last ? Range{u, u} : Range{1, 0};
    }
    return {std::max(nodes.first, n + move.dt - length_t + 1), std::min(nodes.last, length_u - move.du)};
  }

  R* ArcM(int64_t k) { return arc_m.data() + k * width; }
  double* ArcE(int64_t k) { return arc_e.data() + k * width; }

  const LatticeShape& shape;
  const R* arcs;
  R* store;  // holds values until posteriors replace them; or null
  int64_t length_t, length_u, end, width, period;
  double largest;         // the size to which an arc's exponent is cut
  bool poisoned = false;  // an arc was NaN or +inf
  std::vector<double> memory;
  std::vector<R> buffer;          // arcs of the nodes of a diagonal, gathered from the array
  std::vector<Packed<R>> packed;  // values of the nodes of a diagonal, as the array stores them
  std::vector<R> arc_m;           // probabilities of the arcs on the current diagonal
  std::vector<double> arc_e;
  std::vector<Ring> product;  // for each arc alpha(source) p, or p beta(destination)
  Ring value;                 // alpha of this diagonal, or beta of this one and of `span` diagonals after it
  Ring other;                 // the other direction's values, read back
};

}  // namespace jax_rnnt
