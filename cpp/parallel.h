// parallel.h: shares a loop between the calling thread and XLA's thread pool.
//
// The caller takes chunks from the front, and threads of the pool take chunks from the back. So with two threads, the
// next call over the same rows or utterances finds them in the cache of the same thread.
//
// The caller waits only for chunks that another thread has begun. A task that the pool starts too late finds no chunk
// and returns. So there is no deadlock, even when every thread of the pool is inside a handler.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "processor.h"

namespace jax_rnnt {

// The indices begin, begin + 1, ..., end - 1.
struct IndexRange {
  int64_t begin, end;
};

// Calls f(IndexRange) for pieces of [0, n). A piece has at most `grain` indices, even if one thread does all the work.
// f must not throw.
template <class Pool, class F>
void ForRanges(Pool& pool, int64_t n, int64_t grain, const F& f) {
  const int64_t chunks = (n + grain - 1) / grain;
  const auto piece = [=](int64_t c) { return IndexRange{c * grain, std::min(n, (c + 1) * grain)}; };
  const int64_t workers = std::min<int64_t>(std::max<int64_t>(pool.num_threads(), 1), chunks);
  if (workers <= 1) {
    for (int64_t c = 0; c < chunks; ++c) f(piece(c));
    return;
  }
  struct Work {
    std::atomic<int64_t> taken{0}, from_back{0};  // chunks that have begun; those of them that the pool took
    std::mutex mutex;
    std::condition_variable all_done;
    int64_t done = 0;  // finished chunks, guarded by mutex
    const F* f;        // alive until every chunk is done
    int64_t n, grain, chunks;
    const std::thread::id caller = std::this_thread::get_id();
    const int processor = CurrentProcessor();

    void Help() {
      // The pool may run a task in the calling thread, or after all the work is done.
      if (taken.load(std::memory_order_relaxed) >= chunks) return;
      if (std::this_thread::get_id() != caller) LeaveProcessor(processor);
      Run(/*from_front=*/false);
    }

    // `taken` stops at the number of chunks, so the front and the back never take the same chunk.
    void Run(bool from_front) {
      int64_t mine = 0;
      for (; taken.fetch_add(1, std::memory_order_relaxed) < chunks; ++mine) {
        const int64_t c = from_front ? mine : chunks - 1 - from_back.fetch_add(1, std::memory_order_relaxed);
        (*f)(IndexRange{c * grain, std::min(n, (c + 1) * grain)});
      }
      if (mine == 0) return;
      std::lock_guard<std::mutex> lock(mutex);
      done += mine;
      if (done == chunks) all_done.notify_all();
    }
  };
  auto work = std::make_shared<Work>();  // shared, because the pool may start a task after this call has returned
  work->f = &f;
  work->n = n;
  work->grain = grain;
  work->chunks = chunks;
  for (int64_t i = 1; i < workers; ++i) {
    pool.Schedule([work] { work->Help(); });
    YieldProcessor();
  }
  work->Run(/*from_front=*/true);
  std::unique_lock<std::mutex> lock(work->mutex);
  work->all_done.wait(lock, [&] { return work->done == work->chunks; });
}

// Calls f(i) once for every index of [0, n). f must not throw.
template <class Pool, class F>
void ForEach(Pool& pool, int64_t n, const F& f) {
  ForRanges(pool, n, 1, [&](IndexRange range) {
    for (int64_t i = range.begin; i < range.end; ++i) f(i);
  });
}

}  // namespace jax_rnnt
