// best_path.h: the best path of a lattice, which is the largest sum of arcs from (0, 0) to the end.
//
//   best(T_b, U_b) = 0,   best(t, u) = max_k arc_k(t, u) + best(t + dt_k, u + du_k)
//
// The code visits frames from the last to the first. Then it follows the path from (0, 0): at each node the path takes
// the first arc k that attains the maximum.
#pragma once

#include <cstdint>

#include "lattice.h"

namespace jax_rnnt {

// The score of the best path from (0, 0) to (length_t, length_u), each arc cut to [-largest, largest]. R is float or
// double; sums are in double.
template <class R>
double BestScore(const LatticeShape& shape, const R* arcs, int64_t length_t, int64_t length_u, double largest);

// Where a path goes. Places without a label or an arc hold -1.
struct PathArrays {
  int32_t* label_frames;     // [U]: the frame at which each label is emitted
  int32_t* label_durations;  // [U]: how many frames the label's arc takes
  int32_t* taken;            // [T + U]: entry t + u is the arc by which the path leaves node (t, u)
};

// The cost of the best path of one utterance.
template <class R>
R BestPath(const LatticeShape& shape, const R* arcs, int32_t length_t, int32_t length_u, const PathArrays& path);

}  // namespace jax_rnnt
