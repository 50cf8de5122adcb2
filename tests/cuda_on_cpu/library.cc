// library.cc: what module.py asks of the library beside its handlers.
#include "../../cuda/lattice.h"  // not the one of cpp/

extern "C" void cuda_on_cpu_lattice_memory(int64_t num_arcs, int64_t longest_step, int64_t* to) {
  const auto memory = jax_rnnt::cuda::Memory(num_arcs, longest_step);
  to[0] = memory.first;
  to[1] = memory.second;
}

extern "C" int64_t cuda_on_cpu_lattice_fast_workspace(int64_t num_frames, int64_t num_positions, const int64_t* moves,
                                                      int64_t count, bool with_posteriors) {
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t k = 0; k < count; ++k) pairs.emplace_back(moves[2 * k], moves[2 * k + 1]);
  return jax_rnnt::cuda::FastWorkspaceSize(num_frames, num_positions, pairs, with_posteriors);
}
