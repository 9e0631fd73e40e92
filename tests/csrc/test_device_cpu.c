/*
 * The cpu device's pool: every block of every launch runs exactly once, whatever the size and whoever helps; launches follow
 * each other at once and after a pause; an interrupt ends them early. For the thread sanitizer.
 */
#include <pthread.h>

#include "device.h"
#include "engine_kernels.h"

/* A mark for every block: how often it ran. */
static void kernel_mark(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  unsigned char *marks = *(unsigned char *const *)params;
  CHECK(c->thread_slot < c->thread_count);
  for (uint64_t block = first; block < first + count; block++) marks[block]++;
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
  static const uint32_t grids[][3] = {{1, 1, 1},     {2, 1, 1},    {3, 1, 1},     {7, 5, 3},      {255, 1, 1},
                                      {1, 4096, 1},  {1, 1, 4097}, {20000, 1, 1}, {65536, 1, 1},  {100000, 1, 1},
                                      {16, 1024, 2}, {63, 1, 1},   {16383, 1, 1}, {16384, 1, 1}};
  static unsigned char marks[100000];
  gpud_device *d;
  EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  for (int turn = 0; turn < 6; turn++) {
    for (size_t g = 0; g < sizeof grids / sizeof grids[0]; g++) {
      uint64_t blocks = (uint64_t)grids[g][0] * grids[g][1] * grids[g][2];
      memset(marks, 0, sizeof marks);
      unsigned char *params = marks;
      EQUAL(launch(d, kernel_mark, grids[g], 1u << (turn % 11), &params), 0);
      for (uint64_t block = 0; block < sizeof marks; block++) EQUAL(marks[block], block < blocks);
    }
    EQUAL(d->ops->reset(d), 0);
  }
  d->ops->close(d);
}

static void test_bursts_of_launches(uint32_t threads)
{
  gpud_device *d;
  EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  uint64_t counter = 0;
  uint64_t *params = &counter;
  for (uint32_t i = 0; i < 5000; i++) EQUAL(launch(d, kernel_count, (uint32_t[]){32 + i % 7, 1, 1}, 1024, &params), 0);
  uint64_t expected = 0;
  for (uint32_t i = 0; i < 5000; i++) expected += (32 + i % 7) * 1024;
  EQUAL(counter, expected);
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
  EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  for (int turn = 0; turn < 10; turn++) {
    uint64_t counter = 0;
    uint64_t *params = &counter;
    pthread_t other;
    EQUAL(pthread_create(&other, NULL, interrupt_soon, d), 0);
    EQUAL(launch(d, kernel_slow, (uint32_t[]){0x7fffffff, 1, 1}, 1, &params), -EINTR);
    pthread_join(other, NULL);
    EQUAL(launch(d, kernel_slow, (uint32_t[]){1, 1, 1}, 1, &params), -EINTR);
    EQUAL(d->ops->reset(d), 0);
    EQUAL(launch(d, kernel_slow, (uint32_t[]){1, 1, 1}, 1, &params), 0);
  }
  d->ops->close(d);
}

static void test_working_memory_grows_and_has_its_bound(uint32_t threads)
{
  gpud_device *d;
  EQUAL(gpud_device_cpu_open(threads, 16 * MiB, &d), 0);
  uint64_t counter = 0;
  uint64_t *params = &counter;
  gpud_fault_info fault;
  gpud_kernel kernel = kernel_of(kernel_memory);
  kernel.static_shared = 64;
  kernel.scratch_fixed = 64;
  kernel.scratch_per_thread = 96;
  for (uint32_t size = 1; size <= 1024; size *= 2) {
    gpud_launch_config config = {.grid = {64, 1, 1}, .block = {size, 1, 1}, .shared = 160 * 1024};
    EQUAL(d->ops->launch(d, &kernel, &config, &params, &fault), 0);
  }
  EQUAL(counter, 11 * 64);
  kernel.scratch_per_thread = UINT32_MAX;
  gpud_launch_config config = {.grid = {64, 1, 1}, .block = {1024, 1, 1}};
  EQUAL(d->ops->launch(d, &kernel, &config, &params, &fault), -ENOMEM);
  d->ops->close(d);
}

static void test_nothing_of_a_kernel_is_left_after_a_reset(void)
{
  gpud_device *d;
  EQUAL(gpud_device_cpu_open(1, 16 * MiB, &d), 0);
  gpud_device_limits limits;
  d->ops->limits(d, &limits);
  EQUAL(limits.window_base % limits.granularity, 0);
  EQUAL(limits.window_size, 16 * MiB);
  EQUAL(d->ops->map(d, limits.window_base, CHUNK), 0);
  memset((void *)(uintptr_t)limits.window_base, 1, CHUNK);
  EQUAL(d->ops->reset(d), 0);
  EQUAL(d->ops->map(d, limits.window_base, CHUNK), 0);
  for (uint64_t i = 0; i < CHUNK; i += 8) EQUAL(*(uint64_t *)(uintptr_t)(limits.window_base + i), 0);
  d->ops->close(d);
}

static void test_opening_and_closing(void)
{
  gpud_device *d;
  EQUAL(gpud_device_cpu_open(0, 16 * MiB, &d), -EINVAL);
  EQUAL(gpud_device_cpu_open(1, UINT64_MAX, &d), -ENOMEM);
  EQUAL(gpud_device_cpu_open(1, 1ull << 60, &d), -ENOMEM);
  for (uint32_t i = 0; i < 100; i++) {
    EQUAL(gpud_device_cpu_open(1 + i % 5, 0, &d), 0);
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
  test_opening_and_closing();
  return 0;
}
