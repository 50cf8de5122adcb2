// simd.h: how a plain loop becomes vector code for the CPU it runs on, chosen at load time.
//
// The compiler makes one clone of a JAX_RNNT_CLONES function for each level of x86-64, and the dynamic linker chooses
// one. Functions that it calls must be JAX_RNNT_INLINE, so that their bodies are compiled for that level too. On other
// architectures, compilers or C libraries the plain loop is compiled once, for NEON or SSE2. CUDA kernels can call
// JAX_RNNT_INLINE functions too.
#pragma once

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(JAX_RNNT_NO_CLONES)
#define JAX_RNNT_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#define JAX_RNNT_HAS_CLONES 1
#else
#define JAX_RNNT_CLONES
#define JAX_RNNT_HAS_CLONES 0
#endif

#if defined(__CUDACC__)
#define JAX_RNNT_INLINE inline __host__ __device__ __attribute__((always_inline))
#else
#define JAX_RNNT_INLINE inline __attribute__((always_inline))
#endif
#define JAX_RNNT_INLINE_LAMBDA __attribute__((always_inline))

namespace jax_rnnt {

// The level that JAX_RNNT_CLONES dispatches to on this CPU.
inline const char* SimdLevel() {
#if JAX_RNNT_HAS_CLONES
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3";
  return "x86-64";
#elif defined(__aarch64__)
  return "neon";
#else
  return "baseline";
#endif
}

}  // namespace jax_rnnt
