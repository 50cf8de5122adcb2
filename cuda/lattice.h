// lattice.h: operation 2 on a GPU. cpp/lattice.h says what it computes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "../cpp/lattice.h"
#include "launch.h"

namespace jax_rnnt::cuda {

constexpr int kMaxMoves = 64;                   // they travel with the launch
constexpr int64_t kMaxStep = int64_t{1} << 20;  // so that places in an utterance's past are 32-bit numbers
constexpr int64_t kMaxSide = int64_t{1} << 30;  // of T and of U + 1, for the same reason
constexpr size_t kWarpBytes = 512;              // of shared memory, for sums over the warps of a block
constexpr size_t kSharedBytes = (size_t{48} << 10) - kWarpBytes;  // the rest of the 48 KiB that every GPU gives a block

// How many numbers of type R the recursion over an utterance remembers for each column, and how many bytes of shared
// memory it has for them. If those are too few, it needs a workspace.
std::pair<int64_t, int64_t> Memory(int64_t num_arcs, int64_t longest_step);

// How many numbers of type R the recursion over an utterance remembers.
int64_t Remembered(const LatticeShape& shape);

// posteriors may be null. workspace is [batch, Remembered], or null where shared memory is enough.
template <class R>
LaunchResult LatticeSums(cudaStream_t stream, const LatticeShape& shape, int64_t batch, const R* arcs,
                         const int32_t* frames, const int32_t* labels, R* cost, R* posteriors, R* workspace);

}  // namespace jax_rnnt::cuda
