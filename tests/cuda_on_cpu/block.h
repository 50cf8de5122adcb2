// block.h: a block that runs: what its threads and warps wait for.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "cuda_on_cpu.h"
#include "fiber.h"
#include "grid.h"

namespace cuda_on_cpu {

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

extern thread_local Block* block;      // that runs
extern thread_local int64_t barriers;  // of the block that has had the most in this launch

// Lets other threads of the block run until this one is ready again.
void Wait(State state);

}  // namespace cuda_on_cpu
