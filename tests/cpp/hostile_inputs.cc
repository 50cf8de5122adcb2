// hostile_inputs.cc: runs the kernels with ragged and hostile inputs on several threads. Sanitizers watch.
//
// Every array is an allocation of exactly its size, so an access to the element behind it is an error. The checks of
// values cover only what a sanitizer can't see: a bad example is NaN, its neighbours do not change, padding is zero.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "arcs.h"
#include "best_path.h"
#include "lattice.h"
#include "parallel.h"

using namespace jax_rnnt;

namespace {

int failures = 0;

void Expect(bool ok, const char* what) {
  if (!ok) std::printf("FAILED: %s\n", what), ++failures;
}

// A pool that does what XLA's may do: tasks start late, and some run in the caller.
struct ThreadPool {
  std::vector<std::thread> threads;
  int scheduled = 0;
  int64_t num_threads() const { return 4; }
  template <class F>
  void Schedule(F f) {
    if (++scheduled % 3 == 0) return f();
    threads.emplace_back(f);
  }
  ~ThreadPool() {
    for (auto& thread : threads) thread.join();
  }
};

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kHuge = std::numeric_limits<int32_t>::max();
constexpr int32_t kTiny = std::numeric_limits<int32_t>::min();

template <class T>
std::unique_ptr<T[]> Array(int64_t n) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(n)]);
}

template <class T>
void CheckArcs(int64_t rows, int64_t vocabulary, std::mt19937& random) {
  using A = typename Compute<T>::Type;
  std::normal_distribution<float> normal(0, 3);
  auto logits = Array<T>(rows * vocabulary), grad = Array<T>(rows * vocabulary);
  for (int64_t i = 0; i < rows * vocabulary; ++i) {
    const int special = static_cast<int>(random() % 400);
    logits[i] = Narrow<T>(special == 0 ? -kInfinity : special == 1 ? kInfinity : special == 2 ? kNaN : normal(random));
  }
  auto columns = Array<int64_t>(2);
  columns[0] = vocabulary - 1;
  columns[1] = 0;
  const int32_t labels_pool[] = {
      kNoLabel, kPadding, -3, kTiny, kHuge, static_cast<int32_t>(vocabulary), 0, static_cast<int32_t>(vocabulary - 1)};
  auto labels = Array<int32_t>(rows), offsets = Array<int32_t>(rows);
  for (int64_t n = 0; n < rows; ++n) {
    labels[n] = labels_pool[random() % 8];
    offsets[n] = n % 7 < 4 ? 0 : static_cast<int32_t>(n % 7 == 6 ? kTiny : vocabulary / 2);
  }
  const Window<int64_t> windows[] = {
      {0, vocabulary}, {0, 0}, {0, vocabulary - 1}, {vocabulary / 3, vocabulary}, {vocabulary / 2, vocabulary / 2 + 1}};
  for (int64_t num_columns = 0; num_columns <= 2; ++num_columns) {
    for (const auto& window : windows) {
      const ArcsShape shape{vocabulary, vocabulary, columns.get(), num_columns, window};
      const int32_t* offset = num_columns == 1 ? offsets.get() : nullptr;
      auto entries = Array<A>(rows * shape.num_arcs()), cotangent = Array<A>(rows * shape.num_arcs());
      auto norm = Array<Norm<A>>(rows);
      auto bound = Array<A>(rows);
      for (int64_t i = 0; i < rows * shape.num_arcs(); ++i) {
        cotangent[i] = static_cast<A>(i / shape.num_arcs() % 5 == 0 ? 0 : normal(random));
      }
      for (int64_t i = 0; i < rows; ++i) bound[i] = static_cast<A>(std::fabs(normal(random)));
      ThreadPool pool;
      ForRanges(pool, rows, 3, [&](IndexRange range) {
        ArcsForward(shape, logits.get(), labels.get(), offset, entries.get(), norm.get(), range.begin, range.end);
      });
      ForRanges(pool, rows, 3, [&](IndexRange range) {
        ArcsBackward(shape, logits.get(), labels.get(), offset, norm.get(), cotangent.get(),
                     num_columns ? bound.get() : nullptr, grad.get(), range.begin, range.end);
      });
      for (int64_t n = 0; n < rows; ++n) {
        const A entry = entries[n * shape.num_arcs()];
        const float first = static_cast<float>(Widen(grad[n * vocabulary]));
        const bool invalid = labels[n] < kPadding || labels[n] >= vocabulary, asked = n % 5 != 0;
        if (labels[n] == kPadding) Expect(entry == -kInfinity && first == 0, "a padded row is -inf and has gradient 0");
        if (invalid) Expect(std::isnan(entry), "a row with an invalid label is NaN");
        if (invalid && asked) Expect(std::isnan(first), "a row with an invalid label has a gradient of NaN");
        if (!asked) Expect(first == 0, "a row of which nothing is asked has gradient 0");
        const bool picked = (num_columns == 2 && offset == nullptr) || labels[n] == 0 || vocabulary == 1;
        const A log_norm = norm[n].top + norm[n].log_sum;
        if (log_norm == log_norm && !invalid && offset == nullptr && window.first > 0 && !picked) {
          Expect(first == 0, "an entry outside of the window that no arc points to has gradient 0");
        }
      }
    }
  }
}

template <class R>
void CheckLattice(int64_t num_frames, int64_t num_positions, const std::vector<Move>& moves, std::mt19937& random) {
  std::normal_distribution<double> normal(-2, 3);
  LatticeShape shape{num_frames, num_positions, moves, 1};
  for (const Move& move : moves) shape.span = std::max(shape.span, move.step());
  const int32_t t = static_cast<int32_t>(num_frames), u = static_cast<int32_t>(num_positions - 1);
  const int32_t lengths[][2] = {{t, u},     {t / 2, u / 2}, {1, u},         {t, 0},     {1, 0},
                                {0, 0},     {0, 1},         {-5, u},        {t, -5},    {kHuge, u},
                                {t, kHuge}, {kHuge, kHuge}, {kTiny, kTiny}, {t + 1, u}, {t, u + 1}};
  for (const auto& length : lengths) {
    for (bool with_posteriors : {true, false}) {
      auto arcs = Array<R>(shape.size()), posteriors = Array<R>(shape.size());
      const int masked = random() % 2 ? 30 : 900;  // of 3000
      for (int64_t i = 0; i < shape.size(); ++i) {
        const int special = static_cast<int>(random() % 3000);
        arcs[i] = static_cast<R>(special == 0        ? kNaN
                                 : special < masked  ? -kInfinity
                                 : special == masked ? -1e30
                                                     : normal(random));
        posteriors[i] = static_cast<R>(kNaN);
      }
      Lattice<R> lattice(shape, arcs.get(), length[0], length[1], with_posteriors ? posteriors.get() : nullptr);
      {
        std::thread other([&] { lattice.FirstHalf(0); });
        lattice.FirstHalf(1);
        other.join();
      }
      const R cost = lattice.Meet();
      if (with_posteriors) {
        std::thread other([&] { lattice.SecondHalf(0); });
        lattice.SecondHalf(1);
        other.join();
      }
      const bool invalid = length[0] < 0 || length[0] > t || length[1] < 0 || length[1] > u;
      auto label_frames = Array<int32_t>(u), label_durations = Array<int32_t>(u), taken = Array<int32_t>(t + u);
      const PathArrays path{label_frames.get(), label_durations.get(), taken.get()};
      const R best = BestPath(shape, arcs.get(), length[0], length[1], path);
      Expect(std::isnan(best) == std::isnan(cost), "a best path is NaN where the sum over paths is");
      Expect(!(best < cost - 1e-3 * std::fabs(cost)), "a path is no cheaper than all of them together");
      Expect(std::isfinite(best) || t + u == 0 || taken[0] == -1, "what has no path takes no arc");
      Expect(!invalid || std::isnan(cost), "a length out of range gives a NaN cost");
      if (!with_posteriors) continue;
      const int64_t k = shape.num_arcs();
      for (int64_t node = 0; node < num_frames * num_positions; ++node) {
        const bool outside = node / num_positions >= length[0] || node % num_positions > length[1];
        for (int64_t i = node * k; i < node * k + k; ++i) {
          if (invalid) Expect(std::isnan(posteriors[i]), "an invalid example has NaN posteriors");
          if (!invalid && outside) Expect(posteriors[i] == 0, "padding has posterior 0");
          if (!invalid && !outside && !std::isnan(cost)) {
            Expect(posteriors[i] >= 0 && posteriors[i] < 1.001, "a posterior lies in [0, 1]");
          }
        }
      }
    }
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (int64_t vocabulary : {1, 2, 3, 7, 16, 28, 31, 64, 100, 500, 2049, 5000}) {
    for (int64_t rows : {0, 1, 40}) {
      CheckArcs<float>(rows, vocabulary, random);
      CheckArcs<double>(rows, vocabulary, random);
      CheckArcs<Half>(rows, vocabulary, random);
      CheckArcs<BFloat16>(rows, vocabulary, random);
    }
  }
  const std::vector<std::vector<Move>> topologies = {{{1, 0}, {0, 1}},
                                                     {{1, 0}, {1, 1}},
                                                     {{1, 0}, {2, 0}, {4, 0}, {0, 1}},
                                                     {{1, 0}, {2, 0}, {0, 1}, {1, 1}, {2, 1}},
                                                     {{0, 2}, {3, 1}, {1, 0}},
                                                     {{40, 0}, {0, 40}}};
  for (const auto& moves : topologies) {
    for (int64_t num_frames : {0, 1, 2, 5, 33}) {
      for (int64_t num_positions : {1, 2, 6, 21}) {
        CheckLattice<float>(num_frames, num_positions, moves, random);
        CheckLattice<double>(num_frames, num_positions, moves, random);
      }
    }
  }
  std::printf("%s\n", failures ? "hostile inputs: FAILED" : "hostile inputs: ok");
  return failures != 0;
}
