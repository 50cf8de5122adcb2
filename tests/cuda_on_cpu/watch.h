// watch.h: sees every access of the kernels to memory and holds it to the rules of a GPU.
//
// Kernels are built with -fsanitize=thread, which puts a call in front of each access; watch.cc takes the place of the
// library that would answer those calls, because that one knows threads of a CPU: it would need a thread for each
// thread of each block. A GPU's rules are few. Two accesses to the same place, one of them a write, are a race unless
//   * one thread makes both, or
//   * both are of one block, and a barrier of the block lies between them, or
//   * both are of one warp, and a __syncwarp lies between them, or
//   * both are of one block, and the first one's warp had a __syncwarp and set a count, for which the second one
//   waited.
// A vote or a shuffle orders no memory, and nothing orders two blocks of a launch. Whether there is a race does not
// depend on the order in which threads happened to run.
//
// Besides, a kernel may only touch arrays that are its own to touch: those that were made known here, its block's
// shared memory, its thread's stack; and only at multiples of an access's size.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_on_cpu {

// Where the running thread stands.
struct Position {
  bool watched = false;  // a kernel is running, not the host
  uint32_t launch = 0, block = 0, thread = 0;
  uint32_t barriers = 0;            // that its block has passed
  uint32_t syncs = 0;               // __syncwarp that its warp has passed
  const uint32_t* known = nullptr;  // of each warp: accesses before its __syncwarp of this number come before now
  uintptr_t stack = 0;              // of kStackBytes
  uintptr_t shared = 0, shared_end = 0;
};

void AddDeviceMemory(const void* begin, size_t bytes);  // these two do nothing where nobody watches
void RemoveDeviceMemory(const void* begin);

#if defined(CUDA_ON_CPU_WATCHED)
extern Position position;
void WatchAccess(const void* address, size_t bytes, bool write, const void* from);
#endif

}  // namespace cuda_on_cpu
