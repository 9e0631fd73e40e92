/*
 * Invariant: whatever a peer writes into the memory that both sides map, and whenever, this side's calls return what
 * their headers list; nothing else in the process changes. A thread scribbles over all of it, half of the time with words that
 * look like messages, credits and completions, while the other calls everything there is.
 * usage: hostile_peer ROLE ROUNDS SEED      ROLE: client or worker, the honest side
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "connection.h"
#include "endpoint_ring.h"
#include "order.h"

#define SLOTS 256u

static uint64_t *shared;
static size_t words;
static uint64_t seed;
static uint32_t finished;

static uint64_t plausible(uint64_t *state)
{
  uint64_t tag = random_next(state) % 3 + 1;
  uint64_t size = random_next(state) % (random_next(state) % 4 ? 200 : 65536);
  uint64_t op = random_next(state) % (random_next(state) % 2 ? 2 : 256);
  return tag | size << 32 | op << 48;
}

static void *scribble(void *unused)
{
  uint64_t state = random_of(seed);
  while (!gpud_load_acquire_u32(&finished)) {
    uint64_t at = random_next(&state);
    uint64_t value = random_next(&state);
    switch (random_next(&state) % 4) {
    case 0:
      gpud_store_release_u64(&shared[at % words], value);
      break;
    case 1: /* the head of a slot */
      gpud_store_release_u64(&shared[at % words / 8 * 8], plausible(&state));
      break;
    case 2: /* credits, sleeping words, completion */
      gpud_store_release_u64(&shared[at % 5 * 16], value % 4 ? value % 3000 : value);
      break;
    default: /* the second word of a slot: stream and a sequence number that may be right */
      gpud_store_release_u64(&shared[at % words / 8 * 8 + 1], value % 64 << 32);
    }
  }
  return unused;
}

static void keep(void *memory, void *owner)
{
  (void)memory;
  (void)owner;
}

static int is_one_of(int64_t rc, const int *errors)
{
  for (; *errors; errors++)
    if (rc == -*errors)
      return 1;
  return rc >= 0;
}

/* One connection over the scribbled memory, until the protocol is seen broken. */
static uint64_t honest(int is_client, int socket, uint64_t *state)
{
  static const int post_errors[] = {ETIMEDOUT, EPROTO, EPIPE, 0}, receive_errors[] = {EAGAIN, ETIMEDOUT, EPROTO, 0},
                   wait_errors[] = {ETIMEDOUT, EPROTO, EIO, EPIPE, 0};
  _Alignas(64) char message[GPUD_MAX_MESSAGE];
  gpud_ring_setup setup = {.name = "test",
                           .client = is_client,
                           .command_slots = SLOTS,
                           .reply_slots = SLOTS,
                           .memory = shared,
                           .free_memory = keep,
                           .socket = dup(socket),
                           .pidfd = -1};
  gpud_endpoint *ep;
  CHECK_EQUAL(gpud_ring_endpoint_new(&setup, &ep), 0);
  gpud_connection *c = gpud_connection_new(ep, is_client);
  CHECK(c);
  uint64_t received = 0;
  for (int i = 0; i < 50; i++) {
    uint32_t size = (uint32_t)(random_next(state) % (GPUD_MAX_MESSAGE - 16));
    uint64_t soon = random_next(state) % 8 ? 0 : gpud_now() + 20000;
    memset(message, 0, sizeof message);
    CHECK(is_one_of(gpud_connection_post(c, GPUD_OP_DATA, 0, message, size, soon), post_errors));
    int got = gpud_connection_receive(c, message, soon);
    CHECK(is_one_of(got, receive_errors));
    if (got > 0) {
      received++;
      CHECK(got >= 16 && got <= GPUD_MAX_MESSAGE);
      CHECK_EQUAL(gpud_message_check(message, (size_t)got, !is_client), 0); /* the copy does not change any more */
    }
    CHECK(is_one_of(gpud_connection_wait(c, random_next(state) % 100, soon), wait_errors));
    CHECK(gpud_connection_completed(c) <= gpud_connection_posted(c));
    gpud_connection_publish(c, random_next(state), 0);
  }
  /* Its socket is a copy of ours, and freeing would shut that down. */
  gpud_connection_forget(c);
  gpud_connection_free(c);
  return received;
}

int main(int count, char **arguments)
{
  int pair[2];
  pthread_t peer;
  CHECK_EQUAL(count, 4);
  int is_client = strcmp(arguments[1], "client") == 0;
  uint64_t rounds = strtoull(arguments[2], NULL, 10), received = 0;
  seed = strtoull(arguments[3], NULL, 10);
  size_t size = gpud_ring_memory_size(SLOTS, SLOTS);
  words = size / sizeof *shared;
  /* Guarded: what is read or written beyond the memory ends the process. */
  char *area = mmap(NULL, size + 2 * 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(area != MAP_FAILED);
  CHECK_EQUAL(mprotect(area + 65536, size, PROT_READ | PROT_WRITE), 0);
  shared = (uint64_t *)(void *)(area + 65536);
  CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  int descriptors = open_descriptors();
  CHECK_EQUAL(pthread_create(&peer, NULL, scribble, NULL), 0);
  uint64_t state = random_of(seed + 1);
  uint64_t end = in_good_time(); /* more rounds where the peer hardly got to run */
  for (uint64_t i = 0; i < rounds || (received == 0 && gpud_now() < end); i++)
    received += honest(is_client, pair[0], &state);
  gpud_store_release_u32(&finished, 1);
  pthread_join(peer, NULL);
  CHECK_EQUAL(open_descriptors(), descriptors);
  CHECK(received > 0); /* some of it passed for messages: the test looked behind the first check */
  close(pair[0]);
  close(pair[1]);
  munmap(area, size + 2 * 65536);
  return 0;
}
