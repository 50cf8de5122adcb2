// library.cc: what module.py asks of the library beside its handlers.
#include "../../cuda/lattice.h"  // not the one of cpp/

extern "C" void cuda_on_cpu_lattice_workspace(const int64_t* moves, int64_t count, bool with_posteriors,
                                              int64_t num_frames, int64_t num_positions, int64_t* to) {
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t k = 0; k < count; ++k) pairs.emplace_back(moves[2 * k], moves[2 * k + 1]);
  std::tie(to[0], to[1], to[2], to[3]) =
      jax_rnnt::cuda::WorkspaceRule(pairs, with_posteriors, num_frames, num_positions);
}
