// fast_exp.h: exp as a branch-free polynomial that compilers vectorise inside a plain loop.
//
// x = n ln 2 + r with an integer n and |r| <= ln 2 / 2; exp(r) is a minimax polynomial (relative error) and 2^n is put
// together from bits. n is rounded by adding and subtracting 1.5 * 2^(mantissa bits), which leaves its binary
// digits in the low bits of the sum; -ffast-math would fold that away and must stay off.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace jax_rnnt {

template <class To, class From>
JAX_RNNT_INLINE To BitCast(From from) {
  static_assert(sizeof(To) == sizeof(From), "BitCast needs types of one size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;

// exp(r) for |r| <= ln 2 / 2, relative error 3.1e-18 before rounding.
JAX_RNNT_INLINE double ExpPolynomial(double r) {
  double p = 2.4994247177932404938e-8;
  p = p * r + 2.7632368019197577849e-7;
  p = p * r + 2.7557623136996031038e-6;
  p = p * r + 2.4801486320588121143e-5;
  p = p * r + 1.9841269431454022049e-4;
  p = p * r + 1.3888888951410252813e-3;
  p = p * r + 8.3333333335601749048e-3;
  p = p * r + 4.1666666666492074803e-2;
  p = p * r + 1.6666666666666166175e-1;
  p = p * r + 5.0000000000000177736e-1;
  p = p * r + 1.0;
  return p * r + 1.0;
}

// exp(r) for |r| <= ln 2 / 2 in double with the accuracy that float32 data deserve: relative error 4.1e-11.
JAX_RNNT_INLINE double ShortExpPolynomial(double r) {
  double p = 1.9775106993644811869e-4;
  p = p * r + 1.3948242343264127416e-3;
  p = p * r + 8.3335615423206412936e-3;
  p = p * r + 4.1666224548530772846e-2;
  p = p * r + 1.6666665121537898335e-1;
  p = p * r + 5.0000001048472519670e-1;
  p = p * r + 1.0000000002440651273e+0;
  return p * r + 9.9999999996153044311e-1;
}

// Exp(x)
// Valid types: float, double.
// Valid range: float [-inf, 88.3], double [-inf, 709]. Where exp is no normal number, below -87.3 (double -708.3), the
//   result may be 0; from -87.7 (double -708.8) down, -inf included, it is exactly 0. NaN gives NaN.
// Max error: float 3 + |x| / 4 ULP where the compiler fuses multiplications and additions, 3 + 1.25 |x| elsewhere;
//   double 2 ULP. (The float's error is relative to the size of x, as that of a log-probability is: it is a constant
//   number of ULP of x.)
JAX_RNNT_INLINE float Exp(float x) {
  // 2^r is a minimax polynomial for |r| <= 1/2 (relative error 9.2e-8, and 0 at 0); its terms are summed in pairs,
  // because the unit that multiplies is what limits this function, and then the chain of what depends on it.
  constexpr float kRound = 12582912.0f + 127.0f;  // 1.5 * 2^23, and the exponent's bias
  x = x < -88.03f ? -88.03f : x;                  // there n is -127, whose power has the bits of zero
  const float shifted = x * static_cast<float>(kLog2E) + kRound;
  const float n = shifted - kRound;
  const float r = x * static_cast<float>(kLog2E) - n;
  const float r2 = r * r;
  const float low = 6.93146978e-1f * r + 1.0f;
  const float middle = 5.55073374e-2f * r + 2.40222421e-1f;
  const float high = 1.32647272e-3f * r + 9.67151264e-3f;
  const float power = BitCast<float>(BitCast<uint32_t>(shifted) << 23);
  return ((high * r2 + middle) * r2 + low) * power;
}

JAX_RNNT_INLINE double Exp(double x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  x = x < -709.09 ? -709.09 : x;                 // there n is -1023, whose power has the bits of zero
  const double shifted = x * kLog2E + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * 0.69314718036912381649) - n * 1.9082149292705877e-10;
  const double power = BitCast<double>((BitCast<uint64_t>(shifted) + 1023u) << 52);
  return ExpPolynomial(r) * power;
}

}  // namespace jax_rnnt
