// calls.cc: what the threads of a kernel call: barriers, exchanges in a warp, copies to shared memory, counts. Never
// compiled with -fsanitize.
#include <algorithm>
#include <string>
#include <vector>

#include "block.h"
#include "watch.h"

namespace cuda_on_cpu {
namespace {

void Learn(Lane& lane, const std::vector<uint32_t>& known) {
  for (size_t i = 0; i < known.size(); ++i) lane.known[i] = std::max(lane.known[i], known[i]);
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
