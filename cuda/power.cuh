// power.cuh: numbers m * 2^e whose exponent is an integer in a float, for lattices with short exponents.
//
// A term of a sum is a number times exp(x). It takes two fused multiply-adds, a maximum, a subtraction and one
// instruction for 2^x. No term branches. The bounds of exponents to base 2:
//   kHighestPower: no number may be above it, or else the general kernel walks the lattice;
//   kFarthestPower: the probability of all paths is above 2^-kFarthestPower, or else the general kernel walks it;
//   kLowestPower: a sum is relative to at least 2^kLowestPower. A path through such a sum has less than
//     2^(kLowestPower + kHighestPower), which is 0 in float relative to the total.
//   kHighestCrossing, kFarthestCrossing: the same bounds for the sum over the arcs that cross the middle. Numbers
//   within
//     the bounds above are within these ones, whatever the rounding.
// Rounded() needs exponents between -2^22 and 2^22. An impossible event has the exponent -inf, and a finite m.
#pragma once

#include "device.cuh"

namespace jax_rnnt::cuda {

struct alignas(8) Power {
  float m, e;
};

constexpr float kHighestPower = 1 << 19, kFarthestPower = 1 << 20, kLowestPower = -3.5f * (1 << 20);
constexpr float kHighestCrossing = 4 * kHighestPower, kFarthestCrossing = kFarthestPower + 8;
constexpr float kPerUnit = static_cast<float>(kLog2E);  // its relative error is 1.3e-8
constexpr Power kBegin{1, 0};                           // where a direction begins
constexpr Power kImpossible{1, -std::numeric_limits<float>::infinity()};

// The nearest integer, for |x| < 2^22.
__device__ __forceinline__ float Rounded(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: its neighbours are integers
  return (x + kRound) - kRound;
}

// The same number with m in [1, 2), for m > 0; zero becomes 2^(e - 127). If not `possible`, the exponent is -inf.
__device__ __forceinline__ Power Normalise(Power a, bool possible) {
  constexpr uint32_t kTwo23 = 0x4b000000;  // the bits of 2^23: an integer below 2^23 may be added to them
  const auto bits = BitCast<uint32_t>(a.m);
  const float origin = possible ? a.e - (8388608.0f + 127) : kImpossible.e;
  return {BitCast<float>((bits & 0x7fffffu) | 0x3f800000u), BitCast<float>(kTwo23 | bits >> 23) + origin};
}

}  // namespace jax_rnnt::cuda
