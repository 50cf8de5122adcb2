// best_path.h: the best path of a lattice, which is the largest sum of arcs from (0, 0) to the end.
//
//   best(T_b, U_b) = 0,   best(t, u) = max_k arc_k(t, u) + best(t + dt_k, u + du_k)
//
// Frames are taken from the last to the first. Then the path is followed from (0, 0) on: at each node it takes the
// first arc k that attains the maximum.
#pragma once

#include <cstdint>

#include "lattice.h"

namespace jax_rnnt {

// The score of the best path from (0, 0) to (frames, labels), each arc cut to [-largest, largest]. R is float or
// double; sums are in double.
template <class R>
double BestScore(const LatticeShape& shape, const R* arcs, int64_t frames, int64_t labels, double largest);

// The cost of the best path of one utterance; taken[t + u], of T + U numbers, is the arc with which it leaves the node
// (t, u), and -1 where it has no node.
template <class R>
R BestPath(const LatticeShape& shape, const R* arcs, int32_t frames, int32_t labels, int32_t* taken);

}  // namespace jax_rnnt
