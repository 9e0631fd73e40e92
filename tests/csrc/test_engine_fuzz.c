/*
 * Invariant: whatever a client posts, gpud_engine_run returns one of GPUD_RUN_*, detach gives everything back, and nothing
 * crashes, hangs, leaks, or touches what it must not.
 *
 * stdin: records of { op, how, stream (2), size (2) } and `size` bytes of body. A device address in a body means an offset into the
 * window where `how` says so, since the window's place is not known to whoever writes the records.
 * Sessions follow each other on one engine until one leaves it in need of replacement.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine_kernels.h"

#define FIRST_IS_OFFSET 1u  /* the body's first eight bytes are relative to the window */
#define SECOND_IS_OFFSET 2u /* and the second eight */
#define OUT_OF_SEQUENCE 4u  /* posted with a wrong sequence number */
#define THIRD_IS_OFFSET 16u /* and the third, where REGION_ADD has it */
#define NEXT_SESSION 255u   /* as an op: hang up and begin anew; `how` 1: without waiting for what was posted */
#define SEALED 8u           /* REGION_ADD: the descriptor that goes with it is a proper one */

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
  return "handle_segv=0:handle_sigbus=0:handle_sigill=0:handle_sigfpe=0:detect_stack_use_after_return=0";
}

/* Only kernels that look at no address of the client's: what such a one does to this process is its own affair. */
static const rig_kernel harmless[] = {
  KERNEL(empty, 0, 0, 0, 1024),
  KERNEL(trap, 8, 16, 4096, 64),
  {0},
};

typedef struct record {
  uint8_t op;
  uint8_t how;
  uint16_t stream;
  uint16_t size;
  unsigned char body[GPUD_MAX_MESSAGE];
} record;

static int read_record(record *m)
{
  unsigned char head[6];
  if (fread(head, sizeof head, 1, stdin) != 1)
    return 0;
  m->op = head[0];
  m->how = head[1];
  memcpy(&m->stream, head + 2, 2);
  memcpy(&m->size, head + 4, 2);
  if (m->size > GPUD_MAX_MESSAGE - sizeof(gpud_message_head))
    m->size = GPUD_MAX_MESSAGE - sizeof(gpud_message_head);
  memset(m->body, 0, 16);
  m->size = (uint16_t)fread(m->body, 1, m->size, stdin);
  return 1;
}

static void place(record *m, unsigned bit, unsigned which, uint64_t base)
{
  uint64_t offset;
  if (!(m->how & bit) || m->size < 8 * (which + 1))
    return;
  memcpy(&offset, m->body + 8 * which, 8);
  offset += base;
  memcpy(m->body + 8 * which, &offset, 8);
}

static void send_descriptor(gpud_endpoint *ep, const record *m)
{
  gpud_msg_region_add add;
  memcpy(&add, m->body, sizeof add);
  int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK(fd >= 0);
  if (add.size <= 64 * MiB)
    CHECK(ftruncate(fd, (off_t)add.size) == 0);
  if (m->how & SEALED)
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  ep->ops->region_offer(ep, &(gpud_region_offer){.fd = fd}, in_good_time());
  close(fd);
}

/* Takes what the engine answered, so that it never waits for room. Every answer must be well-formed: receive checks it. */
static void take_replies(rig *r)
{
  unsigned char message[GPUD_MAX_MESSAGE];
  int rc;
  while ((rc = gpud_connection_receive(r->client, message, 0)) > 0)
    continue;
  CHECK(rc != -EPROTO);
}

/* Past the connection, which would not let a wrong sequence number out. */
static int post_out_of_sequence(gpud_endpoint *ep, const record *m)
{
  void *message;
  uint32_t size = (uint32_t)sizeof(gpud_message_head) + m->size;
  if (ep->ops->reserve(ep, size, &message))
    return 0;
  memset((char *)message + 8, 0xff, 8);
  memcpy((char *)message + sizeof(gpud_message_head), m->body, m->size);
  ep->ops->commit(ep, m->op, size);
  return 0; /* the last: what follows would not be heard */
}

static uint32_t ended; /* the loop's reason, once it has one */

static void *engine_thread(void *argument)
{
  gpud_store_release_u32(&ended, (uint32_t)rig_run(argument));
  return NULL;
}

/* Plays records to one session, up to its end. Whether there may be another. */
static int session(rig *r)
{
  static record m;
  int more;
  ended = 0;
  rig_begin(r);
  gpud_endpoint *ep = gpud_connection_endpoint(r->client);
  for (uint32_t i = 0; i < 256; i++)
    ((unsigned char *)gpud_region_pointer(r->region))[i] = (unsigned char)i;
  pthread_t engine;
  CHECK_EQUAL(pthread_create(&engine, NULL, engine_thread, r), 0);
  int posted = 1;
  while ((more = read_record(&m)) && m.op != NEXT_SESSION) {
    if (!posted)
      continue;
    place(&m, FIRST_IS_OFFSET, 0, r->welcome.window_base);
    place(&m, SECOND_IS_OFFSET, 1, r->welcome.window_base);
    place(&m, THIRD_IS_OFFSET, 2, r->welcome.window_base);
    take_replies(r);
    if (m.op == GPUD_OP_REGION_ADD && m.size >= sizeof(gpud_msg_region_add))
      send_descriptor(ep, &m);
    /* The engine may have ended the session already: then there is no more room one day, or nobody there. */
    if (m.how & OUT_OF_SEQUENCE)
      posted = post_out_of_sequence(ep, &m);
    else
      posted = gpud_connection_post(r->client, m.op, m.stream, m.body, m.size, gpud_now() + 1000000000ull) > 0;
  }
  while (!(more && m.how) && !gpud_load_acquire_u32(&ended) &&
         gpud_connection_completed(r->client) < gpud_connection_posted(r->client))
    take_replies(r);
  take_replies(r);
  gpud_connection_free(r->client); /* hangs up, if CLOSE was not among the records */
  pthread_join(engine, NULL);
  CHECK(ended >= GPUD_RUN_CLOSED && ended <= GPUD_RUN_PROTOCOL);
  int rc = gpud_engine_detach(r->engine, GPUD_STATUS_SHUTDOWN, "the test is over");
  CHECK(rc == 0 || rc == -EBUSY);
  gpud_engine_stats stats;
  gpud_engine_get_stats(r->engine, &stats);
  CHECK_EQUAL(stats.memory, 0);
  CHECK_EQUAL(stats.host_memory, 0);
  CHECK_EQUAL(stats.modules, 0);
  CHECK(stats.faults <= 1);
  gpud_region_free(r->region);
  return more && rc == 0;
}

int main(void)
{
  rig r;
  rig_open(&r, 2, harmless);
  while (session(&r))
    continue;
  rig_shut(&r);
  return 0;
}
