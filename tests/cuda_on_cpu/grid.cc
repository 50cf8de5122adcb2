// grid.cc: runs grids, block after block, whose threads are fibers. Never compiled with -fsanitize.
//
// CUDA_ON_CPU_ORDER chooses the order in which the threads of a block are resumed: "forward", "reverse", or a number
// from which a shuffled order is made. A kernel's results may not depend on it.
#include "grid.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "block.h"
#include "watch.h"

namespace cuda_on_cpu {

thread_local Indices indices;
thread_local Block* block = nullptr;
thread_local int64_t barriers = 0;

namespace {

std::atomic<int64_t> only_ends{0};  // the blocks of a launch that are run, from each end; 0: all
std::mutex barriers_mutex;
std::vector<int64_t> all_barriers;  // of each launch, those of the block that had the most

// Tells the watcher that the running lane goes on, and how far its block and its warp are.
void Watch([[maybe_unused]] const void* stack) {
#if defined(CUDA_ON_CPU_WATCHED)
  const Lane& lane = *block->running;
  position.block = indices.block.x;
  position.thread = lane.index;
  position.barriers = block->generation;
  position.syncs = block->warps[lane.index / kWarp].syncs;
  position.known = lane.known.data();
  position.stack = reinterpret_cast<uintptr_t>(stack);
  position.shared = reinterpret_cast<uintptr_t>(block->shared);
  position.shared_end = position.shared + block->launch->shared;
  position.watched = true;
#endif
}

void StartWatching() {
#if defined(CUDA_ON_CPU_WATCHED)
  ++position.launch;
#endif
}

void StopWatching() {
#if defined(CUDA_ON_CPU_WATCHED)
  position.watched = false;
#endif
}

void RunThread() {
  const Launch& launch = *block->launch;
  launch.invoke(launch.kernel, launch.argument.data());
  Lane& lane = *block->running;
  Warp& warp = block->warps[lane.index / kWarp];
  if (!lane.copies.empty()) Die("a thread ends before its copies to shared memory do");
  if (warp.arrived > 0) Die("a thread ends while others of its warp wait for it at line " + std::to_string(warp.line));
  if (block->at_barrier > 0) Die("a thread ends while others wait for it at line " + std::to_string(block->line));
  --warp.live;
  --block->live;
  lane.state = State::kDone;
  Switch(lane.context, block->scheduler);
  std::abort();
}

void RunBlock(unsigned index, const std::vector<unsigned>& order, const std::vector<void*>& stacks) {
  Block& b = *block;
  indices.block.x = index;
  const unsigned threads = static_cast<unsigned>(order.size());
  b.lanes.assign(threads, Lane());
  b.warps.assign(threads / kWarp, Warp());
  b.counts.clear();
  b.live = threads;
  for (unsigned i = 0; i < threads; ++i) {
    b.lanes[i].index = i;
    b.lanes[i].known.assign(threads / kWarp, 0);
    Prepare(b.lanes[i].context, stacks[i], RunThread);
  }
  while (b.live > 0) {
    bool any = false;
    for (const unsigned i : order) {
      Lane& lane = b.lanes[i];
      if (lane.state != State::kReady) continue;
      any = true;
      b.running = &lane;
      indices.thread.x = i;
      Watch(stacks[i]);
      Switch(b.scheduler, lane.context);
      StopWatching();
    }
    if (!any) Die("all threads that have not ended wait: at a barrier, at a collective or for a count");
  }
  barriers = std::max<int64_t>(barriers, b.generation);
  b.generation = 0;
}

std::vector<unsigned> Order(unsigned threads) {
  std::vector<unsigned> order(threads);
  for (unsigned i = 0; i < threads; ++i) order[i] = i;
  const char* setting = std::getenv("CUDA_ON_CPU_ORDER");
  const std::string name = setting == nullptr ? "forward" : setting;
  if (name == "reverse") {
    std::reverse(order.begin(), order.end());
  } else if (name != "forward") {
    std::shuffle(order.begin(), order.end(), std::mt19937(static_cast<unsigned>(std::atoi(name.c_str()))));
  }
  return order;
}

// Stacks of kMaxThreads fibers, kept for the next launch of this OS thread.
const std::vector<void*>& Stacks() {
  struct Mapped {
    std::vector<void*> stacks;
    Mapped() {
      for (unsigned i = 0; i < kMaxThreads; ++i) {
        void* stack =
            mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stack == MAP_FAILED) Die("no memory for stacks");
        stacks.push_back(stack);
      }
    }
    ~Mapped() {
      for (void* stack : stacks) munmap(stack, kStackBytes);
    }
  };
  static thread_local Mapped mapped;
  return mapped.stacks;
}

}  // namespace

void Wait(State state) {
  Lane& lane = *block->running;
  lane.state = state;
  Switch(lane.context, block->scheduler);
}

void RunGrid(const Launch& launch) {
  static thread_local Block b;
  block = &b;
  barriers = 0;
  indices.block_size.x = launch.threads;
  b.launch = &launch;
  const std::vector<unsigned> order = Order(launch.threads);
  const std::vector<void*>& stacks = Stacks();
  std::vector<std::unique_ptr<char[]>> memory;
  const auto run = [&](unsigned index) {
    // Undefined, hence NaN, at first; and new for each block, because blocks share nothing.
    if (launch.shared > 0) {
      memory.emplace_back(new char[launch.shared]);
      std::memset(memory.back().get(), 0xff, launch.shared);
      b.shared = memory.back().get();
    }
    RunBlock(index, order, stacks);
  };
  StartWatching();
  const int64_t blocks = launch.blocks, ends = only_ends == 0 ? blocks : only_ends.load();
  for (int64_t i = 0; i < blocks; ++i) {
    if (i == ends) i = std::max(i, blocks - ends);
    run(static_cast<unsigned>(i));
  }
  std::lock_guard<std::mutex> lock(barriers_mutex);
  all_barriers.push_back(barriers);
}

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "cuda_on_cpu: block %u, thread %u: %s\n", indices.block.x, indices.thread.x, what.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace cuda_on_cpu

#if !defined(CUDA_ON_CPU_WATCHED)
namespace cuda_on_cpu {
void AddDeviceMemory(const void*, size_t) {}
void RemoveDeviceMemory(const void*) {}
}  // namespace cuda_on_cpu
#endif

// For tests: how many barriers each launch had since the last call of this function, at most `room` launches.
extern "C" int64_t cuda_on_cpu_barriers(int64_t* to, int64_t room) {
  using namespace cuda_on_cpu;
  std::lock_guard<std::mutex> lock(barriers_mutex);
  const auto n = std::min<int64_t>(room, static_cast<int64_t>(all_barriers.size()));
  std::copy_n(all_barriers.begin(), n, to);
  all_barriers.clear();
  return n;
}

// For tests: of each launch only so many blocks are run, at its beginning and at its end; 0: all.
extern "C" void cuda_on_cpu_only_ends(int64_t blocks) { cuda_on_cpu::only_ends = blocks; }
