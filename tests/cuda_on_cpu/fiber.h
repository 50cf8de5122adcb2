// fiber.h: a thread of execution on a stack of its own, known to the sanitizers.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__) || defined(CUDA_ON_CPU_ASAN)
#define CUDA_ON_CPU_ADDRESS 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(CUDA_ON_CPU_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_on_cpu {

constexpr size_t kStackBytes = size_t{256} << 10;

// A place to come back to: a fiber that is not running, or the scheduler.
struct Context {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t machine;
#endif
#if defined(CUDA_ON_CPU_ADDRESS)
  void* fake_stack = nullptr;
#endif
  void* stack = nullptr;  // its lowest address
  size_t stack_bytes = 0;
#if defined(CUDA_ON_CPU_TSAN)
  void* fiber = nullptr;
#endif
};

// Happens-before for the race detector: what is released under a tag before is known to who acquires it after.
inline void Release([[maybe_unused]] void* tag) {
#if defined(CUDA_ON_CPU_TSAN)
  __tsan_release(tag);
#endif
}
inline void Acquire([[maybe_unused]] void* tag) {
#if defined(CUDA_ON_CPU_TSAN)
  __tsan_acquire(tag);
#endif
}

// slot: which of the race detector's threads the fiber is; making those is slow, so they serve again. entry must never
// return.
void Prepare(Context& fiber, void* stack, unsigned slot, void (*entry)());
void Switch(Context& from, Context& to, bool from_ends = false);
void Entered(Context& from);  // the first thing that a fiber does; `from` is who switched to it

}  // namespace cuda_on_cpu
