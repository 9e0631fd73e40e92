/*
 * The lock of the hot path: held for nanoseconds, never across a wait. Free it is one exchange to take and one store
 * to give back; contended it spins, and then naps, because the holder may have lost its CPU.
 * What is held across waits (a stage, the order of region descriptors) takes a gpud_mutex, whose waiters sleep and have a deadline.
 */
#ifndef GPUD_LOCK_H
#define GPUD_LOCK_H

#include <stdint.h>

#include "order.h"

typedef struct gpud_lock {
  uint32_t held;
} gpud_lock;

void gpud_lock_contended(gpud_lock *lock);

static inline void gpud_lock_acquire(gpud_lock *lock)
{
  if (gpud_exchange_u32(&lock->held, 1) != 0)
    gpud_lock_contended(lock);
}

static inline void gpud_lock_release(gpud_lock *lock) { gpud_store_release_u32(&lock->held, 0); }

typedef struct gpud_mutex {
  uint32_t state; /* 0 free, 1 held, 2 held and somebody may be asleep on it */
} gpud_mutex;

/* By `deadline` (gpud_now's clock). 0 or -ETIMEDOUT. */
int gpud_mutex_acquire(gpud_mutex *mutex, uint64_t deadline);
void gpud_mutex_release(gpud_mutex *mutex);

#endif
