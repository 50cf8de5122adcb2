// runtime.cc: runs grids of blocks of fibers. Never compiled with -fsanitize.
//
// CUDA_ON_CPU_ORDER chooses the order in which the threads of a block are resumed: "forward", "reverse", or a number
// from which a shuffled order is made. A kernel's results may not depend on it.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <unordered_set>
#include <vector>

#include "cuda_on_cpu.h"
#include "fiber.h"

namespace cuda_on_cpu {

thread_local Index thread_index, block_index, block_size;

namespace {

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxShared = size_t{48} << 10;
constexpr uintptr_t kSegment = 128;

enum class State : uint8_t { kReady, kAtBarrier, kAtCollective, kDone };

struct Lane {
  Context context;
  State state = State::kReady;
  unsigned index = 0;
  uint64_t value = 0, result = 0;  // of the collective that it waits for
  int distance = 0;
};

struct Warp {
  unsigned arrived = 0, live = kWarp;
  Collective kind{};
  int line = 0;
  unsigned generation = 0;
  char tags[2];  // happens-before of even and odd generations: who hurries ahead must not vouch for who lags behind
};

// What is counted of a launch; tests read it as an array of numbers.
struct Counts {
  int64_t blocks = 0, threads = 0, barriers = 0;    // barriers of the block that had the most
  int64_t bytes_read = 0, bytes_written = 0;        // asked for
  int64_t segments_read = 0, segments_written = 0;  // of 128 bytes, each once a block
};

struct Block {
  std::vector<Lane> lanes;
  std::vector<Warp> warps;
  Context scheduler;
  const std::function<void()>* thread = nullptr;
  Lane* running = nullptr;
  unsigned live = 0, at_barrier = 0, predicates = 0, last_predicates = 0, generation = 0;
  int line = 0;
  char tags[2];
  char* shared = nullptr;
  std::unordered_set<uintptr_t> read, written;
};

thread_local Block* block = nullptr;
char launched, ended;  // happens-before: from the host to all threads of the grid, and from them to the host
std::mutex counts_mutex;
bool counting = false;
std::vector<Counts> all_counts;
thread_local Counts counts;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "cuda_on_cpu: block %u, thread %u: %s\n", block_index.x, thread_index.x, what.c_str());
  std::fflush(stderr);
  std::abort();
}

void Wait(State state) {
  Lane& lane = *block->running;
  lane.state = state;
  Switch(lane.context, block->scheduler);
}

void RunThread() {
  Entered(block->scheduler);
  Acquire(&launched);
  (*block->thread)();
  Lane& lane = *block->running;
  Warp& warp = block->warps[lane.index / kWarp];
  if (warp.arrived > 0) Die("a thread ends while others of its warp wait for it at line " + std::to_string(warp.line));
  if (block->at_barrier > 0) Die("a thread ends while others wait for it at line " + std::to_string(block->line));
  --warp.live;
  --block->live;
  lane.state = State::kDone;
  Release(&ended);
  Switch(lane.context, block->scheduler, true);
  std::abort();
}

void RunBlock(unsigned index, const std::vector<unsigned>& order, const std::vector<void*>& stacks) {
  Block& b = *block;
  block_index.x = index;
  const unsigned threads = static_cast<unsigned>(order.size());
  b.lanes.assign(threads, Lane());
  b.warps.assign(threads / kWarp, Warp());
  b.live = threads;
  for (unsigned i = 0; i < threads; ++i) {
    b.lanes[i].index = i;
    // Another slot in each block, so that the detector does not take neighbouring blocks' accesses for one thread's.
    const unsigned slot = (i + 37 * index) % threads;
    Prepare(b.lanes[i].context, stacks[slot], slot, RunThread);
  }
  while (b.live > 0) {
    bool any = false;
    for (const unsigned i : order) {
      Lane& lane = b.lanes[i];
      if (lane.state != State::kReady) continue;
      any = true;
      b.running = &lane;
      thread_index.x = i;
      Switch(b.scheduler, lane.context);
    }
    if (!any) Die("all threads that have not ended wait: some at a barrier, some at a collective");
  }
  counts.barriers = std::max<int64_t>(counts.barriers, b.generation);
  counts.segments_read += static_cast<int64_t>(b.read.size());
  counts.segments_written += static_cast<int64_t>(b.written.size());
  b.read.clear();
  b.written.clear();
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

void CountSegments(std::unordered_set<uintptr_t>& segments, const void* address, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t s = begin / kSegment; s <= (begin + bytes - 1) / kSegment; ++s) segments.insert(s);
}

}  // namespace

void* DynamicShared() { return block->shared; }

unsigned BlockBarrier(bool predicate, int line) {
  Block& b = *block;
  if (b.live != b.lanes.size()) Die("a barrier after threads have ended, line " + std::to_string(line));
  if (b.at_barrier > 0 && b.line != line) {
    Die("threads wait at different barriers, lines " + std::to_string(b.line) + " and " + std::to_string(line));
  }
  b.line = line;
  b.predicates += predicate ? 1 : 0;
  char* tag = &b.tags[b.generation % 2];
  Release(tag);
  if (++b.at_barrier == b.live) {
    b.last_predicates = b.predicates;
    b.predicates = b.at_barrier = 0;
    ++b.generation;
    for (Lane& lane : b.lanes) {
      if (lane.state == State::kAtBarrier) lane.state = State::kReady;
    }
    // The last to arrive goes to the end of the queue like everybody else: it has no right to go first.
    b.running->state = State::kReady;
    Switch(b.running->context, b.scheduler);
  } else {
    Wait(State::kAtBarrier);
  }
  Acquire(tag);
  return b.last_predicates;
}

uint64_t WarpCollective(uint32_t mask, Collective kind, uint64_t value, int distance, int line) {
  Block& b = *block;
  Lane& lane = *b.running;
  Warp& warp = b.warps[lane.index / kWarp];
  if (mask != ~0u) Die("a collective that names fewer than all lanes, line " + std::to_string(line));
  if (warp.live != kWarp) Die("a collective after lanes of the warp have ended, line " + std::to_string(line));
  if (warp.arrived > 0 && (warp.kind != kind || warp.line != line)) {
    Die("lanes of a warp meet in different collectives, lines " + std::to_string(warp.line) + " and " +
        std::to_string(line));
  }
  warp.kind = kind;
  warp.line = line;
  lane.value = value;
  lane.distance = distance;
  char* tag = &warp.tags[warp.generation % 2];
  Release(tag);
  if (++warp.arrived == kWarp) {
    warp.arrived = 0;
    ++warp.generation;
    Lane* first = &b.lanes[lane.index / kWarp * kWarp];
    bool any = false;
    for (unsigned i = 0; i < kWarp; ++i) any = any || first[i].value != 0;
    for (unsigned i = 0; i < kWarp; ++i) {
      const auto distance = static_cast<unsigned>(first[i].distance);
      const unsigned below = i < distance ? i : i - distance;  // the lowest lanes keep their own
      const unsigned from = kind == Collective::kFromBelow ? below : i ^ distance;
      if (from >= kWarp) Die("a shuffle from beyond the warp, line " + std::to_string(line));
      first[i].result = kind == Collective::kAny ? any : first[from].value;
      if (first[i].state == State::kAtCollective) first[i].state = State::kReady;
    }
    Switch(lane.context, b.scheduler);  // as at a barrier
  } else {
    Wait(State::kAtCollective);
  }
  Acquire(tag);
  return lane.result;
}

cudaError_t RunGrid(unsigned blocks, unsigned threads, size_t shared, const std::function<void()>& thread) {
  if (blocks == 0 || threads == 0 || threads > kMaxThreads || shared > kMaxShared) return cudaErrorInvalidConfiguration;
  if (threads % kWarp != 0) Die("a block of " + std::to_string(threads) + " threads, which is no number of warps");
  static thread_local Block b;
  block = &b;
  counts = Counts();
  counts.blocks = blocks;
  counts.threads = threads;
  block_size.x = threads;
  b.thread = &thread;
  const std::vector<unsigned> order = Order(threads);
  const std::vector<void*>& stacks = Stacks();
  std::vector<std::unique_ptr<char[]>> memory;
  for (unsigned i = 0; i < blocks; ++i) {
    // Of the very size that was asked for, for the address sanitizer; undefined, hence NaN, at first; and new for each
    // block, because blocks share nothing.
    if (shared > 0) {
      memory.emplace_back(new char[shared]);
      std::memset(memory.back().get(), 0xff, shared);
      b.shared = memory.back().get();
    }
    Release(&launched);
    RunBlock(i, order, stacks);
  }
  Acquire(&ended);
  if (counting) {
    std::lock_guard<std::mutex> lock(counts_mutex);
    all_counts.push_back(counts);
  }
  return cudaSuccess;
}

void CountRead(const void* address, size_t bytes) {
  if (!counting) return;
  counts.bytes_read += static_cast<int64_t>(bytes);
  CountSegments(block->read, address, bytes);
}

void CountWrite(const void* address, size_t bytes) {
  if (!counting) return;
  counts.bytes_written += static_cast<int64_t>(bytes);
  CountSegments(block->written, address, bytes);
}

}  // namespace cuda_on_cpu

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid configuration argument";
}

// For tests, by ctypes: starts counting; then gives the counts of each launch since, 7 numbers each, at most `room`.
extern "C" void cuda_on_cpu_count() {
  cuda_on_cpu::counting = true;
  cuda_on_cpu::all_counts.clear();
}
extern "C" int64_t cuda_on_cpu_counts(int64_t* to, int64_t room) {
  using namespace cuda_on_cpu;
  counting = false;
  const auto n = std::min<int64_t>(room, static_cast<int64_t>(all_counts.size()));
  if (n > 0) std::memcpy(to, all_counts.data(), static_cast<size_t>(n) * sizeof(Counts));
  return n;
}
