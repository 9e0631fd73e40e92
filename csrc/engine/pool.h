/*
 * The threads that run a kernel's blocks. The caller of gpud_pool_run is one of them: small launches run on it alone,
 * larger ones are handed out in runs of blocks. Idle threads spin for a moment, then sleep and cost nothing.
 */
#ifndef GPUD_POOL_H
#define GPUD_POOL_H

#include <stdint.h>

#include "device.h"
#include "kernel_abi.h"

typedef struct gpud_pool gpud_pool;

typedef struct gpud_pool_job {
  gpud_kernel_function function;
  const void *params;
  gpud_launch_config config;
  uint64_t shared;  /* bytes of shared memory of a block, static and dynamic */
  uint64_t scratch; /* and of working memory */
} gpud_pool_job;

/* `threads`: the caller's included, at least 1. `max_shared`: bytes of shared memory every thread keeps. 0 or -errno. */
int gpud_pool_new(uint32_t threads, uint32_t max_shared, gpud_pool **pool);
/* Runs all blocks. 0, -EFAULT with *fault (but its text's beginning), -ENOMEM, -EINTR (gpud_pool_interrupt). */
int gpud_pool_run(gpud_pool *pool, const gpud_pool_job *job, gpud_fault_info *fault);
/* Hands out no more blocks, now and until gpud_pool_scrub. Any thread. */
void gpud_pool_interrupt(gpud_pool *pool);
/* Nothing that a kernel left in shared or working memory is there afterwards. */
void gpud_pool_scrub(gpud_pool *pool);
/* What the last launches printed, piece by piece: bytes, 0 when nothing is left. Nothing may be running. */
uint32_t gpud_pool_output(gpud_pool *pool, const char **text, uint32_t most);
uint32_t gpud_pool_threads(const gpud_pool *pool);
/* Ends and joins the threads; nothing may be running. */
void gpud_pool_free(gpud_pool *pool);

#endif
