/*
 * Bytes that ride behind commands, over a pair of TCP sockets. The worker is a thread with some memory: COPY_IN and COPY_OUT address it
 * from 0 on, and the head's stream says how it behaves.
 * usage: tcp_payload SCENARIO
 */
#include <errno.h>
#include <stdbool.h>
#include <sys/wait.h>

#include "bulk.h"
#include "order.h"
#include "tcp_link.h"

#define MiB (1u << 20)
#define MEMORY (24 * MiB)
#define REFUSE 1u /* takes no byte of the payload, sends none */
#define HALF 2u   /* takes half of it, sends half */
#define HOLD 4u   /* waits until `held` is 0 */
#define REGION 3u /* of the client's, SIZE bytes */
#define SIZE (16 * MiB)
#define READ_WRITE (GPUD_ACCESS_READ | GPUD_ACCESS_WRITE)

static gpud_connection *client, *worker;
static gpud_region *region;
static char *memory; /* the worker's */
static pthread_t server;
static uint32_t served; /* copies that the worker has done its part of */
static uint32_t held;

static char *region_bytes(void) { return gpud_region_pointer(region); }

static void post_fault(const char *message)
{
  const gpud_message_head *head = (const gpud_message_head *)(const void *)message;
  const gpud_msg_fault fault = {.sequence = head->sequence, .status = GPUD_STATUS_INVALID, .op = head->op};
  CHECK(gpud_connection_post(worker, GPUD_OP_FAULT, 0, &fault, sizeof fault, in_good_time()) > 0);
}

/* One command. 0, or what ended the connection. */
static int serve_one(const char *message)
{
  const gpud_message_head *head = (const gpud_message_head *)(const void *)message;
  gpud_msg_copy_host m;
  bool faulted = false;
  int64_t rc = 0;
  memcpy(&m, message + sizeof *head, sizeof m);
  while (head->stream == HOLD && gpud_load_acquire_u32(&held))
    gpud_relax();
  switch (head->op) {
  case GPUD_OP_REGION_ADD:
    rc = gpud_connection_region_add(worker, message, in_good_time());
    break;
  case GPUD_OP_REGION_DROP:
    rc = gpud_connection_region_drop(worker, message);
    break;
  case GPUD_OP_COPY_IN:
  case GPUD_OP_COPY_OUT: {
    uint64_t size = head->stream == REFUSE ? 0 : head->stream == HALF ? m.size / 2 : m.size;
    bool in = head->op == GPUD_OP_COPY_IN;
    if (size && in)
      rc = gpud_connection_rma_read(worker, m.region, m.offset, memory + m.address, size);
    else if (size)
      rc = gpud_connection_rma_write(worker, m.region, m.offset, memory + m.address, size);
    faulted = !in && size < m.size;
    gpud_fetch_add_u32(&served, 1);
    break;
  }
  case GPUD_OP_DATA:
    rc = gpud_connection_post(worker, GPUD_OP_DATA, 0, message + sizeof *head, head->size - (uint32_t)sizeof *head,
                              in_good_time());
    break;
  default:
    break;
  }
  if (rc == -EPIPE)
    return (int)rc;
  CHECK(rc >= 0);
  if (faulted)
    post_fault(message);
  gpud_connection_publish(worker, gpud_connection_received(worker), faulted);
  return 0;
}

static void *serve(void *unused)
{
  _Alignas(64) char message[GPUD_MAX_MESSAGE];
  int rc;
  do
    rc = gpud_connection_receive(worker, message, in_good_time());
  while (rc > 0 && ((gpud_message_head *)(void *)message)->op != GPUD_OP_CLOSE && serve_one(message) == 0);
  CHECK(rc > 0 || rc == -EPIPE);
  return unused;
}

static void open_ends(void)
{
  gpud_endpoint *ends[2];
  tcp_pair(0, 0, &ends[0], &ends[1]);
  client = gpud_connection_new(ends[0], 1);
  worker = gpud_connection_new(ends[1], 0);
  CHECK(client && worker);
  served = 0;
  CHECK_EQUAL(gpud_region_create(client, REGION, SIZE, READ_WRITE, 0, 0, in_good_time(), &region), 0);
}

static void start_server(void) { CHECK_EQUAL(pthread_create(&server, NULL, serve, NULL), 0); }

static void stop_server(void)
{
  CHECK(gpud_connection_post(client, GPUD_OP_CLOSE, 0, NULL, 0, in_good_time()) > 0);
  pthread_join(server, NULL);
}

static void close_ends(void)
{
  gpud_connection_free(client);
  gpud_region_free(region); /* after its connection, as a garbage collector may */
  gpud_connection_free(worker);
}

static int64_t copy(uint8_t op, uint32_t behaviour, uint64_t address, uint32_t number, uint64_t offset, uint64_t size)
{
  const gpud_msg_copy_host m = {.address = address, .offset = offset, .size = size, .region = number};
  return gpud_connection_post(client, op, behaviour, &m, sizeof m, in_good_time());
}

static void complete(int64_t sequence)
{
  CHECK(sequence > 0);
  CHECK_EQUAL(gpud_connection_wait(client, (uint64_t)sequence, in_good_time()), 0);
}

/* The words arrive and come back: the stream is in step. */
static void in_step(void)
{
  char message[GPUD_MAX_MESSAGE];
  CHECK(gpud_connection_post(client, GPUD_OP_DATA, 0, "in step", 7, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_receive(client, message, in_good_time()), 16 + 7);
  CHECK(memcmp(message + 16, "in step", 7) == 0);
}

static void wait_until(const uint32_t *word, uint32_t value)
{
  uint64_t end = in_good_time();
  while (gpud_load_acquire_u32(word) < value && gpud_now() < end)
    gpud_relax();
  CHECK(gpud_load_acquire_u32(word) >= value);
}

/* ---------------------------------------------------------------- scenarios */

static const uint64_t SIZES[] = {0,    1,    2,     63,    64,    65,    4095,  4096,        4097,       8191,
                                 8192, 8193, 16383, 32767, 32768, 32769, 65537, MiB + 12345, 3 * MiB + 1};
#define COUNT (sizeof SIZES / sizeof SIZES[0])

static void a_region_is_copied_at_every_size(void)
{
  start_server();
  for (size_t i = 0; i < COUNT; i++) {
    uint64_t at = 7 * i;
    fill_bytes(region_bytes() + at, (uint32_t)SIZES[i], i);
    complete(copy(GPUD_OP_COPY_IN, 0, i, REGION, at, SIZES[i]));
    CHECK(bytes_are(memory + i, (uint32_t)SIZES[i], i));
    memset(region_bytes(), 0, SIZES[i] + at + 1);
    complete(copy(GPUD_OP_COPY_OUT, 0, i, REGION, at + 1, SIZES[i]));
    CHECK(bytes_are(region_bytes() + at + 1, (uint32_t)SIZES[i], i));
    CHECK(SIZES[i] == 0 || region_bytes()[at] == 0);
    in_step();
  }
  stop_server();
}

static void any_memory_is_put_and_got_at_every_size(void)
{
  gpud_stage *stage;
  char *here = malloc(MEMORY);
  start_server();
  CHECK_EQUAL(gpud_stage_create(client, 0, 2, 65536, in_good_time(), &stage), 0);
  for (size_t i = 0; i <= COUNT; i++) {
    uint64_t size = i < COUNT ? SIZES[i] : 20 * MiB + 3; /* of several commands */
    if (size && size <= GPUD_BULK_INLINE)
      continue; /* a WRITE, which is a device's */
    fill_bytes(here, (uint32_t)size, i);
    int64_t sequence = gpud_bulk_put(stage, i, here, size, 0, in_good_time());
    memset(here, 0, size); /* from its return on the memory is ours */
    complete(sequence);
    CHECK(bytes_are(memory + i, (uint32_t)size, i));
    CHECK(gpud_bulk_get(stage, here + 1, i, size, 0, in_good_time()) > 0);
    CHECK(bytes_are(here + 1, (uint32_t)size, i));
    in_step();
  }
  gpud_stage_free(stage);
  stop_server();
  free(here);
}

static void *keep_getting(void *unused)
{
  for (int i = 0; i < 20; i++)
    complete(copy(GPUD_OP_COPY_OUT, 0, 0, REGION, 0, 2 * MiB));
  return unused;
}

static void *keep_talking(void *unused)
{
  for (uint64_t i = 0; i < 5000; i++)
    complete(gpud_connection_post(client, GPUD_OP_SYNCHRONIZE, 0, NULL, 0, in_good_time()));
  return unused;
}

static void both_directions_and_messages_go_at_once(void)
{
  pthread_t threads[2];
  gpud_stage *stage;
  char *here = malloc(4 * MiB);
  start_server();
  fill_bytes(memory, 2 * MiB, 5);
  fill_bytes(here, 4 * MiB, 6);
  CHECK_EQUAL(gpud_stage_create(client, 0, 2, 65536, in_good_time(), &stage), 0);
  CHECK_EQUAL(pthread_create(&threads[0], NULL, keep_getting, NULL), 0);
  CHECK_EQUAL(pthread_create(&threads[1], NULL, keep_talking, NULL), 0);
  for (int i = 0; i < 20; i++)
    CHECK(gpud_bulk_put(stage, 4 * MiB, here, 4 * MiB, 0, in_good_time()) > 0);
  for (int i = 0; i < 2; i++)
    pthread_join(threads[i], NULL);
  complete((int64_t)gpud_connection_posted(client));
  CHECK(bytes_are(region_bytes(), 2 * MiB, 5));
  CHECK(bytes_are(memory + 4 * MiB, 4 * MiB, 6));
  gpud_stage_free(stage);
  stop_server();
  free(here);
}

static void what_a_handler_leaves_is_skipped(void)
{
  start_server();
  for (size_t i = 0; i < COUNT; i++) {
    complete(copy(GPUD_OP_COPY_IN, REFUSE, 0, REGION, 0, SIZES[i]));
    in_step();
    complete(copy(GPUD_OP_COPY_IN, HALF, 0, REGION, 0, SIZES[i]));
    in_step();
  }
  for (size_t i = 0; i < COUNT; i++) /* without a wait in between */
    CHECK(copy(GPUD_OP_COPY_IN, i % 2 ? REFUSE : HALF, 0, REGION, 0, SIZES[i]) > 0);
  in_step();
  stop_server();
}

static void a_copy_that_fails_half_way_leaves_the_stream_in_step(void)
{
  char message[GPUD_MAX_MESSAGE];
  start_server();
  fill_bytes(memory, MiB, 9);
  CHECK(copy(GPUD_OP_COPY_OUT, HALF, 0, REGION, 0, MiB) > 0);
  int64_t last = copy(GPUD_OP_COPY_OUT, REFUSE, 0, REGION, 0, MiB); /* the worker sends no byte of any later one */
  CHECK_EQUAL(gpud_connection_wait(client, (uint64_t)last, in_good_time()), -EIO);
  CHECK(gpud_connection_receive(client, message, in_good_time()) > 0);
  CHECK_EQUAL(((gpud_message_head *)(void *)message)->op, GPUD_OP_FAULT);
  CHECK(bytes_are(region_bytes(), MiB / 2, 9));
  stop_server();
}

/* Such commands are refused by the worker, as they are over any transport: the client's end must not be at a loss. */
static void bytes_that_no_region_has_can_be_named(void)
{
  static const struct {
    uint32_t region;
    uint64_t offset, size;
  } cases[] = {{REGION + 1, 0, 100},    {REGION, SIZE - 10, 11},     {REGION, SIZE + 1, 60000},
               {REGION, 0, SIZE + 1},   {9999, 0, 1ull << 60},       {REGION, UINT64_MAX, UINT64_MAX},
               {REGION, 1, UINT64_MAX}, {GPUD_REGION_STREAM, 0, 77}, {GPUD_REGION_STREAM, 0, MiB}};
  char message[GPUD_MAX_MESSAGE];
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    CHECK(copy(GPUD_OP_COPY_IN, 0, 0, cases[i].region, cases[i].offset, cases[i].size) > 0);
    do
      CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
    while (((gpud_message_head *)(void *)message)->op == GPUD_OP_REGION_ADD &&
           gpud_connection_region_add(worker, message, in_good_time()) == 0);
    gpud_msg_copy_host m;
    memcpy(&m, message + 16, sizeof m);
    CHECK_EQUAL(m.region, cases[i].region);
    if (m.region != GPUD_REGION_STREAM) {
      int rc = gpud_connection_rma_read(worker, m.region, m.offset, memory, m.size);
      CHECK(rc == (cases[i].region == REGION ? -ERANGE : -ENOENT));
    }
    CHECK(gpud_connection_post(
              client, GPUD_OP_MODULE_LOAD, 0,
              &(gpud_msg_module_load){.region = cases[i].region, .offset = cases[i].offset, .size = cases[i].size},
              sizeof(gpud_msg_module_load), in_good_time()) > 0);
    CHECK(gpud_connection_post(client, GPUD_OP_SYNCHRONIZE, 0, NULL, 0, in_good_time()) > 0);
    CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
    CHECK_EQUAL(((gpud_message_head *)(void *)message)->op, GPUD_OP_MODULE_LOAD);
    CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
    CHECK_EQUAL(((gpud_message_head *)(void *)message)->op, GPUD_OP_SYNCHRONIZE);
  }
}

static void bytes_move_only_with_the_command_that_names_them(void)
{
  char message[GPUD_MAX_MESSAGE], byte;
  gpud_region *poor;
  CHECK_EQUAL(gpud_region_create(client, 4, 4096, 0, 0, 0, in_good_time(), &poor), 0);
  for (int i = 0; i < 2; i++) {
    CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
    CHECK_EQUAL(gpud_connection_region_add(worker, message, in_good_time()), 0);
  }
  CHECK_EQUAL(gpud_connection_rma_read(worker, REGION, 0, &byte, 1), -ENOTSUP);
  CHECK_EQUAL(gpud_connection_rma_write(worker, REGION, 0, &byte, 1), -ENOTSUP);
  CHECK_EQUAL(gpud_connection_rma_read(worker, 4, 0, &byte, 1), -EACCES);
  CHECK_EQUAL(gpud_connection_rma_write(worker, 4, 0, &byte, 1), -EACCES);
  CHECK_EQUAL(gpud_connection_rma_read(worker, REGION, SIZE, &byte, 1), -ERANGE);
  CHECK_EQUAL(gpud_connection_rma_write(worker, REGION, SIZE, &byte, 1), -ERANGE);
  CHECK_EQUAL(gpud_connection_rma_read(worker, 5, 0, &byte, 1), -ENOENT);
  CHECK_EQUAL(gpud_connection_rma_write(worker, 77777, 0, &byte, 1), -ENOENT);
  fill_bytes(region_bytes(), 100, 1);
  CHECK(copy(GPUD_OP_COPY_IN, 0, 0, REGION, 10, 50) > 0);
  CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_rma_write(worker, REGION, 10, memory, 50), -ENOTSUP); /* it is a COPY_IN */
  CHECK_EQUAL(gpud_connection_rma_read(worker, REGION, 11, memory, 10), -ENOTSUP);  /* not from the front */
  CHECK_EQUAL(gpud_connection_rma_read(worker, REGION, 10, memory, 51), -ENOTSUP);  /* more than it brought */
  CHECK_EQUAL(gpud_connection_rma_read(worker, REGION, 10, memory, 20), 0);
  CHECK_EQUAL(gpud_connection_rma_read(worker, REGION, 30, memory + 20, 30), 0);
  CHECK(memcmp(memory, region_bytes() + 10, 50) == 0);
  CHECK_EQUAL(gpud_connection_rma_read(worker, REGION, 60, &byte, 1), -ENOTSUP);
  CHECK(copy(GPUD_OP_COPY_OUT, 0, 0, REGION, 10, 50) > 0);
  CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_rma_read(worker, REGION, 10, memory, 50), -ENOTSUP);
  CHECK_EQUAL(gpud_connection_rma_write(worker, REGION, 10, memory, 51), -ENOTSUP);
  CHECK_EQUAL(gpud_connection_rma_write(worker, REGION, 10, memory, 30), 0);
  CHECK_EQUAL(gpud_connection_rma_write(worker, REGION, 40, memory + 30, 20), 0);
  CHECK_EQUAL(gpud_connection_rma_write(worker, REGION, 60, memory, 1), -ENOTSUP);
  gpud_region_free(poor);
}

static void memory_that_goes_before_its_bytes_left_is_not_missed(void)
{
  gpud_store_release_u32(&held, 1);
  start_server();
  fill_bytes(region_bytes(), 14 * MiB, 3); /* more than the sockets hold */
  int64_t last = copy(GPUD_OP_COPY_IN, HOLD, 0, REGION, 0, 14 * MiB);
  CHECK_EQUAL(gpud_region_drop(client, region, in_good_time()), 0); /* although nobody takes anything */
  memset(region_bytes(), 0, 14 * MiB);
  gpud_store_release_u32(&held, 0);
  complete(last);
  CHECK(bytes_are(memory, 14 * MiB, 3));
  in_step();
  stop_server();
}

static void a_get_out_of_time_goes_on_when_it_is_repeated(void)
{
  gpud_stage *stage;
  char *here = calloc(1, MEMORY);
  CHECK_EQUAL(gpud_stage_create(client, 0, 2, 65536, in_good_time(), &stage), 0);
  fill_bytes(memory, 9 * MiB, 4);
  gpud_store_release_u32(&held, 1);
  start_server();
  for (int i = 0; i < 3; i++)
    CHECK_EQUAL(gpud_bulk_get(stage, here, 0, 9 * MiB, HOLD, gpud_now() + 2000000), -ETIMEDOUT);
  gpud_store_release_u32(&held, 0);
  CHECK(gpud_bulk_get(stage, here, 0, 9 * MiB, HOLD, in_good_time()) > 0);
  CHECK(bytes_are(here, 9 * MiB, 4));
  CHECK_EQUAL(served, 1);
  /* Another call waits for it and then goes its own way. */
  gpud_store_release_u32(&held, 1);
  CHECK_EQUAL(gpud_bulk_get(stage, here, 0, 9 * MiB, HOLD, gpud_now() + 2000000), -ETIMEDOUT);
  CHECK_EQUAL(gpud_bulk_put(stage, 0, here, 8192, 0, gpud_now() + 2000000), -ETIMEDOUT);
  CHECK_EQUAL(gpud_bulk_get(stage, here + 1, 0, 4096, 0, gpud_now() + 2000000), -ETIMEDOUT);
  /* Given up, its memory may go although the bytes are still to come. */
  CHECK_EQUAL(gpud_stage_abandon(stage, here + 1, MiB), 0); /* another's: it goes on */
  CHECK_EQUAL(gpud_stage_abandon(stage, here, 9 * MiB), 0);
  memset(here, 0, 9 * MiB);
  gpud_store_release_u32(&held, 0);
  in_step();
  CHECK_EQUAL(served, 2);
  for (uint32_t i = 0; i < 9 * MiB; i++)
    CHECK(here[i] == 0);
  CHECK(gpud_bulk_get(stage, here, 0, 9 * MiB, HOLD, in_good_time()) > 0);
  CHECK(bytes_are(here, 9 * MiB, 4));
  /* One that ends with its connection. */
  gpud_store_release_u32(&held, 1);
  CHECK_EQUAL(gpud_bulk_get(stage, here, 0, 9 * MiB, HOLD, gpud_now() + 2000000), -ETIMEDOUT);
  gpud_stage_free(stage);
  free(here);
  gpud_store_release_u32(&held, 0);
  stop_server();
}

/* Two stages share the one stream: who waits for the other's get takes nothing of it away. */
static void a_get_that_another_stages_transfer_waited_for_is_found_done(void)
{
  gpud_stage *first;
  gpud_stage *second;
  char *here = calloc(1, MEMORY);
  char *there = calloc(1, MEMORY);
  CHECK_EQUAL(gpud_stage_create(client, 0, 2, 65536, in_good_time(), &first), 0);
  CHECK_EQUAL(gpud_stage_create(client, 1, 2, 65536, in_good_time(), &second), 0);
  fill_bytes(memory, 9 * MiB, 6);
  gpud_store_release_u32(&held, 1);
  start_server();
  CHECK_EQUAL(gpud_bulk_get(first, here, 0, 9 * MiB, HOLD, gpud_now() + 2000000), -ETIMEDOUT);
  CHECK_EQUAL(gpud_bulk_get(second, there, 0, 9 * MiB, HOLD, gpud_now() + 2000000), -ETIMEDOUT);
  gpud_store_release_u32(&held, 0);
  CHECK(gpud_bulk_get(second, there, 0, 9 * MiB, HOLD, in_good_time()) > 0);
  CHECK(gpud_bulk_get(first, here, 0, 9 * MiB, HOLD, in_good_time()) > 0);
  in_step();
  CHECK_EQUAL(served, 2);
  CHECK(bytes_are(here, 9 * MiB, 6) && bytes_are(there, 9 * MiB, 6));
  /* The same again is another get; and of one that was given up, done or not, nothing is left to find. */
  for (int freed = 0; freed < 2; freed++) {
    gpud_store_release_u32(&held, 1);
    CHECK_EQUAL(gpud_bulk_get(first, here, 0, MiB, HOLD, gpud_now() + 2000000), -ETIMEDOUT);
    gpud_store_release_u32(&held, 0);
    CHECK(gpud_bulk_put(second, 0, there, 8192, 0, in_good_time()) > 0);
    if (freed)
      gpud_stage_free(first);
    else
      CHECK_EQUAL(gpud_stage_abandon(first, here, MiB), 0);
    in_step();
    uint64_t before = served;
    memset(here, 0, MiB);
    CHECK(gpud_bulk_get(freed ? second : first, here, 0, MiB, HOLD, in_good_time()) > 0);
    in_step();
    CHECK_EQUAL(served, before + 1);
  }
  gpud_stage_free(second);
  stop_server();
  free(here);
  free(there);
}

static void a_burst_arrives_although_its_poster_never_waits(void)
{
  char message[GPUD_MAX_MESSAGE];
  CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0); /* REGION_ADD */
  for (uint32_t round = 0; round < 200; round++) {
    for (uint32_t i = 0; i < round % 40 + 1; i++)
      CHECK(gpud_connection_post(client, GPUD_OP_DATA, 0, &i, sizeof i, in_good_time()) > 0);
    for (uint32_t i = 0; i < round % 40 + 1; i++) {
      CHECK_EQUAL(gpud_connection_receive(worker, message, in_good_time()), 16 + sizeof i);
      CHECK(memcmp(message + 16, &i, sizeof i) == 0);
    }
    gpud_connection_publish(worker, gpud_connection_received(worker), 0);
  }
}

static void bytes_are_taken_in_although_nobody_waits_for_them(void)
{
  start_server();
  CHECK(copy(GPUD_OP_COPY_OUT, 0, 0, REGION, 0, SIZE) > 0); /* more than the sockets hold */
  wait_until(&served, 1);
  /* Also once somebody has waited, in vain. */
  gpud_store_release_u32(&held, 1);
  int64_t last = copy(GPUD_OP_COPY_OUT, HOLD, 0, REGION, 0, SIZE);
  CHECK_EQUAL(gpud_connection_wait(client, (uint64_t)last, gpud_now() + 2000000), -ETIMEDOUT);
  gpud_store_release_u32(&held, 0);
  wait_until(&served, 2);
  stop_server();
}

static void a_worker_that_does_not_read_uses_the_credit_up(void)
{
  char message[GPUD_MAX_MESSAGE];
  uint64_t posted = 1, got = 0;
  gpud_connection_stats stats;
  char body[GPUD_MAX_MESSAGE - 16] = {0};
  while (gpud_connection_post(client, GPUD_OP_DATA, 0, body, sizeof body, gpud_now() + 20000000) > 0)
    posted++;
  CHECK_EQUAL(gpud_connection_post(client, GPUD_OP_DATA, 0, body, sizeof body, 0), -ETIMEDOUT);
  CHECK_EQUAL(gpud_connection_posted(client), posted);
  gpud_connection_get_stats(client, &stats);
  CHECK(stats.credit_waits > 0);
  CHECK_EQUAL(gpud_connection_post(client, GPUD_OP_DATA, 0, body, GPUD_MAX_MESSAGE - 15, 0), -EMSGSIZE);
  while (got < posted) {
    CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
    got++;
  }
  CHECK(gpud_connection_post(client, GPUD_OP_DATA, 0, "", 1, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_receive(worker, message, in_good_time()), 17);
}

static void copies_out_that_nobody_waits_for_have_a_bound(void)
{
  uint64_t posted = 0;
  gpud_store_release_u32(&held, 1);
  start_server();
  while (gpud_connection_post(client, GPUD_OP_COPY_OUT, HOLD, &(gpud_msg_copy_host){.size = 1, .region = REGION},
                              sizeof(gpud_msg_copy_host), 0) > 0)
    posted++;
  CHECK_EQUAL(posted, 1024);
  gpud_store_release_u32(&held, 0);
  for (int i = 0; i < 3000; i++)
    CHECK(copy(GPUD_OP_COPY_OUT, 0, 0, REGION, 0, 1) > 0);
  complete((int64_t)gpud_connection_posted(client));
  stop_server();
}

static void *read_in_vain(void *unused)
{
  char message[GPUD_MAX_MESSAGE];
  int rc;
  while ((rc = gpud_connection_receive(worker, message, in_good_time())) > 0) {
    if (((gpud_message_head *)(void *)message)->op == GPUD_OP_REGION_ADD)
      CHECK_EQUAL(gpud_connection_region_add(worker, message, in_good_time()), 0);
    else
      CHECK_EQUAL(gpud_connection_rma_read(worker, GPUD_REGION_STREAM, 0, memory, MiB), -EPIPE);
  }
  CHECK_EQUAL(rc, -EPIPE);
  return unused;
}

/* Sends a command and half of its bytes by hand, behind the client's back. */
static void send_half_a_copy(int socket)
{
  struct {
    gpud_message_head head;
    gpud_msg_copy_host body;
  } m = {.head = {.size = sizeof m, .op = GPUD_OP_COPY_IN, .sequence = 2},
         .body = {.size = MiB, .region = GPUD_REGION_STREAM}};
  CHECK_EQUAL(send(socket, &m, sizeof m, 0), sizeof m);
  CHECK_EQUAL(send(socket, region_bytes(), MiB / 2, 0), MiB / 2);
}

static void transfer_ends_with(void (*end)(int socket))
{
  int sockets[2];
  gpud_hello hello = {.version_min = 1, .version_max = 1};
  gpud_welcome welcome = {0};
  gpud_endpoint *ep;
  pthread_t reader;
  struct {
    gpud_message_head head;
    gpud_msg_region_add body;
  } add = {.head = {.size = sizeof add, .op = GPUD_OP_REGION_ADD, .sequence = 1}, .body = {.size = 4096, .access = 3}};
  gpud_connection *before = worker;
  tcp_sockets(sockets);
  CHECK_EQUAL(gpud_endpoint_accept(sockets[1], &hello, &welcome, "", in_good_time(), &ep), 0);
  worker = gpud_connection_new(ep, 0);
  CHECK_EQUAL(pthread_create(&reader, NULL, read_in_vain, NULL), 0);
  CHECK_EQUAL(send(sockets[0], &add, sizeof add, 0), sizeof add);
  send_half_a_copy(sockets[0]);
  end(sockets[0]);
  pthread_join(reader, NULL);
  gpud_connection_free(worker);
  worker = before;
  close(sockets[0]);
}

static void by_interrupt(int socket)
{
  (void)socket;
  gpud_connection_interrupt(worker);
}

static void by_hang_up(int socket) { shutdown(socket, SHUT_RDWR); }

static void by_reset(int socket)
{
  const struct linger off = {.l_onoff = 1};
  setsockopt(socket, SOL_SOCKET, SO_LINGER, &off, sizeof off);
  shutdown(socket, SHUT_WR);
}

static void a_transfer_ends_with_its_connection(void)
{
  transfer_ends_with(by_interrupt);
  transfer_ends_with(by_hang_up);
  transfer_ends_with(by_reset);
}

static void a_client_interrupted_lets_go_of_memory(void)
{
  gpud_stage *stage;
  char *here = malloc(SIZE);
  memset(here, 1, SIZE);
  CHECK_EQUAL(gpud_stage_create(client, 0, 2, 65536, in_good_time(), &stage), 0);
  CHECK(copy(GPUD_OP_COPY_IN, 0, 0, REGION, 0, SIZE) > 0); /* that the worker does not take */
  gpud_connection_interrupt(client);
  CHECK(gpud_bulk_put(stage, 0, here, MiB, 0, in_good_time()) != 0);
  free(here);
  gpud_stage_free(stage);
  CHECK_EQUAL(gpud_connection_wait(client, 1, in_good_time()), -EPIPE);
}

static void a_forked_child_forgets_and_its_parent_goes_on(void)
{
  start_server();
  in_step();
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    gpud_connection_forget(client);
    CHECK_EQUAL(gpud_connection_post(client, GPUD_OP_DATA, 0, "", 1, in_good_time()), -ESHUTDOWN);
    gpud_connection_free(client);
    gpud_region_free(region);
    _exit(0);
  }
  int status;
  CHECK_EQUAL(waitpid(child, &status, 0), child);
  CHECK_EQUAL(status, 0);
  for (int i = 0; i < 20; i++)
    in_step();
  complete(copy(GPUD_OP_COPY_OUT, 0, 0, REGION, 0, MiB));
  stop_server();
}

#define SCENARIO(name) {#name, name}

int main(int count, char **arguments)
{
  static const struct {
    const char *name;
    void (*run)(void);
  } scenarios[] = {
    SCENARIO(a_region_is_copied_at_every_size),
    SCENARIO(any_memory_is_put_and_got_at_every_size),
    SCENARIO(both_directions_and_messages_go_at_once),
    SCENARIO(what_a_handler_leaves_is_skipped),
    SCENARIO(a_copy_that_fails_half_way_leaves_the_stream_in_step),
    SCENARIO(bytes_that_no_region_has_can_be_named),
    SCENARIO(bytes_move_only_with_the_command_that_names_them),
    SCENARIO(memory_that_goes_before_its_bytes_left_is_not_missed),
    SCENARIO(a_get_out_of_time_goes_on_when_it_is_repeated),
    SCENARIO(a_get_that_another_stages_transfer_waited_for_is_found_done),
    SCENARIO(a_burst_arrives_although_its_poster_never_waits),
    SCENARIO(bytes_are_taken_in_although_nobody_waits_for_them),
    SCENARIO(a_worker_that_does_not_read_uses_the_credit_up),
    SCENARIO(copies_out_that_nobody_waits_for_have_a_bound),
    SCENARIO(a_transfer_ends_with_its_connection),
    SCENARIO(a_client_interrupted_lets_go_of_memory),
    SCENARIO(a_forked_child_forgets_and_its_parent_goes_on),
  };
  CHECK(count == 2);
  for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
    if (strcmp(scenarios[i].name, arguments[1]) != 0)
      continue;
    int descriptors = open_descriptors();
    memory = calloc(1, MEMORY);
    CHECK(memory);
    open_ends();
    scenarios[i].run();
    close_ends();
    free(memory);
    CHECK_EQUAL(open_descriptors(), descriptors);
    return 0;
  }
  return 2;
}
