// fiber.cc: switching stacks.
#include "fiber.h"

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

void Prepare(Context& fiber, void* stack, void (*entry)()) {
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
}

void Switch(Context& from, Context& to) {
#if defined(__x86_64__)
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.machine, &to.machine);
#endif
}

}  // namespace cuda_on_cpu
