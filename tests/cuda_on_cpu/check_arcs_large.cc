// check_arcs_large.cc: operation 1 in one type, CHECK_TYPE, on arrays of more than 2^32 entries. Of a launch only the
// first and the last blocks are run, and of the arrays only what those touch takes memory.
#include "../../cuda/arcs.h"
#include "check.h"

namespace jax_rnnt::check {
namespace {

using T = CHECK_TYPE;
using A = Compute<T>::Type;

constexpr double kTolerance = sizeof(A) == 8 ? 1e-12 : 3e-6;
constexpr int64_t kRows = 8;  // that are compared, at each end; a block has at least as many

// More than 2^32 logits and log-probabilities. Rows are so wide that the forward kernel has eight lanes for each of
// them: so it has more than 2^32 threads.
void CheckManyRows() {
  constexpr int64_t rows = (int64_t{1} << 29) + 37, width = 256 / sizeof(T) + 9;
  const int64_t columns[] = {0, 3, 1, 8, 5, 2, 6, 4}, arcs = 9;
  const ArcsShape shape{width, width, columns, arcs - 1, {0, width}};
  const OnlyEnds ends(3);
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 3);
  Array<T> logits(rows * width, true), grad(rows * width, true);
  Array<int32_t> labels(rows, true);
  Array<A> entries(rows * arcs, true), cotangent(rows * arcs, true), bound(rows, true);
  Array<Norm<A>> norm(rows, true);
  const int64_t firsts[] = {0, rows - kRows};
  for (const int64_t first : firsts) {
    for (int64_t i = first * width; i < (first + kRows) * width; ++i) logits[i] = Narrow<T>(normal(random));
    for (int64_t i = first * arcs; i < (first + kRows) * arcs; ++i) cotangent[i] = static_cast<A>(normal(random));
    for (int64_t n = first; n < first + kRows; ++n) {
      labels[n] = static_cast<int32_t>(random() % width);
      bound[n] = static_cast<A>(std::fabs(normal(random)));
    }
  }
  Run(cuda::ArcsForward<T>(stream, shape, rows, logits.get(), labels.get(), nullptr, entries.get(), norm.get()));
  Run(cuda::ArcsBackward<T>(stream, shape, rows, logits.get(), labels.get(), nullptr, norm.get(), cotangent.get(),
                            bound.get(), grad.get()));
  for (const int64_t first : firsts) {
    Array<A> wide(kRows * width), cpu_entries(kRows * arcs), cpu_grad(kRows * width);
    Array<Norm<A>> cpu_norm(kRows);
    for (int64_t i = 0; i < kRows * width; ++i) wide[i] = Widen(logits[first * width + i]);
    ArcsForward(shape, wide.get(), labels.get() + first, nullptr, cpu_entries.get(), cpu_norm.get(), 0, kRows);
    ArcsBackward(shape, wide.get(), labels.get() + first, nullptr, cpu_norm.get(), cotangent.get() + first * arcs,
                 bound.get() + first, cpu_grad.get(), 0, kRows);
    const std::string what = "arcs of " CHECK_NAME ", rows from " + std::to_string(first) + " on, ";
    Compare(&norm[first].top, &cpu_norm[0].top, 2 * kRows, kTolerance, what + "norms");
    Compare(entries.get() + first * arcs, cpu_entries.get(), kRows * arcs, kTolerance, what + "log_probs");
    Compare(grad.get() + first * width, cpu_grad.get(), kRows * width, kTolerance, what + "gradient");
  }
}

// The longest row that there may be, and one behind it. The window is short, and nothing else is read.
void CheckLongestRows() {
  constexpr int64_t width = cuda::kMaxWidth, rows = 2, arcs = 3;
  const int64_t columns[] = {width - 2, width / 2};
  const ArcsShape shape{width, width, columns, arcs - 1, {width - 90, width - 1}};
  Array<T> logits(rows * width, true);
  Array<int32_t> labels(rows);
  Array<A> entries(rows * arcs), cpu_entries(rows * arcs);
  Array<Norm<A>> norm(rows), cpu_norm(rows);
  for (int64_t n = 0; n < rows; ++n) {
    labels[n] = static_cast<int32_t>(width - 1);
    for (int64_t i = 0; i < 100; ++i) logits[(n + 1) * width - 1 - i] = Narrow<T>(static_cast<float>(i % 7 - n));
    logits[n * width + width / 2] = Narrow<T>(2.0f);
  }
  ArcsForward(shape, logits.get(), labels.get(), nullptr, cpu_entries.get(), cpu_norm.get(), 0, rows);
  Run(cuda::ArcsForward<T>(stream, shape, rows, logits.get(), labels.get(), nullptr, entries.get(), norm.get()));
  Compare(&norm[0].top, &cpu_norm[0].top, 2 * rows, kTolerance, "arcs of " CHECK_NAME ", longest rows, norms");
  Compare(entries.get(), cpu_entries.get(), rows * arcs, kTolerance, "arcs of " CHECK_NAME ", longest rows, log_probs");
}

void Check() {
  CheckManyRows();
  CheckLongestRows();
}

const Part part("large arcs " CHECK_NAME, Check);

}  // namespace
}  // namespace jax_rnnt::check
