// lattice.cc: operation 2 on a GPU: chooses the kernel, and says how much memory an utterance needs.
#include <algorithm>

#include "lattice_kernels.h"

namespace jax_rnnt::cuda {
namespace {

int64_t Depth(int64_t longest_step) {
  int64_t depth = 2;
  while (depth <= longest_step) depth *= 2;
  return depth;
}

// Of a walk's rings: products of each arc and a value, each of two numbers, for each diagonal that the walk keeps.
int64_t WalkSizeOfPosition(int64_t num_arcs, int64_t longest_step) { return 2 * (num_arcs + 1) * Depth(longest_step); }

}  // namespace

WorkspaceSize WorkspaceOf(const std::vector<Move>& moves, bool with_posteriors, int64_t num_frames,
                          int64_t num_positions) {
  const bool is_short = AreShort(moves) && !AreTooMany(num_frames, num_positions);
  int64_t span = 1;
  for (const Move& move : moves) span = std::max(span, move.step());
  WorkspaceSize size = is_short ? ShortWorkspace(with_posteriors, Depth(span)) : WorkspaceSize{};
  // A walk overwrites what the kernels of short moves have left.
  size.of_position = std::max(size.of_position, WalkSizeOfPosition(static_cast<int64_t>(moves.size()), span));
  return size;
}

std::tuple<int64_t, int64_t, int64_t, int64_t> WorkspaceRule(const std::vector<std::pair<int64_t, int64_t>>& moves,
                                                             bool with_posteriors, int64_t num_frames,
                                                             int64_t num_positions) {
  std::vector<Move> all;
  for (const auto& [dt, du] : moves) all.push_back({dt, du});
  const WorkspaceSize size = WorkspaceOf(all, with_posteriors, num_frames, num_positions);
  return {size.of_node, size.of_diagonal, size.of_position, size.rest};
}

template <class R>
LaunchResult LatticeSums(cudaStream_t stream, const LatticeShape& shape, int64_t batch, const R* arcs,
                         const int32_t* logit_lengths, const int32_t* target_lengths, R* cost, R* posteriors,
                         R* workspace, int64_t workspace_size) {
  Utterances<R> utterances{};
  utterances.arcs = arcs;
  utterances.logit_lengths = logit_lengths;
  utterances.target_lengths = target_lengths;
  utterances.cost = cost;
  utterances.posteriors = posteriors;
  utterances.workspace = workspace;
  utterances.workspace_size = workspace_size;
  utterances.num_frames = static_cast<int32_t>(shape.num_frames);
  utterances.num_positions = static_cast<int32_t>(shape.num_positions);
  utterances.num_arcs = static_cast<int32_t>(shape.num_arcs());
  utterances.depth = static_cast<int32_t>(Depth(shape.span));
  for (size_t k = 0; k < shape.moves.size(); ++k) {
    utterances.dt[k] = static_cast<int32_t>(shape.moves[k].dt);
    utterances.du[k] = static_cast<int32_t>(shape.moves[k].du);
  }
  bool fits = false;
  auto result = LaunchShort(stream, shape, batch, utterances, fits);
  if (fits) return result;
  const int64_t of_walk = WalkSizeOfPosition(shape.num_arcs(), shape.span) * shape.num_positions;
  if (static_cast<size_t>(of_walk) * sizeof(R) <= kSharedBytes) {  // shared memory is enough, and faster
    utterances.workspace = nullptr;
    utterances.workspace_size = of_walk;
  }
  return LaunchGeneral(stream, batch, utterances);
}

#define JAX_RNNT_INSTANTIATE(R)                                                                              \
  template LaunchResult LatticeSums<R>(cudaStream_t, const LatticeShape&, int64_t, const R*, const int32_t*, \
                                       const int32_t*, R*, R*, R*, int64_t);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
