// check.cc: the CUDA kernels against those of the CPU, over shapes and inputs that lie where kernels break: rows of
// every alignment, labels and lengths that are out of range, NaN and infinities, arrays without a spare element.
//
// Built plainly it finds wrong results; with a sanitizer, races and accesses out of bounds, too.
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "../../cuda/arcs.h"
#include "../../cuda/lattice.h"

using namespace jax_rnnt;

namespace {

int failures = 0, comparisons = 0;

template <class T>
std::unique_ptr<T[]> Array(int64_t n) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(n)]);
}

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kHuge = std::numeric_limits<int32_t>::max();
constexpr int32_t kTiny = std::numeric_limits<int32_t>::min();

// Elementwise; NaN must meet NaN and infinity infinity. The first difference of a call is printed.
template <class T>
void Compare(const T* got, const T* expected, int64_t n, double tolerance, const std::string& what) {
  ++comparisons;
  for (int64_t i = 0; i < n; ++i) {
    const double g = static_cast<double>(Widen(got[i])), e = static_cast<double>(Widen(expected[i]));
    if ((std::isnan(g) && std::isnan(e)) || g == e || std::fabs(g - e) <= tolerance * (1 + std::fabs(e))) continue;
    std::printf("FAILED: %s, element %lld: %.9g, on the CPU %.9g\n", what.c_str(), static_cast<long long>(i), g, e);
    ++failures;
    return;
  }
}

void ExpectLaunched(const cuda::LaunchResult& result) {
  if (result.empty()) return;
  std::printf("FAILED: %s\n", result.c_str());
  ++failures;
}

template <class T>
double Tolerance() {
  return sizeof(T) == 8 ? 1e-12 : sizeof(T) == 4 ? 3e-6 : std::is_same_v<T, Half> ? 1e-3 : 8e-3;
}

// shift: how many elements the arrays begin beyond an aligned address.
template <class T>
void CheckArcs(int64_t rows, int64_t width, int64_t shift, std::mt19937& random) {
  using A = typename Compute<T>::Type;
  std::normal_distribution<float> normal(0, 3);
  auto logits = Array<T>(shift + rows * width), grad = Array<T>(rows * width), expected = Array<T>(rows * width);
  const int kind_of_row = static_cast<int>(random() % 3);
  for (int64_t i = 0; i < rows * width; ++i) {
    const int special = kind_of_row == 0 ? static_cast<int>(random() % 400) : 400;
    logits[shift + i] = Narrow<T>(special == 0 ? kInf : special == 1 ? kNaN : special < 9 ? -kInf : normal(random));
  }
  for (int64_t v = 0; v < width; ++v) logits[shift + rows / 2 * width + v] = Narrow<T>(-kInf);
  const int64_t columns[] = {width - 1, 0, width / 2};
  auto labels = Array<int32_t>(rows), offsets = Array<int32_t>(rows);
  const int32_t hostile[] = {kNoLabel, kPadding, -3, kTiny, kHuge, static_cast<int32_t>(2 * width)};
  for (int64_t n = 0; n < rows; ++n) {
    labels[n] = random() % 4 == 0 ? hostile[random() % 6] : static_cast<int32_t>(random() % width);
    offsets[n] = random() % 2 == 0 ? 0 : static_cast<int32_t>(width);
  }
  struct Case {
    int64_t num_columns;
    Window<int64_t> window;
    bool divided;
  };
  const int64_t third = width / 3, half = width / 2;
  const Case cases[] = {{0, {0, width}, false},     {1, {0, width}, false},          {2, {0, 0}, false},
                        {1, {0, width - 1}, false}, {2, {third, width}, false},      {3, {half, half + 1}, false},
                        {3, {0, 2 * width}, true},  {3, {half, width + half}, true}, {2, {width, 2 * width}, true}};
  for (const auto& [num_columns, window, divided] : cases) {
    const bool clipped = num_columns % 2 == 1;
    const ArcsShape shape{width, divided ? 2 * width : width, columns, num_columns, window};
    const int32_t* offset = divided ? offsets.get() : nullptr;
    const int64_t arcs = shape.num_arcs();
    auto entries = Array<A>(rows * arcs), cpu_entries = Array<A>(rows * arcs), cotangent = Array<A>(rows * arcs);
    auto norm = Array<A>(rows), cpu_norm = Array<A>(rows), bound = Array<A>(rows);
    for (int64_t i = 0; i < rows * arcs; ++i) {
      const int64_t row = i / arcs;
      cotangent[i] = row % 5 == 0 ? A(0) : row % 17 == 1 ? A(kNaN) : A(-std::fabs(normal(random)));
    }
    for (int64_t i = 0; i < rows; ++i) bound[i] = static_cast<A>(std::fabs(normal(random)));
    const T* x = logits.get() + shift;
    ArcsForward(shape, x, labels.get(), offset, cpu_entries.get(), cpu_norm.get(), 0, rows);
    ExpectLaunched(cuda::ArcsForward<T>(nullptr, shape, rows, x, labels.get(), offset, entries.get(), norm.get()));
    char what[160];
    std::snprintf(what, sizeof what, "arcs of %d bytes, rows %d, V %d, columns %d, window [%d, %d), shift %d, ",
                  static_cast<int>(sizeof(T)), static_cast<int>(rows), static_cast<int>(width),
                  static_cast<int>(num_columns), static_cast<int>(window.first), static_cast<int>(window.stop),
                  static_cast<int>(shift));
    const double of_arcs = sizeof(A) == 8 ? 1e-12 : 3e-6;
    Compare(norm.get(), cpu_norm.get(), rows, of_arcs, std::string(what) + "log_norm");
    Compare(entries.get(), cpu_entries.get(), rows * arcs, of_arcs, std::string(what) + "log_probs");
    for (int64_t i = 0; divided && i < rows; ++i) {
      if (i % 3 != 0 && cpu_norm[i] == A(-kInf)) cpu_norm[i] = 2;  // another part's entries count in it, too
    }
    const A* limit = clipped ? bound.get() : nullptr;
    ArcsBackward(shape, x, labels.get(), offset, cpu_norm.get(), cotangent.get(), limit, expected.get(), 0, rows);
    ExpectLaunched(cuda::ArcsBackward<T>(nullptr, shape, rows, x, labels.get(), offset, cpu_norm.get(), cotangent.get(),
                                         limit, grad.get()));
    Compare(grad.get(), expected.get(), rows * width, Tolerance<T>(), std::string(what) + "gradient");
    auto in_place = Array<T>(shift + rows * width);
    std::copy(x, x + rows * width, in_place.get() + shift);
    ExpectLaunched(cuda::ArcsBackward<T>(nullptr, shape, rows, in_place.get() + shift, labels.get(), offset,
                                         cpu_norm.get(), cotangent.get(), limit, in_place.get() + shift));
    Compare(in_place.get() + shift, grad.get(), rows * width, 0, std::string(what) + "gradient in place");
  }
}

template <class R>
void CheckLattice(int64_t frames, int64_t columns, const std::vector<Move>& moves, std::mt19937& random) {
  std::normal_distribution<double> normal(-2, 3);
  LatticeShape shape{frames, columns, moves, 1};
  for (const Move& move : moves) shape.span = std::max(shape.span, move.step());
  const auto t = static_cast<int32_t>(frames), u = static_cast<int32_t>(columns - 1);
  const std::vector<std::pair<int32_t, int32_t>> lengths = {
      {t, u},  {t / 2, u / 2}, {1, u},     {t, 0},         {1, 0},         {0, 0}, {0, 1},     {t, u},
      {-5, u}, {t, -5},        {kHuge, u}, {kHuge, kHuge}, {kTiny, kTiny}, {t, u}, {t + 1, u}, {t, u + 1}};
  const auto batch = static_cast<int64_t>(lengths.size());
  auto arcs = Array<R>(batch * shape.size()), got = Array<R>(batch * shape.size()),
       expected = Array<R>(batch * shape.size());
  auto frames_b = Array<int32_t>(batch), labels_b = Array<int32_t>(batch);
  auto cost = Array<R>(batch), cost_alone = Array<R>(batch), cpu_cost = Array<R>(batch);
  for (int64_t b = 0; b < batch; ++b) {
    frames_b[b] = lengths[b].first;
    labels_b[b] = lengths[b].second;
    for (int64_t i = 0; i < shape.size(); ++i) {
      const int special = static_cast<int>(random() % (b % 2 == 0 ? 100 : 2000));
      const bool poison = special == 0 && b % 2 == 1;
      const bool masked = b == 7 || (b % 4 == 2 && special < 9);  // in all arcs of one utterance, in some of others
      arcs[b * shape.size() + i] = static_cast<R>(poison         ? (random() % 2 ? kNaN : kInf)
                                                  : special == 1 ? -kInf
                                                  : masked       ? (random() % 9 == 0 ? -1e30 : -1e9)
                                                                 : normal(random));
    }
    Lattice<R> lattice(shape, arcs.get() + b * shape.size(), frames_b[b], labels_b[b],
                       expected.get() + b * shape.size());
    for (int d : {0, 1}) lattice.FirstHalf(d);
    cpu_cost[b] = lattice.Meet();
    for (int d : {0, 1}) lattice.SecondHalf(d);
  }
  char what[120];
  std::snprintf(what, sizeof what, "lattice of %d bytes, T %d, columns %d, moves %d, ", static_cast<int>(sizeof(R)), t,
                static_cast<int>(columns), static_cast<int>(moves.size()));
  const double tolerance = sizeof(R) == 8 ? 1e-11 : 2e-5;
  const bool small = static_cast<size_t>(cuda::Remembered(shape)) * sizeof(R) <= cuda::kSharedBytes;
  for (const bool with_workspace : {false, true}) {
    if (!small && !with_workspace) continue;
    auto workspace = Array<R>(with_workspace ? batch * cuda::Remembered(shape) : 1);
    std::fill(got.get(), got.get() + batch * shape.size(), R(77));
    R* memory = with_workspace ? workspace.get() : nullptr;
    ExpectLaunched(cuda::LatticeSums<R>(nullptr, shape, batch, arcs.get(), frames_b.get(), labels_b.get(), cost.get(),
                                        got.get(), memory));
    ExpectLaunched(cuda::LatticeSums<R>(nullptr, shape, batch, arcs.get(), frames_b.get(), labels_b.get(),
                                        cost_alone.get(), nullptr, memory));
    Compare(cost.get(), cpu_cost.get(), batch, tolerance, std::string(what) + "cost");
    Compare(cost_alone.get(), cost.get(), batch, 0, std::string(what) + "cost without posteriors");
    Compare(got.get(), expected.get(), batch * shape.size(), tolerance, std::string(what) + "posteriors");
  }
}

template <class T>
void CheckArcsOfType(std::mt19937& random) {
  for (int64_t width : {1, 2, 3, 7, 8, 13, 28, 32, 33, 63, 64, 129, 500, 523, 1024}) {
    CheckArcs<T>(width > 300 ? 19 : 71, width, static_cast<int64_t>(random() % 4), random);
    CheckArcs<T>(32, width, 0, random);
  }
}

}  // namespace

int main() {
  std::mt19937 random(7);
  CheckArcsOfType<float>(random);
  CheckArcsOfType<double>(random);
  CheckArcsOfType<Half>(random);
  CheckArcsOfType<BFloat16>(random);
  const std::vector<std::vector<Move>> topologies = {{{1, 0}, {0, 1}},
                                                     {{1, 0}, {1, 1}},
                                                     {{1, 0}, {2, 0}, {5, 0}, {0, 1}},
                                                     {{1, 0}, {2, 0}, {3, 0}, {0, 1}, {1, 1}, {2, 1}, {3, 2}},
                                                     {{2, 0}, {3, 2}}};
  const std::pair<int64_t, int64_t> sizes[] = {{1, 1},  {1, 5},   {9, 1},   {7, 4},  {12, 32},
                                               {5, 33}, {40, 70}, {300, 9}, {3, 600}};
  for (const auto& moves : topologies) {
    for (const auto& [frames, columns] : sizes) {
      CheckLattice<float>(frames, columns, moves, random);
      CheckLattice<double>(frames, columns, moves, random);
    }
  }
  std::printf("%d comparisons with the CPU kernels, %d failed\n", comparisons, failures);
  return failures == 0 ? 0 : 1;
}
