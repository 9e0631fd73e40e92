#include "bulk.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "lock.h"
#include "wait.h"

#define SPIN_NS 20000u       /* how long to wait for one chunk before waiting for several */
#define DROP_NS 100000000ull /* how long freeing a stage may wait for room in the ring */
#define ABANDON_NS                                                                                                     \
  (2 * GPUD_STALL_MS * 1000000ull) /* for the transfer of another thread, which ends by its own deadline */

/* A get that ran out of time, and goes on where it was when it is asked for again: on a slow link it would not end otherwise. */
typedef struct gpud_staged_get {
  char *destination; /* NULL: none */
  uint64_t address;
  uint64_t size;
  uint32_t stream;
  uint32_t oldest; /* the chunk that comes back next */
  uint64_t done;
  uint64_t asked;
  int64_t last; /* the last command that asks */
} gpud_staged_get;

struct gpud_stage {
  gpud_connection *connection;
  gpud_region *region; /* NULL: copies are direct, and there are no chunks */
  uint32_t number;
  uint32_t chunks;
  uint32_t next; /* the chunk that is used next: always the one used longest ago */
  uint64_t chunk_size;
  gpud_direct_get
      done; /* a direct get of this stage's that has ended while another's transfer waited for it; under the turn's mutex */
  gpud_mutex mutex;
  gpud_staged_get get;
  uint64_t busy[]; /* by chunk: the command that must be complete before it may be used again */
};

/* Of several stages that are direct, one transfers at a time: the endpoint knows one GPUD_REGION_STREAM. */
static gpud_mutex *turn_of(gpud_stage *stage)
{
  return stage->region ? &stage->mutex : &gpud_connection_direct(stage->connection)->mutex;
}

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
  bool direct = (gpud_connection_endpoint(c)->properties & GPUD_ENDPOINT_DIRECT) != 0;
  int rc = direct ? 0
                  : gpud_region_create(c, number, chunks * chunk_size, GPUD_ACCESS_READ | GPUD_ACCESS_WRITE, 0, 1,
                                       deadline, &s->region);
  if (rc != 0) {
    free(s);
    return rc;
  }
  gpud_connection_hold(c);
  *stage = s;
  return 0;
}

/* Nothing is written any more to the memory of the stage's direct get in [memory, memory + size). The turn is the caller's. */
static void abandon(gpud_stage *stage, const char *memory, uint64_t size)
{
  gpud_direct_get *gets[] = {&gpud_connection_direct(stage->connection)->get, &stage->done};
  for (int i = 0; i < 2; i++) {
    gpud_direct_get *get = gets[i];
    if (get->stage != stage || !get->destination || (uintptr_t)get->destination - (uintptr_t)memory >= size)
      continue;
    if (get->offered)
      gpud_connection_withdraw(stage->connection, GPUD_REGION_STREAM, (uint64_t)get->sequence);
    *get = (gpud_direct_get){0};
  }
}

/* 0, or -ETIMEDOUT: another stage's transfer may still look at this one. */
static int abandon_all(gpud_stage *stage)
{
  gpud_mutex *turn = turn_of(stage);
  int rc = gpud_mutex_acquire(turn, gpud_now() + ABANDON_NS);
  if (rc != 0)
    return rc;
  abandon(stage, NULL, UINT64_MAX);
  gpud_mutex_release(turn);
  return 0;
}

void gpud_stage_free(gpud_stage *stage)
{
  if (!stage)
    return;
  if (stage->region)
    gpud_region_drop(stage->connection, stage->region, gpud_now() + DROP_NS);
  else if (abandon_all(stage) != 0)
    return; /* the memory is lost; it would be used otherwise */
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

static uint32_t after(const gpud_stage *stage, uint32_t chunk) { return chunk + 1 == stage->chunks ? 0 : chunk + 1; }

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
                          uint64_t deadline, uint64_t *done)
{
  int64_t rc = gpud_mutex_acquire(&stage->mutex, deadline);
  if (rc != 0)
    return rc;
  const uint64_t piece = piece_size(stage, size);
  stage->get.destination = NULL; /* its chunks are used for this */
  while (*done < size) {
    uint64_t part = smaller(size - *done, piece);
    uint32_t chunk = stage->next;
    rc = await_chunk(stage, chunk, deadline);
    if (rc != 0)
      break;
    gpud_copy_cached(chunk_pointer(stage, chunk), source + *done, part);
    rc = post_copy(stage, GPUD_OP_COPY_IN, chunk, address + *done, part, stream, deadline);
    if (rc < 0)
      break;
    stage->next = after(stage, chunk);
    *done += part;
    gpud_connection_count_copied(stage->connection, part, 0);
  }
  gpud_mutex_release(&stage->mutex);
  return rc;
}

static int64_t go_on_getting(gpud_stage *stage, uint64_t deadline)
{
  gpud_staged_get *get = &stage->get;
  const uint64_t piece = piece_size(stage, get->size);
  while (get->done < get->size) {
    /* Ask ahead, as far as there are chunks that hold nothing we have yet to copy out. */
    while (get->asked < get->size && get->asked < get->done + stage->chunks * piece) {
      uint64_t part = smaller(get->size - get->asked, piece);
      uint32_t chunk = stage->next;
      int64_t rc = await_chunk(stage, chunk, deadline);
      if (rc == 0)
        rc = post_copy(stage, GPUD_OP_COPY_OUT, chunk, get->address + get->asked, part, get->stream, deadline);
      if (rc < 0)
        return rc;
      stage->next = after(stage, chunk);
      get->last = rc;
      get->asked += part;
    }
    uint64_t part = smaller(get->size - get->done, piece);
    int rc = await_chunk(stage, get->oldest, deadline);
    if (rc != 0)
      return rc;
    gpud_copy(get->destination + get->done, chunk_pointer(stage, get->oldest), part);
    gpud_connection_count_copied(stage->connection, 0, part);
    get->oldest = after(stage, get->oldest);
    get->done += part;
  }
  return get->last;
}

static int64_t get_staged(gpud_stage *stage, char *destination, uint64_t address, uint64_t size, uint32_t stream,
                          uint64_t deadline)
{
  gpud_staged_get *get = &stage->get;
  if (get->destination != destination || get->address != address || get->size != size || get->stream != stream)
    *get = (gpud_staged_get){
      .destination = destination, .address = address, .size = size, .stream = stream, .oldest = stage->next};
  int64_t rc = go_on_getting(stage, deadline);
  if (rc != -ETIMEDOUT)
    get->destination = NULL;
  return rc;
}

/* ---------------------------------------------------------------- direct: no chunks, the endpoint takes and fills the caller's memory */

static int64_t post_direct(gpud_stage *stage, uint8_t op, uint64_t address, uint64_t size, uint32_t stream,
                           uint64_t deadline)
{
  const gpud_msg_copy_host copy = {.address = address, .size = size, .region = GPUD_REGION_STREAM};
  return gpud_connection_post(stage->connection, op, stream, &copy, sizeof copy, deadline);
}

/* The memory that the next direct copy names. */
static int offer(gpud_stage *stage, void *memory, uint64_t size, uint64_t deadline)
{
  const gpud_region_offer whole = {.number = GPUD_REGION_STREAM, .size = size, .pointer = memory, .fd = -1};
  return gpud_connection_offer(stage->connection, &whole, deadline);
}

static int withdraw(gpud_stage *stage, int64_t sequence)
{
  gpud_endpoint *ep = gpud_connection_endpoint(stage->connection);
  return ep->ops->region_withdraw(ep, GPUD_REGION_STREAM, sequence > 0 ? (uint64_t)sequence : 0);
}

/*
 * Waits for the get that was asked for. Its memory is let go of unless time ran out; who asked finds it done, be it another stage's
 * transfer that waits here.
 */
static int await_get(gpud_stage *stage, uint64_t deadline)
{
  gpud_direct_get *get = &gpud_connection_direct(stage->connection)->get;
  if (!get->offered)
    return 0;
  int rc = gpud_connection_wait(stage->connection, (uint64_t)get->sequence, deadline);
  if (rc == -ETIMEDOUT)
    return rc;
  if (rc != -ESHUTDOWN) /* then there is no endpoint any more */
    withdraw(stage, get->sequence);
  get->offered = false;
  if (rc == 0) {
    gpud_connection_count_copied(stage->connection, 0, get->size);
    get->stage->done = *get;
  }
  *get = (gpud_direct_get){0};
  return rc;
}

static int64_t put_direct(gpud_stage *stage, uint64_t address, const char *source, uint64_t size, uint32_t stream,
                          uint64_t deadline)
{
  gpud_mutex *turn = turn_of(stage);
  int64_t rc = gpud_mutex_acquire(turn, deadline);
  if (rc != 0)
    return rc;
  rc = await_get(stage, deadline);
  for (uint64_t done = 0, part; rc >= 0 && done < size; done += part) {
    part = smaller(size - done, GPUD_BULK_DIRECT);
    rc = offer(stage, (char *)(uintptr_t)source + done, part, deadline);
    if (rc != 0)
      break;
    rc = post_direct(stage, GPUD_OP_COPY_IN, address + done, part, stream, deadline);
    int left = withdraw(stage, rc);
    if (left != 0)
      rc = left;
    if (rc > 0)
      gpud_connection_count_copied(stage->connection, part, 0);
  }
  gpud_mutex_release(turn);
  return rc;
}

static bool same_get(const gpud_direct_get *get, const gpud_direct_get *wanted)
{
  return get->stage == wanted->stage && get->destination == wanted->destination && get->address == wanted->address &&
         get->size == wanted->size && get->stream == wanted->stream;
}

/* Nothing being under way. */
static int64_t ask_direct(const gpud_direct_get *wanted, uint64_t deadline)
{
  gpud_stage *stage = wanted->stage;
  int64_t rc = offer(stage, wanted->destination, wanted->size, deadline);
  if (rc != 0)
    return rc;
  rc = post_direct(stage, GPUD_OP_COPY_OUT, wanted->address, wanted->size, wanted->stream, deadline);
  if (rc < 0) {
    withdraw(stage, 0);
    return rc;
  }
  gpud_direct_get *get = &gpud_connection_direct(stage->connection)->get;
  *get = *wanted;
  get->offered = true;
  get->sequence = rc;
  return rc;
}

/* A get that ran out of time goes on where it was when it is asked for again: on a slow link it would not end otherwise. */
static int64_t get_direct(gpud_stage *stage, char *destination, uint64_t address, uint64_t size, uint32_t stream,
                          uint64_t deadline)
{
  const gpud_direct_get wanted = {
    .stage = stage, .destination = destination, .address = address, .size = size, .stream = stream};
  const gpud_direct_get *asked = &gpud_connection_direct(stage->connection)->get;
  int64_t rc = 0;
  if (!same_get(&stage->done, &wanted) && !same_get(asked, &wanted)) {
    rc = await_get(stage, deadline); /* another thread's */
    if (rc == 0)
      rc = ask_direct(&wanted, deadline);
  }
  if (rc >= 0 && !same_get(&stage->done, &wanted))
    rc = await_get(stage, deadline);
  if (rc != 0)
    return rc;
  rc = stage->done.sequence;
  stage->done = (gpud_direct_get){0};
  return rc;
}

uint64_t gpud_stage_piece(const gpud_stage *stage, int put)
{
  return put && !stage->region ? GPUD_BULK_DIRECT : GPUD_BULK_MAX;
}

int gpud_stage_abandon(gpud_stage *stage, const void *memory, uint64_t size)
{
  gpud_mutex *turn = turn_of(stage);
  int rc = gpud_mutex_acquire(turn, gpud_now() + ABANDON_NS);
  if (rc != 0)
    return rc;
  if (stage->region) { /* nothing is written there but by the call itself, and by the next one anew */
    stage->get.destination = NULL;
    gpud_mutex_release(turn);
    return 0;
  }
  abandon(stage, memory, size);
  gpud_mutex_release(turn);
  return 0;
}

/* ---------------------------------------------------------------- either way */

int64_t gpud_bulk_put_some(gpud_stage *stage, uint64_t address, const void *source, uint64_t size, uint32_t stream,
                           uint64_t deadline, uint64_t *done)
{
  *done = 0;
  if (size == 0)
    return (int64_t)gpud_connection_posted(stage->connection);
  if (size > UINT64_MAX - address)
    return -EINVAL;
  if (size <= GPUD_BULK_INLINE)
    return put_inline(stage->connection, address, source, size, stream, deadline);
  return stage->region ? put_staged(stage, address, source, size, stream, deadline, done)
                       : put_direct(stage, address, source, size, stream, deadline);
}

int64_t gpud_bulk_put(gpud_stage *stage, uint64_t address, const void *source, uint64_t size, uint32_t stream,
                      uint64_t deadline)
{
  uint64_t done;
  return gpud_bulk_put_some(stage, address, source, size, stream, deadline, &done);
}

int64_t gpud_bulk_get(gpud_stage *stage, void *destination, uint64_t address, uint64_t size, uint32_t stream,
                      uint64_t deadline)
{
  if (size == 0)
    return (int64_t)gpud_connection_posted(stage->connection);
  if (size > UINT64_MAX - address)
    return -EINVAL;
  gpud_mutex *turn = turn_of(stage);
  int64_t rc = gpud_mutex_acquire(turn, deadline);
  if (rc != 0)
    return rc;
  rc = stage->region ? get_staged(stage, destination, address, size, stream, deadline)
                     : get_direct(stage, destination, address, size, stream, deadline);
  gpud_mutex_release(turn);
  return rc;
}
