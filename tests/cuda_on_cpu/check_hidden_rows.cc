// check_hidden_rows.cc: hidden rows and their backward in one type, CHECK_TYPE: all activations, with and without
// dropout, tiles of some nodes of a batch, whole and filled up, sums in place and not.
#include "../../cuda/hidden_rows.cuh"
#include "check.h"

namespace jax_rnnt::check {
namespace {

using T = CHECK_TYPE;
using A = Compute<T>::Type;
constexpr int64_t kSize = cuda::Pack<T>::kSize;

template <class F>
void ForActivation(int32_t activation, const F& f) {
  switch (activation) {
    case 0:
      return f(cuda::Activation<T, 0>{});
    case 1:
      return f(cuda::Activation<T, 1>{});
    case 2:
      return f(cuda::Activation<T, 2>{});
    case 3:
      return f(cuda::Activation<T, 3>{});
    default:
      return f(cuda::Activation<T, 4>{});
  }
}

// The factor of an entry, from the bits of its eight columns.
double Factor(const uint32_t* seed, int32_t dropped, int64_t b, int64_t t, int64_t u, int64_t d) {
  const auto word = [](int64_t n) { return static_cast<uint32_t>(n); };
  const cuda::Philox bits = cuda::PhiloxOf(word(d / 8), word(u), word(t), word(b), seed[0], seed[1]);
  const uint32_t own = bits.at[d % 8 / 2] >> (d % 2 == 0 ? 0 : 16) & 0xffffu;
  return dropped > 0 && own < static_cast<uint32_t>(dropped) ? 0 : 65536.0 / (65536 - dropped);
}

void CheckTile(const cuda::HiddenShape& shape, const std::vector<int32_t>& places, const std::vector<int32_t>& rows,
               std::mt19937& random) {
  std::normal_distribution<float> normal(0, 1);
  const int64_t frames = shape.batch * shape.frames, positions = shape.batch * shape.positions, width = shape.width;
  Array<T> encoded(frames * width), predicted(positions * width), hidden(shape.rows * width), g(shape.rows * width);
  Array<A> of_frames(frames * width), of_positions(positions * width);
  Array<int32_t> place(shape.rows), row(shape.nodes());
  Array<uint32_t> seed(2);
  for (int64_t i = 0; i < frames * width; ++i) encoded[i] = Narrow<T>(2 * normal(random));
  for (int64_t i = 0; i < positions * width; ++i) predicted[i] = Narrow<T>(2 * normal(random));
  for (int64_t i = 0; i < shape.rows * width; ++i) g[i] = Narrow<T>(normal(random));
  for (int64_t i = 0; i < frames * width; ++i) of_frames[i] = static_cast<A>(normal(random));
  for (int64_t i = 0; i < positions * width; ++i) of_positions[i] = static_cast<A>(normal(random));
  std::copy(places.begin(), places.end(), place.get());
  std::copy(rows.begin(), rows.end(), row.get());
  for (int i = 0; i < 2; ++i) seed[i] = static_cast<uint32_t>(random());
  std::vector<double> wanted(static_cast<size_t>(shape.rows * width));
  std::vector<double> frame_sums(of_frames.get(), of_frames.get() + frames * width);
  std::vector<double> position_sums(of_positions.get(), of_positions.get() + positions * width);
  ForActivation(shape.activation, [&](auto f) {
    for (int64_t n = 0; n < shape.rows; ++n) {
      const int64_t frame = place[n] / shape.positions, u = place[n] % shape.positions, b = frame / shape.frames;
      const int64_t position = b * shape.positions + u;
      const bool copy = row[place[n]] - row[place[0]] != n;
      for (int64_t d = 0; d < width; ++d) {
        const A x = static_cast<A>(Widen(encoded[frame * width + d])) + Widen(predicted[position * width + d]);
        const double factor = Factor(seed.get(), shape.dropped, b, frame % shape.frames, u, d);
        wanted[n * width + d] = factor == 0 ? 0 : f.Value(x) * factor;
        const double back = copy || factor == 0 ? 0 : Widen(g[n * width + d]) * f.Slope(x) * factor;
        frame_sums[frame * width + d] += back;
        position_sums[position * width + d] += back;
      }
    }
  });
  char what[200];
  std::snprintf(what, sizeof what,
                "hidden_rows of " CHECK_NAME ", activation %d, dropped %d, B %d, T %d, P %d, D %d, rows %d, ",
                shape.activation, shape.dropped, static_cast<int>(shape.batch), static_cast<int>(shape.frames),
                static_cast<int>(shape.positions), static_cast<int>(width), static_cast<int>(shape.rows));
  const double tolerance = sizeof(A) == 8 ? 1e-12 : 3e-6;
  Run(cuda::HiddenRows<T>(stream, shape, encoded.get(), predicted.get(), place.get(), seed.get(), hidden.get()));
  Compare(hidden.get(), wanted.data(), shape.rows * width, tolerance, std::string(what) + "rows");
  Array<A> frames_after(frames * width), positions_after(positions * width);
  const auto backward = [&](A* frames_to, A* positions_to) {
    Run(cuda::HiddenRowsBackward<T>(stream, shape, g.get(), encoded.get(), predicted.get(), place.get(), row.get(),
                                    seed.get(), {of_frames.get(), of_positions.get(), frames_to, positions_to}));
  };
  backward(frames_after.get(), positions_after.get());
  Compare(frames_after.get(), frame_sums.data(), frames * width, 4 * tolerance, std::string(what) + "sums of frames");
  Compare(positions_after.get(), position_sums.data(), positions * width, 4 * tolerance,
          std::string(what) + "sums of positions");
  backward(of_frames.get(), of_positions.get());
  Compare(of_frames.get(), frame_sums.data(), frames * width, 4 * tolerance, std::string(what) + "frames in place");
  Compare(of_positions.get(), position_sums.data(), positions * width, 4 * tolerance,
          std::string(what) + "positions in place");
}

// All tiles of a batch of which a share of the nodes has rows.
void CheckBatch(cuda::HiddenShape shape, double share, std::mt19937& random) {
  std::bernoulli_distribution has(share);
  std::vector<int32_t> nodes, row(static_cast<size_t>(shape.nodes()), -1);
  for (int32_t node = 0; node < shape.nodes(); ++node) {
    if (!has(random)) continue;
    row[node] = static_cast<int32_t>(nodes.size());
    nodes.push_back(node);
  }
  for (size_t start = 0; start < nodes.size(); start += static_cast<size_t>(shape.rows)) {
    std::vector<int32_t> places(nodes.begin() + static_cast<int64_t>(start), nodes.end());
    places.resize(static_cast<size_t>(shape.rows), nodes.back());
    CheckTile(shape, places, row, random);
  }
}

void CheckErrors() {  // the errors that activation.cuh states
  for (int i = -4000; i <= 4000; ++i) {
    const A x = static_cast<A>(i * 0.003);
    const A value = cuda::TanhOf<T>(x);
    const double truth = std::tanh(static_cast<double>(x)), lost = sizeof(T) == 2 ? std::ldexp(1.001, -11) : 2e-7;
    ++comparisons;
    if (std::fabs(value - truth) > (sizeof(T) == 8 ? 4e-16 : lost * std::fabs(truth)))
      Fail("tanh of " + std::to_string(x));
  }
}

void CheckBits() {  // the known answers of Random123, the authors' library
  const cuda::Philox pi = cuda::PhiloxOf(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0);
  const cuda::Philox zero = cuda::PhiloxOf(0, 0, 0, 0, 0, 0);
  const uint32_t of_pi[] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
  const uint32_t of_zero[] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  ++comparisons;
  if (std::memcmp(pi.at, of_pi, sizeof of_pi) != 0 || std::memcmp(zero.at, of_zero, sizeof of_zero) != 0)
    Fail("Philox4x32-10 has other bits");
}

void CheckDivisor(std::mt19937& random) {
  for (int i = 0; i < 2000; ++i) {
    const int32_t by = std::max<int32_t>(1, static_cast<int32_t>(random() >> (1 + i % 31)));
    const auto n = static_cast<int32_t>(random() >> 1);
    const cuda::Divisor divide(by);
    ++comparisons;
    for (const int32_t x : {n, kHuge, kHuge - 1, 0, by - 1, by, n / by * by, std::max(kHuge / by * by - 1, 0)}) {
      if (divide(x) != x / by) Fail(std::to_string(x) + " divided by " + std::to_string(by));
    }
  }
}

void Check() {
  std::mt19937 random(3);
  CheckBits();
  CheckErrors();
  CheckDivisor(random);
  for (int32_t activation = 0; activation < cuda::kActivations; ++activation) {
    for (const int32_t dropped : {0, 20000}) {
      CheckBatch({3, 7, 5, 3 * kSize, 40, activation, dropped}, 0.8, random);
      CheckBatch({2, 3, 9, kSize, 64, activation, dropped}, 1, random);
    }
  }
  CheckBatch({1, 1, 1, 9 * kSize, 3, 0, 65535}, 1, random);
  CheckBatch({4, 6, 1, 70 * kSize, 5, 0, 6554}, 0.5, random);    // more vectors than a block has for a part
  CheckBatch({2, 40, 21, 2 * kSize, 300, 0, 1}, 0.05, random);   // a tile spans nearly everything
  CheckBatch({1, 500, 3, 17 * kSize, 1500, 3, 0}, 0.9, random);  // long lines
  // More items than all blocks of a launch have at once.
  CheckBatch({1, 3000, 1, 90 * kSize, 9, 4, 0}, 0.003, random);
}

const Part part("hidden_rows " CHECK_NAME, Check);

}  // namespace
}  // namespace jax_rnnt::check
