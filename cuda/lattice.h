// lattice.h: operation 2 on a GPU. What it computes stands in cpp/lattice.h.
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
constexpr size_t kSharedBytes = (size_t{48} << 10) - kWarpBytes;  // what is left of what every GPU gives a block

// Numbers of type R that the recursion over an utterance remembers of each column, and the bytes of shared memory that
// it has for them: where those are too few, it needs a workspace.
std::pair<int64_t, int64_t> Memory(int64_t num_arcs, int64_t longest_step);

// Numbers of type R that the recursion over an utterance remembers.
int64_t Remembered(const LatticeShape& shape);

// posteriors may be null. workspace: [batch, Remembered], or null where shared memory will do.
template <class R>
LaunchResult LatticeSums(cudaStream_t stream, const LatticeShape& shape, int64_t batch, const R* arcs,
                         const int32_t* frames, const int32_t* labels, R* cost, R* posteriors, R* workspace);

}  // namespace jax_rnnt::cuda
