// diagonal.h: arithmetic on the diagonals of a lattice, whose values are scaled numbers.
//
// A scaled number is m * 2^e, where e is an integer stored in floating point. So a product of thousands of
// probabilities does not underflow, and no step needs a log or an exp: a multiplication multiplies m and adds e, an
// addition first scales one m by a power of two. m drifts away from 1; the code brings it back every few diagonals.
//
// Loops over nodes process kNodes of them at once. They may write beyond the end of their range. Those values have no
// meaning: a diagonal has room for them, and ClearMargins writes zeros where a neighbour reads.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "fast_exp.h"

namespace jax_rnnt {

constexpr int64_t kNodes = 16;

constexpr double kZeroExponent = -1e300;  // the exponent of zero: far below the exponent of any product

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

// 2^e for an integer e. The exponent is clamped to [-1000, 1000], so that the result is a normal number.
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

// Brings m back into [1, 2). A zero gets the exponent of zero again.
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

template <class R>
struct Scaled {
  R m;
  double e;
};

// exp(x), with its exponent cut to [-largest, largest]. 0 where x is NaN or +inf. The exponent is computed in double,
// because a mask of -1e9 must keep the digits that distinguish it from its neighbours.
template <class R>
JAX_RNNT_INLINE Scaled<R> ExpScaled(R x, double largest) {
  constexpr R kInfinity = std::numeric_limits<R>::infinity();
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds a number to an integer
  constexpr double kLn2High = 0.69314718036912381649, kLn2Low = 1.9082149292705877e-10;
  const R raw = x < kInfinity ? x : -kInfinity;
  const double safe = static_cast<double>(raw == -kInfinity ? R(0) : raw);
  double power = safe * kLog2E;
  power = power < -largest ? -largest : power;
  power = power > largest ? largest : power;
  const double whole = (power + kRound) - kRound;
  R r = static_cast<R>(sizeof(R) == 8 ? (safe - whole * kLn2High) - whole * kLn2Low : safe - whole * kLn2);
  r = r < R(-1) ? R(-1) : r;  // only where the exponent was cut
  r = r > R(1) ? R(1) : r;
  return {raw == -kInfinity ? R(0) : ExpPolynomial(r), raw == -kInfinity ? kZeroExponent : whole};
}

}  // namespace jax_rnnt
