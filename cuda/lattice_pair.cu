// lattice_pair.cu: a lattice of two arcs a node, a blank (1, 0) and a label (0, 1) or (1, 1), in float.
//
// As in lattice_walk.cuh, alpha and beta meet in the middle, and each continues over the half of the other. Here alpha
// and beta have separate warps, and each lane has one column. Values stay in registers (light.cuh) and go from lane to
// lane by shuffles.
//
// Both directions count from their own beginning: column u' and frame t' are u and t for alpha, U_b - u and T_b - t for
// beta. A step takes the nodes with n' = t' + kSkew u', where kSkew is 1 if labels take no frame. Then every arc leads
// to the next step. A chunk has kChunk steps. Each warp is one chunk behind the warp that it takes values from, so one
// barrier for each chunk is enough. The nodes of a chunk lie on diagonals, that is, on many rows of memory. Lanes whose
// nodes lie on one row read them together, one chunk ahead, and put them into a tile in shared memory. Results go back
// to memory in the same way.
//
// If a lattice needs longer exponents, or an arc is NaN or +inf, lattice_walk.cuh walks it again.
#include "lattice_kernels.h"
#include "lattice_walk.cuh"
#include "light.cuh"
#include "strip.cuh"

namespace jax_rnnt::cuda {
namespace {

constexpr int kChunksKept = 4;                  // how many chunks of values a warp keeps for the next warp
constexpr int64_t kLongest = int64_t{1} << 17;  // the largest T + U + 1: the bounds of light.cuh need it

template <int kChunk>
constexpr int kTile = kChunk * kTileWidth;

// One warp's part of one direction.
template <int kSkew, int kChunk, bool kPosteriors>
struct Direction {
  using Of = Strip<kSkew, kChunk>;

  Of strip;
  int32_t first, last;  // u' of the warp's first column; U_b
  Node* tile;           // the arcs of the chunk, and then the results
  Node* others;         // second half: the other direction's values, at the ends (alpha) or beginnings of arcs
  const Light* from;    // the values of the warp before: kChunksKept chunks, each step with that of the step before it
  Light* to;
  bool beta;
  int32_t warp;                        // its number in its direction
  int32_t frames_blank, frames_label;  // this lane's column: at how many frames the arc leads to a node or the end
  float absent;                        // the score of the blank at the other frames
  float most;                          // the largest arc that light.cuh allows
  Light own, out;                      // the values for the next step of this column, and of the next column
  bool special = false;                // whether an arc was above `most`, or NaN

  struct Arcs {
    Light blank, label;
  };

  // The probabilities of the arcs of a lane's node at frame t.
  __device__ __forceinline__ Arcs Worth(Node raw, int32_t t) {
    constexpr float kNowhere = -std::numeric_limits<float>::infinity();
    const float blank = static_cast<uint32_t>(t) < static_cast<uint32_t>(frames_blank) ? raw.of[0] : absent;
    const float label = static_cast<uint32_t>(t) < static_cast<uint32_t>(frames_label) ? raw.of[1] : kNowhere;
    special |= !(blank <= most);
    special |= !(label <= most);
    return {ExpLight(blank), ExpLight(label)};
  }

  // Steps n', n' + 1, ... of a chunk. While a step runs, the next step's operands are read and its arcs are computed.
  template <bool kBeta, bool kSecond>
  __device__ __forceinline__ void Steps(int32_t n, int32_t chunk) {
    const int32_t lane = strip.lane, t_first = n - kSkew * (first + lane);
    const int32_t t = kBeta ? strip.frames - t_first : t_first;
    const Light* in_chunk = from + chunk % kChunksKept * kChunk;
    Light* out_chunk = to + chunk % kChunksKept * kChunk + 1;
    Light* out_last = to + (chunk + 1) % kChunksKept * kChunk;
    Node* const nodes = tile + lane;
    const Node* const ahead = others + lane;
    Node raw = nodes[kTileWidth], raw_later = nodes[2 * kTileWidth];
    Arcs arcs = Worth(nodes[0], t);
    Light left = in_chunk[0];
    Node other = kSecond ? ahead[0] : Node{}, other_right = kSecond && !kBeta ? ahead[1] : Node{};
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      const Arcs now = arcs;
      const auto value = BitCast<Light>(other), value_right = BitCast<Light>(other_right);
      Light in{__shfl_up_sync(kWholeWarp, out.m, 1), __shfl_up_sync(kWholeWarp, out.e, 1)};
      in = lane == 0 ? left : in;
      if (j + 1 < kChunk) {
        arcs = Worth(raw, kBeta ? t - j - 1 : t + j + 1);
        raw = raw_later;
        if (j + 3 < kChunk) raw_later = nodes[(j + 3) * kTileWidth];
        left = in_chunk[j + 1];
        if constexpr (kSecond) other = ahead[(j + 1) * kTileWidth];
        if constexpr (kSecond && !kBeta) other_right = ahead[(j + 1) * kTileWidth + 1];
      }
      Node result{};
      if constexpr (kBeta) {
        const Light by_blank = own * now.blank, by_label = in * now.label;
        own = out = AddBiased(by_blank, by_label);
        result = kSecond ? Node{Posterior(by_blank, value), Posterior(by_label, value)} : BitCast<Node>(own);
      } else {
        const Light alpha = AddBiased(own, in);
        own = alpha * now.blank;
        out = alpha * now.label;
        result = kSecond ? Node{Posterior(own, value), Posterior(out, value_right)} : BitCast<Node>(alpha);
      }
      if constexpr (kPosteriors) nodes[j * kTileWidth] = result;
      if (lane == static_cast<int32_t>(kWarp) - 1) (j + 1 < kChunk ? out_chunk[j] : *out_last) = out;
    }
  }

  __device__ __forceinline__ static float Posterior(Light paths, Light other) {
    const float p = paths.m * other.m * Pow2Light(Sum(paths.e, other.e));
    return fminf(p, 1.0f);  // rounding may give more than 1
  }

  // Gives the first value of a half to the next warp. The caller must call a barrier after it.
  __device__ __forceinline__ void HandOn() const {
    if (strip.lane == static_cast<int32_t>(kWarp) - 1) to[0] = out;
  }

  // Walks `chunks` chunks from step n' = begin on. Every warp calls as many barriers as `longest`, the larger number of
  // chunks of both directions, demands.
  template <bool kSecond>
  __device__ __forceinline__ void Half(int32_t begin, int32_t chunks, int32_t longest, int32_t behind) {
    uint32_t with_frames = 0;  // for the chunk that is in the tile now
    for (int32_t turn = -1; turn < longest + behind; ++turn) {
      const int32_t chunk = turn - warp;
      if (chunk >= -1 && chunk < chunks && first <= last) {
        const int32_t n = begin + chunk * kChunk, next = n + kChunk;
        Node next_arcs[Of::kRequests], next_others[Of::kRequests];
        const bool more = chunk + 1 < chunks;
        const uint32_t next_frames = more ? strip.WithFrames(next) : 0;
        strip.ForNodes(strip.arcs, next_frames & strip.readable, next,
                       [&](int q, uint32_t wanted, const Node* from) { next_arcs[q] = ReadIf(wanted, from); });
        if constexpr (kSecond) {
          const int32_t ahead = next + (beta ? 0 : 1);
          const uint32_t ahead_frames = more ? strip.WithFrames(ahead) : 0;
          strip.ForNodes(strip.posteriors, ahead_frames & strip.readable, ahead,
                         [&](int q, uint32_t wanted, const Node* from) { next_others[q] = ReadIf(wanted, from); });
        }
        const bool begun = n + kChunk > kSkew * first;
        const bool ended = n - kSkew * (first + static_cast<int32_t>(kWarp) - 1) > strip.frames;
        if (chunk >= 0 && begun && !ended) {
          beta ? Steps<true, kSecond>(n, chunk) : Steps<false, kSecond>(n, chunk);
          if constexpr (kPosteriors) {
            __syncwarp();
            Node results[Of::kRequests]{};
            strip.ForPlaces([&](int q, int32_t place) { results[q] = tile[place]; });
            strip.ForNodes(strip.posteriors, with_frames & strip.writable, n,
                           [&](int q, uint32_t wanted, Node* to) { WriteIf(wanted, to, results[q]); });
          }
        }
        __syncwarp();
        strip.ForPlaces([&](int q, int32_t place) {
          tile[place] = next_arcs[q];
          if constexpr (kSecond) others[place] = next_others[q];
        });
        if constexpr (kSecond) {
          __syncwarp();
          End(next);
        }
        __syncwarp();
        with_frames = next_frames;
      }
      __syncthreads();
    }
  }

  // The end of all paths is in no array. This puts it into the tile.
  __device__ __forceinline__ void End(int32_t n) const {
    const int32_t j = strip.frames + kSkew * last - n - 1, column = last - first;
    if (beta || strip.lane != 0 || j < 0 || j >= kChunk || column < 0 || column >= kTileWidth) return;
    others[j * kTileWidth + column] = BitCast<Node>(Light{1, 0});
  }
};

template <int kChunk, bool kPosteriors>
constexpr size_t kBytesOfWarp = (kPosteriors ? 2 : 1) * kTile<kChunk> * sizeof(Node);
template <int kChunk>
constexpr int kHandedOn = kChunksKept * kChunk;

// The bytes of shared memory: first those for sums over a block, then the tiles of each warp, then the values that each
// warp gives to the next one (and those that the first warp gets), then beta where the directions meet.
template <int kChunk, bool kPosteriors>
size_t SharedOfPair(int64_t warps) {
  return kWarpBytes + static_cast<size_t>(2 * warps) * kBytesOfWarp<kChunk, kPosteriors> +
         static_cast<size_t>(2 * (warps + 1) * kHandedOn<kChunk> + warps * kWarp) * sizeof(Light);
}

// The largest number of warps of a direction. More warps have shorter chunks, because they share memory and registers.
template <int kChunk>
constexpr int64_t kWarps = kChunk == 8 ? 4 : 8;
template <int kChunk>
constexpr int kThreads = static_cast<int>(2 * kWarps<kChunk> * kWarp);

template <int kSkew, int kChunk, bool kPosteriors>
__global__ void __launch_bounds__(kThreads<kChunk>, 1) PairKernel(const __grid_constant__ Utterances<float> shape) {
  JAX_RNNT_DYNAMIC_SHARED(shared);
  const int64_t b = blockIdx.x;
  auto walk = WalkOf<false>(shape, b, kPosteriors, shared);
  float* cost = shape.cost + b;
  const auto outcome = FromLengths<float>(shape.frames_max, shape.columns, walk.frames, walk.labels);
  if (outcome.known) return walk.Finish(outcome, cost);

  const int32_t frames = walk.frames, labels = walk.labels, end = frames + kSkew * labels;
  const int32_t middle = (end + kChunk) / (2 * kChunk) * kChunk, rest = (end - middle + kChunk - 1) / kChunk;
  const auto warps = static_cast<int32_t>(blockDim.x / (2 * kWarp)), thread = static_cast<int32_t>(threadIdx.x);
  const int32_t block_warp = thread / static_cast<int32_t>(kWarp), lane = thread % static_cast<int32_t>(kWarp);
  const bool beta = block_warp >= warps;
  const int32_t warp = beta ? block_warp - warps : block_warp, column = warp * static_cast<int32_t>(kWarp) + lane;
  const int32_t u = beta ? labels - column : column, first = column - lane;

  unsigned char* tiles = shared + kWarpBytes;
  auto* handed_on =
      reinterpret_cast<Light*>(tiles + static_cast<size_t>(2 * warps) * kBytesOfWarp<kChunk, kPosteriors>);
  Light* met = handed_on + 2 * (warps + 1) * kHandedOn<kChunk>;
  auto* tile = reinterpret_cast<Node*>(tiles + static_cast<size_t>(block_warp) * kBytesOfWarp<kChunk, kPosteriors>);
  Light* from = handed_on + (beta ? warps + 1 + warp : warp) * kHandedOn<kChunk>;
  const Light nothing{1, beta ? kNever : kNever + kBias}, one{1, beta ? 0 : kBias};
  const int64_t origin = beta ? int64_t{frames} * shape.columns + labels : 0;
  const bool begins = column == 0;
  const bool labels_take_frames = kSkew == 0;
  const bool within = u >= 0 && u <= labels;
  const bool to_last = labels_take_frames && u < labels - 1;  // the label at the last frame would miss the end
  Direction<kSkew, kChunk, kPosteriors> direction{
      {reinterpret_cast<const Node*>(walk.arcs) + origin, reinterpret_cast<Node*>(walk.posteriors) + origin,
       beta ? -1 : 1, shape.columns, frames, labels, first, lane},
      first,
      labels,
      tile,
      tile + kTile<kChunk>,
      from,
      from + kHandedOn<kChunk>,
      beta,
      warp,
      !within      ? 0
      : u < labels ? frames - 1
                   : frames,
      !within || u == labels ? 0
      : to_last              ? frames - 1
                             : frames,
      beta && begins ? 0.0f
                     : -std::numeric_limits<float>::infinity(),  // at its beginning beta stays until its first arc
      static_cast<float>(kHighest * kLn2 / (frames + labels + 1)),
      begins ? one : nothing,
      beta && begins ? one : nothing};
  if (warp == 0) {
    for (int32_t i = lane; i < kHandedOn<kChunk>; i += static_cast<int32_t>(kWarp)) from[i] = nothing;
  }
  direction.HandOn();
  __syncthreads();
  const int32_t before = middle / kChunk, longest = before > rest ? before : rest;
  const int32_t behind = labels / static_cast<int32_t>(kWarp);
  direction.template Half<false>(beta ? end - middle + 1 - rest * kChunk : 0, beta ? rest : before, longest, behind);

  const int32_t t = middle - kSkew * u;
  const bool meets = within && ((t >= 0 && t < frames) || (t == frames && u == labels));
  if (beta && within) met[u] = meets ? direction.own : nothing;
  __syncthreads();
  Scaled<float> share = Zero<float>();
  if (!beta && within) {
    const auto paths = [&](Light a, Light b) { return Scaled<float>{a.m * b.m, int64_t{a.e} - kBias + b.e}; };
    share = paths(direction.own, met[u]);
    if (u < labels) share = share + paths(direction.out, met[u + 1]);
    share = Normalise(share);
  }
  walk.poisoned = direction.special;
  const Scaled<float> total = walk.AllThreads(share);
  if (walk.poisoned || total.e <= -kFarthest) {
    walk.poisoned = false;
    return WalkThrough<kPosteriors>(walk, cost);
  }
  walk.WriteCost(cost, MinusLog(total));
  if constexpr (kPosteriors) {
    const Light inverse{1 / total.m, static_cast<int32_t>(-total.e)};
    direction.own = direction.own * inverse;
    direction.out = direction.out * inverse;
    direction.HandOn();
    __syncthreads();
    direction.template Half<true>(beta ? end - middle + 1 : middle, beta ? before : rest, longest, behind);
    walk.FillOutside(0);
  }
}

template <int kSkew, int kChunk>
LaunchResult LaunchOf(cudaStream_t stream, int64_t batch, int64_t warps, const Utterances<float>& utterances) {
  const bool posteriors = utterances.posteriors != nullptr;
  const auto kernel = posteriors ? &PairKernel<kSkew, kChunk, true> : &PairKernel<kSkew, kChunk, false>;
  const size_t shared = posteriors ? SharedOfPair<kChunk, true>(warps) : SharedOfPair<kChunk, false>(warps);
  return Launch("LatticeSums", kernel, batch, static_cast<unsigned>(2 * warps * kWarp),
                std::max(shared, SharedOfWalk(utterances)), stream, utterances);
}

template <int kSkew>
LaunchResult LaunchSkewed(cudaStream_t stream, int64_t batch, const Utterances<float>& utterances) {
  const int64_t warps = (utterances.columns + kWarp - 1) / kWarp;
  if (warps <= kWarps<8>) return LaunchOf<kSkew, 8>(stream, batch, warps, utterances);
  return LaunchOf<kSkew, 4>(stream, batch, warps, utterances);
}

}  // namespace

bool IsPair(const LatticeShape& shape) {
  if (shape.num_arcs() != 2 || shape.columns > kWarps<4> * kWarp || shape.frames + shape.columns > kLongest)
    return false;
  const auto is = [&](int k, int64_t dt, int64_t du) { return shape.moves[k].dt == dt && shape.moves[k].du == du; };
  return is(0, 1, 0) && (is(1, 0, 1) || is(1, 1, 1));
}

LaunchResult LaunchPair(cudaStream_t stream, int64_t batch, const Utterances<float>& utterances) {
  return utterances.dt[1] == 0 ? LaunchSkewed<1>(stream, batch, utterances)
                               : LaunchSkewed<0>(stream, batch, utterances);
}

}  // namespace jax_rnnt::cuda
