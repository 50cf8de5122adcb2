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

}  // namespace

std::pair<int64_t, int64_t> Memory(int64_t num_arcs, int64_t longest_step) {
  return {2 * (num_arcs + 1) * Depth(longest_step), static_cast<int64_t>(kSharedBytes)};
}

int64_t WalkWorkspaceSize(const LatticeShape& shape) {
  return Memory(shape.num_arcs(), shape.span).first * shape.num_positions;
}

int64_t FastWorkspaceSize(const LatticeShape& shape, bool with_posteriors) {
  return IsShort(shape) ? ShortWorkspaceSize(shape, with_posteriors) : 0;
}

int64_t FastWorkspaceSize(int64_t num_frames, int64_t num_positions,
                          const std::vector<std::pair<int64_t, int64_t>>& moves, bool with_posteriors) {
  LatticeShape shape{num_frames, num_positions, {}, 1};
  for (const auto& [dt, du] : moves) {
    shape.moves.push_back({dt, du});
    shape.span = std::max(shape.span, dt + du);
  }
  return FastWorkspaceSize(shape, with_posteriors);
}

template <class R>
LaunchResult LatticeSums(cudaStream_t stream, const LatticeShape& shape, int64_t batch, const R* arcs,
                         const int32_t* logit_lengths, const int32_t* target_lengths, R* cost, R* posteriors,
                         R* workspace, int64_t each) {
  Utterances<R> utterances{};
  utterances.arcs = arcs;
  utterances.logit_lengths = logit_lengths;
  utterances.target_lengths = target_lengths;
  utterances.cost = cost;
  utterances.posteriors = posteriors;
  utterances.workspace = each > 0 ? workspace : nullptr;
  utterances.workspace_size = each > 0 ? each : WalkWorkspaceSize(shape);
  utterances.num_frames = static_cast<int32_t>(shape.num_frames);
  utterances.num_positions = static_cast<int32_t>(shape.num_positions);
  utterances.num_arcs = static_cast<int32_t>(shape.num_arcs());
  utterances.depth = static_cast<int32_t>(Depth(shape.span));
  for (size_t k = 0; k < shape.moves.size(); ++k) {
    utterances.dt[k] = static_cast<int32_t>(shape.moves[k].dt);
    utterances.du[k] = static_cast<int32_t>(shape.moves[k].du);
  }
  if constexpr (std::is_same_v<R, float>) {
    const bool has_workspace = each == FastWorkspaceSize(shape, posteriors != nullptr);
    if (IsShort(shape) && (posteriors == nullptr || has_workspace)) {
      bool fits = false;
      auto result = LaunchShort(stream, shape, batch, utterances, has_workspace, fits);
      if (fits) return result;
    }
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
