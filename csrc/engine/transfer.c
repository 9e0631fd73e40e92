#include "transfer.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine.h"
#include "order.h"

#define LONGEST (1ull << 30) /* of one transfer of host memory: far below what stays registered at once */
#define BLOCK (16ull << 20)  /* what is registered at once, as far as it is mapped: not every copy registers anew */

enum { IDLE, POSTED, DONE, QUIT };

void gpud_transfer_begin(gpud_transfer *t, gpud_connection *connection, gpud_device *device, const gpud_memory *memory)
{
  memset(t, 0, sizeof *t);
  t->connection = connection;
  t->device = device;
  t->memory = memory;
  pthread_mutex_init(&t->lock, NULL);
  pthread_cond_init(&t->changed, NULL);
}

void gpud_transfer_end(gpud_transfer *t)
{
  if (t->threaded) {
    pthread_mutex_lock(&t->lock);
    t->state = QUIT;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
  }
  t->threaded = false;
  pthread_cond_destroy(&t->changed);
  pthread_mutex_destroy(&t->lock);
}

void gpud_transfer_free(gpud_transfer *t)
{
  if (t->buffers)
    munmap(t->buffers, 2 * (size_t)GPUD_BOUNCE_SIZE);
  t->buffers = NULL;
}

/* ---------------------------------------------------------------- the ladder */

static const char *const NAMES[] = {
  [GPUD_DIRECT_HOST] = "host memory",
  [GPUD_DIRECT_DMABUF] = "dma-buf",
  [GPUD_DIRECT_PEER] = "peer memory",
  [GPUD_DIRECT_BOUNCE] = "bounce buffers",
};

static void say(gpud_transfer *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(gpud_transfer *t, const char *format, ...)
{
  size_t used = strlen(t->text);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(t->text + used, sizeof t->text - used, format, arguments);
  va_end(arguments);
}

static int here(gpud_transfer *t, const gpud_local *local)
{
  gpud_endpoint *ep = gpud_connection_endpoint(t->connection);
  return ep->ops->local_here(ep, local);
}

static int by_dmabuf(gpud_transfer *t, uint64_t address, uint64_t size)
{
  gpud_local local = {.memory = (void *)(uintptr_t)address, .size = size, .device = 1};
  local.fd = t->device->ops->export_dmabuf(t->device, address, size, &local.offset);
  if (local.fd < 0)
    return local.fd;
  int rc = here(t, &local);
  close(local.fd); /* the adapter holds its own reference */
  return rc;
}

static int by_address(gpud_transfer *t, uint64_t address, uint64_t size)
{
  const gpud_local local = {.memory = (void *)(uintptr_t)address, .size = size, .device = 1, .fd = -1};
  return here(t, &local);
}

static int on_rung(gpud_transfer *t, uint32_t rung, uint64_t address, uint64_t size)
{
  return rung == GPUD_DIRECT_DMABUF ? by_dmabuf(t, address, size) : by_address(t, address, size);
}

static void choose(gpud_transfer *t, uint64_t address, uint64_t size)
{
  uint32_t rung = GPUD_DIRECT_HOST;
  t->text[0] = 0;
  if (!t->device->ops->host_pointer(t->device, address)) {
    for (rung = GPUD_DIRECT_DMABUF; rung < GPUD_DIRECT_BOUNCE; rung++) {
      int rc = on_rung(t, rung, address, size);
      if (rc == 0)
        break;
      say(t, "%sno %s: %s", t->text[0] ? "; " : "", NAMES[rung], strerror(-rc));
    }
  }
  gpud_store_release_u32(&t->rung, rung);
}

/* The part of the block at `address` that is mapped as one: what may be registered, and unregistered, as one. 0: a variable, say. */
static uint64_t span_at(const gpud_transfer *t, uint64_t address, uint64_t *begin)
{
  const gpud_extent *extent = gpud_memory_at(t->memory, address);
  if (!extent || extent->kind != GPUD_EXTENT_CHUNK)
    return 0;
  uint64_t block = address & ~(BLOCK - 1);
  *begin = block > extent->address ? block : extent->address;
  uint64_t block_left = BLOCK - (*begin - block);
  uint64_t extent_left = extent->size - (*begin - extent->address);
  return block_left < extent_left ? block_left : extent_left;
}

/*
 * How many bytes at the address transfers reach: registers the block they lie in. 0: none, and then *rest is how many go by bounce.
 */
static uint64_t reach(gpud_transfer *t, uint64_t address, uint64_t size, uint64_t *rest)
{
  uint64_t begin;
  uint64_t span = span_at(t, address, &begin);
  *rest = size;
  if (span == 0)
    return 0;
  if (t->rung == 0)
    choose(t, begin, span);
  uint64_t left = begin + span - address;
  *rest = left < size ? left : size;
  if (t->rung == GPUD_DIRECT_BOUNCE || on_rung(t, t->rung, begin, span) != 0)
    return 0;
  return *rest;
}

/* Host memory is reached in any case, registered where it can be. */
static void register_host(gpud_transfer *t, uint64_t address, uint64_t size)
{
  for (uint64_t at = address; at - address < size;) {
    uint64_t begin;
    uint64_t span = span_at(t, at, &begin);
    if (span == 0)
      return;
    void *memory = t->device->ops->host_pointer(t->device, begin);
    const gpud_local local = {.memory = memory, .size = span, .fd = -1};
    if (!memory || here(t, &local) != 0)
      return;
    at = begin + span;
  }
}

void gpud_transfer_gone(gpud_transfer *t, uint64_t address, uint64_t size)
{
  gpud_endpoint *ep = gpud_connection_endpoint(t->connection);
  const void *host = t->device->ops->host_pointer(t->device, address);
  ep->ops->local_gone(ep, host ? host : (const void *)(uintptr_t)address, size);
}

int gpud_transfer_describe(const gpud_transfer *t, char *text, size_t size)
{
  uint32_t rung = gpud_load_acquire_u32(&t->rung);
  if (rung == 0)
    snprintf(text, size, "no copy yet");
  else if (t->text[0])
    snprintf(text, size, "%s (%s)", NAMES[rung], t->text);
  else
    snprintf(text, size, "%s", NAMES[rung]);
  return (int)rung;
}

/* ---------------------------------------------------------------- bounce */

static int move(gpud_transfer *t, const gpud_transfer_job *job)
{
  return job->write ? gpud_connection_rma_write(t->connection, job->region, job->offset, job->memory, job->size)
                    : gpud_connection_rma_read(t->connection, job->region, job->offset, job->memory, job->size);
}

static void *work(void *argument)
{
  gpud_transfer *t = argument;
  pthread_mutex_lock(&t->lock);
  while (t->state != QUIT) {
    if (t->state != POSTED) {
      pthread_cond_wait(&t->changed, &t->lock);
      continue;
    }
    gpud_transfer_job job = t->job;
    pthread_mutex_unlock(&t->lock);
    int rc = move(t, &job);
    pthread_mutex_lock(&t->lock);
    t->result = rc;
    t->state = DONE;
    pthread_cond_broadcast(&t->changed);
  }
  pthread_mutex_unlock(&t->lock);
  return NULL;
}

static int prepare_bounce(gpud_transfer *t)
{
  if (!t->buffers) {
    const size_t size = 2 * (size_t)GPUD_BOUNCE_SIZE;
    void *buffers = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (buffers == MAP_FAILED)
      return -ENOMEM;
    t->buffers = buffers;
    const gpud_local local = {.memory = buffers, .size = size, .fd = -1};
    here(t, &local); /* without it, the endpoint copies once more */
  }
  if (!t->threaded) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&t->thread, NULL, work, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
      return -ENOMEM;
    t->threaded = true;
  }
  return 0;
}

static void post(gpud_transfer *t, const gpud_transfer_job *job)
{
  pthread_mutex_lock(&t->lock);
  t->job = *job;
  t->state = POSTED;
  pthread_cond_broadcast(&t->changed);
  pthread_mutex_unlock(&t->lock);
}

/* Its end has a limit: that of a transfer. */
static int finish(gpud_transfer *t)
{
  pthread_mutex_lock(&t->lock);
  while (t->state != DONE)
    pthread_cond_wait(&t->changed, &t->lock);
  t->state = IDLE;
  int rc = t->result;
  pthread_mutex_unlock(&t->lock);
  return rc;
}

static char *buffer(const gpud_transfer *t, uint64_t piece)
{
  return t->buffers + (piece & 1) * (size_t)GPUD_BOUNCE_SIZE;
}

static uint64_t piece_size(uint64_t piece, uint64_t size)
{
  uint64_t left = size - piece * GPUD_BOUNCE_SIZE;
  return left < GPUD_BOUNCE_SIZE ? left : GPUD_BOUNCE_SIZE;
}

static int bounce_in(gpud_transfer *t, uint64_t address, uint32_t region, uint64_t offset, uint64_t size,
                     uint32_t stream, bool *by_device)
{
  uint64_t pieces = (size + GPUD_BOUNCE_SIZE - 1) / GPUD_BOUNCE_SIZE;
  int rc = prepare_bounce(t);
  for (uint64_t i = 0; i <= pieces && rc == 0; i++) {
    if (i < pieces)
      post(t, &(gpud_transfer_job){.region = region,
                                   .offset = offset + i * GPUD_BOUNCE_SIZE,
                                   .memory = buffer(t, i),
                                   .size = piece_size(i, size)});
    /* The one that came before, while this one comes. */
    int copied = 0;
    if (i > 0)
      copied = t->device->ops->copy_in(t->device, address + (i - 1) * GPUD_BOUNCE_SIZE, buffer(t, i - 1),
                                       piece_size(i - 1, size), stream);
    if (i < pieces)
      rc = finish(t);
    if (copied != 0) {
      *by_device = true;
      rc = copied;
    }
  }
  return rc;
}

static int bounce_out(gpud_transfer *t, uint64_t address, uint32_t region, uint64_t offset, uint64_t size,
                      uint32_t stream, bool *by_device)
{
  uint64_t pieces = (size + GPUD_BOUNCE_SIZE - 1) / GPUD_BOUNCE_SIZE;
  int rc = prepare_bounce(t);
  for (uint64_t i = 0; i <= pieces && rc == 0; i++) {
    int copied = 0;
    if (i < pieces)
      copied = t->device->ops->copy_out(t->device, buffer(t, i), address + i * GPUD_BOUNCE_SIZE, piece_size(i, size),
                                        stream);
    if (i > 0)
      rc = finish(t);
    if (copied != 0) {
      *by_device = true;
      rc = copied;
    }
    if (rc == 0 && i < pieces)
      post(t, &(gpud_transfer_job){.write = true,
                                   .region = region,
                                   .offset = offset + i * GPUD_BOUNCE_SIZE,
                                   .memory = buffer(t, i),
                                   .size = piece_size(i, size)});
  }
  return rc;
}

/* ---------------------------------------------------------------- copies */

static int transfer(gpud_transfer *t, bool out, uint64_t address, uint32_t region, uint64_t offset, uint64_t size,
                    uint32_t stream, bool *by_device)
{
  *by_device = false;
  void *host = t->device->ops->host_pointer(t->device, address);
  if (host) {
    if (t->rung == 0)
      choose(t, address, size);
    int rc = 0;
    for (uint64_t done = 0, part; rc == 0 && done < size; done += part) {
      part = size - done < LONGEST ? size - done : LONGEST;
      register_host(t, address + done, part);
      rc = move(t, &(gpud_transfer_job){out, region, offset + done, (char *)host + done, part});
    }
    return rc;
  }
  int rc = 0;
  while (size != 0 && rc == 0) {
    uint64_t rest;
    uint64_t reached = reach(t, address, size, &rest);
    if (reached != 0)
      rc = move(t, &(gpud_transfer_job){out, region, offset, (void *)(uintptr_t)address, reached});
    else if (out)
      rc = bounce_out(t, address, region, offset, rest, stream, by_device);
    else
      rc = bounce_in(t, address, region, offset, rest, stream, by_device);
    address += rest;
    offset += rest;
    size -= rest;
  }
  return rc;
}

int gpud_transfer_in(gpud_transfer *t, uint64_t address, uint32_t region, uint64_t offset, uint64_t size,
                     uint32_t stream, bool *by_device)
{
  return transfer(t, false, address, region, offset, size, stream, by_device);
}

int gpud_transfer_out(gpud_transfer *t, uint64_t address, uint32_t region, uint64_t offset, uint64_t size,
                      uint32_t stream, bool *by_device)
{
  return transfer(t, true, address, region, offset, size, stream, by_device);
}
