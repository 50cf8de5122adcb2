// parallel_check.cc: checks that a loop visits every index exactly once, whatever pool shares it.
#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "parallel.h"

using namespace jax_rnnt;

namespace {

// What a pool does with the tasks that it gets.
enum class Habit { kThread, kCaller, kNever, kMixed };

struct ThreadPool {
  int64_t size;
  Habit habit;
  std::vector<std::thread> threads;
  int scheduled = 0;

  int64_t num_threads() const { return size; }
  template <class F>
  void Schedule(F f) {
    const Habit now = habit == Habit::kMixed ? static_cast<Habit>(scheduled++ % 3) : habit;
    if (now == Habit::kThread) threads.emplace_back(f);
    if (now == Habit::kCaller) f();
  }
  ~ThreadPool() {
    for (auto& thread : threads) thread.join();
  }
};

int failures = 0;

void Check(ThreadPool& pool, int64_t n, int64_t grain) {
  std::vector<std::atomic<int>> in_ranges(static_cast<size_t>(n)), each(static_cast<size_t>(n));
  std::atomic<bool> too_long{false};
  ForRanges(pool, n, grain, [&](IndexRange range) {
    if (range.end - range.begin > grain || range.begin >= range.end) too_long = true;
    for (int64_t i = range.begin; i < range.end; ++i) ++in_ranges[static_cast<size_t>(i)];
  });
  ForEach(pool, n, [&](int64_t i) { ++each[static_cast<size_t>(i)]; });
  bool once = !too_long;
  for (int64_t i = 0; i < n; ++i) once &= in_ranges[static_cast<size_t>(i)] == 1 && each[static_cast<size_t>(i)] == 1;
  if (once) return;
  ++failures;
  std::printf("FAILED: a pool of %d, %d indices, grain %d\n", static_cast<int>(pool.size), static_cast<int>(n),
              static_cast<int>(grain));
}

}  // namespace

int main() {
  for (int64_t size : {0, 1, 2, 3, 5}) {
    for (Habit habit : {Habit::kThread, Habit::kCaller, Habit::kNever, Habit::kMixed}) {
      for (int64_t n : {0, 1, 2, 3, 4, 5, 7, 16, 100}) {
        for (int64_t grain : {1, 2, 3, 7, 200}) {
          ThreadPool pool{size, habit, {}, 0};
          Check(pool, n, grain);
        }
      }
    }
  }
  std::printf("%s\n", failures ? "parallel: FAILED" : "parallel: ok");
  return failures != 0;
}
