// lattice_general.cu: a lattice with any moves, in any type: a block walks an utterance (lattice_walk.cuh).
#include "lattice_kernels.h"
#include "lattice_walk.cuh"

namespace jax_rnnt::cuda {
namespace {

constexpr int64_t kFewColumns = 32;    // one warp
constexpr int64_t kManyColumns = 512;  // the largest number of threads; with more columns a thread has several
constexpr int kFewest = 12;            // blocks of one warp on a multiprocessor: at most 168 registers a thread

template <class R, bool kWarpOnly, bool kPosteriors>
__global__ void __launch_bounds__(kWarpOnly ? kFewColumns : kManyColumns, kWarpOnly ? kFewest : 1)
    LatticeKernel(const __grid_constant__ Utterances<R> shape) {
  JAX_RNNT_DYNAMIC_SHARED(shared);
  const int64_t b = blockIdx.x;
  auto walk = WalkOf<kWarpOnly>(shape, b, kPosteriors, shared);
  const auto outcome = FromLengths<R>(shape.frames_max, shape.columns, walk.frames, walk.labels);
  if (outcome.known) return walk.Finish(outcome, shape.cost + b);
  WalkThrough<kPosteriors>(walk, shape.cost + b);
}

}  // namespace

template <class R>
LaunchResult LaunchGeneral(cudaStream_t stream, int64_t batch, const Utterances<R>& utterances) {
  const auto launch = [&](auto warp_only) {
    const int64_t columns = std::min<int64_t>(utterances.columns, kManyColumns);
    const unsigned threads = warp_only() ? kWarp : static_cast<unsigned>((columns + kWarp - 1) / kWarp * kWarp);
    const auto kernel =
        utterances.posteriors == nullptr ? &LatticeKernel<R, warp_only(), false> : &LatticeKernel<R, warp_only(), true>;
    return Launch("LatticeSums", kernel, batch, threads, SharedOfWalk(utterances), stream, utterances);
  };
  return utterances.columns <= kFewColumns ? launch(std::true_type{}) : launch(std::false_type{});
}

template LaunchResult LaunchGeneral<float>(cudaStream_t, int64_t, const Utterances<float>&);
template LaunchResult LaunchGeneral<double>(cudaStream_t, int64_t, const Utterances<double>&);

}  // namespace jax_rnnt::cuda
