/*
 * Memory ordering, all of it: no other file says __atomic, none says volatile. Each use says who sees what.
 *
 * The pairs of this library:
 *   slot tag       producer stores with release after filling the slot; the consumer that loads it with acquire sees the message
 *   credit         consumer stores with release after its last read of the slots; the producer that loads it may overwrite them
 *   completed      worker stores with release after a command's effects; the client that loads it sees what the worker wrote to its regions
 *   sleeping       set by who goes to sleep, read by who has news: ordered by gpud_heavy_fence / gpud_light_fence (wait.h)
 */
#ifndef GPUD_ORDER_H
#define GPUD_ORDER_H

#include <stdint.h>

static inline uint32_t gpud_load_acquire_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint64_t gpud_load_acquire_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void gpud_store_release_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void gpud_store_release_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

/* For values that only one thread writes, or whose order something else gives: no tearing, no ordering. */
static inline uint32_t gpud_load_relaxed_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t gpud_load_relaxed_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void gpud_store_relaxed_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void gpud_store_relaxed_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

static inline uint64_t gpud_fetch_add_u64(uint64_t *p, uint64_t v)
{
  return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}
static inline uint32_t gpud_fetch_add_u32(uint32_t *p, uint32_t v)
{
  return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}
static inline uint32_t gpud_exchange_u32(uint32_t *p, uint32_t v)
{
  return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL);
}

static inline void gpud_full_fence(void)
{
#ifdef __SANITIZE_THREAD__
  /* The sanitizer has no model of fences; a locked operation orders the hardware as well. */
  uint32_t here = 0;
  __atomic_fetch_add(&here, 1, __ATOMIC_SEQ_CST);
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}
static inline void gpud_compiler_fence(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

/* In a polling loop: eases the other hardware thread, never gives the CPU away (sched_yield was seen to stall for 4 ms). */
static inline void gpud_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

#endif
