// arcs.cu: launches operation 1 on a GPU. How many lanes share a row, and how many rows a warp.
#include <algorithm>
#include <numeric>

#include "arcs.h"
#include "arcs_backward.cuh"
#include "arcs_forward.cuh"

namespace jax_rnnt::cuda {
namespace {

// Lanes for a row and vectors for a lane. Few lanes, because each does what a row costs beside its entries, but of long
// rows there may be few. Entries of 16 bits fill twice as many registers as they come in, and of 64 bits two each.
template <class T, class F>
LaunchResult ForWidth(int64_t width, const F& f) {
  constexpr int kMany = sizeof(T) == 4 ? 8 : 4;
  const int64_t vectors = width / Pack<T>::kSize + (width % Pack<T>::kSize == 0 ? 0 : 2);
  if (vectors <= 8) return f(std::integral_constant<int, 2>{}, std::integral_constant<int, 4>{});
  if (vectors <= 16) return f(std::integral_constant<int, 4>{}, std::integral_constant<int, 4>{});
  if (vectors <= 32) return f(std::integral_constant<int, 8>{}, std::integral_constant<int, 4>{});
  if (vectors <= 512) return f(std::integral_constant<int, 8>{}, std::integral_constant<int, kMany>{});
  return f(std::integral_constant<int, 32>{}, std::integral_constant<int, kMany>{});
}

int64_t CeilDiv(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

// Rows of a tile: a multiple of as many as begin and end with a vector, and no more than fit into a block's memory.
template <class T>
int64_t TileRows(int64_t width, int64_t arcs) {
  const int64_t least = Pack<T>::kSize / std::gcd<int64_t>(Pack<T>::kSize, width);
  const auto of_row = static_cast<int64_t>(Tile<typename Compute<T>::Type>::Bytes(1, static_cast<int32_t>(arcs)));
  const int64_t most = std::min<int64_t>(kWarp, kTileBytes / of_row) / least;
  return least * std::clamp<int64_t>(kTileEntries / (least * width), 1, most);
}

bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % sizeof(uint4) == 0; }

}  // namespace

template <class T>
LaunchResult ArcsForward(cudaStream_t stream, const ArcsShape& shape, int64_t count, const T* logits,
                         const int32_t* labels, const int32_t* offsets, typename Compute<T>::Type* log_probs,
                         Norm<typename Compute<T>::Type>* norms) {
  const ForwardOperands<T> operands{Rows<T>(shape, count, logits, labels, offsets), log_probs, norms};
  return ForWidth<T>(shape.width, [&](auto lanes, auto unroll) {
    return Launch("ArcsForward", &ForwardKernel<T, lanes(), unroll()>, CeilDiv(count, kForwardThreads / lanes()),
                  kForwardThreads, 0, stream, operands);
  });
}

template <class T>
LaunchResult ArcsBackward(cudaStream_t stream, const ArcsShape& shape, int64_t count, const T* logits,
                          const int32_t* labels, const int32_t* offsets, const Norm<typename Compute<T>::Type>* norms,
                          const typename Compute<T>::Type* cotangent, const typename Compute<T>::Type* bound, T* grad) {
  constexpr int64_t kWarps = kBackwardThreads / kWarp, kStride = kWarp * Pack<T>::kSize;
  const Rows<T> rows(shape, count, logits, labels, offsets);
  const int64_t tile_rows = TileRows<T>(shape.width, shape.num_arcs()), tiles = CeilDiv(count, tile_rows);
  const bool windowed = shape.window.first > 0 || shape.window.stop < shape.vocabulary;
  const auto tile_bytes = static_cast<int32_t>(
      Tile<typename Compute<T>::Type>::Bytes(static_cast<int32_t>(tile_rows), static_cast<int32_t>(shape.num_arcs())));
  const BackwardOperands<T> operands{rows,
                                     norms,
                                     cotangent,
                                     bound,
                                     grad,
                                     static_cast<int32_t>(tile_rows),
                                     tile_bytes,
                                     tiles,
                                     IsAligned(logits) && IsAligned(grad),
                                     windowed,
                                     bound != nullptr,
                                     Quotient(shape.width),
                                     Quotient(shape.num_arcs()),
                                     static_cast<int32_t>(kStride / shape.width),
                                     static_cast<int32_t>(kStride % shape.width)};
  return Launch("ArcsBackward", &BackwardKernel<T>, CeilDiv(tiles, kWarps), kBackwardThreads,
                static_cast<size_t>(kWarps * tile_bytes), stream, operands);
}

#define JAX_RNNT_INSTANTIATE(T)                                                                                 \
  template LaunchResult ArcsForward<T>(cudaStream_t, const ArcsShape&, int64_t, const T*, const int32_t*,       \
                                       const int32_t*, Compute<T>::Type*, Norm<Compute<T>::Type>*);             \
  template LaunchResult ArcsBackward<T>(cudaStream_t, const ArcsShape&, int64_t, const T*, const int32_t*,      \
                                        const int32_t*, const Norm<Compute<T>::Type>*, const Compute<T>::Type*, \
                                        const Compute<T>::Type*, T*);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
JAX_RNNT_INSTANTIATE(Half)
JAX_RNNT_INSTANTIATE(BFloat16)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
