/*
 * The cpu device: a reserved window of addresses whose chunks are mapped on demand, and a pool of threads that run
 * compiled kernels. Everything is done when the call returns, so streams need no machinery here.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "bulk.h"
#include "cooperative.h"
#include "device.h"
#include "fault.h"
#include "memcheck.h"
#include "pool.h"
#include "spare.h"
#include "wait.h"

#define GRANULARITY GPUD_GRANULE
#define DEFAULT_WINDOW (64ull << 30)
#define MAX_SHARED (163u << 10) /* what a block of compute capability 8.0 may have */
#define SPARE_MOST 128u         /* granules kept from one session to the next */
#define SPARE_FIRST 16u         /* and there before the first */
#define DYNAMIC_AT(kernel) (((kernel)->static_shared + 15ull) & ~15ull) /* in shared memory, behind its static part */
#define STREAMING (4u << 20) /* bytes: beyond, a fill would only drive everything else out of the cache */

typedef struct device_cpu {
  gpud_device base;
  gpud_pool *pool;
  gpud_spare spare;
  gpud_fault_net net; /* under copies */
  void *reserved;     /* what mmap gave: the window, and slack to align it */
  uint64_t reserved_size;
  uint64_t window;
  uint64_t window_size;
  bool used;     /* since the last reset: something was mapped, */
  bool launched; /* and a kernel run */
  bool broken;   /* something faulted: what else it did to this process nobody knows */
} device_cpu;

static device_cpu *of(gpud_device *d) { return (device_cpu *)d; }

static void cpu_limits(const gpud_device *d, gpud_device_limits *limits)
{
  const device_cpu *device = (const device_cpu *)d;
  *limits = (gpud_device_limits){
    .window_base = device->window,
    .window_size = device->window_size,
    .granularity = GRANULARITY,
    .max_grid = {0x7fffffffu, 65535, 65535},
    .max_block = {1024, 1024, 64},
    .max_block_threads = GPUD_MAX_BLOCK_THREADS,
    .max_shared = MAX_SHARED,
    .multiprocessors = gpud_pool_threads(device->pool),
    .warp_size = 32,
    .compute_capability = 800,
  };
  snprintf(limits->name, sizeof limits->name, "cpu (%u threads)", limits->multiprocessors);
}

/* An inaccessible reservation over [address, address + size), whatever was there. */
static int reserve(uint64_t address, uint64_t size)
{
  void *at =
      mmap((void *)(uintptr_t)address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  return at == MAP_FAILED ? -errno : 0;
}

/* Fresh memory, faulted in now and in one go, rather than page by page under the first copy or kernel. */
static int map_fresh(uint64_t address, uint64_t size)
{
  void *at = mmap((void *)(uintptr_t)address, size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (at == MAP_FAILED)
    return -ENOMEM;
  madvise(at, size, MADV_HUGEPAGE);
  /* EINVAL: a kernel before 5.14; then page by page it is. */
  return madvise(at, size, MADV_POPULATE_WRITE) && errno != EINVAL ? -ENOMEM : 0;
}

static int cpu_map(gpud_device *d, uint64_t address, uint64_t size)
{
  device_cpu *device = of(d);
  device->used = true;
  uint64_t taken = gpud_spare_take(&device->spare, address, size);
  int rc = taken < size ? map_fresh(address + taken, size - taken) : 0;
  if (rc)
    reserve(address, size);
  return rc;
}

static int cpu_unmap(gpud_device *d, uint64_t address, uint64_t size)
{
  device_cpu *device = of(d);
  /* After a fault nothing is kept: the process goes, and the quicker the better. */
  if (!device->broken)
    gpud_spare_give(&device->spare, address, size);
  return reserve(address, size);
}

/* ---------------------------------------------------------------- bytes */

typedef struct transfer {
  void *destination;
  const void *source;
  uint64_t size;
} transfer;

static void move_disjoint(void *argument)
{
  const transfer *t = argument;
  gpud_copy(t->destination, t->source, t->size);
}

static void move_overlapping(void *argument)
{
  const transfer *t = argument;
  memmove(t->destination, t->source, t->size);
}

/* A client may punch holes into its region's file: then even a bounded copy can raise SIGBUS. */
static int guarded(device_cpu *device, void (*call)(void *), void *argument)
{
  int rc = gpud_fault_guard(&device->net, call, argument);
  if (rc == -EFAULT)
    device->broken = true;
  return rc;
}

static void *cpu_host_pointer(gpud_device *d, uint64_t address)
{
  (void)d;
  return (void *)(uintptr_t)address;
}

static int cpu_export_dmabuf(gpud_device *d, uint64_t address, uint64_t size, uint64_t *offset)
{
  (void)d, (void)address, (void)size, (void)offset;
  return -ENOTSUP; /* nor is it needed: adapters register it as host memory */
}

static int cpu_copy_in(gpud_device *d, uint64_t destination, const void *source, uint64_t size, uint32_t stream)
{
  (void)stream;
  transfer t = {(void *)(uintptr_t)destination, source, size};
  return guarded(of(d), move_disjoint, &t);
}

static int cpu_copy_out(gpud_device *d, void *destination, uint64_t source, uint64_t size, uint32_t stream)
{
  (void)stream;
  transfer t = {destination, (const void *)(uintptr_t)source, size};
  return guarded(of(d), move_disjoint, &t);
}

static int cpu_copy(gpud_device *d, uint64_t destination, uint64_t source, uint64_t size, uint32_t stream)
{
  (void)stream;
  transfer t = {(void *)(uintptr_t)destination, (const void *)(uintptr_t)source, size};
  bool disjoint = destination >= source ? destination - source >= size : source - destination >= size;
  return guarded(of(d), disjoint ? move_disjoint : move_overlapping, &t);
}

typedef struct filling {
  unsigned char *at;
  uint64_t bytes;
  uint64_t pattern; /* repeated to eight bytes, lowest first */
} filling;

static void fill_bytes(void *argument)
{
  const filling *f = argument;
  memset(f->at, (int)(f->pattern & 0xff), f->bytes);
}

/* The pattern's eight bytes as they lie in memory from `at`: its address is a multiple of the element, not of eight. */
static void fill_pattern(void *argument)
{
  const filling *f = argument;
  unsigned char *at = f->at;
  uint64_t left = f->bytes;
  uint64_t head = -(uint64_t)(uintptr_t)at & 15;
  if (head > left)
    head = left;
  memcpy(at, (const uint64_t[2]){f->pattern, f->pattern}, head);
  at += head;
  left -= head;
  unsigned turn = (unsigned)(head & 7) * 8;
  uint64_t pattern = turn ? f->pattern >> turn | f->pattern << (64 - turn) : f->pattern;
#ifdef __SSE2__
  if (f->bytes >= STREAMING) {
    __m128i two = _mm_set1_epi64x((long long)pattern);
    for (; left >= 16; left -= 16, at += 16)
      _mm_stream_si128((__m128i *)(void *)at, two);
    _mm_sfence();
  }
#endif
  for (; left >= 8; left -= 8, at += 8)
    memcpy(at, &pattern, 8);
  memcpy(at, &pattern, left);
}

static int cpu_fill(gpud_device *d, uint64_t address, uint64_t count, uint64_t pattern, uint32_t width, uint32_t stream)
{
  (void)stream;
  uint64_t repeated = width == 8 ? pattern : pattern & ((1ull << (width * 8)) - 1);
  for (uint32_t bits = width * 8; bits < 64; bits *= 2)
    repeated |= repeated << bits;
  filling f = {(void *)(uintptr_t)address, count * width, repeated};
  if (count == 0)
    return 0;
  bool even = repeated == (repeated & 0xff) * 0x0101010101010101ull;
  return guarded(of(d), even ? fill_bytes : fill_pattern, &f);
}

/* ---------------------------------------------------------------- kernels */

static gpud_pool_job job_of(const gpud_kernel *kernel, const gpud_launch_config *config, const void *params)
{
  uint64_t threads = (uint64_t)config->block[0] * config->block[1] * config->block[2];
  gpud_pool_job job = {
    .params = params,
    .config = *config,
    .shared = DYNAMIC_AT(kernel) + config->shared,
    .scratch = kernel->scratch_fixed + kernel->scratch_per_thread * threads,
  };
  _Static_assert(sizeof job.function == sizeof kernel->entry, "an entry is a function's address");
  memcpy(&job.function, &kernel->entry, sizeof job.function);
  return job;
}

static uint32_t cpu_most_cooperative(const gpud_device *d, const gpud_kernel *kernel, const gpud_launch_config *config)
{
  (void)d;
  gpud_pool_job job = job_of(kernel, config, NULL);
  return gpud_cooperative_most(&job);
}

static int cpu_launch(gpud_device *d, const gpud_kernel *kernel, const gpud_launch_config *config, const void *params,
                      gpud_fault_info *fault)
{
  device_cpu *device = of(d);
  if (!device->launched) {
    device->launched = true;
    gpud_fault_refresh();
  }
  gpud_pool_job job = job_of(kernel, config, params);
  if (config->check)
    gpud_check_begin(config->check, DYNAMIC_AT(kernel), config->shared, params, kernel->params_size);
  int rc =
      config->cooperative ? gpud_cooperative_run(device->pool, &job, fault) : gpud_pool_run(device->pool, &job, fault);
  if (rc == -EFAULT && !fault->stopped)
    device->broken = true;
  return rc;
}

static uint32_t cpu_output(gpud_device *d, const char **text, uint32_t most)
{
  return gpud_pool_output(of(d)->pool, text, most);
}

static int cpu_timestamp(gpud_device *d, uint32_t stream, uint64_t *nanoseconds)
{
  (void)d;
  (void)stream;
  *nanoseconds = gpud_now();
  return 0;
}

static int cpu_synchronize(gpud_device *d)
{
  (void)d;
  return 0;
}

static void cpu_interrupt(gpud_device *d) { gpud_pool_interrupt(of(d)->pool); }

static int cpu_reset(gpud_device *d)
{
  device_cpu *device = of(d);
  int rc = device->used ? reserve(device->window, device->window_size) : 0;
  gpud_pool_scrub(device->pool);
  device->used = false;
  device->launched = false;
  return device->broken || rc ? -EBUSY : 0;
}

static void cpu_close(gpud_device *d)
{
  device_cpu *device = of(d);
  if (device->pool)
    gpud_pool_free(device->pool);
  if (device->reserved)
    munmap(device->reserved, device->reserved_size);
  gpud_spare_close(&device->spare);
  gpud_fault_uninstall();
  free(device);
}

static const gpud_device_ops cpu_ops = {
  .name = "cpu",
  .limits = cpu_limits,
  .map = cpu_map,
  .unmap = cpu_unmap,
  .host_pointer = cpu_host_pointer,
  .export_dmabuf = cpu_export_dmabuf,
  .copy_in = cpu_copy_in,
  .copy_out = cpu_copy_out,
  .copy = cpu_copy,
  .fill = cpu_fill,
  .most_cooperative = cpu_most_cooperative,
  .launch = cpu_launch,
  .output = cpu_output,
  .timestamp = cpu_timestamp,
  .synchronize = cpu_synchronize,
  .interrupt = cpu_interrupt,
  .reset = cpu_reset,
  .close = cpu_close,
};

static int reserve_window(device_cpu *device, uint64_t size)
{
  if (size > UINT64_MAX - 2 * GRANULARITY)
    return -ENOMEM;
  device->window_size = (size + GRANULARITY - 1) / GRANULARITY * GRANULARITY;
  device->reserved_size = device->window_size + GRANULARITY;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void *at = mmap(NULL, device->reserved_size, PROT_NONE, flags, -1, 0);
  if (at == MAP_FAILED)
    return -ENOMEM;
  device->reserved = at;
  device->window = ((uint64_t)(uintptr_t)at + GRANULARITY - 1) / GRANULARITY * GRANULARITY;
  return 0;
}

int gpud_device_cpu_open(uint32_t threads, uint64_t window, gpud_device **out)
{
  if (threads == 0 || threads > 1024)
    return -EINVAL;
  device_cpu *device = calloc(1, sizeof *device);
  if (!device)
    return -ENOMEM;
  device->base.ops = &cpu_ops;
  gpud_fault_install();
  int rc = reserve_window(device, window ? window : DEFAULT_WINDOW);
  if (rc == 0)
    rc = gpud_spare_open(&device->spare, SPARE_MOST, SPARE_FIRST);
  if (rc == 0)
    rc = gpud_pool_new(threads, MAX_SHARED, &device->pool);
  if (rc) {
    cpu_close(&device->base);
    return rc;
  }
  *out = &device->base;
  return 0;
}
