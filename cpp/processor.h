// processor.h: moves threads that were woken to share work to processors of their own.
//
// Linux runs a woken thread on the processor of the thread that woke it, unless it knows of a free one. In a virtual
// machine Linux mistakes a processor that has just become idle for one that the host has taken away. Then both threads
// share one processor until Linux next balances the load. That is milliseconds later, longer than most of our loops
// run.
#pragma once

#if defined(__linux__)
#include <sched.h>
#endif

namespace jax_rnnt {

// The processor that the calling thread runs on, or -1.
inline int CurrentProcessor() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// If another thread waits for the caller's processor, it may run first.
inline void YieldProcessor() {
#if defined(__linux__)
  sched_yield();
#endif
}

// If the calling thread runs on this processor and is allowed to run on another one, moves it there. It may return
// later.
inline void LeaveProcessor(int processor) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (processor < 0 || sched_getcpu() != processor || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(processor, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof allowed, &allowed);
#else
  (void)processor;
#endif
}

}  // namespace jax_rnnt
