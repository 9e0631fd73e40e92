/*
 * Kernels as the compiler would emit them, by hand. Those that misbehave do so on purpose, so the sanitizers must not
 * look into them.
 */
#ifndef ENGINE_KERNELS_H
#define ENGINE_KERNELS_H

#include <string.h>

#include "engine_rig.h"
#include "kernel_abi.h"
#include "order.h"

#define UNWATCHED __attribute__((no_sanitize("address"), no_sanitize("undefined"), no_sanitize("thread"), noinline))

static inline uint32_t block_threads(const gpud_kernel_context *c) { return c->block[0] * c->block[1] * c->block[2]; }

static inline void enter_block(gpud_kernel_context *c, uint64_t block)
{
  c->current_block[0] = (uint32_t)(block % c->grid[0]);
  c->current_block[1] = (uint32_t)(block / c->grid[0] % c->grid[1]);
  c->current_block[2] = (uint32_t)(block / c->grid[0] / c->grid[1]);
}

static void kernel_empty(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  (void)params;
  (void)c;
  (void)first;
  (void)count;
}

typedef struct saxpy_params {
  uint64_t n;
  uint64_t x;
  uint64_t y;
  float a;
  uint32_t pad;
} saxpy_params;

static void kernel_saxpy(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  const saxpy_params *p = params;
  const float *x = (const float *)(uintptr_t)p->x;
  float *y = (float *)(uintptr_t)p->y;
  for (uint64_t i = first * c->block[0]; i < (first + count) * c->block[0] && i < p->n; i++)
    y[i] += p->a * x[i];
}

/* Adds 1 for every thread to the counter that the parameter points to, block by block. */
static void kernel_count(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  uint64_t *counter = *(uint64_t *const *)params;
  for (uint64_t block = first; block < first + count; block++) {
    enter_block(c, block);
    gpud_fetch_add_u64(counter, block_threads(c));
  }
}

/* Uses all of its shared and working memory; adds 1 to the counter for a block in which they were as promised. */
static void kernel_memory(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  uint64_t *counter = *(uint64_t *const *)params;
  size_t shared = 64 + c->dynamic_shared;
  size_t scratch = 64 + 96 * (size_t)block_threads(c);
  for (uint64_t block = first; block < first + count; block++) {
    unsigned char mark = (unsigned char)(block + c->thread_slot);
    memset(c->shared, mark, shared);
    memset(c->scratch, mark + 1, scratch);
    int good = ((uintptr_t)c->scratch & 63) == 0 && ((uintptr_t)c->shared & 15) == 0;
    for (size_t i = 0; i < shared; i++)
      good &= ((unsigned char *)c->shared)[i] == mark;
    for (size_t i = 0; i < scratch; i++)
      good &= ((unsigned char *)c->scratch)[i] == (unsigned char)(mark + 1);
    if (good)
      gpud_fetch_add_u64(counter, 1);
  }
}

typedef struct wild_params {
  uint64_t address;
  uint64_t block; /* the one that misbehaves, as its thread 5 */
} wild_params;

UNWATCHED static void kernel_wild(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  const wild_params *p = params;
  for (uint64_t block = first; block < first + count; block++) {
    enter_block(c, block);
    if (block != p->block)
      continue;
    c->current_thread = 5;
    *(uint32_t *)(uintptr_t)p->address = 1;
  }
}

UNWATCHED static void kernel_trap(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  (void)params;
  (void)count;
  enter_block(c, first);
  __builtin_trap();
}

UNWATCHED static void kernel_divide(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  (void)c;
  int64_t divisor;
  memcpy(&divisor, params, sizeof divisor);
  *(int64_t *)c->shared = (int64_t)(first + count + 1) / divisor;
}

/* Recurses until its stack is used up. */
UNWATCHED static uint64_t sink(uint64_t depth, unsigned char *before)
{
  unsigned char here[4096];
  memset(here, (int)depth, sizeof here);
  here[0] = before[0];
  return depth == UINT64_MAX ? here[1] : sink(depth + 1, here) + here[2];
}

UNWATCHED static void kernel_recurse(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  (void)params;
  (void)count;
  unsigned char start[1] = {0};
  *(uint64_t *)c->shared = sink(first, start);
}

/* Prints a line of 101 bytes for every block: which launch it is of. */
static void kernel_print(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  (void)params;
  for (uint64_t block = first; block < first + count; block++) {
    struct {
      int32_t number;
      int32_t pad;
      double half;
      const char *word;
    } arguments = {(int32_t)c->grid_id, 0, c->grid_id / 2.0, "a word"};
    enter_block(c, block);
    CHECK_EQUAL(c->print(c, "%7d %-60.1f %31s\n", &arguments), 3);
  }
}

/* Fails an assertion, whose words are where the parameters say. */
static void kernel_assert(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  const uint64_t *p = params;
  (void)count;
  enter_block(c, first);
  c->current_thread = 7;
  c->failed = (const char *)(uintptr_t)p[0];
  c->file = (const char *)(uintptr_t)p[1];
  c->function = "inner";
  c->line = 42;
  __builtin_trap();
}

/* Never ends, once it has set the word the parameter points to. */
static void kernel_spin(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  (void)c;
  (void)first;
  (void)count;
  uint64_t *word = *(uint64_t *const *)params;
  gpud_store_release_u64(word, 1);
  while (gpud_load_acquire_u64(word) != 2)
    gpud_relax();
}

/* Takes a millisecond for each block, and counts them. */
static void kernel_slow(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  for (uint64_t block = first; block < first + count; block++) {
    for (uint64_t until = gpud_now() + 1000000; gpud_now() < until;)
      gpud_relax();
    kernel_count(params, c, block, 1);
  }
}

#define KERNEL(function, params, shared, scratch, threads)                                                             \
  {#function, (uint64_t)(uintptr_t)kernel_##function, params, shared, scratch, threads}

static const rig_kernel all_kernels[] = {
  KERNEL(empty, 0, 0, 0, 1024),
  KERNEL(saxpy, sizeof(saxpy_params), 0, 0, 1024),
  KERNEL(count, 8, 0, 0, 1024),
  KERNEL(memory, 8, 64, 96, 1024),
  KERNEL(wild, sizeof(wild_params), 0, 0, 1024),
  KERNEL(trap, 0, 0, 0, 1024),
  KERNEL(divide, 8, 0, 0, 256),
  KERNEL(recurse, 0, 0, 0, 1024),
  KERNEL(print, 0, 0, 0, 1024),
  KERNEL(assert, 16, 0, 0, 1024),
  KERNEL(spin, 8, 0, 0, 1024),
  KERNEL(slow, 8, 0, 0, 1024),
  {0},
};

#endif
