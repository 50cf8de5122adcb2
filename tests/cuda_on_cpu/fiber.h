// fiber.h: a thread of execution on a stack of its own.
#pragma once

#include <cstddef>

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
};

// stack: the lowest address of kStackBytes. entry must never return.
void Prepare(Context& fiber, void* stack, void (*entry)());
void Switch(Context& from, Context& to);

}  // namespace cuda_on_cpu
