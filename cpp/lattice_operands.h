// lattice_operands.h: the operands of operation 2 as XLA passes them, and their checks. All platforms share this file.
#pragma once

#include <algorithm>

#include "dispatch.h"
#include "lattice.h"

namespace jax_rnnt {

inline ffi::Error CheckLattice(const char* operation, ffi::AnyBuffer arcs, ffi::AnyBuffer logit_lengths,
                               ffi::AnyBuffer target_lengths, ffi::AnyBuffer cost, ffi::Span<const int64_t> moves,
                               LatticeShape& shape, int64_t& batch) {
  const auto dims = arcs.dimensions();
  const size_t rank = dims.size();
  if (rank < 3) return ffi::Error::InvalidArgument(std::string(operation) + ": arcs must be [..., T, U+1, K]");
  batch = Product(dims, 0, rank - 3);
  shape = {dims[rank - 3], dims[rank - 2], {}, 1};
  if (shape.num_positions < 1) return ffi::Error::InvalidArgument(std::string(operation) + ": U+1 must be at least 1");
  if (auto e = CheckCount(operation, "moves", 2 * static_cast<size_t>(dims[rank - 1]), moves.size()); e.failure()) {
    return e;
  }
  for (size_t k = 0; k < moves.size(); k += 2) {
    const Move move{moves[k], moves[k + 1]};
    if (move.dt < 0 || move.du < 0 || move.step() < 1) {
      return ffi::Error::InvalidArgument(std::string(operation) + ": a move must have dt >= 0, du >= 0, dt + du >= 1");
    }
    shape.moves.push_back(move);
    shape.span = std::max(shape.span, move.step());
  }
  if (logit_lengths.element_type() != ffi::S32 || target_lengths.element_type() != ffi::S32) {
    return ffi::Error::InvalidArgument(std::string(operation) + ": lengths must be S32");
  }
  const auto count = static_cast<size_t>(batch);
  if (auto e = CheckCount(operation, "logit_lengths", count, logit_lengths.element_count()); e.failure()) return e;
  if (auto e = CheckCount(operation, "target_lengths", count, target_lengths.element_count()); e.failure()) return e;
  return CheckCount(operation, "cost", count, cost.element_count());
}

// While the recursion runs, the posteriors of a node hold a pair of numbers. So a node needs at least two arcs.
inline ffi::Error CheckPosteriors(const char* operation, ffi::AnyBuffer arcs, ffi::AnyBuffer posteriors,
                                  ffi::Span<const int64_t> moves) {
  if (moves.size() < 4) return ffi::Error::InvalidArgument(std::string(operation) + ": needs at least two moves");
  return CheckCount(operation, "posteriors", arcs.element_count(), posteriors.element_count());
}

}  // namespace jax_rnnt
