// lattice.h: operation 2 on a GPU. cpp/lattice.h says what it computes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "../cpp/lattice.h"
#include "launch.h"

namespace jax_rnnt::cuda {

constexpr int kMaxMoves = 64;                   // they travel with the launch
constexpr int64_t kMaxStep = int64_t{1} << 20;  // so that places in an utterance's past are 32-bit numbers
constexpr int64_t kMaxSide = int64_t{1} << 30;  // of T and of U + 1, for the same reason
constexpr size_t kWarpBytes = 512;              // of shared memory, for sums over the warps of a block
constexpr size_t kSharedBytes = kSharedEverywhere - kWarpBytes;  // the rest of it

// How many numbers of type R the walk over an utterance keeps for each position, and how many bytes of shared memory it
// has for them. If those are too few, it needs a workspace.
std::pair<int64_t, int64_t> Memory(int64_t num_arcs, int64_t longest_step);

// How many numbers of type R the walk over an utterance keeps. That many are enough for any moves (lattice_walk.cuh).
int64_t WalkWorkspaceSize(const LatticeShape& shape);

// The numbers of an utterance's workspace with which the fast kernel computes costs, or costs and posteriors, in float.
// 0: that kernel does not take the lattice, or needs none.
int64_t FastWorkspaceSize(const LatticeShape& shape, bool with_posteriors);
int64_t FastWorkspaceSize(int64_t num_frames, int64_t num_positions,
                          const std::vector<std::pair<int64_t, int64_t>>& moves, bool with_posteriors);

// posteriors may be null. workspace is [batch, each]. `each` is FastWorkspaceSize, or WalkWorkspaceSize, or 0 where
// shared memory is enough for WalkWorkspaceSize.
template <class R>
LaunchResult LatticeSums(cudaStream_t stream, const LatticeShape& shape, int64_t batch, const R* arcs,
                         const int32_t* logit_lengths, const int32_t* target_lengths, R* cost, R* posteriors,
                         R* workspace, int64_t each);

}  // namespace jax_rnnt::cuda
