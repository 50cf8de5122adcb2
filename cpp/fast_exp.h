// fast_exp.h: exp and log1p as polynomials without branches, which compilers vectorise inside a plain loop.
//
// exp: x = n ln 2 + r with an integer n and |r| <= ln 2 / 2. exp(r) is a minimax polynomial (in relative error). The
// code builds 2^n from its bits. It rounds to n by adding and subtracting 1.5 * 2^(mantissa bits), which leaves the
// binary digits of n in the low bits of the sum. -ffast-math would remove that step, so it must stay off.
#pragma once

#include <cmath>
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

// The same in float: relative error 3.1e-9 before rounding, 1.1e-7 after.
JAX_RNNT_INLINE float ExpPolynomial(float r) {
  float p = 1.38145906e-3f;
  p = p * r + 8.36871751e-3f;
  p = p * r + 4.1668389e-2f;
  p = p * r + 1.66665211e-1f;
  p = p * r + 4.9999994e-1f;
  p = p * r + 1.0f;
  return p * r + 1.0f;
}

// Exp(x)
// Valid types: float, double.
// Valid range: float [-inf, 88.3], double [-inf, 709]. Below -87.3 (double: -708.3) exp is not a normal number, and the
//   result may be 0. At -87.7 (double: -708.8) and below, -inf included, it is exactly 0. NaN gives NaN.
// Max error: float 3 + |x| / 4 ULP where the compiler fuses multiplications and additions, 3 + 1.25 |x| elsewhere;
//   double 2 ULP. (The float's error is relative to the size of x, as that of a log-probability is: it is a constant
//   number of ULP of x.)
//
// `lowest` is kLowestExponent. Where a loop adds up results, it should come from LowestExponent(), outside of the loop.
// Then the compiler does not know it, and fuses the last multiplication with the addition. If GCC knows that exp of
// `lowest` is 0, it chooses between 0 and the product.
template <class A>
constexpr A kLowestExponent = A(-709.09);  // n is -1023 there, and the bits of 2^-1023 are those of zero
template <>
constexpr float kLowestExponent<float> = -88.03f;  // n is -127 there

template <class A>
JAX_RNNT_INLINE A LowestExponent() {
  const volatile A lowest = kLowestExponent<A>;
  return lowest;
}

JAX_RNNT_INLINE float Exp(float x, float lowest = kLowestExponent<float>) {
  // 2^r is a minimax polynomial for |r| <= 1/2 (relative error 9.2e-8, and 0 at 0). Multiplications limit the speed of
  // this function.
  constexpr float kRound = 12582912.0f + 127.0f;  // 1.5 * 2^23, and the exponent's bias
  x = x < lowest ? lowest : x;
  const float shifted = x * static_cast<float>(kLog2E) + kRound;
  const float r = x * static_cast<float>(kLog2E) - (shifted - kRound);
  float p = 1.32647272e-3f;
  p = p * r + 9.67151264e-3f;
  p = p * r + 5.55073374e-2f;
  p = p * r + 2.40222421e-1f;
  p = p * r + 6.93146978e-1f;
  p = p * r + 1.0f;
  return p * BitCast<float>(BitCast<uint32_t>(shifted) << 23);
}

JAX_RNNT_INLINE double Exp(double x, double lowest = kLowestExponent<double>) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  x = x < lowest ? lowest : x;
  const double shifted = x * kLog2E + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * 0.69314718036912381649) - n * 1.9082149292705877e-10;
  const double power = BitCast<double>((BitCast<uint64_t>(shifted) + 1023u) << 52);
  return ExpPolynomial(r) * power;
}

// Log1p(x), log(1 + x)
// Valid types: float (and double, by the C library).
// Valid range: 0 and positive numbers. NaN and +inf give NaN.
// Max error: 2.5 ULP.
JAX_RNNT_INLINE float Log1p(float x) {
  // 1 + x = 2^n (1 + f) with 1 + f between sqrt(1/2) and sqrt(2). log(1 + f) = f - f^2 / 2 + f^3 q(f), where q is a
  // minimax polynomial; the relative error of the whole is 5.9e-9. Where n is 0, f is x, with all of its digits.
  constexpr int32_t kSqrtHalf = 0x3f3504f3;
  const int32_t bits = BitCast<int32_t>(1.0f + x);
  const int32_t n = (bits - kSqrtHalf) >> 23;
  const float scaled = BitCast<float>(bits - static_cast<int32_t>(static_cast<uint32_t>(n) << 23)) - 1.0f;
  const float f = n == 0 ? x : scaled;
  float q = -7.63391778e-2f;
  q = q * f + 1.27613425e-1f;
  q = q * f - 1.31602913e-1f;
  q = q * f + 1.42017975e-1f;
  q = q * f - 1.66233495e-1f;
  q = q * f + 2.00012252e-1f;
  q = q * f - 2.50008225e-1f;
  q = q * f + 3.33333313e-1f;
  const float square = f * f;
  const float rest = static_cast<float>(n) * 1.42860677e-6f + (square * f * q - 0.5f * square);
  return static_cast<float>(n) * 0.693145752f + (f + rest) + (x - x);  // x - x is NaN where x is NaN or +inf
}

JAX_RNNT_INLINE double Log1p(double x) { return std::log1p(x); }

}  // namespace jax_rnnt
