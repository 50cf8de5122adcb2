// watch.cc: the rules of watch.h, and the calls that g++ -fsanitize=thread makes. Never compiled with -fsanitize.
#include "watch.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda_on_cpu.h"
#include "fiber.h"

extern "C" char __executable_start, __data_start;  // between them lies what is constant in the program

namespace cuda_on_cpu {

Position position;

namespace {

constexpr uint32_t kWarp = 32;
constexpr uintptr_t kGrain = 2;  // bytes: the smallest type of an array
constexpr uintptr_t kPage = 4096;

// The last accesses of one kind to a place, as far as they matter. Several threads may have read it: then those of the
// widest group are known, and `thread` is one of them.
struct Accesses {
  enum Who : uint8_t { kNone, kThread, kThreadsOfWarp, kWarpsOfBlock, kBlocks } who = kNone;
  uint32_t block, thread, barriers, syncs;
  const void* from;  // where in the code

  // Whether all of them come before what the running thread does now.
  bool AreOrdered() const {
    const Position& now = position;
    if (who == kNone) return true;
    if (who == kBlocks || block != now.block) return false;
    if (barriers < now.barriers) return true;
    if (who == kWarpsOfBlock) return false;
    if (thread / kWarp != now.thread / kWarp) return syncs < now.known[thread / kWarp];
    return syncs < now.syncs || (who == kThread && thread == now.thread);
  }

  void Add(const void* code) {
    const Position& now = position;
    if (who != kNone && block != now.block) {
      who = kBlocks;
    } else if (who == kBlocks) {
    } else if (who == kNone || barriers < now.barriers) {  // what lies before a barrier is ordered with all after it
      Set(code);
    } else if (who == kWarpsOfBlock || thread / kWarp != now.thread / kWarp) {
      who = kWarpsOfBlock;
    } else if (syncs < now.syncs) {
      Set(code);
    } else if (thread != now.thread) {
      who = kThreadsOfWarp;
    }
  }

  void Set(const void* code) {
    *this = {kThread, position.block, position.thread, position.barriers, position.syncs, code};
  }
};

struct Place {
  uint32_t launch = 0;  // accesses of earlier launches on the stream come before all of this one
  Accesses written, read;
};

std::unordered_map<uintptr_t, std::vector<Place>> pages;
std::map<uintptr_t, uintptr_t> device;  // arrays: begin and end

std::string Line(const void* from) {
  Dl_info info;
  if (dladdr(from, &info) == 0) return "?";
  char command[512], answer[512];
  const auto offset = reinterpret_cast<uintptr_t>(from) - reinterpret_cast<uintptr_t>(info.dli_fbase) - 1;
  std::snprintf(command, sizeof command, "addr2line -s -i -e '%s' %zx", info.dli_fname, offset);
  std::string line = "?";
  if (FILE* pipe = popen(command, "r")) {
    // From the innermost inlined function outwards, until it is one of a kernel's own.
    while (std::fgets(answer, sizeof answer, pipe) != nullptr) {
      if (line == "?" || line.rfind("device.cuh", 0) == 0) line = std::string(answer, std::strcspn(answer, " \n"));
    }
    pclose(pipe);
  }
  return line;
}

std::string What(size_t bytes, bool write, uintptr_t address, const void* from) {
  const bool shared = address >= position.shared && address < position.shared_end;
  return std::string(write ? "writes " : "reads ") + std::to_string(bytes) + " bytes of " +
         (shared ? "shared" : "global") + " memory, " + Line(from);
}

[[noreturn]] void Race(const Accesses& other, bool written, const std::string& what) {
  static const char* const kWho[] = {"", "thread ", "threads of a warp, one of them thread ",
                                     "warps of the block, one of them with thread ",
                                     "blocks, one of them with thread "};
  Die("race: " + what + "; block " + std::to_string(other.block) + ", " + kWho[other.who] +
      std::to_string(other.thread) + " " + (written ? "wrote" : "read") + " it, " + Line(other.from) +
      ", and nothing orders the two");
}

bool IsDeviceMemory(uintptr_t begin, uintptr_t end) {
  static uintptr_t last_begin = 0, last_end = 0;
  if (begin >= last_begin && end <= last_end && device.count(last_begin) > 0) return true;
  auto after = device.upper_bound(begin);
  if (after == device.begin()) return false;
  const auto& [array, array_end] = *--after;
  if (end > array_end) return false;
  last_begin = array;
  last_end = array_end;
  return true;
}

// Constants of the program, and threadIdx and its like.
bool IsReadable(uintptr_t begin, uintptr_t end) {
  const auto within = [&](const void* from, const void* to) {
    return begin >= reinterpret_cast<uintptr_t>(from) && end <= reinterpret_cast<uintptr_t>(to);
  };
  return within(&__executable_start, &__data_start) || within(&indices, &indices + 1);
}

Place& PlaceOf(uintptr_t address) {
  static uintptr_t last = 0;
  static std::vector<Place>* places = nullptr;
  if (places == nullptr || address / kPage != last) {
    last = address / kPage;
    places = &pages[last];  // stays where it is when others are added
    if (places->empty()) places->resize(kPage / kGrain);
  }
  return (*places)[address % kPage / kGrain];
}

}  // namespace

void AddDeviceMemory(const void* begin, size_t bytes) {
  device[reinterpret_cast<uintptr_t>(begin)] = reinterpret_cast<uintptr_t>(begin) + bytes;
}

void RemoveDeviceMemory(const void* begin) { device.erase(reinterpret_cast<uintptr_t>(begin)); }

void WatchAccess(const void* address, size_t bytes, bool write, const void* from) {
  if (!position.watched || bytes == 0) return;
  const auto begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
  if (begin - position.stack < kStackBytes) return;
  const bool shared = begin >= position.shared && end <= position.shared_end;
  if (!shared && !IsDeviceMemory(begin, end)) {
    if (!write && IsReadable(begin, end)) return;
    Die("out of bounds: " + What(bytes, write, begin, from) + ", which are of no array");
  }
  if (bytes <= 16 && (bytes & (bytes - 1)) == 0 && begin % bytes != 0) {
    Die("misaligned: " + What(bytes, write, begin, from));
  }
  for (uintptr_t at = begin / kGrain * kGrain; at < end; at += kGrain) {
    Place& place = PlaceOf(at);
    if (place.launch != position.launch) place = {position.launch, {}, {}};
    if (!place.written.AreOrdered()) Race(place.written, true, What(bytes, write, begin, from));
    if (write) {
      if (!place.read.AreOrdered()) Race(place.read, false, What(bytes, write, begin, from));
      place.written.Set(from);
      place.read.who = Accesses::kNone;  // they come before this write
    } else {
      place.read.Add(from);
    }
  }
}

}  // namespace cuda_on_cpu

#define JAX_RNNT_WATCH(bytes)                                                                                          \
  void __tsan_read##bytes(const void* p) { ::cuda_on_cpu::WatchAccess(p, bytes, false, __builtin_return_address(0)); } \
  void __tsan_write##bytes(const void* p) { ::cuda_on_cpu::WatchAccess(p, bytes, true, __builtin_return_address(0)); }
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(const void*) {}
void __tsan_func_exit() {}
JAX_RNNT_WATCH(1)
JAX_RNNT_WATCH(2)
JAX_RNNT_WATCH(4)
JAX_RNNT_WATCH(8)
JAX_RNNT_WATCH(16)
void __tsan_read_range(const void* p, size_t bytes) {
  ::cuda_on_cpu::WatchAccess(p, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(const void* p, size_t bytes) {
  ::cuda_on_cpu::WatchAccess(p, bytes, true, __builtin_return_address(0));
}
}
