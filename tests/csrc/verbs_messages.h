/* Scenarios of verbs_processes.c: messages, credit, completions, waits, threads. */
#ifndef VERBS_MESSAGES_H
#define VERBS_MESSAGES_H

#include "verbs_rig.h"

static void asks_in_every_size(gpud_connection *c)
{
  static const uint32_t sizes[] = {24,  31,  32,  63,   64,   65,   127,  128,  129,
                                   255, 256, 257, 1000, 4095, 4096, 4097, 8191, 8192};
  uint64_t times[5];
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    CHECK_EQUAL(gpud_connection_pingpong(c, sizes[i], 5, times), 0);
  CHECK(gpud_connection_post(c, GPUD_OP_CLOSE, 0, NULL, 0, in_good_time()) > 0);
  receive_ends(c, -EPIPE);
}

static void messages_of_every_size_come_back(void) { between(asks_in_every_size, echoes); }

#define MANY 3000u

static void floods(gpud_connection *c) { CHECK_EQUAL(gpud_connection_flood(c, 64, MANY), 0); }

static void sinks(gpud_connection *c) { CHECK_EQUAL(gpud_connection_sink(c, MANY), 0); }

static void a_flood_arrives_whole_and_in_order(void) { between(floods, sinks); }

/* What a side may surely send that nobody reads: the last quarter is for link messages, and less than an eighth may be owed. */
#define UNREAD (GPUD_VERBS_RECEIVES * 5 / 8)
#define UNREAD_MOST (GPUD_VERBS_RECEIVES * 3 / 4)
#define FILLINGS 4

/* Memory that both processes see, as the meetings are. */
static uint32_t *sent_by(bool client, uint64_t filling) { return &meetings[512 + 2 * filling + client]; }

/* Posts numbered messages until there is no credit. How many is left for the other to read. */
static uint32_t fill(gpud_connection *c, bool client, uint64_t filling)
{
  uint32_t sent = 0;
  for (; sent < UNREAD; sent++)
    CHECK(gpud_connection_post(c, GPUD_OP_DATA, 0, &sent, sizeof sent, in_good_time()) > 0);
  while (gpud_connection_post(c, GPUD_OP_DATA, 0, &sent, sizeof sent, gpud_now() + 100000000u) > 0)
    sent++;
  CHECK(sent <= UNREAD_MOST);
  gpud_store_release_u32(sent_by(client, filling), sent);
  meet();
  return sent;
}

static void empty(gpud_connection *c, bool client, uint64_t filling)
{
  char message[GPUD_MAX_MESSAGE];
  uint32_t sent = gpud_load_acquire_u32(sent_by(client, filling));
  for (uint32_t i = 0; i < sent; i++) {
    CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), sizeof(gpud_message_head) + sizeof i);
    CHECK(memcmp(message + sizeof(gpud_message_head), &i, sizeof i) == 0);
  }
}

static void client_fills(gpud_connection *c)
{
  for (uint64_t i = 0; i < FILLINGS; i++) {
    fill(c, true, i);
    CHECK_EQUAL(gpud_connection_wait(c, gpud_connection_posted(c), in_good_time()), 0); /* reads nothing */
    empty(c, false, i);
    tell(c, "next");
    hear(c, "next");
  }
}

static void worker_fills(gpud_connection *c)
{
  uint64_t sequence = 0;
  for (uint64_t i = 0; i < FILLINGS; i++) {
    fill(c, false, i);
    uint64_t last = sequence + gpud_load_acquire_u32(sent_by(true, i));
    while (sequence < last)
      gpud_connection_publish(c, ++sequence, 0); /* more than there is credit for: the last one counts */
    sequence++;                                  /* that of "next" */
    empty(c, true, i);
    hear(c, "next");
    tell(c, "next");
  }
  receive_ends(c, -EPIPE);
}

static void with_both_ways_full_commands_complete_and_credit_comes_back(void) { between(client_fills, worker_fills); }

static void faults(gpud_connection *c)
{
  const gpud_msg_fault fault = {.sequence = 1, .status = GPUD_STATUS_INVALID, .op = GPUD_OP_SYNCHRONIZE};
  char message[GPUD_MAX_MESSAGE];
  CHECK(gpud_connection_receive(c, message, in_good_time()) > 0);
  CHECK(gpud_connection_post(c, GPUD_OP_FAULT, 0, &fault, sizeof fault, in_good_time()) > 0);
  gpud_connection_publish(c, 1, 1);
  receive_ends(c, -EPIPE);
}

static void finds_the_fault(gpud_connection *c)
{
  char message[GPUD_MAX_MESSAGE];
  gpud_message_head head;
  CHECK(gpud_connection_post(c, GPUD_OP_SYNCHRONIZE, 0, NULL, 0, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_wait(c, 1, in_good_time()), -EIO);
  CHECK(gpud_connection_receive(c, message, 0) > 0); /* it is there by now */
  memcpy(&head, message, sizeof head);
  CHECK_EQUAL(head.op, GPUD_OP_FAULT);
}

static void who_sees_the_fault_has_its_message(void) { between(finds_the_fault, faults); }

static void says_and_leaves(gpud_connection *c)
{
  for (int i = 0; i < 100; i++)
    tell(c, "last words");
}

static void hears_all(gpud_connection *c)
{
  for (int i = 0; i < 100; i++)
    hear(c, "last words");
  receive_ends(c, -EPIPE);
}

static void what_was_sent_before_close_arrives(void) { between(says_and_leaves, hears_all); }

static void waits_for_nothing(gpud_connection *c) { receive_ends(c, -EPIPE); }

static void is_interrupted(gpud_connection *c)
{
  pthread_t other;
  CHECK_EQUAL(pthread_create(&other, NULL, interrupt_soon, c), 0);
  receive_ends(c, -EPIPE);
  CHECK_EQUAL(gpud_connection_wait(c, 1, in_good_time()), -EPIPE);
  pthread_join(other, NULL);
}

static void an_interrupt_ends_a_wait(void) { between(is_interrupted, waits_for_nothing); }

static void *waits_for_completion(void *c)
{
  CHECK_EQUAL(gpud_connection_wait(c, 2, in_good_time()), 0);
  return NULL;
}

/* One thread waits for a message, two for a completion; the worker gives first the one, then the other, each after a sleep. */
static void waits_in_three_threads(gpud_connection *c)
{
  pthread_t others[2];
  tell(c, "one");
  tell(c, "two");
  for (int i = 0; i < 2; i++)
    CHECK_EQUAL(pthread_create(&others[i], NULL, waits_for_completion, c), 0);
  hear(c, "answer");
  for (int i = 0; i < 2; i++)
    pthread_join(others[i], NULL);
}

static void answers_slowly(gpud_connection *c)
{
  hear(c, "one");
  hear(c, "two");
  usleep(300000);
  gpud_connection_publish(c, 1, 0);
  usleep(50000);
  gpud_connection_publish(c, 2, 0);
  usleep(300000);
  tell(c, "answer");
  receive_ends(c, -EPIPE);
}

#define EACH_POSTS 60

static void *posts(void *c)
{
  for (int i = 0; i < EACH_POSTS; i++)
    tell(c, "from a thread");
  return NULL;
}

static void *comes_and_goes(void *c)
{
  for (uint32_t i = 0; i < 10; i++) {
    gpud_region *region;
    CHECK_EQUAL(gpud_region_create(c, i % 2, 4096, 3, 0, 0, in_good_time(), &region), 0);
    CHECK_EQUAL(gpud_region_drop(c, region, in_good_time()), 0);
    gpud_region_free(region);
  }
  return NULL;
}

static void is_used_by_four_threads(gpud_connection *c)
{
  pthread_t others[3];
  for (int i = 0; i < 3; i++)
    CHECK_EQUAL(pthread_create(&others[i], NULL, i == 2 ? comes_and_goes : posts, c), 0);
  for (int i = 0; i < 2 * EACH_POSTS; i++)
    hear(c, "from a thread");
  for (int i = 0; i < 3; i++)
    pthread_join(others[i], NULL);
  CHECK(gpud_connection_post(c, GPUD_OP_CLOSE, 0, NULL, 0, in_good_time()) > 0);
  receive_ends(c, -EPIPE);
}

static void several_threads_use_one_end(void) { between(is_used_by_four_threads, echoes); }

static void several_threads_wait_at_once(void) { between(waits_in_three_threads, answers_slowly); }

#endif
