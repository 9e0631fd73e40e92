#include "bulk.h"

#include <errno.h>
#include <stdlib.h>

#include "lock.h"
#include "wait.h"

#define SPIN_NS 20000u       /* how long to wait for one chunk before waiting for several */
#define DROP_NS 100000000ull /* how long freeing a stage may wait for room in the ring */

struct gpud_stage {
  gpud_connection *connection;
  gpud_region *region;
  uint32_t number;
  uint32_t chunks;
  uint32_t next; /* the chunk that is used next: always the one used longest ago */
  uint64_t chunk_size;
  gpud_mutex mutex;
  uint64_t busy[]; /* by chunk: the command that must be complete before it may be used again */
};

int gpud_stage_create(gpud_connection *c, uint32_t number, uint32_t chunks, uint64_t chunk_size, uint64_t deadline,
                      gpud_stage **stage)
{
  if (chunks == 0 || chunks > GPUD_STAGE_MAX_CHUNKS || chunk_size == 0 || chunk_size > UINT64_MAX / chunks)
    return -EINVAL;
  gpud_stage *s = calloc(1, sizeof *s + chunks * sizeof s->busy[0]);
  if (!s)
    return -ENOMEM;
  s->connection = c;
  s->number = number;
  s->chunks = chunks;
  s->chunk_size = chunk_size;
  int rc = gpud_region_create(c, number, chunks * chunk_size, GPUD_ACCESS_READ | GPUD_ACCESS_WRITE, 0, 1, deadline,
                              &s->region);
  if (rc != 0) {
    free(s);
    return rc;
  }
  gpud_connection_hold(c);
  *stage = s;
  return 0;
}

void gpud_stage_free(gpud_stage *stage)
{
  if (!stage)
    return;
  gpud_region_drop(stage->connection, stage->region, gpud_now() + DROP_NS);
  gpud_region_free(stage->region);
  gpud_connection_let_go(stage->connection);
  free(stage);
}

static char *chunk_pointer(const gpud_stage *stage, uint32_t chunk)
{
  return (char *)gpud_region_pointer(stage->region) + chunk * stage->chunk_size;
}

/* How much of a transfer goes in one command. */
static uint64_t piece_size(const gpud_stage *stage, uint64_t size)
{
  return size < GPUD_BULK_CACHED && stage->chunk_size > GPUD_BULK_PIECE ? GPUD_BULK_PIECE : stage->chunk_size;
}

/*
 * Waits for the command that uses a chunk. Where spinning does not bring it, sleeps until half of the chunks behind it
 * are done as well: on a busy machine that is one wake-up for many chunks, and the other half keeps the worker at work.
 */
static int await_chunk(const gpud_stage *stage, uint32_t chunk, uint64_t deadline)
{
  uint64_t spun = gpud_now() + SPIN_NS;
  int rc = gpud_connection_wait(stage->connection, stage->busy[chunk], spun < deadline ? spun : deadline);
  if (rc != -ETIMEDOUT)
    return rc;
  uint64_t later = stage->busy[(chunk + stage->chunks / 2) % stage->chunks];
  return gpud_connection_wait(stage->connection, later > stage->busy[chunk] ? later : stage->busy[chunk], deadline);
}

/* Waits until the next chunk is free and takes it: its index, or -errno. */
static int claim(gpud_stage *stage, uint64_t deadline)
{
  uint32_t chunk = stage->next;
  int rc = await_chunk(stage, chunk, deadline);
  if (rc != 0)
    return rc;
  stage->next = chunk + 1 == stage->chunks ? 0 : chunk + 1;
  return (int)chunk;
}

/* Posts the command that moves `size` bytes between a chunk and the device. The sequence number or -errno. */
static int64_t post_copy(gpud_stage *stage, uint8_t op, uint32_t chunk, uint64_t address, uint64_t size,
                         uint32_t stream, uint64_t deadline)
{
  const gpud_msg_copy_host copy = {
    .address = address, .offset = chunk * stage->chunk_size, .size = size, .region = stage->number};
  int64_t rc = gpud_connection_post(stage->connection, op, stream, &copy, sizeof copy, deadline);
  if (rc > 0)
    stage->busy[chunk] = (uint64_t)rc;
  return rc;
}

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

static int64_t put_inline(gpud_connection *c, uint64_t address, const void *source, uint64_t size, uint32_t stream,
                          uint64_t deadline)
{
  const gpud_msg_write write = {.address = address};
  return gpud_connection_post_parts(c, GPUD_OP_WRITE, stream, &write, sizeof write, source, (uint32_t)size, deadline);
}

static int64_t put_staged(gpud_stage *stage, uint64_t address, const char *source, uint64_t size, uint32_t stream,
                          uint64_t deadline)
{
  int64_t rc = gpud_mutex_acquire(&stage->mutex, deadline);
  if (rc != 0)
    return rc;
  const uint64_t piece = piece_size(stage, size);
  for (uint64_t done = 0, part; done < size; done += part) {
    part = smaller(size - done, piece);
    int chunk = claim(stage, deadline);
    rc = chunk;
    if (chunk < 0)
      break;
    gpud_copy_cached(chunk_pointer(stage, (uint32_t)chunk), source + done, part);
    rc = post_copy(stage, GPUD_OP_COPY_IN, (uint32_t)chunk, address + done, part, stream, deadline);
    if (rc < 0)
      break;
    gpud_connection_count_copied(stage->connection, part, 0);
  }
  gpud_mutex_release(&stage->mutex);
  return rc;
}

int64_t gpud_bulk_put(gpud_stage *stage, uint64_t address, const void *source, uint64_t size, uint32_t stream,
                      uint64_t deadline)
{
  if (size == 0)
    return (int64_t)gpud_connection_posted(stage->connection);
  if (size > UINT64_MAX - address)
    return -EINVAL;
  if (size <= GPUD_BULK_INLINE)
    return put_inline(stage->connection, address, source, size, stream, deadline);
  return put_staged(stage, address, source, size, stream, deadline);
}

static int64_t get_staged(gpud_stage *stage, char *destination, uint64_t address, uint64_t size, uint32_t stream,
                          uint64_t deadline)
{
  const uint64_t piece = piece_size(stage, size);
  uint64_t asked = 0;
  uint32_t oldest = stage->next; /* the chunk that comes back next */
  int64_t rc = 0;
  int64_t last = 0;
  for (uint64_t done = 0, part; done < size; done += part) {
    /* Ask ahead, as far as there are chunks that hold nothing we have yet to copy out. */
    while (asked < size && asked < done + stage->chunks * piece) {
      part = smaller(size - asked, piece);
      int chunk = claim(stage, deadline);
      if (chunk < 0)
        return chunk;
      rc = post_copy(stage, GPUD_OP_COPY_OUT, (uint32_t)chunk, address + asked, part, stream, deadline);
      if (rc < 0)
        return rc;
      last = rc;
      asked += part;
    }
    part = smaller(size - done, piece);
    rc = await_chunk(stage, oldest, deadline);
    if (rc != 0)
      return rc;
    gpud_copy(destination + done, chunk_pointer(stage, oldest), part);
    gpud_connection_count_copied(stage->connection, 0, part);
    oldest = oldest + 1 == stage->chunks ? 0 : oldest + 1;
  }
  return last;
}

int64_t gpud_bulk_get(gpud_stage *stage, void *destination, uint64_t address, uint64_t size, uint32_t stream,
                      uint64_t deadline)
{
  if (size == 0)
    return (int64_t)gpud_connection_posted(stage->connection);
  if (size > UINT64_MAX - address)
    return -EINVAL;
  int64_t rc = gpud_mutex_acquire(&stage->mutex, deadline);
  if (rc != 0)
    return rc;
  rc = get_staged(stage, destination, address, size, stream, deadline);
  gpud_mutex_release(&stage->mutex);
  return rc;
}
