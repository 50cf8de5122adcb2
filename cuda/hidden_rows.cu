// hidden_rows.cu: launches hidden rows and their backward on a GPU.
#include <algorithm>
#include <utility>

#include "hidden_rows.cuh"
#include "hidden_rows.h"

namespace jax_rnnt::cuda {
namespace {

int64_t CeilDiv(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

// Calls f with the activation as a constant.
template <class F, int... kEach>
LaunchResult ForActivation(int32_t activation, const F& f, std::integer_sequence<int, kEach...>) {
  LaunchResult result = "there is no activation " + std::to_string(activation);
  (void)((kEach == activation && (result = f(std::integral_constant<int, kEach>{}), true)) || ...);
  return result;
}
template <class F>
LaunchResult ForActivation(int32_t activation, const F& f) {
  return ForActivation(activation, f, std::make_integer_sequence<int, kActivations>{});
}

// More blocks than run at once, and few enough that those without work cost nothing.
constexpr int64_t kMostSumBlocks = 4096;

template <class T>
LaunchResult LaunchSums(const char* name, cudaStream_t stream, int32_t activation, SumOperands<T> operands) {
  using A = typename Compute<T>::Type;
  const int64_t blocks = std::min(CeilDiv(operands.lines * operands.vectors, kSumVectors), kMostSumBlocks);
  operands.blocks = static_cast<int32_t>(blocks);
  constexpr size_t kShared = sizeof(A) * Pack<T>::kSize * kSumVectors * (kSumParts - 1);
  return ForActivation(activation, [&](auto f) {
    return Launch(name, &HiddenSumsKernel<T, f()>, blocks, kSumThreads, kShared, stream, operands);
  });
}

}  // namespace

template <class T>
LaunchResult HiddenRows(cudaStream_t stream, const HiddenShape& shape, const T* encoded, const T* predicted,
                        const int32_t* place, const uint32_t* seed, T* hidden) {
  const int64_t vectors = shape.width / Pack<T>::kSize;
  if (shape.rows * vectors * shape.nodes() == 0) return {};
  const HiddenOperands<T> operands{encoded,
                                   predicted,
                                   place,
                                   hidden,
                                   {seed, shape.dropped},
                                   shape.rows,
                                   static_cast<int32_t>(shape.nodes()),
                                   static_cast<int32_t>(vectors),
                                   Divisor(vectors),
                                   Divisor(shape.positions),
                                   Divisor(shape.frames)};
  return ForActivation(shape.activation, [&](auto f) {
    return Launch("HiddenRows", &HiddenKernel<T, f()>,
                  CeilDiv(shape.rows * vectors, kHiddenThreads * kHiddenVectors<T>), kHiddenThreads, 0, stream,
                  operands);
  });
}

template <class T>
LaunchResult HiddenRowsBackward(cudaStream_t stream, const HiddenShape& shape, const T* d_hidden, const T* encoded,
                                const T* predicted, const int32_t* place, const int32_t* row, const uint32_t* seed,
                                const HiddenSums<T>& sums) {
  const int64_t vectors = shape.width / Pack<T>::kSize;
  if (shape.rows * vectors * shape.nodes() == 0) return {};
  SumOperands<T> operands{d_hidden,
                          encoded,
                          predicted,
                          sums.encoded_before,
                          sums.encoded,
                          place,
                          row,
                          {seed, shape.dropped},
                          shape.rows,
                          shape.batch * shape.frames,
                          static_cast<int32_t>(shape.nodes()),
                          static_cast<int32_t>(vectors),
                          static_cast<int32_t>(shape.frames),
                          static_cast<int32_t>(shape.positions),
                          0,
                          true};
  const auto result = LaunchSums("HiddenSumsOfFrames", stream, shape.activation, operands);
  if (!result.empty()) return result;
  operands.own = predicted;
  operands.other = encoded;
  operands.before = sums.predicted_before;
  operands.sums = sums.predicted;
  operands.lines = shape.batch * shape.positions;
  operands.of_frames = false;
  return LaunchSums("HiddenSumsOfPositions", stream, shape.activation, operands);
}

#define JAX_RNNT_INSTANTIATE(T)                                                                               \
  template LaunchResult HiddenRows<T>(cudaStream_t, const HiddenShape&, const T*, const T*, const int32_t*,   \
                                      const uint32_t*, T*);                                                   \
  template LaunchResult HiddenRowsBackward<T>(cudaStream_t, const HiddenShape&, const T*, const T*, const T*, \
                                              const int32_t*, const int32_t*, const uint32_t*, const HiddenSums<T>&);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
JAX_RNNT_INSTANTIATE(Half)
JAX_RNNT_INSTANTIATE(BFloat16)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
