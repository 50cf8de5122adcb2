// float16.cc: conversions of runs of float16, by instructions that x86-64 has had since its level v3.
#include "float16.h"

#include <algorithm>

#include "simd.h"

#if JAX_RNNT_HAS_CLONES
#include <immintrin.h>
#endif

namespace jax_rnnt {
namespace {

#if JAX_RNNT_HAS_CLONES

// Not JAX_RNNT_CLONES: a compiler does not find these instructions in a plain loop.
const bool kHasConversions = (__builtin_cpu_init(), __builtin_cpu_supports("x86-64-v3"));

constexpr int64_t kVector = 8;  // the last one overlaps the one before where n is no multiple

__attribute__((target("arch=x86-64-v3"))) bool WidenVectors(const Half* from, int64_t n, float* to) {
  if (n < kVector) return false;
  for (int64_t i = 0; i < n; i += kVector) {
    const int64_t at = std::min(i, n - kVector);
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at));
    _mm256_storeu_ps(to + at, _mm256_cvtph_ps(halves));
  }
  return true;
}

__attribute__((target("arch=x86-64-v3"))) bool NarrowVectors(const float* from, int64_t n, Half* to) {
  if (n < kVector) return false;
  for (int64_t i = 0; i < n; i += kVector) {
    const int64_t at = std::min(i, n - kVector);
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + at), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at), halves);
  }
  return true;
}

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
