// runtime.cc: streams of launches, and grids of blocks of fibers. Never compiled with -fsanitize.
//
// CUDA_ON_CPU_ORDER chooses the order in which the threads of a block are resumed: "forward", "reverse", or a number
// from which a shuffled order is made. A kernel's results may not depend on it.
#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda_on_cpu.h"
#include "fiber.h"
#include "watch.h"

struct CudaStream {
  std::deque<cuda_on_cpu::Launch> waiting;
};

namespace cuda_on_cpu {

thread_local Indices indices;

namespace {

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxBlocks = 0x7fffffff;
constexpr size_t kMaxShared = size_t{48} << 10;  // of a kernel that has not asked for more

enum class State : uint8_t { kReady, kAtBarrier, kAtCollective, kAtCount, kDone };

struct Lane {
  Context context;
  State state = State::kReady;
  unsigned index = 0;
  uint64_t value = 0, result = 0;  // of the collective that it waits for
  int distance = 0;
  struct Copy {
    void* to;
    const void* from;  // or null, for 0
    size_t bytes;
  };
  std::vector<Copy> copies;        // that it has begun
  std::vector<size_t> groups;      // their groups: where each ends
  const int32_t* count = nullptr;  // that it waits for
  int32_t least = 0;               // what the count must be
  std::vector<uint32_t> known;     // of each warp: the __syncwarp before which it knows all accesses
};

struct Warp {
  unsigned arrived = 0, live = kWarp;
  Collective kind{};
  int line = 0;
  unsigned syncs = 0;
};

// What a warp has said by a count (Release), oldest first.
struct Said {
  int32_t value;
  std::vector<uint32_t> known;
};

struct Block {
  std::vector<Lane> lanes;
  std::unordered_map<const int32_t*, std::vector<Said>> counts;
  std::vector<Warp> warps;
  Context scheduler;
  const Launch* launch = nullptr;
  Lane* running = nullptr;
  unsigned live = 0, at_barrier = 0, predicates = 0, last_predicates = 0, generation = 0;
  int line = 0;
  char* shared = nullptr;
};

thread_local Block* block = nullptr;
std::atomic<int> failing{0};
std::atomic<int> shared_of_block{99 << 10};  // at most
std::mutex allowed_mutex;
std::unordered_map<void (*)(), size_t> allowed;  // bytes of shared memory, by kernel
std::atomic<int64_t> only_ends{0};               // the blocks of a launch that are run, from each end; 0: all
thread_local CudaStream no_stream;
std::mutex barriers_mutex;
std::vector<int64_t> all_barriers;  // of each launch, those of the block that had the most
thread_local int64_t barriers = 0;

void Wait(State state) {
  Lane& lane = *block->running;
  lane.state = state;
  Switch(lane.context, block->scheduler);
}

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

void Learn(Lane& lane, const std::vector<uint32_t>& known) {
  for (size_t i = 0; i < known.size(); ++i) lane.known[i] = std::max(lane.known[i], known[i]);
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

}  // namespace

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "cuda_on_cpu: block %u, thread %u: %s\n", indices.block.x, indices.thread.x, what.c_str());
  std::fflush(stderr);
  std::abort();
}

void* DynamicShared() { return block->shared; }

unsigned BlockBarrier(bool predicate, int line) {
  Block& b = *block;
  if (b.live != b.lanes.size()) Die("a barrier after threads have ended, line " + std::to_string(line));
  if (b.at_barrier > 0 && b.line != line) {
    Die("threads wait at different barriers, lines " + std::to_string(b.line) + " and " + std::to_string(line));
  }
  b.line = line;
  b.predicates += predicate ? 1 : 0;
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
  if (++warp.arrived == kWarp) {
    warp.arrived = 0;
    Lane* first = &b.lanes[lane.index / kWarp * kWarp];
    if (kind == Collective::kSync) {
      ++warp.syncs;
      if (!b.counts.empty()) {  // each lane knows what one of them knew
        for (unsigned i = 1; i < kWarp; ++i) Learn(first[0], first[i].known);
        for (unsigned i = 1; i < kWarp; ++i) first[i].known = first[0].known;
      }
    }
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
  return lane.result;
}

cudaError_t PutOnStream(cudaStream_t stream, const Launch& launch) {
  if (failing > 0 && --failing == 0) return cudaErrorLaunchOutOfResources;
  if (launch.blocks == 0 || launch.blocks > kMaxBlocks || launch.threads == 0 || launch.threads > kMaxThreads) {
    return cudaErrorInvalidConfiguration;
  }
  if (launch.shared > kMaxShared) {
    std::lock_guard<std::mutex> lock(allowed_mutex);
    const auto found = allowed.find(launch.kernel);
    if (found == allowed.end() || launch.shared > found->second) return cudaErrorInvalidValue;
  }
  if (launch.threads % kWarp != 0) {
    Die("a block of " + std::to_string(launch.threads) + " threads, which is no number of warps");
  }
  (stream == nullptr ? no_stream : *stream).waiting.push_back(launch);
  return cudaSuccess;
}

cudaError_t AllowShared(void (*kernel)(), int bytes) {
  if (bytes < 0 || bytes > shared_of_block) return cudaErrorInvalidValue;
  std::lock_guard<std::mutex> lock(allowed_mutex);
  allowed[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

cudaError_t BlocksAtOnce(int* blocks, void (*kernel)(), size_t shared) {
  constexpr size_t kReserved = 1 << 10;
  std::lock_guard<std::mutex> lock(allowed_mutex);
  const auto found = allowed.find(kernel);
  const size_t most = found == allowed.end() ? kMaxShared : found->second;
  *blocks = shared > most ? 0 : static_cast<int>((shared_of_block + kReserved) / (shared + kReserved));
  return cudaSuccess;
}

namespace {

// from: or null, for `fill` in each byte
void WriteShared(void* to, const void* from, int fill, size_t bytes) {
#if defined(CUDA_ON_CPU_WATCHED)
  WatchAccess(to, bytes, true, __builtin_return_address(0));
#endif
  if (from == nullptr) {
    std::memset(to, fill, bytes);
  } else {
    std::memcpy(to, from, bytes);
  }
}

}  // namespace

void CopyLater(void* to, const void* from, size_t bytes, bool wanted) {
  const auto misaligned = [&](const void* p) { return reinterpret_cast<uintptr_t>(p) % bytes != 0; };
  if ((bytes != 4 && bytes != 8) || misaligned(to) || misaligned(from)) {
    Die("a copy to shared memory has the wrong size or alignment");
  }
  WriteShared(to, nullptr, 0xff, bytes);  // NaN
  block->running->copies.push_back({to, wanted ? from : nullptr, bytes});
}

void EndGroup() { block->running->groups.push_back(block->running->copies.size()); }

void FinishCopies(size_t under_way) {
  Lane& lane = *block->running;
  if (lane.groups.size() <= under_way) return;
  const size_t finished = lane.groups.size() - under_way, count = lane.groups[finished - 1];
  for (size_t i = 0; i < count; ++i) {
    const auto& [to, from, bytes] = lane.copies[i];
    if (from != nullptr) WatchRead(from, bytes);
    WriteShared(to, from, 0, bytes);
  }
  lane.copies.erase(lane.copies.begin(), lane.copies.begin() + static_cast<std::ptrdiff_t>(count));
  lane.groups.erase(lane.groups.begin(), lane.groups.begin() + static_cast<std::ptrdiff_t>(finished));
  for (size_t& end : lane.groups) end -= count;
}

void Release(int32_t* count, int32_t value) {
  Block& b = *block;
  const Lane& lane = *b.running;
  const unsigned warp = lane.index / kWarp;
  if (value <= *count) {
    Die("a count goes from " + std::to_string(*count) + " to " + std::to_string(value) + ", and others wait for more");
  }
  auto& history = b.counts[count];
  if (history.empty() || history.back().value != *count) history.assign(1, {*count, {}});  // set between barriers
  history.push_back({value, lane.known});
  history.back().known[warp] = b.warps[warp].syncs;
  *count = value;
  for (Lane& other : b.lanes) {
    if (other.state == State::kAtCount && other.count == count && other.least <= value) other.state = State::kReady;
  }
}

void Acquire(const int32_t* count, int32_t least) {
  Lane& lane = *block->running;
  lane.count = count;
  lane.least = least;
  if (*count < least) Wait(State::kAtCount);
  // It learns what the other warp knew when the count was large enough, even if that warp is further on by now: on a
  // GPU it need not be.
  const auto found = block->counts.find(count);
  if (found == block->counts.end() || found->second.back().value != *count) return;  // set before a barrier
  const auto& history = found->second;
  Learn(lane, std::lower_bound(history.begin(), history.end(), least, [](const Said& said, int32_t value) {
                return said.value < value;
              })->known);
}

void Synchronise(cudaStream_t stream) {
  while (!stream->waiting.empty()) {
    RunGrid(stream->waiting.front());
    stream->waiting.pop_front();
  }
  if (!no_stream.waiting.empty()) Die("a kernel was put on no stream, or the default one, where nobody waits for it");
}

cudaStream_t NewStream() { return new CudaStream; }
void DeleteStream(cudaStream_t stream) {
  if (!stream->waiting.empty()) Die("a stream ends while kernels wait in it");
  delete stream;
}

void WatchRead([[maybe_unused]] const void* address, [[maybe_unused]] size_t bytes) {
#if defined(CUDA_ON_CPU_WATCHED)
  WatchAccess(address, bytes, false, __builtin_return_address(0));
#endif
}

void WatchWrite([[maybe_unused]] const void* address, [[maybe_unused]] size_t bytes) {
#if defined(CUDA_ON_CPU_WATCHED)
  WatchAccess(address, bytes, true, __builtin_return_address(0));
#endif
}

}  // namespace cuda_on_cpu

#if !defined(CUDA_ON_CPU_WATCHED)
namespace cuda_on_cpu {
void AddDeviceMemory(const void*, size_t) {}
void RemoveDeviceMemory(const void*) {}
}  // namespace cuda_on_cpu
#endif

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  constexpr int kMultiprocessors = 132;
  *value = attribute == cudaDevAttrMultiProcessorCount ? kMultiprocessors : cuda_on_cpu::shared_of_block.load();
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchOutOfResources:
      return "too many resources requested for launch";
  }
  return "unknown error";
}

// For tests: how many barriers each launch had since the last call of this function, at most `room` launches.
extern "C" int64_t cuda_on_cpu_barriers(int64_t* to, int64_t room) {
  using namespace cuda_on_cpu;
  std::lock_guard<std::mutex> lock(barriers_mutex);
  const auto n = std::min<int64_t>(room, static_cast<int64_t>(all_barriers.size()));
  std::copy_n(all_barriers.begin(), n, to);
  all_barriers.clear();
  return n;
}

// For tests: the launch_th launch from now on fails; 0: none does.
extern "C" void cuda_on_cpu_fail(int launch) { cuda_on_cpu::failing = launch; }

// For tests: how many bytes of shared memory a block may have at most.
extern "C" void cuda_on_cpu_shared(int bytes) { cuda_on_cpu::shared_of_block = bytes; }

// For tests: of each launch only so many blocks are run, at its beginning and at its end; 0: all.
extern "C" void cuda_on_cpu_only_ends(int64_t blocks) { cuda_on_cpu::only_ends = blocks; }
