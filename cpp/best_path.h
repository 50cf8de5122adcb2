// best_path.h: the score of a lattice's best path, for costs that are too large for the recursion's exponents.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "lattice.h"

namespace jax_rnnt {

// The largest sum of arcs along a path from (0, 0) to (frames, labels), each arc cut to [-largest, largest].
template <class R>
double BestScore(const LatticeShape& shape, const R* arcs, int64_t frames, int64_t labels, double largest) {
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  const int64_t width = labels + 1;
  std::vector<double> best(static_cast<size_t>((frames + 1) * width), kNever);
  best[0] = 0.0;
  for (int64_t t = 0; t < frames; ++t) {
    for (int64_t u = 0; u <= labels; ++u) {
      for (int64_t k = 0; k < shape.num_arcs(); ++k) {
        const int64_t to_t = t + shape.moves[k].dt, to_u = u + shape.moves[k].du;
        if (to_t > frames || to_u > labels || (to_t == frames && to_u < labels)) continue;
        const double x = static_cast<double>(arcs[(t * shape.columns + u) * shape.num_arcs() + k]);
        const double score = best[t * width + u] + (x == kNever ? x : std::clamp(x, -largest, largest));
        best[to_t * width + to_u] = std::max(best[to_t * width + to_u], score);
      }
    }
  }
  return best.back();
}

}  // namespace jax_rnnt
