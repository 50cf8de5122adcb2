// philox.cuh: random bits as a function of a key and four numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel
// random numbers: as easy as 1, 2, 3; SC 2011). jax_rnnt/ops/dropout_bits.py computes the same bits.
#pragma once

#include "device.cuh"

namespace jax_rnnt::cuda {

struct Philox {
  uint32_t at[4];
};

__device__ __forceinline__ Philox PhiloxOf(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t key0,
                                           uint32_t key1) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xd2511f53u} * c0, b = uint64_t{0xcd9e8d57u} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(a);
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

constexpr int kColumnsOfBits = 8;  // that one call serves, with 16 bits each

// The 16 bits of a column, from those of its eight columns.
__device__ __forceinline__ uint32_t BitsOf(const Philox& bits, int column) {
  return bits.at[column / 2] >> (column % 2 * 16) & 0xffffu;
}

}  // namespace jax_rnnt::cuda
