/*
 * A device, as the engine drives it: `cpu` (device_cpu.c) and, later, `cuda`. One device object serves one session at a time.
 *
 * The table is a contract; no slot is NULL. Slots are called by the engine's one thread. Addresses and sizes have been
 * bounded by the engine against what is mapped (device memory) or registered (regions) before they get here.
 * Work is ordered by stream; the cpu device does everything at once in command order, which is one legal order.
 * Errors are -errno; a fault of the program (not of the caller) fills in *fault and returns -EFAULT.
 */
#ifndef GPUD_DEVICE_H
#define GPUD_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire.h"

typedef struct gpud_device gpud_device;

typedef struct gpud_device_limits {
  uint64_t window_base;
  uint64_t window_size;
  uint32_t granularity;
  uint32_t max_grid[3];
  uint32_t max_block[3];
  uint32_t max_block_threads;
  uint32_t max_shared; /* per block */
  uint32_t multiprocessors;
  uint32_t warp_size;
  uint32_t compute_capability; /* 100 * major + minor */
  char name[64];
} gpud_device_limits;

/* What the engine knows of a kernel of a loaded module. */
typedef struct gpud_kernel {
  char *name;
  uint64_t entry; /* the device's handle: cpu: address of a gpud_kernel_function */
  gpud_param *params;
  uint32_t param_count;
  uint32_t params_size;
  uint32_t static_shared;
  uint32_t scratch_fixed;      /* cpu: bytes of working memory a pool thread needs ... */
  uint32_t scratch_per_thread; /* ... and for each thread of the block */
  uint32_t max_threads;
} gpud_kernel;

struct gpud_check;

typedef struct gpud_launch_config {
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared; /* dynamic, bytes */
  uint32_t stream;
  uint64_t sequence;
  bool cooperative;         /* all blocks run at the same time, and may wait for one another */
  struct gpud_check *check; /* the kernel asks it before each access; NULL: the code is not compiled so */
} gpud_launch_config;

typedef struct gpud_fault_info {
  uint32_t status; /* GPUD_STATUS_* */
  uint64_t address;
  uint32_t block[3];
  uint32_t thread; /* ~0: unknown */
  bool stopped;    /* before it did anything wrong: by the check */
  char text[768];
} gpud_fault_info;

typedef struct gpud_device_ops {
  const char *name;
  void (*limits)(const gpud_device *d, gpud_device_limits *limits);
  /* Zeroed memory at [address, address + size) of the window; -ENOMEM. */
  int (*map)(gpud_device *d, uint64_t address, uint64_t size);
  int (*unmap)(gpud_device *d, uint64_t address, uint64_t size);
  /* Where this process reaches mapped device memory with plain loads and stores; NULL: nowhere. */
  void *(*host_pointer)(gpud_device *d, uint64_t address);
  /*
   * A dma-buf of mapped device memory, by which an adapter reaches it: a descriptor, the caller's to close, and where in it the memory
   * lies. -ENOTSUP: this device has none.
   */
  int (*export_dmabuf)(gpud_device *d, uint64_t address, uint64_t size, uint64_t *offset);
  /* Between host memory of this process (a mapped region) and device memory. */
  int (*copy_in)(gpud_device *d, uint64_t destination, const void *source, uint64_t size, uint32_t stream);
  int (*copy_out)(gpud_device *d, void *destination, uint64_t source, uint64_t size, uint32_t stream);
  int (*copy)(gpud_device *d, uint64_t destination, uint64_t source, uint64_t size,
              uint32_t stream); /* may overlap, as memmove */
  int (*fill)(gpud_device *d, uint64_t address, uint64_t count, uint64_t pattern, uint32_t width, uint32_t stream);
  /* How many blocks of a cooperative launch of this kernel can run at the same time; 0: the device has no such launches. */
  uint32_t (*most_cooperative)(const gpud_device *d, const gpud_kernel *kernel, const gpud_launch_config *config);
  /* Checks nothing that the engine checked; blocks until done on the cpu device. -EFAULT with *fault; -ENOMEM, -EINTR. */
  int (*launch)(gpud_device *d, const gpud_kernel *kernel, const gpud_launch_config *config, const void *params,
                gpud_fault_info *fault);
  /* What kernels have printed since, piece by piece, at most `most` bytes: its size, 0 when nothing is left. */
  uint32_t (*output)(gpud_device *d, const char **text, uint32_t most);
  /* The time on the stream, ns, once all before it is done. */
  int (*timestamp)(gpud_device *d, uint32_t stream, uint64_t *nanoseconds);
  int (*synchronize)(gpud_device *d);
  /*
   * Any thread: a launch that runs ends with -EINTR as soon as the device can, later ones at once, until reset.
   * May do nothing where a device cannot stop.
   */
  void (*interrupt)(gpud_device *d);
  /* Gives back and scrubs all that the session had; 0 when the device is as new, -EBUSY when this process must be replaced. */
  int (*reset)(gpud_device *d);
  void (*close)(gpud_device *d);
} gpud_device_ops;

struct gpud_device {
  const gpud_device_ops *ops;
};

/* `threads`: of the pool, the caller's included; `window`: bytes of address space to reserve. 0 or -errno. */
int gpud_device_cpu_open(uint32_t threads, uint64_t window, gpud_device **device);

#endif
