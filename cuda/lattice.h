// lattice.h: operation 2 on a GPU. cpp/lattice.h says what it computes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
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

// How many numbers of its type an utterance's workspace needs. XLA may have to know it before it knows T and U + 1.
struct WorkspaceSize {
  int64_t of_node, of_diagonal, of_position, rest;

  int64_t For(const LatticeShape& shape) const {
    const int64_t diagonals = shape.num_frames + shape.num_positions;
    return (of_node * shape.num_positions + of_diagonal) * diagonals + of_position * shape.num_positions + rest;
  }
};
constexpr int64_t kUnknown = -1;  // T or U + 1. Then the size is enough for each value of it.
WorkspaceSize WorkspaceOf(const std::vector<Move>& moves, bool with_posteriors, int64_t num_frames = kUnknown,
                          int64_t num_positions = kUnknown);

// The same as four numbers, for Python.
std::tuple<int64_t, int64_t, int64_t, int64_t> WorkspaceRule(const std::vector<std::pair<int64_t, int64_t>>& moves,
                                                             bool with_posteriors, int64_t num_frames,
                                                             int64_t num_positions);

// posteriors may be null. workspace is that of each utterance, one behind the other: workspace_size numbers, an even
// number, at least what WorkspaceOf says.
template <class R>
LaunchResult LatticeSums(cudaStream_t stream, const LatticeShape& shape, int64_t batch, const R* arcs,
                         const int32_t* logit_lengths, const int32_t* target_lengths, R* cost, R* posteriors,
                         R* workspace, int64_t workspace_size);

}  // namespace jax_rnnt::cuda
