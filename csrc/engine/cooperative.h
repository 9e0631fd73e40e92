/*
 * Cooperative launches: all blocks of the grid run at the same time, so that they may wait for one another.
 *
 * Each block has a stack of its own (fiber.h). As many threads as the pool has run them, and go on with another block where one
 * waits: compiled code says so (context->pause). A block that waits without saying so gets the others a further thread.
 */
#ifndef GPUD_COOPERATIVE_H
#define GPUD_COOPERATIVE_H

#include "pool.h"

/* How many blocks of such a launch can run at the same time: 0 to GPUD_MAX_COOPERATIVE_BLOCKS. */
uint32_t gpud_cooperative_most(const gpud_pool_job *job);
/* As gpud_pool_run, of a grid that is not larger than that. */
int gpud_cooperative_run(gpud_pool *pool, const gpud_pool_job *job, gpud_fault_info *fault);

#endif
