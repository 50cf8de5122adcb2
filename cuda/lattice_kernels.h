// lattice_kernels.h: the kernels of operation 2, and their parameters. lattice.cc chooses between them.
#pragma once

#include "lattice.h"

namespace jax_rnnt::cuda {

template <class R>
struct Utterances {
  const R* arcs;
  const int32_t* logit_lengths;
  const int32_t* target_lengths;
  R* cost;
  R* posteriors;           // or null
  R* workspace;            // or null
  int64_t workspace_size;  // numbers of an utterance's workspace, or of the shared memory in place of it
  int32_t num_frames, num_positions;
  int32_t num_arcs, depth;  // of the ring, a power of two above the longest step
  int32_t dt[kMaxMoves], du[kMaxMoves];
};

// Bytes of shared memory that a walk needs (lattice_walk.cuh).
template <class R>
size_t SharedOfWalk(const Utterances<R>& utterances) {
  const auto size = utterances.workspace == nullptr ? utterances.workspace_size : 0;
  return kWarpBytes + static_cast<size_t>(size) * sizeof(R);
}

// Any moves.
template <class R>
LaunchResult LaunchGeneral(cudaStream_t stream, int64_t batch, const Utterances<R>& utterances);

// Different moves of up to 8 frames, with at most one label.
bool AreShort(const std::vector<Move>& moves);
bool AreTooMany(int64_t num_frames, int64_t num_positions);         // for their kernels; false if they are unknown
WorkspaceSize ShortWorkspace(bool with_posteriors, int64_t depth);  // what their kernels need
// If the moves are not short, the lattice or the batch is too large, or the GPU has too little shared memory, nothing
// is launched and `fits` is false.
template <class R>
LaunchResult LaunchShort(cudaStream_t stream, const LatticeShape& shape, int64_t batch, const Utterances<R>& utterances,
                         bool& fits);

}  // namespace jax_rnnt::cuda
