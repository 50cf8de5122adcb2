// fiber.cc: switching stacks. Never compiled with -fsanitize: a sanitizer is told of each switch instead.
#include "fiber.h"

#include <vector>

namespace cuda_on_cpu {

#if defined(__x86_64__)

extern "C" void cuda_on_cpu_switch(void** from, void* to);
asm(R"(
.text
.type cuda_on_cpu_switch,@function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");

#endif

void Prepare(Context& fiber, void* stack, [[maybe_unused]] unsigned slot, void (*entry)()) {
  fiber.stack = stack;
  fiber.stack_bytes = kStackBytes;
#if defined(__x86_64__)
  // Six registers, the address to return to, and one more word: a function begins with its stack 8 bytes off 16.
  auto** top = reinterpret_cast<void**>(static_cast<char*>(stack) + kStackBytes) - 8;
  for (int i = 0; i < 8; ++i) top[i] = nullptr;
  top[6] = reinterpret_cast<void*>(entry);
  fiber.stack_pointer = top;
#else
  getcontext(&fiber.machine);
  fiber.machine.uc_stack.ss_sp = stack;
  fiber.machine.uc_stack.ss_size = kStackBytes;
  fiber.machine.uc_link = nullptr;
  makecontext(&fiber.machine, entry, 0);
#endif
#if defined(CUDA_ON_CPU_TSAN)
  static thread_local std::vector<void*> fibers;
  while (fibers.size() <= slot) fibers.push_back(__tsan_create_fiber(0));
  fiber.fiber = fibers[slot];
#endif
}

void Switch(Context& from, Context& to, [[maybe_unused]] bool from_ends) {
#if defined(CUDA_ON_CPU_TSAN)
  constexpr unsigned kNoSynchronisation = 1;
  if (from.fiber == nullptr) from.fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.fiber, kNoSynchronisation);
#endif
#if defined(CUDA_ON_CPU_ADDRESS)
  __sanitizer_start_switch_fiber(from_ends ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(__x86_64__)
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.machine, &to.machine);
#endif
#if defined(CUDA_ON_CPU_ADDRESS)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void Entered([[maybe_unused]] Context& from) {
#if defined(CUDA_ON_CPU_ADDRESS)
  const void* stack;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &from.stack_bytes);
  from.stack = const_cast<void*>(stack);
#endif
}

}  // namespace cuda_on_cpu
