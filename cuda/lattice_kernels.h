// lattice_kernels.h: the kernels of operation 2, and their parameters. lattice.cc chooses between them.
#pragma once

#include "lattice.h"

namespace jax_rnnt::cuda {

template <class R>
struct Utterances {
  const R* arcs;
  const int32_t* frames;
  const int32_t* labels;
  R* cost;
  R* posteriors;  // or null
  R* workspace;   // or null
  int64_t remembered;
  int32_t frames_max, columns;
  int32_t num_arcs, depth;  // of the ring, a power of two above the longest step
  int32_t dt[kMaxMoves], du[kMaxMoves];
};

// Bytes of shared memory that a walk needs (lattice_walk.cuh).
template <class R>
size_t SharedOfWalk(const Utterances<R>& utterances) {
  const auto remembered = utterances.workspace == nullptr ? utterances.remembered : 0;
  return kWarpBytes + static_cast<size_t>(remembered) * sizeof(R);
}

// Any moves.
template <class R>
LaunchResult LaunchGeneral(cudaStream_t stream, int64_t batch, const Utterances<R>& utterances);

// A blank (1, 0) and a label (0, 1) or (1, 1), in this order.
bool IsPair(const LatticeShape& shape);
LaunchResult LaunchPair(cudaStream_t stream, int64_t batch, const Utterances<float>& utterances);

}  // namespace jax_rnnt::cuda
