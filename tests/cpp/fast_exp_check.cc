// fast_exp_check.cc: measures the error of every fast function and compares it with the bound that its header states.
//
// It checks float32 functions at every 101st float of their range, and float64 functions against long double at many
// points.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "fast_exp.h"
#include "float16.h"

using jax_rnnt::BitCast;

namespace {

int failures = 0;

void Expect(bool ok, const char* what, double measured, double bound) {
  std::printf("%-58s %.3g (bound %.3g) %s\n", what, measured, bound, ok ? "ok" : "FAILED");
  failures += ok ? 0 : 1;
}

double UlpFloat(double exact) {
  const float rounded = static_cast<float>(exact);
  return static_cast<double>(std::nextafter(rounded, std::numeric_limits<float>::infinity())) - rounded;
}

void CheckExpFloat() {
  double worst = 0;
  int64_t wrong_zero = 0;
  for (uint32_t sign = 0; sign < 2; ++sign) {
    for (uint32_t bits = 0; bits <= 0x7f800000u; bits += 101) {
      const float x = BitCast<float>(bits | sign << 31);
      if (x > 88.3f) break;
      const float y = jax_rnnt::Exp(x);
      if (x < -87.7f) {
        wrong_zero += y != 0.0f;
      } else if (x >= -87.3f) {
        const double exact = std::exp(static_cast<double>(x));
#if defined(__FMA__) || defined(__aarch64__)
        const double of_x = std::fabs(x) / 4;
#else
        const double of_x = std::fabs(x) * 1.25;
#endif
        worst = std::fmax(worst, std::fabs(y - exact) / UlpFloat(exact) - of_x);
      }
    }
  }
  Expect(worst <= 3.0, "Exp(float), every 101st float of [-87.3, 88.3], ULP but for |x|", worst, 3.0);
  Expect(wrong_zero == 0, "Exp(float) from -87.7 down is exactly 0, exceptions", static_cast<double>(wrong_zero), 0);
  Expect(std::isnan(jax_rnnt::Exp(std::nanf(""))), "Exp(float) of NaN is NaN", 1, 1);
}

void CheckExpDouble() {
  std::mt19937_64 random(0);
  std::uniform_real_distribution<double> wide(-708.3, 709.0), narrow(-1.0, 1.0);
  double worst = 0;
  for (int i = 0; i < 1000000; ++i) {
    const double x = i % 2 ? wide(random) : narrow(random);
    const long double exact = std::exp(static_cast<long double>(x));
    const double ulp = std::nextafter(static_cast<double>(exact), INFINITY) - static_cast<double>(exact);
    worst = std::fmax(worst, static_cast<double>(std::fabs(jax_rnnt::Exp(x) - exact)) / ulp);
  }
  Expect(worst <= 2.0, "Exp(double), 1e6 points of [-708.3, 709], ULP", worst, 2.0);
  const bool zero = jax_rnnt::Exp(-std::numeric_limits<double>::infinity()) == 0.0 && jax_rnnt::Exp(-708.8) == 0.0;
  Expect(zero, "Exp(double) from -708.8 down is exactly 0", zero, 1);
  Expect(std::isnan(jax_rnnt::Exp(std::nan(""))), "Exp(double) of NaN is NaN", 1, 1);
}

void CheckExpPolynomial() {
  double worst = 0;
  for (int i = -1000000; i <= 1000000; ++i) {
    const auto r = static_cast<float>(i * 1e-6 * jax_rnnt::kLn2 / 2);
    worst = std::fmax(worst, std::fabs(jax_rnnt::ExpPolynomial(r) / std::exp(static_cast<double>(r)) - 1));
  }
  Expect(worst <= 1.1e-7, "ExpPolynomial(float), relative error", worst, 1.1e-7);
}

void CheckLog1p() {
  double worst = 0;
  for (uint32_t bits = 0x00800000u; bits < 0x7f800000u; bits += 101) {
    const float x = BitCast<float>(bits);
    const double exact = std::log1p(static_cast<double>(x));
    worst = std::fmax(worst, std::fabs(jax_rnnt::Log1p(x) - exact) / std::fabs(UlpFloat(exact)));
  }
  Expect(worst <= 2.5, "Log1p(float), every 101st normal float, ULP", worst, 2.5);
  Expect(jax_rnnt::Log1p(0.0f) == 0.0f, "Log1p(float) of 0 is 0", jax_rnnt::Log1p(0.0f), 0);
  const bool nan = std::isnan(jax_rnnt::Log1p(std::nanf(""))) && std::isnan(jax_rnnt::Log1p(INFINITY));
  Expect(nan, "Log1p(float) of NaN and +inf is NaN", nan, 1);
}

// Compares float16 conversions with the compiler's own, at every float16 and at every 997th float.
void CheckHalf() {
  int64_t wrong = 0;
  for (uint32_t h = 0; h <= 0xffffu; ++h) {
    _Float16 value;
    const auto bits = static_cast<uint16_t>(h);
    std::memcpy(&value, &bits, 2);
    const float expected = static_cast<float>(value), got = jax_rnnt::Widen(jax_rnnt::Half{bits});
    wrong += !(BitCast<uint32_t>(expected) == BitCast<uint32_t>(got) || (expected != expected && got != got));
  }
  for (uint64_t f = 0; f <= 0xffffffffull; f += 997) {
    const float x = BitCast<float>(static_cast<uint32_t>(f));
    const _Float16 value = static_cast<_Float16>(x);
    uint16_t expected;
    std::memcpy(&expected, &value, 2);
    const uint16_t got = jax_rnnt::Narrow<jax_rnnt::Half>(x).bits;
    wrong += x == x ? expected != got : (got & 0x7fff) <= 0x7c00;
  }
  Expect(wrong == 0, "float16 conversions, wrong results", static_cast<double>(wrong), 0);
}

// Compares conversions of runs with single conversions. They may differ in the payload of NaN.
void CheckHalfRuns() {
  std::vector<jax_rnnt::Half> halves(0x10000), back(0x10000);
  std::vector<float> floats(0x10000);
  int64_t wrong = 0;
  for (uint32_t h = 0; h <= 0xffffu; ++h) halves[h] = {static_cast<uint16_t>(h)};
  jax_rnnt::WidenRun(halves.data(), 0xffff, floats.data());  // one fewer, so that every vector width leaves a remainder
  for (uint32_t h = 0; h < 0xffffu; ++h) {
    const float expected = jax_rnnt::Widen(halves[h]);
    wrong += !(BitCast<uint32_t>(expected) == BitCast<uint32_t>(floats[h]) ||
               (expected != expected && floats[h] != floats[h]));
  }
  for (uint64_t f = 0; f + 997 * 0x10000ull <= 0xffffffffull; f += 997 * 0x10000ull) {
    for (uint64_t i = 0; i < 0x10000u; ++i) floats[i] = BitCast<float>(static_cast<uint32_t>(f + 997 * i));
    jax_rnnt::NarrowRun(floats.data(), 0xffff, back.data());
    for (uint64_t i = 0; i < 0xffffu; ++i) {
      const uint16_t expected = jax_rnnt::Narrow<jax_rnnt::Half>(floats[i]).bits, got = back[i].bits;
      wrong += floats[i] == floats[i] ? expected != got : (got & 0x7fff) <= 0x7c00;
    }
  }
  Expect(wrong == 0, "float16 conversions of runs, wrong results", static_cast<double>(wrong), 0);
}

// Checks by the definition of rounding that bfloat16 conversions round to nearest even.
void CheckBFloat16() {
  int64_t wrong = 0;
  for (uint64_t f = 0; f <= 0xffffffffull; f += 991) {
    const float x = BitCast<float>(static_cast<uint32_t>(f));
    const jax_rnnt::BFloat16 got = jax_rnnt::Narrow<jax_rnnt::BFloat16>(x);
    const float back = jax_rnnt::Widen(got);
    if (x != x) {
      wrong += back == back;
      continue;
    }
    if (std::isinf(x) || std::isinf(back)) {
      wrong += std::isinf(x) ? back != x : std::fabs(x) < 3.3961775e38f;
      continue;
    }
    const float up = jax_rnnt::Widen(jax_rnnt::BFloat16{static_cast<uint16_t>(got.bits + 1)});
    const float down =
        got.bits & 0x7fff ? jax_rnnt::Widen(jax_rnnt::BFloat16{static_cast<uint16_t>(got.bits - 1)}) : -up;
    const double error = std::fabs(static_cast<double>(x) - back);
    const double next = std::fmin(std::fabs(static_cast<double>(x) - up), std::fabs(static_cast<double>(x) - down));
    wrong += error > next || (error == next && (got.bits & 1));
  }
  Expect(wrong == 0, "bfloat16 conversions, wrong results", static_cast<double>(wrong), 0);
}

}  // namespace

int main() {
  CheckExpFloat();
  CheckExpDouble();
  CheckExpPolynomial();
  CheckLog1p();
  CheckHalf();
  CheckHalfRuns();
  CheckBFloat16();
  return failures != 0;
}
