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
  R* posteriors;       // or null
  R* workspace;        // or null
  int64_t remembered;  // numbers of an utterance's workspace, or of the shared memory in place of it
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

// Different moves of up to 8 frames, with at most one label. Posteriors need a workspace of ValuesOfShort numbers an
// utterance. If the GPU has too little shared memory, or the batch is too large, nothing is launched and `fits` is
// false.
bool IsShort(const LatticeShape& shape);
int64_t ValuesOfShort(const LatticeShape& shape);
LaunchResult LaunchShort(cudaStream_t stream, const LatticeShape& shape, int64_t batch,
                         const Utterances<float>& utterances, bool& fits);

}  // namespace jax_rnnt::cuda
