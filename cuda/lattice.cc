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

int64_t Remembered(const LatticeShape& shape) { return Memory(shape.num_arcs(), shape.span).first * shape.columns; }

int64_t Values(const LatticeShape& shape) { return IsShort(shape) ? ValuesOfShort(shape) : 0; }

int64_t Values(int64_t frames, int64_t columns, const std::vector<std::pair<int64_t, int64_t>>& moves) {
  LatticeShape shape{frames, columns, {}, 1};
  for (const auto& [dt, du] : moves) {
    shape.moves.push_back({dt, du});
    shape.span = std::max(shape.span, dt + du);
  }
  return Values(shape);
}

template <class R>
LaunchResult LatticeSums(cudaStream_t stream, const LatticeShape& shape, int64_t batch, const R* arcs,
                         const int32_t* frames, const int32_t* labels, R* cost, R* posteriors, R* workspace,
                         int64_t each) {
  Utterances<R> utterances{};
  utterances.arcs = arcs;
  utterances.frames = frames;
  utterances.labels = labels;
  utterances.cost = cost;
  utterances.posteriors = posteriors;
  utterances.workspace = each > 0 ? workspace : nullptr;
  utterances.remembered = each > 0 ? each : Remembered(shape);
  utterances.frames_max = static_cast<int32_t>(shape.frames);
  utterances.columns = static_cast<int32_t>(shape.columns);
  utterances.num_arcs = static_cast<int32_t>(shape.num_arcs());
  utterances.depth = static_cast<int32_t>(Depth(shape.span));
  for (size_t k = 0; k < shape.moves.size(); ++k) {
    utterances.dt[k] = static_cast<int32_t>(shape.moves[k].dt);
    utterances.du[k] = static_cast<int32_t>(shape.moves[k].du);
  }
  if constexpr (std::is_same_v<R, float>) {
    if (IsShort(shape) && (posteriors == nullptr || each == ValuesOfShort(shape))) {
      bool fits = false;
      auto result = LaunchShort(stream, shape, batch, utterances, fits);
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
