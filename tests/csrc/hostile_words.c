/*
 * Invariant: each word that a peer may store in the segment, made wrong one at a time, has the one outcome that docs/protocol.md gives
 * it: not there, ignored, or -EPROTO for good. An honest end is driven over memory in which the test plays the peer, by offsets and
 * bits of its own.
 * usage: hostile_words
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

#define SLOTS 256u
#define COMMAND_CREDIT 0u
#define REPLY_CREDIT 128u
#define CLIENT_SLEEPING 256u
#define WORKER_SLEEPING 384u
#define COMPLETED 512u
#define FAULTED 520u
#define COMMANDS 640u
#define REPLIES (COMMANDS + 64 * SLOTS)

static unsigned char *memory;
static int pair[2];
static gpud_connection *honest;
static int is_client;

static void store(size_t at, uint64_t value)
{
  __atomic_store_n((uint64_t *)(void *)(memory + at), value, __ATOMIC_RELEASE);
}

static uint64_t load(size_t at) { return __atomic_load_n((uint64_t *)(void *)(memory + at), __ATOMIC_ACQUIRE); }

static void keep(void *of, void *owner)
{
  (void)of;
  (void)owner;
}

static void open_as(int client)
{
  memset(memory, 0, gpud_ring_memory_size(SLOTS, SLOTS));
  CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  gpud_ring_setup setup = {.name = "test",
                           .client = client,
                           .command_slots = SLOTS,
                           .reply_slots = SLOTS,
                           .memory = memory,
                           .free_memory = keep,
                           .socket = pair[0],
                           .pidfd = -1};
  gpud_endpoint *ep;
  CHECK_EQUAL(gpud_ring_endpoint_new(&setup, &ep), 0);
  honest = gpud_connection_new(ep, client);
  CHECK(honest);
  is_client = client;
}

static void shut(void)
{
  gpud_connection_free(honest);
  close(pair[1]);
}

static size_t slot(uint64_t position) { return (is_client ? REPLIES : COMMANDS) + 64 * (position % SLOTS); }

static uint64_t word(uint64_t tag, uint64_t size, uint64_t op, uint64_t flags)
{
  return tag | size << 32 | op << 48 | flags << 56;
}

/* A DATA message but for what is said of it, and its number, in the slot of `position`. */
static void put(uint64_t position, uint64_t first, uint32_t sequence)
{
  store(slot(position) + 8, (uint64_t)sequence << 32);
  store(slot(position), first);
}

static int look(void)
{
  static char message[GPUD_MAX_MESSAGE];
  return gpud_connection_receive(honest, message, 0);
}

/* Takes DATA messages of `slots` slots each until the honest end stands at `position`. */
static void walk(uint64_t *at, uint32_t *sequence, uint64_t position, uint32_t slots)
{
  while (*at < position) {
    put(*at, word(*at / SLOTS + 1, 64 * slots, GPUD_OP_DATA, 0), ++*sequence);
    CHECK_EQUAL(look(), 64 * slots);
    *at += slots;
  }
}

/* ---------------------------------------------------------------- the first word of a message */

static void a_tag_of_no_lap_is_no_message(void)
{
  static const uint64_t tags[] = {0, 2, 3, 0x80000000, 0xfffffffe, 0xffffffff};
  for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
    put(0, word(tags[i], 16, GPUD_OP_DATA, 0), 1);
    CHECK_EQUAL(look(), -EAGAIN);
  }
  put(0, word(1, 16, GPUD_OP_DATA, 0), 1);
  CHECK_EQUAL(look(), 16);
  CHECK_EQUAL(look(), -EAGAIN); /* and what has been taken is not there again */
  uint64_t at = 1;
  uint32_t sequence = 1;
  walk(&at, &sequence, SLOTS, 1);
  CHECK_EQUAL(look(), -EAGAIN); /* nor a lap later: its tag is the last lap's */
}

static void a_size_or_kind_that_no_message_has_ends_it_for_good(void)
{
  static const uint64_t words[][4] = {
    {1, 0, 1, 0},        {1, 1, 1, 0},    {1, 15, 1, 0},  {1, 8193, 1, 0}, {1, 65535, 1, 0}, {1, 16, 1, 1},
    {1, 16, 1, 128},     {1, 16, 255, 0}, {1, 16, 99, 0}, {1, 17, 63, 0},  {1, 16, 16, 0},   {1, 16, 192, 0},
    {1, 64 * 256, 0, 0}, {1, 64, 0, 0},   {1, 0, 0, 0},   {1, 16, 195, 0}, {1, 16, 133, 0},  {1, 24, 21, 0},
  };
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    int client = is_client;
    put(0, word(words[i][0], words[i][1], words[i][2], words[i][3]), 1);
    CHECK_EQUAL(look(), -EPROTO);
    put(0, word(1, 16, GPUD_OP_DATA, 0), 1); /* mended, and too late */
    CHECK_EQUAL(look(), -EPROTO);
    CHECK_EQUAL(look(), -EPROTO);
    shut();
    open_as(client);
  }
}

static void a_number_that_is_not_the_next_ends_it_for_good(void)
{
  static const uint32_t numbers[] = {0, 1, 3, 0x80000002, 0xffffffff};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    int client = is_client;
    put(0, word(1, 16, GPUD_OP_DATA, 0), 1);
    CHECK_EQUAL(look(), 16);
    put(1, word(1, 16, GPUD_OP_DATA, 0), numbers[i]);
    CHECK_EQUAL(look(), -EPROTO);
    put(1, word(1, 16, GPUD_OP_DATA, 0), 2);
    CHECK_EQUAL(look(), -EPROTO);
    CHECK_EQUAL(gpud_connection_received(honest), 1);
    shut();
    open_as(client);
  }
}

/* Padding goes exactly to the end, is shorter than any message, and does not come where the ring begins. */
static void padding_is_what_it_must_be(void)
{
  static const struct {
    uint64_t at, size;
    int rc;
  } cases[] = {{253, 3 * 64, -EAGAIN},     {253, 2 * 64, -EPROTO},   {253, 4 * 64, -EPROTO},
               {253, 3 * 64 - 1, -EPROTO}, {253, 0, -EPROTO},        {255, 64, -EAGAIN},
               {255, 65535, -EPROTO},      {128, 128 * 64, -EPROTO}, {129, 127 * 64, -EAGAIN}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int client = is_client;
    uint64_t at = 0;
    uint32_t sequence = 0;
    walk(&at, &sequence, cases[i].at, 1);
    store(slot(at), word(1, cases[i].size, 0, 0));
    CHECK_EQUAL(look(), cases[i].rc);
    if (cases[i].rc == -EAGAIN) {
      put(SLOTS, word(2, 16, GPUD_OP_DATA, 0), sequence + 1); /* where the ring begins anew, with no number lost */
      CHECK_EQUAL(look(), 16);
      store(slot(SLOTS + 1), word(2, 255 * 64, 0, 0)); /* and not twice in a row: too long for any */
      CHECK_EQUAL(look(), -EPROTO);
    }
    shut();
    open_as(client);
  }
}

static void a_message_does_not_go_past_the_end(void)
{
  uint64_t at = 0;
  uint32_t sequence = 0;
  walk(&at, &sequence, 254, 1);
  put(254, word(1, 3 * 64, GPUD_OP_DATA, 0), sequence + 1);
  CHECK_EQUAL(look(), -EPROTO);
}

/* The inside of a long message is no message once the long one has been taken, whatever it looks like. */
static void the_inside_of_a_message_is_never_one(void)
{
  for (uint64_t i = 1; i < 128; i++)
    store(slot(i), word(2, 16, GPUD_OP_DATA, 0)); /* of the next lap */
  put(0, word(1, GPUD_MAX_MESSAGE, GPUD_OP_DATA, 0), 1);
  CHECK_EQUAL(look(), GPUD_MAX_MESSAGE);
  uint64_t at = 128;
  uint32_t sequence = 1;
  walk(&at, &sequence, 256, 128);
  put(256, word(2, 16, GPUD_OP_DATA, 0), sequence + 1);
  CHECK_EQUAL(look(), 16);
  CHECK_EQUAL(look(), -EAGAIN);
}

/* ---------------------------------------------------------------- credit */

static int64_t send_one(void) { return gpud_connection_post(honest, GPUD_OP_DATA, 0, NULL, 0, 0); }

/* Posts until the ring is full: then the credit is looked at again. */
static void fill_up(void)
{
  for (unsigned i = 0; i < SLOTS; i++)
    CHECK_EQUAL(send_one(), i + 1);
  CHECK_EQUAL(send_one(), -ETIMEDOUT);
}

static void credit_neither_goes_back_nor_passes_what_was_sent(void)
{
  static const uint64_t wrong[] = {SLOTS + 1, 2 * SLOTS, 1ull << 32, 1ull << 63, UINT64_MAX, UINT64_MAX - SLOTS};
  int client = is_client;
  size_t credit = client ? COMMAND_CREDIT : REPLY_CREDIT;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    fill_up();
    store(credit, wrong[i]);
    CHECK_EQUAL(send_one(), -EPROTO);
    shut();
    open_as(client);
  }
  fill_up();
  store(credit, 2);
  CHECK_EQUAL(send_one(), SLOTS + 1);
  CHECK_EQUAL(send_one(), SLOTS + 2);
  store(credit, 1); /* back */
  CHECK_EQUAL(send_one(), -EPROTO);
  store(credit, 0);
  CHECK_EQUAL(send_one(), -EPROTO);
  store(credit, SLOTS + 2); /* all of it: as far as may be */
  CHECK_EQUAL(send_one(), SLOTS + 3);
}

/* Its own positions are private: what the peer makes of the slots that it filled, and of the credit it gave, changes nothing. */
static void what_it_wrote_itself_it_does_not_read(void)
{
  for (unsigned i = 0; i < 100; i++)
    CHECK_EQUAL(send_one(), i + 1);
  memset(memory + (is_client ? COMMANDS : REPLIES), 0xff, 64 * SLOTS);
  store(is_client ? REPLY_CREDIT : COMMAND_CREDIT, UINT64_MAX);
  CHECK_EQUAL(send_one(), 101);
  put(0, word(1, 16, GPUD_OP_DATA, 0), 1);
  CHECK_EQUAL(look(), 16);
  CHECK_EQUAL(gpud_connection_posted(honest), 101);
  size_t at = (is_client ? COMMANDS : REPLIES) + 64 * 100;
  CHECK_EQUAL(load(at), word(1, 16, GPUD_OP_DATA, 0)); /* where the next one went */
}

/* ---------------------------------------------------------------- completed, faulted, sleeping */

static void what_was_never_posted_is_not_complete(void)
{
  static const uint64_t wrong[] = {4, 1000, 1ull << 32, 1ull << 63, UINT64_MAX};
  for (unsigned i = 0; i < 3; i++)
    CHECK(send_one() > 0);
  store(COMPLETED, 2);
  CHECK_EQUAL(gpud_connection_wait(honest, 2, 0), 0);
  CHECK_EQUAL(gpud_connection_wait(honest, 3, 0), -ETIMEDOUT);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    store(COMPLETED, wrong[i]);
    CHECK_EQUAL(gpud_connection_wait(honest, 3, 0), -EPROTO);
    CHECK_EQUAL(gpud_connection_wait(honest, 3, in_good_time()), -EPROTO); /* at once */
    CHECK_EQUAL(gpud_connection_completed(honest), 3);
  }
}

static void any_fault_word_but_zero_is_a_fault(void)
{
  static const uint32_t words[] = {1, 2, 0x80000000, 0xffffffff};
  CHECK(send_one() > 0);
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    store(FAULTED, words[i]);
    CHECK_EQUAL(gpud_connection_wait(honest, 1, in_good_time()), -EIO);
    CHECK_EQUAL(look(), -EAGAIN); /* that a FAULT is there to be read is the peer's promise: nobody waits for it here */
  }
}

static uint32_t ended;

/* Makes anything of the word on which the honest end sleeps, and never wakes it. */
static void *disturb(void *unused)
{
  uint64_t state = random_of(9);
  while (!__atomic_load_n(&ended, __ATOMIC_ACQUIRE)) {
    store(is_client ? CLIENT_SLEEPING : WORKER_SLEEPING,
          random_next(&state) % 3 ? random_next(&state) % 3 : UINT32_MAX);
    usleep(500);
  }
  return unused;
}

/* It ends at its deadline, and a message that comes meanwhile is not missed. */
static void a_sleeper_is_its_own_clock(void)
{
  static char message[GPUD_MAX_MESSAGE];
  pthread_t peer;
  ended = 0;
  CHECK_EQUAL(pthread_create(&peer, NULL, disturb, NULL), 0);
  uint64_t deadline = gpud_now() + 600000000;
  CHECK_EQUAL(gpud_connection_receive(honest, message, deadline), -ETIMEDOUT);
  CHECK(gpud_now() >= deadline);
  put(0, word(1, 16, GPUD_OP_DATA, 0), 1);
  CHECK_EQUAL(gpud_connection_receive(honest, message, in_good_time()), 16);
  __atomic_store_n(&ended, 1, __ATOMIC_RELEASE);
  pthread_join(peer, NULL);
  shutdown(pair[1], SHUT_RDWR); /* and its death is seen, also by one that cannot be woken */
  CHECK_EQUAL(gpud_connection_receive(honest, message, in_good_time()), -EPIPE);
}

static void (*const both[])(void) = {
  a_tag_of_no_lap_is_no_message,
  a_size_or_kind_that_no_message_has_ends_it_for_good,
  a_number_that_is_not_the_next_ends_it_for_good,
  padding_is_what_it_must_be,
  a_message_does_not_go_past_the_end,
  the_inside_of_a_message_is_never_one,
  credit_neither_goes_back_nor_passes_what_was_sent,
  what_it_wrote_itself_it_does_not_read,
  a_sleeper_is_its_own_clock,
};
static void (*const of_a_client[])(void) = {what_was_never_posted_is_not_complete, any_fault_word_but_zero_is_a_fault};

int main(void)
{
  size_t size = gpud_ring_memory_size(SLOTS, SLOTS);
  /* Guarded: what is read or written beyond the memory ends the process. */
  unsigned char *area = mmap(NULL, size + 2 * 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(area != MAP_FAILED);
  CHECK_EQUAL(mprotect(area + 65536, size, PROT_READ | PROT_WRITE), 0);
  memory = area + 65536;
  int descriptors = open_descriptors();
  for (int client = 0; client < 2; client++)
    for (size_t i = 0; i < sizeof both / sizeof *both; i++) {
      open_as(client);
      both[i]();
      shut();
    }
  for (size_t i = 0; i < sizeof of_a_client / sizeof *of_a_client; i++) {
    open_as(1);
    of_a_client[i]();
    shut();
  }
  CHECK_EQUAL(open_descriptors(), descriptors);
  munmap(area, size + 2 * 65536);
  return 0;
}
