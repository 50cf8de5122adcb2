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

// How many numbers of type R the recursion over an utterance remembers for each column, and how many bytes of shared
// memory it has for them. If those are too few, it needs a workspace.
std::pair<int64_t, int64_t> Memory(int64_t num_arcs, int64_t longest_step);

// How many numbers of type R the recursion over an utterance remembers.
int64_t Remembered(const LatticeShape& shape);

// The numbers of an utterance's workspace with which the fast kernel computes posteriors in float. 0: that kernel does
// not take the lattice.
int64_t Values(const LatticeShape& shape);
int64_t Values(int64_t frames, int64_t columns, const std::vector<std::pair<int64_t, int64_t>>& moves);

// posteriors may be null. workspace is [batch, each]. `each` is Values, or Remembered, or 0 where shared memory is
// enough for Remembered.
template <class R>
LaunchResult LatticeSums(cudaStream_t stream, const LatticeShape& shape, int64_t batch, const R* arcs,
                         const int32_t* frames, const int32_t* labels, R* cost, R* posteriors, R* workspace,
                         int64_t each);

}  // namespace jax_rnnt::cuda
