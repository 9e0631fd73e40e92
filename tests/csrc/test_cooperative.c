/*
 * Cooperative launches of the cpu device: blocks that wait for one another, on more blocks than there are threads, whether or not
 * they say that they wait; launches that fault or are stopped while they do; and the heap that kernels allocate from.
 */
#include <pthread.h>
#include <unistd.h>

#include "device.h"
#include "engine_kernels.h"
#include "heap.h"

#define ROUNDS 50u

/* As cooperative_groups has it: who comes adds one, the first block what makes the top bit turn once all are there. */
static void grid_barrier(gpud_kernel_context *c, uint64_t block, int says_so)
{
  uint32_t *barrier = &c->workspace->barrier;
  uint32_t blocks = c->grid[0] * c->grid[1] * c->grid[2];
  uint32_t before = gpud_fetch_add_u32(barrier, block == 0 ? 0x80000000u - (blocks - 1) : 1);
  while (((before ^ gpud_load_acquire_u32(barrier)) & 0x80000000u) == 0) {
    if (says_so)
      c->pause(c);
    else
      gpud_relax();
  }
}

typedef struct grid_params {
  uint64_t counts; /* of blocks that came to each round */
  uint64_t rounds;
  uint64_t says_so;
  uint64_t fails; /* the block that then misbehaves, ~0: none */
} grid_params;

/* In every round all blocks have been in the one before. */
UNWATCHED static void misbehave(gpud_kernel_context *c)
{
  c->current_thread = 3;
  *(uint32_t *)(uintptr_t)16 = 1;
}

static void kernel_rounds(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  const grid_params *p = params;
  uint64_t *counts = (uint64_t *)(uintptr_t)p->counts;
  uint64_t blocks = (uint64_t)c->grid[0] * c->grid[1] * c->grid[2];
  CHECK_EQUAL(count, 1);
  CHECK(c->thread_slot < c->thread_count);
  enter_block(c, first);
  memset(c->shared, (int)first, 64);
  memset(c->scratch, (int)first + 1, 64);
  for (uint64_t round = 0; round < p->rounds; round++) {
    gpud_fetch_add_u64(&counts[round], 1);
    if (first == p->fails && round == p->rounds / 2)
      misbehave(c);
    grid_barrier(c, first, p->says_so != 0);
    CHECK_EQUAL(gpud_load_acquire_u64(&counts[round]), blocks);
  }
  for (int i = 0; i < 64; i++) {
    CHECK_EQUAL(((unsigned char *)c->shared)[i], (unsigned char)first);
    CHECK_EQUAL(((unsigned char *)c->scratch)[i], (unsigned char)(first + 1));
  }
}

/* Waits for what never comes. */
static void kernel_forever(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  uint64_t *word = *(uint64_t *const *)params;
  (void)count;
  enter_block(c, first);
  gpud_store_release_u64(word, 1);
  while (gpud_load_acquire_u64(word) != 2)
    c->pause(c);
}

/* Works for a while between the rounds, so that other threads join in. */
static void kernel_busy(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  uint64_t *counter = *(uint64_t *const *)params;
  (void)count;
  for (uint32_t round = 0; round < 4; round++) {
    for (uint64_t until = gpud_now() + 300000; gpud_now() < until;)
      gpud_relax();
    gpud_fetch_add_u64(counter, 1);
    grid_barrier(c, first, 1);
  }
}

static int launch(gpud_device *d, gpud_kernel_function function, const uint32_t grid[3], const void *params,
                  gpud_fault_info *fault)
{
  gpud_kernel kernel = {
    .entry = (uint64_t)(uintptr_t)function, .max_threads = 1024, .static_shared = 64, .scratch_per_thread = 8};
  gpud_launch_config config = {.grid = {grid[0], grid[1], grid[2]}, .block = {32, 1, 1}, .cooperative = true};
  uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
  CHECK(blocks <= d->ops->most_cooperative(d, &kernel, &config));
  return d->ops->launch(d, &kernel, &config, params, fault);
}

static void test_blocks_meet(uint32_t threads)
{
  static const uint32_t grids[][3] = {{1, 1, 1}, {2, 1, 1}, {5, 3, 2}, {1, 1, 64}, {300, 1, 1}};
  gpud_device *d;
  gpud_fault_info fault;
  CHECK_EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  for (size_t g = 0; g < sizeof grids / sizeof grids[0]; g++) {
    uint64_t counts[ROUNDS] = {0};
    grid_params p = {(uint64_t)(uintptr_t)counts, ROUNDS, 1, UINT64_MAX};
    CHECK_EQUAL(launch(d, kernel_rounds, grids[g], &p, &fault), 0);
  }
  uint64_t counter = 0;
  uint64_t *params = &counter;
  CHECK_EQUAL(launch(d, kernel_busy, (uint32_t[]){8, 1, 1}, &params, &fault), 0);
  CHECK_EQUAL(counter, 32);
  d->ops->close(d);
}

/* Whoever waits without saying so keeps a thread: then each block gets one in the end. */
static void test_blocks_that_only_spin_meet(uint32_t threads)
{
  gpud_device *d;
  gpud_fault_info fault;
  uint64_t counts[2] = {0};
  grid_params p = {(uint64_t)(uintptr_t)counts, 2, 0, UINT64_MAX};
  CHECK_EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  CHECK_EQUAL(launch(d, kernel_rounds, (uint32_t[]){5, 1, 1}, &p, &fault), 0);
  d->ops->close(d);
}

static void test_a_fault_of_one_block_ends_them_all(uint32_t threads)
{
  gpud_device *d;
  gpud_fault_info fault;
  uint64_t counts[ROUNDS] = {0};
  grid_params p = {(uint64_t)(uintptr_t)counts, ROUNDS, 1, 11};
  CHECK_EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  CHECK_EQUAL(launch(d, kernel_rounds, (uint32_t[]){4, 5, 1}, &p, &fault), -EFAULT);
  CHECK_EQUAL(fault.address, 16);
  CHECK_EQUAL(fault.block[0], 3);
  CHECK_EQUAL(fault.block[1], 2);
  CHECK_EQUAL(fault.thread, 3);
  uint64_t *nothing = NULL;
  CHECK_EQUAL(launch(d, kernel_recurse, (uint32_t[]){3, 1, 1}, &nothing, &fault), -EFAULT);
  CHECK_EQUAL(d->ops->reset(d), -EBUSY);
  d->ops->close(d);
}

static void *interrupt_when_it_runs(void *argument)
{
  gpud_device *d = ((void **)argument)[0];
  uint64_t *word = ((void **)argument)[1];
  while (gpud_load_acquire_u64(word) == 0)
    usleep(1000);
  d->ops->interrupt(d);
  return NULL;
}

static void test_an_interrupt_ends_blocks_that_wait(uint32_t threads)
{
  gpud_device *d;
  gpud_fault_info fault;
  CHECK_EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  for (int cooperative = 0; cooperative < 2; cooperative++) {
    uint64_t word = 0;
    uint64_t *params = &word;
    void *both[] = {d, &word};
    pthread_t other;
    CHECK_EQUAL(pthread_create(&other, NULL, interrupt_when_it_runs, both), 0);
    if (cooperative) {
      CHECK_EQUAL(launch(d, kernel_forever, (uint32_t[]){20, 1, 1}, &params, &fault), -EINTR);
    } else {
      gpud_kernel kernel = {.entry = (uint64_t)(uintptr_t)kernel_forever, .max_threads = 1024};
      gpud_launch_config config = {.grid = {20, 1, 1}, .block = {32, 1, 1}};
      CHECK_EQUAL(d->ops->launch(d, &kernel, &config, &params, &fault), -EINTR);
    }
    pthread_join(other, NULL);
    CHECK_EQUAL(d->ops->reset(d), 0);
  }
  d->ops->close(d);
}

static void test_how_many_blocks_there_can_be(void)
{
  gpud_device *d;
  CHECK_EQUAL(gpud_device_cpu_open(1, 16 * MiB, &d), 0);
  gpud_launch_config config = {.grid = {1, 1, 1}, .block = {1024, 1, 1}, .shared = 160 << 10, .cooperative = true};
  gpud_kernel kernel = {.scratch_per_thread = 1000};
  CHECK_EQUAL(d->ops->most_cooperative(d, &kernel, &config), GPUD_MAX_COOPERATIVE_BLOCKS);
  kernel.scratch_per_thread = 1u << 17;
  CHECK(d->ops->most_cooperative(d, &kernel, &config) > 10);
  CHECK(d->ops->most_cooperative(d, &kernel, &config) < 100);
  kernel.scratch_per_thread = UINT32_MAX;
  CHECK_EQUAL(d->ops->most_cooperative(d, &kernel, &config), 0);
  d->ops->close(d);
}

/* ---------------------------------------------------------------- the heap */

typedef struct heap_params {
  uint64_t wrong;
  uint64_t failures;
} heap_params;

/* Allocates, fills, checks and frees in an order of its own. */
static void kernel_heap(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  const heap_params *p = params;
  uint64_t *failures = (uint64_t *)(uintptr_t)p->failures;
  for (uint64_t block = first; block < first + count; block++) {
    unsigned char *held[16] = {0};
    uint32_t seed = (uint32_t)block * 2654435761u + 1;
    for (int i = 0; i < 400; i++) {
      seed = seed * 1664525u + 1013904223u;
      uint32_t slot = seed >> 28;
      uint32_t size = 1 + (seed >> 8) % 500;
      if (held[slot]) {
        unsigned char mark = held[slot][0];
        for (uint32_t j = 0; j < mark; j++)
          CHECK_EQUAL(held[slot][j], mark);
        c->give(c, held[slot], 0, NULL);
        held[slot] = NULL;
        continue;
      }
      held[slot] = c->take(c, size);
      if (!held[slot]) {
        gpud_fetch_add_u64(failures, 1);
        continue;
      }
      CHECK_EQUAL((uintptr_t)held[slot] % 16, 0);
      memset(held[slot], (int)(size < 255 ? size : 255), size < 255 ? size : 255);
    }
    for (int i = 0; i < 16; i++)
      c->give(c, held[i], 0, NULL);
    if (p->wrong) {
      unsigned char *one = c->take(c, 64);
      enter_block(c, block);
      c->give(c, one + (p->wrong == 2 ? 16 : 0), 5, NULL);
      c->give(c, one, 5, NULL);
    }
  }
}

static void test_kernels_allocate(uint32_t threads)
{
  gpud_device *d;
  gpud_fault_info fault;
  uint64_t failures = 0;
  CHECK_EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  gpud_kernel kernel = {.entry = (uint64_t)(uintptr_t)kernel_heap, .max_threads = 1024};
  gpud_launch_config config = {.grid = {400, 1, 1}, .block = {256, 1, 1}};
  heap_params p = {0, (uint64_t)(uintptr_t)&failures};
  CHECK_EQUAL(d->ops->launch(d, &kernel, &config, &p, &fault), 0);
  CHECK_EQUAL(failures, 0);
  for (p.wrong = 1; p.wrong <= 2; p.wrong++) {
    CHECK_EQUAL(d->ops->launch(d, &kernel, &config, &p, &fault), -EFAULT);
    CHECK(strstr(fault.text, "free of a pointer") != NULL);
    CHECK_EQUAL(fault.thread, 5);
  }
  CHECK_EQUAL(d->ops->reset(d), 0); /* it was stopped before it did harm */
  d->ops->close(d);
}

/* All of it can be had, in one piece and in the smallest, again and again: nothing is lost to splitting and joining. */
static void test_the_heap_is_whole_again(void)
{
  static void *held[GPUD_HEAP_SIZE / GPUD_HEAP_UNIT + 1];
  gpud_heap heap = {0};
  CHECK(gpud_heap_take(&heap, 0) == NULL);
  CHECK(gpud_heap_take(&heap, GPUD_HEAP_SIZE + 1) == NULL);
  CHECK(gpud_heap_take(&heap, UINT64_MAX) == NULL);
  CHECK_EQUAL(gpud_heap_give(&heap, held), -EINVAL);
  for (int turn = 0; turn < 3; turn++) {
    void *all = gpud_heap_take(&heap, GPUD_HEAP_SIZE);
    CHECK(all != NULL);
    CHECK(gpud_heap_take(&heap, 1) == NULL);
    CHECK_EQUAL(gpud_heap_give(&heap, (char *)all + 16), -EINVAL);
    CHECK_EQUAL(gpud_heap_give(&heap, (char *)all + GPUD_HEAP_SIZE - 16), -EINVAL);
    CHECK_EQUAL(gpud_heap_give(&heap, all), 0);
    CHECK_EQUAL(gpud_heap_give(&heap, all), -EINVAL);
    uint32_t count = 0;
    uint64_t size = turn == 0 ? 1 : turn == 1 ? 17 : 5000;
    while ((held[count] = gpud_heap_take(&heap, size)) != NULL)
      count++;
    CHECK_EQUAL(count, GPUD_HEAP_SIZE / ((size + 15) / 16 * 16));
    for (uint32_t step = 0; step < 3; step++)
      for (uint32_t i = step; i < count; i += 3)
        CHECK_EQUAL(gpud_heap_give(&heap, held[i]), 0);
  }
  CHECK(gpud_heap_take(&heap, GPUD_HEAP_SIZE) != NULL);
  gpud_heap_clear(&heap);
  CHECK(gpud_heap_take(&heap, GPUD_HEAP_SIZE) != NULL);
  gpud_heap_clear(&heap);
}

int main(void)
{
  for (uint32_t threads = 1; threads <= 4; threads += threads == 1 ? 1 : 2) {
    test_blocks_meet(threads);
    test_blocks_that_only_spin_meet(threads);
    test_a_fault_of_one_block_ends_them_all(threads);
    test_an_interrupt_ends_blocks_that_wait(threads);
    test_kernels_allocate(threads);
  }
  test_how_many_blocks_there_can_be();
  test_the_heap_is_whole_again();
  return 0;
}
