// lattice.cc: operation 2 on a GPU: chooses the kernel, and says how much memory an utterance needs.
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

template <class R>
LaunchResult LatticeSums(cudaStream_t stream, const LatticeShape& shape, int64_t batch, const R* arcs,
                         const int32_t* frames, const int32_t* labels, R* cost, R* posteriors, R* workspace) {
  Utterances<R> utterances{};
  utterances.arcs = arcs;
  utterances.frames = frames;
  utterances.labels = labels;
  utterances.cost = cost;
  utterances.posteriors = posteriors;
  utterances.workspace = workspace;
  utterances.remembered = Remembered(shape);
  utterances.frames_max = static_cast<int32_t>(shape.frames);
  utterances.columns = static_cast<int32_t>(shape.columns);
  utterances.num_arcs = static_cast<int32_t>(shape.num_arcs());
  utterances.depth = static_cast<int32_t>(Depth(shape.span));
  for (size_t k = 0; k < shape.moves.size(); ++k) {
    utterances.dt[k] = static_cast<int32_t>(shape.moves[k].dt);
    utterances.du[k] = static_cast<int32_t>(shape.moves[k].du);
  }
  if constexpr (std::is_same_v<R, float>) {
    if (IsPair(shape)) return LaunchPair(stream, batch, utterances);
  }
  return LaunchGeneral(stream, batch, utterances);
}

#define JAX_RNNT_INSTANTIATE(R)                                                                              \
  template LaunchResult LatticeSums<R>(cudaStream_t, const LatticeShape&, int64_t, const R*, const int32_t*, \
                                       const int32_t*, R*, R*, R*);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
