// sweep.h: one direction of the lattice recursion over one utterance, a diagonal at a time.
//
// Values are scaled numbers m * 2^e in two doubles, so that products of thousands of probabilities neither underflow
// nor need a log or an exp: multiplying is a product and a sum, adding is an alignment by a power of two. e is an
// integer; m drifts away from 1 and is brought back every few diagonals.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "fast_exp.h"
#include "lattice.h"

namespace jax_rnnt {

// The exponent of zero: far below that of any product, and still a float.
constexpr double kZeroExponent = -1e37;
constexpr double kLargestExponent = 1e35;  // of one arc; what lies beyond is cut

// 2^e for an integer e, which is clamped to the normal numbers' [-1000, 1000].
JAX_RNNT_INLINE double Pow2(double e) {
  e = e < -1000.0 ? -1000.0 : e;
  e = e > 1000.0 ? 1000.0 : e;
  return BitCast<double>(BitCast<uint64_t>(e + (6755399441055744.0 + 1023.0)) << 52);
}

// Scaled numbers of one diagonal, indexed by u; indices from -span to U_b + span are readable.
struct Diagonal {
  double* m;
  double* e;
};

struct Range {
  int64_t first, last;  // inclusive
};

template <class R>
struct Sweep {
  Sweep(const LatticeShape& shape, const R* arcs, R* store, int64_t frames, int64_t labels, int direction)
      : shape(shape), arcs(arcs), store(store), frames(frames), labels(labels), end(frames + labels) {
    const int64_t arcs_k = shape.num_arcs(), span = shape.span;
    int64_t slots = 0;  // of past products: alpha needs those of arc k for as many diagonals as the arc jumps
    for (const Move& move : shape.moves) slots += direction == 0 ? move.step() : 1;
    const int64_t width = labels + 1 + 2 * span, diagonals = arcs_k + slots + 2 * (span + 1);
    memory.assign(static_cast<size_t>(2 * width * diagonals), 0.0);
    double* next = memory.data();
    auto take = [&] {
      Diagonal d{next + span, next + width + span};
      std::fill(next + width, next + 2 * width, kZeroExponent);
      next += 2 * width;
      return d;
    };
    for (int64_t k = 0; k < arcs_k; ++k) probability.push_back(take());
    for (const Move& move : shape.moves) {
      product.emplace_back();
      for (int64_t s = 0; s < (direction == 0 ? move.step() : 1); ++s) product.back().push_back(take());
    }
    for (int64_t s = 0; s <= span; ++s) value.push_back(take());
    for (int64_t s = 0; s <= span; ++s) other.push_back(take());
    raw.resize(static_cast<size_t>(labels + 1));
    int64_t bits = 1;  // one diagonal multiplies m by less than 2^bits
    while ((int64_t{1} << bits) < 2 * arcs_k) ++bits;
    period = std::max<int64_t>(1, 60 / bits);
    if (direction == 1) SetEnd(At(value, end));
  }

  void SetEnd(Diagonal d) const {  // beta is 1 at the end node; no arc leads to the others of its diagonal
    d.m[labels] = 1.0;
    d.e[labels] = 0.0;
  }

  // Nodes of diagonal n < end lie at these u.
  Range Nodes(int64_t n) const { return {std::max<int64_t>(0, n - frames + 1), std::min(labels, n)}; }

  Diagonal At(const std::vector<Diagonal>& ring, int64_t n) const {
    return ring[n % static_cast<int64_t>(ring.size())];
  }

  // The nodes of diagonal n from which arc k stays in the lattice or ends it; first > last if there are none.
  Range Sources(int64_t n, const Move& move) const {
    const Range nodes = Nodes(n);
    if (n + move.step() == end && move.dt > 0) {
      const int64_t u = labels - move.du;
      return u >= nodes.first && u <= nodes.last ? Range{u, u} : Range{1, 0};
    }
    return {std::max(nodes.first, n + move.dt - frames + 1), std::min(nodes.last, labels - move.du)};
  }

  const LatticeShape& shape;
  const R* arcs;
  R* store;  // where values stand until they are replaced by posteriors, or null
  int64_t frames, labels, end, period;
  bool poisoned = false;  // an arc was NaN or +inf
  std::vector<double> memory;
  std::vector<double> raw;
  std::vector<Diagonal> probability;           // of each arc, on the current diagonal
  std::vector<std::vector<Diagonal>> product;  // alpha(source) p or p beta(destination), of the last diagonals
  std::vector<Diagonal> value;                 // alpha of this diagonal; beta of this one and the span after it
  std::vector<Diagonal> other;                 // the other direction's values, read back
};

}  // namespace jax_rnnt
