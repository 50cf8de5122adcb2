// diagonal.h: arithmetic on the diagonals of a lattice, whose values are scaled numbers.
//
// A scaled number is m * 2^e with e an integer in floating point, so that products of thousands of probabilities
// neither underflow nor need a log or an exp: multiplying is a product and a sum, adding is an alignment by a power of
// two. m drifts away from 1 and is brought back every few diagonals.
//
// Loops over nodes take kNodes of them at once, and what they write beyond the end of their range is of no use: a
// diagonal has room for it, and who needs zeros there writes them afterwards.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "fast_exp.h"

namespace jax_rnnt {

constexpr int64_t kNodes = 16;

// The exponent of zero: far below that of any product, and still a float.
constexpr double kZeroExponent = -1e37;
constexpr double kLargestExponent = 1e35;  // of one arc; what lies beyond is cut

struct Range {
  int64_t first, last;  // inclusive
};

// Scaled numbers of one diagonal, indexed by u.
struct Diagonal {
  double* m;
  double* e;

  Diagonal operator+(int64_t shift) const { return {m + shift, e + shift}; }
};

template <class F>
JAX_RNNT_INLINE void ForNodes(Range range, const F& f) {
  for (int64_t first = range.first; first <= range.last; first += kNodes) {
#pragma omp simd
    for (int64_t i = 0; i < kNodes; ++i) f(first + i);
  }
}

// 2^e for an integer e, which is clamped to the normal numbers' [-1000, 1000].
JAX_RNNT_INLINE double Pow2(double e) {
  e = e < -1000.0 ? -1000.0 : e;
  e = e > 1000.0 ? 1000.0 : e;
  return BitCast<double>(BitCast<uint64_t>(e + (6755399441055744.0 + 1023.0)) << 52);
}

// sum = a + b. b may be sum itself, in place.
JAX_RNNT_INLINE void Add(Diagonal sum, Diagonal a, Diagonal b, Range range) {
  ForNodes(range, [=](int64_t u) JAX_RNNT_INLINE_LAMBDA {
    const double d = a.e[u] - b.e[u];
    const bool larger = d > 0.0;
    const double scale = Pow2(larger ? -d : d);
    const double m = larger ? b.m[u] * scale + a.m[u] : b.m[u] + a.m[u] * scale;
    const double e = larger ? a.e[u] : b.e[u];
    sum.m[u] = m;
    sum.e[u] = e;
  });
}

JAX_RNNT_INLINE void Copy(Diagonal to, Diagonal from, Range range) {
  ForNodes(range, [=](int64_t u) JAX_RNNT_INLINE_LAMBDA {
    to.m[u] = from.m[u];
    to.e[u] = from.e[u];
  });
}

// Brings m back into [1, 2), and zeros back to their exponent.
JAX_RNNT_INLINE void Normalise(Diagonal d, Range range) {
  ForNodes(range, [=](int64_t u) JAX_RNNT_INLINE_LAMBDA {
    const double m = d.m[u];
    const bool zero = m == 0.0;
    const double power =
        BitCast<double>((BitCast<uint64_t>(m) >> 52) | 0x4330000000000000u) - (4503599627370496.0 + 1023.0);
    d.m[u] = zero ? 0.0 : m * Pow2(-power);
    d.e[u] = zero ? kZeroExponent : d.e[u] + power;
  });
}

// How R is rounded to an integer by addition, from what size on it is one, and ln 2 in two parts, the first so short
// that its product with an exponent of usual size is exact.
template <class R>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kRound = 12582912.0f, kInteger = 4e6f, kLn2High = 0.693145752f, kLn2Low = 1.42860682e-6f;
};
template <>
struct ExpConstants<double> {
  static constexpr double kRound = 6755399441055744.0, kInteger = 1e15;
  static constexpr double kLn2High = 0.69314718036912381649, kLn2Low = 1.9082149292705877e-10;
};

template <class R>
struct Scaled {
  R m, e;
};

// exp(x); 0 where that is no number.
template <class R>
JAX_RNNT_INLINE Scaled<R> ExpScaled(R x) {
  using C = ExpConstants<R>;
  constexpr R kInfinity = std::numeric_limits<R>::infinity();
  const R raw = x < kInfinity ? x : -kInfinity;
  const R safe = raw == -kInfinity ? R(0) : raw;
  const R power = safe * static_cast<R>(kLog2E);
  R whole = (power + C::kRound) - C::kRound;
  whole = std::fabs(power) < C::kInteger ? whole : power;
  whole = whole < R(-kLargestExponent) ? R(-kLargestExponent) : whole;
  whole = whole > R(kLargestExponent) ? R(kLargestExponent) : whole;
  R r = (safe - whole * C::kLn2High) - whole * C::kLn2Low;
  r = r < R(-1) ? R(-1) : r;
  r = r > R(1) ? R(1) : r;
  const R fraction = ExpPolynomial(r);
  return {raw == -kInfinity ? R(0) : fraction, raw == -kInfinity ? R(kZeroExponent) : whole};
}

}  // namespace jax_rnnt
