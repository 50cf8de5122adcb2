// lattice_general.cu: a lattice with any moves, in any type: a block walks an utterance (lattice_walk.cuh).
#include "lattice_kernels.h"
#include "lattice_walk.cuh"

namespace jax_rnnt::cuda {
namespace {

constexpr int64_t kFewPositions = 32;    // one warp
constexpr int64_t kManyPositions = 512;  // the largest number of threads; with more positions a thread has several
constexpr int kFewest = 12;              // blocks of one warp on a multiprocessor: at most 168 registers a thread

template <class R, bool kWarpOnly, bool kPosteriors>
__global__ void __launch_bounds__(kWarpOnly ? kFewPositions : kManyPositions, kWarpOnly ? kFewest : 1)
    LatticeKernel(const __grid_constant__ Utterances<R> shape) {
  JAX_RNNT_DYNAMIC_SHARED(shared);
  const int64_t b = blockIdx.x;
  auto walk = WalkOf<kWarpOnly>(shape, b, kPosteriors, shared);
  const auto outcome = FromLengths<R>(shape.num_frames, shape.num_positions, walk.length_t, walk.length_u);
  if (outcome.known) return walk.Finish(outcome, shape.cost + b);
  WalkThrough<kPosteriors>(walk, shape.cost + b);
}

}  // namespace

template <class R>
LaunchResult LaunchGeneral(cudaStream_t stream, int64_t batch, const Utterances<R>& utterances) {
  const auto launch = [&](auto warp_only) {
    const int64_t num_positions = std::min<int64_t>(utterances.num_positions, kManyPositions);
    const unsigned threads = warp_only() ? kWarp : static_cast<unsigned>((num_positions + kWarp - 1) / kWarp * kWarp);
    const auto kernel =
        utterances.posteriors == nullptr ? &LatticeKernel<R, warp_only(), false> : &LatticeKernel<R, warp_only(), true>;
    return Launch("LatticeSums", kernel, batch, threads, SharedOfWalk(utterances), stream, utterances);
  };
  return utterances.num_positions <= kFewPositions ? launch(std::true_type{}) : launch(std::false_type{});
}

template LaunchResult LaunchGeneral<float>(cudaStream_t, int64_t, const Utterances<float>&);
template LaunchResult LaunchGeneral<double>(cudaStream_t, int64_t, const Utterances<double>&);

}  // namespace jax_rnnt::cuda
