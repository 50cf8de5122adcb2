// float16.cc: conversions of runs of float16, by instructions that x86-64 has from its level v3 on.
#include "float16.h"

#include "simd.h"

#if JAX_RNNT_HAS_CLONES
#include <immintrin.h>
#endif

namespace jax_rnnt {
namespace {

#if JAX_RNNT_HAS_CLONES

// These are not JAX_RNNT_CLONES, because a compiler does not find these instructions in a plain loop.
const bool kHasConversions = (__builtin_cpu_init(), __builtin_cpu_supports("x86-64-v3"));

constexpr int64_t kVector = 8;  // the last vector of a run overlaps the one before it

#define JAX_RNNT_F16C __attribute__((target("arch=x86-64-v3")))

JAX_RNNT_F16C inline void WidenVector(const Half* from, float* to) {
  _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
JAX_RNNT_F16C inline void NarrowVector(const float* from, Half* to) {
  const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), halves);
}

JAX_RNNT_F16C bool WidenVectors(const Half* from, int64_t n, float* to) {
  if (n < kVector) return false;
  for (int64_t i = 0; i + kVector <= n; i += kVector) WidenVector(from + i, to + i);
  WidenVector(from + n - kVector, to + n - kVector);
  return true;
}

JAX_RNNT_F16C bool NarrowVectors(const float* from, int64_t n, Half* to) {
  if (n < kVector) return false;
  for (int64_t i = 0; i + kVector <= n; i += kVector) NarrowVector(from + i, to + i);
  NarrowVector(from + n - kVector, to + n - kVector);
  return true;
}

#undef JAX_RNNT_F16C

#else

constexpr bool kHasConversions = false;
bool WidenVectors(const Half*, int64_t, float*) { return false; }
bool NarrowVectors(const float*, int64_t, Half*) { return false; }

#endif

}  // namespace

void WidenRun(const Half* from, int64_t n, float* to) {
  if (kHasConversions && WidenVectors(from, n, to)) return;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = Widen(from[i]);
}

void NarrowRun(const float* from, int64_t n, Half* to) {
  if (kHasConversions && NarrowVectors(from, n, to)) return;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = Narrow<Half>(from[i]);
}

}  // namespace jax_rnnt
