// library.cc: what module.py asks of the library beside its handlers.
#include "../../cuda/lattice.h"  // not the one of cpp/

extern "C" void cuda_on_cpu_lattice_memory(int64_t num_arcs, int64_t longest_step, int64_t* to) {
  const auto memory = jax_rnnt::cuda::Memory(num_arcs, longest_step);
  to[0] = memory.first;
  to[1] = memory.second;
}
