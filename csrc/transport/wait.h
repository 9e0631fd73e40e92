/*
 * Waiting: spin, then sleep on a futex word, and the protocol by which whoever brings news knows that it must wake.
 *
 * A side has one `sleeping` word in shared memory. It sets the word, makes that visible (heavy fence), looks once
 * more at what it waits for, and only then sleeps. The other side, after making its news visible, reads the word
 * (light fence in between) and wakes if it is set. The heavy fence is membarrier(2), so that the light one costs
 * nothing on the path of every message; where the kernel lacks it, both are full fences (bit MEMBARRIER not granted).
 * A lost wake-up can cost one slice and nothing more: sleeps are cut into slices, from GPUD_SLEEP_SLICE_MS on and twice
 * as long each time up to GPUD_SLEEP_LONGEST_MS, so that one who waits for long hardly ever runs.
 */
#ifndef GPUD_WAIT_H
#define GPUD_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#include "order.h"

#define GPUD_SLEEP_SLICE_MS 100
#define GPUD_SLEEP_LONGEST_MS 400 /* also how long a sleeper may not notice that its peer is gone */

/* cffi: begin */
/* Nanoseconds on CLOCK_MONOTONIC: the clock of every deadline here. */
uint64_t gpud_now(void);
/* 1 where membarrier(2) works and this process is registered for it (registers on first call), else 0. */
int gpud_membarrier_available(void);
/* How long to poll before sleeping, ns: 50 us, and 0 in a process that may run on one CPU only. */
uint64_t gpud_spin_ns(void);
/* cffi: end */

void gpud_heavy_fence(bool membarrier); /* by who goes to sleep */
/* By who has news: after it, the sleeping word may be read. */
static inline void gpud_light_fence(bool membarrier)
{
  if (membarrier)
    gpud_compiler_fence();
  else
    gpud_full_fence();
}

/* Sleeps while *word == 1, for `slice` ns or until `deadline` (gpud_now's clock) at the latest. */
void gpud_futex_sleep(uint32_t *word, uint64_t slice, uint64_t deadline);
/* Clears the word and wakes everyone asleep on it. */
void gpud_futex_wake(uint32_t *word);

#endif
