/*
 * Copies between device memory and regions that are not mapped here: by which way the bytes reach the device.
 *
 * A ladder, tried from the top at a session's first such copy, and remembered with the reason why no higher rung bears:
 *   host     device memory is memory of this process: transfers go straight there
 *   dma-buf  the device exports its memory, the adapter imports it
 *   peer     the adapter registers the device's addresses (nvidia-peermem)
 *   bounce   through two host buffers: the one is transferred while the device copies the other
 * A range that cannot be registered on the session's rung, for want of memory say, goes by bounce.
 *
 * Threads: the engine's, and one that makes the transfers of bounced copies while the engine's makes the device's. It exists from
 * the first such copy to the session's end, and sleeps between.
 */
#ifndef GPUD_TRANSFER_H
#define GPUD_TRANSFER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "connection.h"
#include "device.h"
#include "memory.h"

#define GPUD_BOUNCE_SIZE (1u << 20) /* bytes of each buffer */

typedef struct gpud_transfer_job {
  bool write; /* to the region */
  uint32_t region;
  uint64_t offset;
  void *memory;
  uint64_t size;
} gpud_transfer_job;

typedef struct gpud_transfer {
  gpud_connection *connection;
  gpud_device *device;
  const gpud_memory *memory;
  uint32_t rung; /* GPUD_DIRECT_*; 0: nothing was copied yet. Any thread reads it */
  char text[512];
  char *buffers; /* two; NULL: none yet */

  bool threaded;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int state; /* what the thread is at; under the lock */
  int result;
  gpud_transfer_job job;
} gpud_transfer;

void gpud_transfer_begin(gpud_transfer *t, gpud_connection *connection, gpud_device *device, const gpud_memory *memory);
/* The connection is interrupted or gone, so that nothing blocks; it is freed afterwards, then the buffers. */
void gpud_transfer_end(gpud_transfer *t);
void gpud_transfer_free(gpud_transfer *t);

/*
 * Between `address`, which is mapped, and [offset, offset + size) of a region, complete on return. 0, or -errno; *by_device: whether it is
 * the device's, or what rma_read and rma_write say.
 */
int gpud_transfer_in(gpud_transfer *t, uint64_t address, uint32_t region, uint64_t offset, uint64_t size,
                     uint32_t stream, bool *by_device);
int gpud_transfer_out(gpud_transfer *t, uint64_t address, uint32_t region, uint64_t offset, uint64_t size,
                      uint32_t stream, bool *by_device);
/* GPUD_DIRECT_* or 0; in text[size] what it is and why it is no better. Any thread, also after the end. */
int gpud_transfer_describe(const gpud_transfer *t, char *text, size_t size);
/* Device memory is about to be unmapped. */
void gpud_transfer_gone(gpud_transfer *t, uint64_t address, uint64_t size);

#endif
