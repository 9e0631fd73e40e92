/*
 * The cpu device's pool: every block of every launch runs exactly once, whatever the size and whoever helps; launches follow
 * each other at once and after a pause; an interrupt ends them early. For the thread sanitizer.
 */
#include <pthread.h>
#include <unistd.h>

#include "device.h"
#include "engine_kernels.h"

/* A mark for every block: how often it ran. */
static void kernel_mark(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  unsigned char *marks = *(unsigned char *const *)params;
  CHECK(c->thread_slot < c->thread_count);
  for (uint64_t block = first; block < first + count; block++)
    marks[block]++;
}

static gpud_kernel kernel_of(gpud_kernel_function function)
{
  return (gpud_kernel){.entry = (uint64_t)(uintptr_t)function, .max_threads = 1024};
}

static int launch(gpud_device *d, gpud_kernel_function function, const uint32_t grid[3], uint32_t threads,
                  const void *params)
{
  gpud_kernel kernel = kernel_of(function);
  gpud_launch_config config = {.grid = {grid[0], grid[1], grid[2]}, .block = {threads, 1, 1}};
  gpud_fault_info fault;
  return d->ops->launch(d, &kernel, &config, params, &fault);
}

static void test_every_block_runs_once(uint32_t threads)
{
  static const uint32_t grids[][3] = {{1, 1, 1},     {2, 1, 1},    {3, 1, 1},     {7, 5, 3},     {255, 1, 1},
                                      {1, 4096, 1},  {1, 1, 4097}, {20000, 1, 1}, {65536, 1, 1}, {100000, 1, 1},
                                      {16, 1024, 2}, {63, 1, 1},   {16383, 1, 1}, {16384, 1, 1}};
  static unsigned char marks[100000];
  gpud_device *d;
  CHECK_EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  for (int turn = 0; turn < 3; turn++) {
    for (size_t g = 0; g < sizeof grids / sizeof grids[0]; g++) {
      uint64_t blocks = (uint64_t)grids[g][0] * grids[g][1] * grids[g][2];
      memset(marks, 0, sizeof marks);
      unsigned char *params = marks;
      CHECK_EQUAL(launch(d, kernel_mark, grids[g], 1u << 5 * turn, &params), 0);
      for (uint64_t block = 0; block < blocks; block++)
        CHECK_EQUAL(marks[block], 1);
      for (uint64_t block = blocks; block < sizeof marks && block < blocks + 64; block++)
        CHECK_EQUAL(marks[block], 0);
    }
    CHECK_EQUAL(d->ops->reset(d), 0);
  }
  d->ops->close(d);
}

static void test_bursts_of_launches(uint32_t threads)
{
  gpud_device *d;
  CHECK_EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  uint64_t counter = 0;
  uint64_t *params = &counter;
  for (uint32_t i = 0; i < 5000; i++)
    CHECK_EQUAL(launch(d, kernel_count, (uint32_t[]){32 + i % 7, 1, 1}, 1024, &params), 0);
  uint64_t expected = 0;
  for (uint32_t i = 0; i < 5000; i++)
    expected += (32 + i % 7) * 1024;
  CHECK_EQUAL(counter, expected);
  d->ops->close(d);
}

static void *interrupt_soon(void *argument)
{
  gpud_device *d = argument;
  d->ops->interrupt(d);
  return NULL;
}

static void test_an_interrupt_ends_a_launch_and_those_after_it(uint32_t threads)
{
  gpud_device *d;
  CHECK_EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  for (int turn = 0; turn < 10; turn++) {
    uint64_t counter = 0;
    uint64_t *params = &counter;
    pthread_t other;
    CHECK_EQUAL(pthread_create(&other, NULL, interrupt_soon, d), 0);
    CHECK_EQUAL(launch(d, kernel_slow, (uint32_t[]){0x7fffffff, 1, 1}, 1, &params), -EINTR);
    pthread_join(other, NULL);
    CHECK_EQUAL(launch(d, kernel_slow, (uint32_t[]){1, 1, 1}, 1, &params), -EINTR);
    CHECK_EQUAL(d->ops->reset(d), 0);
    CHECK_EQUAL(launch(d, kernel_slow, (uint32_t[]){1, 1, 1}, 1, &params), 0);
  }
  d->ops->close(d);
}

static void test_working_memory_grows_and_has_its_bound(uint32_t threads)
{
  gpud_device *d;
  CHECK_EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  uint64_t counter = 0;
  uint64_t *params = &counter;
  gpud_fault_info fault;
  gpud_kernel kernel = kernel_of(kernel_memory);
  kernel.static_shared = 64;
  kernel.scratch_fixed = 64;
  kernel.scratch_per_thread = 96;
  for (uint32_t size = 1; size <= 1024; size *= 32) {
    gpud_launch_config config = {.grid = {8, 1, 1}, .block = {size, 1, 1}, .shared = 160 * 1024};
    CHECK_EQUAL(d->ops->launch(d, &kernel, &config, &params, &fault), 0);
  }
  CHECK_EQUAL(counter, 3 * 8);
  kernel.scratch_per_thread = UINT32_MAX;
  gpud_launch_config config = {.grid = {8, 1, 1}, .block = {1024, 1, 1}};
  CHECK_EQUAL(d->ops->launch(d, &kernel, &config, &params, &fault), -ENOMEM);
  d->ops->close(d);
}

static void test_nothing_of_a_kernel_is_left_after_a_reset(void)
{
  gpud_device *d;
  CHECK_EQUAL(gpud_device_cpu_open(1, 16 * MiB, &d), 0);
  gpud_device_limits limits;
  d->ops->limits(d, &limits);
  CHECK_EQUAL(limits.window_base % limits.granularity, 0);
  CHECK_EQUAL(limits.window_size, 16 * MiB);
  CHECK_EQUAL(d->ops->map(d, limits.window_base, CHUNK), 0);
  memset((void *)(uintptr_t)limits.window_base, 1, CHUNK);
  CHECK_EQUAL(d->ops->reset(d), 0);
  CHECK_EQUAL(d->ops->map(d, limits.window_base, CHUNK), 0);
  for (uint64_t i = 0; i < CHUNK; i += 8)
    CHECK_EQUAL(*(uint64_t *)(uintptr_t)(limits.window_base + i), 0);
  d->ops->close(d);
}

/* Whether this process may read there, asked of the kernel. */
static int readable(uint64_t address)
{
  int pipe_ends[2];
  CHECK_EQUAL(pipe(pipe_ends), 0);
  int rc = write(pipe_ends[1], (const void *)(uintptr_t)address, 1) == 1;
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  return rc;
}

/* Memory that is unmapped is kept and comes back elsewhere: as nobody's, and zero. */
static void test_unmapped_memory_is_gone_from_there_and_zero_where_it_comes_back(uint64_t size)
{
  gpud_device *d;
  CHECK_EQUAL(gpud_device_cpu_open(1, 1024 * MiB, &d), 0);
  gpud_device_limits limits;
  d->ops->limits(d, &limits);
  uint64_t here = limits.window_base;
  uint64_t there = here + size;
  CHECK(!readable(here));
  for (int turn = 0; turn < 2; turn++) {
    CHECK_EQUAL(d->ops->map(d, here, size), 0);
    memset((void *)(uintptr_t)here, 0xff, size);
    CHECK_EQUAL(d->ops->unmap(d, here, size), 0);
    for (uint64_t at = here; at < here + size; at += CHUNK)
      CHECK(!readable(at));
    CHECK_EQUAL(d->ops->map(d, there, size), 0);
    uint64_t sum = 0;
    for (uint64_t at = there; at < there + size; at += 8)
      sum |= *(uint64_t *)(uintptr_t)at;
    CHECK_EQUAL(sum, 0);
    CHECK(!readable(there + size));
    CHECK_EQUAL(d->ops->unmap(d, there, size), 0);
    CHECK_EQUAL(d->ops->reset(d), 0);
  }
  d->ops->close(d);
}

static void test_opening_and_closing(void)
{
  gpud_device *d;
  CHECK_EQUAL(gpud_device_cpu_open(0, 16 * MiB, &d), -EINVAL);
  CHECK_EQUAL(gpud_device_cpu_open(1, UINT64_MAX, &d), -ENOMEM);
  CHECK_EQUAL(gpud_device_cpu_open(1, 1ull << 60, &d), -ENOMEM);
  for (uint32_t i = 0; i < 100; i++) {
    CHECK_EQUAL(gpud_device_cpu_open(1 + i % 5, 0, &d), 0);
    d->ops->close(d);
  }
}

int main(void)
{
  for (uint32_t threads = 1; threads <= 4; threads += threads == 1 ? 1 : 2) {
    test_every_block_runs_once(threads);
    test_bursts_of_launches(threads);
    test_an_interrupt_ends_a_launch_and_those_after_it(threads);
    test_working_memory_grows_and_has_its_bound(threads);
  }
  test_nothing_of_a_kernel_is_left_after_a_reset();
  test_unmapped_memory_is_gone_from_there_and_zero_where_it_comes_back(CHUNK);
  test_unmapped_memory_is_gone_from_there_and_zero_where_it_comes_back(20 * CHUNK);
#ifndef __SANITIZE_THREAD__ /* it keeps four bytes for each of these */
  test_unmapped_memory_is_gone_from_there_and_zero_where_it_comes_back(150 * CHUNK); /* more than is kept */
#endif
  test_opening_and_closing();
  return 0;
}
