// processor.h: gets threads that were woken to share work onto processors of their own.
//
// Linux places a thread that wakes beside the one that woke it unless it knows of a free processor. In a virtual
// machine it takes a processor that has just gone idle for one that the host has taken away, so that both threads stay
// on one, until the balance of load is next looked at: milliseconds later, which is longer than most of our loops run.
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

// Lets a thread run that waits for the caller's processor, if there is one.
inline void YieldProcessor() {
#if defined(__linux__)
  sched_yield();
#endif
}

// Moves the calling thread to another processor if it runs on this one and may run elsewhere; it may come back later.
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
