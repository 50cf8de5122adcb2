// float16.cc: conversions of runs of float16, by instructions that x86-64 has had since its level v3.
#include "float16.h"

#include "simd.h"

#if JAX_RNNT_HAS_CLONES
#include <immintrin.h>
#endif

namespace jax_rnnt {
namespace {

#if JAX_RNNT_HAS_CLONES

// Not JAX_RNNT_CLONES: a compiler does not find these instructions in a plain loop.
const bool kHasConversions = (__builtin_cpu_init(), __builtin_cpu_supports("x86-64-v3"));

__attribute__((target("arch=x86-64-v3"))) int64_t WidenVectors(const Half* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(halves));
  }
  return i;
}

__attribute__((target("arch=x86-64-v3"))) int64_t NarrowVectors(const float* from, int64_t n, Half* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), halves);
  }
  return i;
}

#else

constexpr bool kHasConversions = false;
int64_t WidenVectors(const Half*, int64_t, float*) { return 0; }
int64_t NarrowVectors(const float*, int64_t, Half*) { return 0; }

#endif

}  // namespace

void WidenRun(const Half* from, int64_t n, float* to) {
#pragma omp simd
  for (int64_t i = kHasConversions ? WidenVectors(from, n, to) : 0; i < n; ++i) to[i] = Widen(from[i]);
}

void NarrowRun(const float* from, int64_t n, Half* to) {
#pragma omp simd
  for (int64_t i = kHasConversions ? NarrowVectors(from, n, to) : 0; i < n; ++i) to[i] = Narrow<Half>(from[i]);
}

}  // namespace jax_rnnt
