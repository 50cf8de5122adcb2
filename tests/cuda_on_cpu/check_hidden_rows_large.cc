// check_hidden_rows_large.cc: hidden rows in one type, CHECK_TYPE, of more than 2^32 entries. Of a launch only the
// first and the last blocks are run, and of the arrays only what those touch takes memory.
#include "../../cuda/hidden_rows.h"
#include "check.h"

namespace jax_rnnt::check {
namespace {

using T = CHECK_TYPE;
using A = Compute<T>::Type;

void Check() {
  constexpr int64_t width = 512, rows = (int64_t{1} << 23) + 77, frames = 19, positions = 4, nodes = frames * positions;
  constexpr int32_t kIdentity = 4;
  const cuda::HiddenShape shape{1, frames, positions, width, rows, kIdentity, 0};
  Array<T> encoded(frames * width), predicted(positions * width), hidden(rows * width, true), g(rows * width, true);
  Array<A> of_frames(frames * width), of_positions(positions * width);
  Array<int32_t> place(rows, true), row(nodes);
  Array<uint32_t> seed(2);
  for (int64_t i = 0; i < frames * width; ++i) encoded[i] = Narrow<T>(static_cast<float>(i % 11));
  for (int64_t i = 0; i < positions * width; ++i) predicted[i] = Narrow<T>(static_cast<float>(i % 5));
  std::fill(of_frames.get(), of_frames.get() + frames * width, A(1));
  std::fill(of_positions.get(), of_positions.get() + positions * width, A(2));
  // The first row is that of the first node, and the last ones those of the others.
  for (int32_t node = 0; node < nodes; ++node) {
    row[node] = node == 0 ? 0 : static_cast<int32_t>(rows - nodes + node);
    place[row[node]] = node;
    for (int64_t d = 0; d < width; ++d) g[row[node] * width + d] = Narrow<T>(static_cast<float>((node + d) % 3));
  }
  {
    const OnlyEnds ends(3);
    Run(cuda::HiddenRows<T>(stream, shape, encoded.get(), predicted.get(), place.get(), seed.get(), hidden.get()));
  }
  Run(cuda::HiddenRowsBackward<T>(stream, shape, g.get(), encoded.get(), predicted.get(), place.get(), row.get(),
                                  seed.get(),
                                  {of_frames.get(), of_positions.get(), of_frames.get(), of_positions.get()}));
  std::vector<double> sums(frames * width, 1), position_sums(positions * width, 2);
  for (int64_t node = 0; node < nodes; ++node) {
    std::vector<double> wanted(width);
    for (int64_t d = 0; d < width; ++d) {
      const int64_t f = node / positions * width + d, p = node % positions * width + d;
      wanted[d] = static_cast<double>(f % 11 + p % 5);
      sums[f] += static_cast<double>((node + d) % 3);
      position_sums[p] += static_cast<double>((node + d) % 3);
    }
    if (node == 0 || node > nodes - 6) {
      Compare(hidden.get() + row[node] * width, wanted.data(), width, 0,
              "large hidden_rows of " CHECK_NAME ", node " + std::to_string(node));
    }
  }
  Compare(of_frames.get(), sums.data(), frames * width, 0, "large hidden_rows of " CHECK_NAME ", frames");
  Compare(of_positions.get(), position_sums.data(), positions * width, 0,
          "large hidden_rows of " CHECK_NAME ", positions");
}

const Part part("large hidden_rows " CHECK_NAME, Check);

}  // namespace
}  // namespace jax_rnnt::check
