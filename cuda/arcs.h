// arcs.h: operation 1 on a GPU. cpp/arcs.h says what it computes.
#pragma once

#include <cstdint>

#include "../cpp/arcs.h"
#include "launch.h"

namespace jax_rnnt::cuda {

constexpr int kMaxColumns = 64;                           // they travel with the launch
constexpr int64_t kMaxWidth = (int64_t{1} << 31) - 8192;  // places in a row are 32-bit numbers; rows are not

template <class T>
LaunchResult ArcsForward(cudaStream_t stream, const ArcsShape& shape, int64_t rows, const T* logits,
                         const int32_t* labels, const int32_t* offsets, typename Compute<T>::Type* log_probs,
                         Norm<typename Compute<T>::Type>* norms);

// grad may be logits.
template <class T>
LaunchResult ArcsBackward(cudaStream_t stream, const ArcsShape& shape, int64_t rows, const T* logits,
                          const int32_t* labels, const int32_t* offsets, const Norm<typename Compute<T>::Type>* norms,
                          const typename Compute<T>::Type* cotangent, const typename Compute<T>::Type* bound, T* grad);

}  // namespace jax_rnnt::cuda
