// activation.cuh: the activations of hidden rows and their derivatives. jax_rnnt/ops/activations.py has the same.
#pragma once

#include "device.cuh"

namespace jax_rnnt::cuda {

// Valid range: all x. NaN gives NaN.
// Max error: 2^-11 relative, as NVIDIA states it for tanh.approx.f32. A result of 16 bits has 2^-9 or 2^-11 by
// rounding.
__device__ __forceinline__ float TanhApprox(float x) {
#if defined(JAX_RNNT_CUDA_ON_CPU)
  return cuda_on_cpu::TanhApprox(x);
#else
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

// Valid range: all x. NaN gives NaN.
// Max error: 4e-16, absolute. CUDA's own function spills registers on sm_120.
__device__ __forceinline__ double Tanh(double x) {
  const double e = Exp(-2 * fabs(x));
  return copysign((1 - e) / (1 + e), x);
}

template <class T>
__device__ __forceinline__ typename Compute<T>::Type TanhOf(typename Compute<T>::Type x) {
  if constexpr (sizeof(T) == 2) {
    return TanhApprox(x);
  } else if constexpr (sizeof(T) == 4) {
    return tanhf(x);
  } else {
    return Tanh(x);
  }
}

// Of gelu in its form with tanh: x / 2 (1 + tanh(kGeluScale (x + kGeluCube x^3))).
constexpr double kGeluScale = 0.7978845608028654, kGeluCube = 0.044715;

// f(x) of a T, and its derivative.
template <class T, int kActivation>
struct Activation;  // in the order of ACTIVATIONS in jax_rnnt/ops/activations.py

template <class T>
struct Activation<T, 0> {  // tanh
  using A = typename Compute<T>::Type;
  static __device__ __forceinline__ A Value(A x) { return TanhOf<T>(x); }
  static __device__ __forceinline__ A Slope(A x) {
    const A y = TanhOf<T>(x);
    return 1 - y * y;
  }
};

template <class T>
struct Activation<T, 1> {  // relu
  using A = typename Compute<T>::Type;
  static __device__ __forceinline__ A Value(A x) { return x < 0 ? A(0) : x; }  // NaN stays NaN
  static __device__ __forceinline__ A Slope(A x) { return x > 0 ? A(1) : A(0); }
};

template <class T>
struct Activation<T, 2> {  // gelu; its derivative would multiply an approximation's error by x
  using A = typename Compute<T>::Type;
  static __device__ __forceinline__ A Inner(A x) { return A(kGeluScale) * (x + A(kGeluCube) * x * x * x); }
  static __device__ __forceinline__ A Value(A x) { return A(0.5) * x * (1 + TanhOf<A>(Inner(x))); }
  static __device__ __forceinline__ A Slope(A x) {
    const A y = TanhOf<A>(Inner(x));
    return A(0.5) * (1 + y + x * (1 - y * y) * A(kGeluScale) * (1 + A(3 * kGeluCube) * x * x));
  }
};

template <class T>
struct Activation<T, 3> {  // sigmoid
  using A = typename Compute<T>::Type;
  static __device__ __forceinline__ A Value(A x) { return A(0.5) + A(0.5) * TanhOf<T>(A(0.5) * x); }
  static __device__ __forceinline__ A Slope(A x) {
    const A y = TanhOf<T>(A(0.5) * x);
    return A(0.25) * (1 - y * y);
  }
};

template <class T>
struct Activation<T, 4> {  // identity
  using A = typename Compute<T>::Type;
  static __device__ __forceinline__ A Value(A x) { return x; }
  static __device__ __forceinline__ A Slope(A) { return 1; }
};

constexpr int kActivations = 5;

}  // namespace jax_rnnt::cuda
