/*
 * Two threads and the connection between them, over a loop endpoint.
 * usage: connection_stress SCENARIO MESSAGES. With "alone" as third argument the process may use one CPU only: then
 * nobody spins, and every wait is a sleep that somebody must end.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "check.h"
#include "connection.h"
#include "order.h"

static gpud_connection *client, *worker;
static uint64_t messages;

static void open_both(void)
{
  gpud_endpoint *ends[2];
  CHECK_EQUAL(gpud_endpoint_loop(0, 256, &ends[0], &ends[1]), 0);
  client = gpud_connection_new(ends[0], 1);
  worker = gpud_connection_new(ends[1], 0);
  CHECK(client && worker);
}

static void close_both(void)
{
  gpud_connection_free(client);
  gpud_connection_free(worker);
}

static void start(pthread_t *thread, void *(*body)(void *), void *argument)
{
  CHECK_EQUAL(pthread_create(thread, NULL, body, argument), 0);
}

static int op_of(const void *message) { return ((const unsigned char *)message)[offsetof(gpud_message_head, op)]; }

static uint32_t size_of(uint64_t index)
{
  uint64_t state = random_of(index);
  return (uint32_t)(random_next(&state) % (random_next(&state) % 16 ? 49 : GPUD_MAX_MESSAGE - 15));
}

/* ---------------------------------------------------------------- exchange: both directions at once, sent back whole */

static void *echo(void *unused)
{
  CHECK_EQUAL(gpud_connection_echo(worker, in_good_time()), 0);
  return unused;
}

static void *post_all(void *unused)
{
  char body[GPUD_MAX_MESSAGE];
  for (uint64_t i = 1; i <= messages; i++) {
    uint32_t size = size_of(i);
    fill_bytes(body, size, i);
    CHECK_EQUAL(gpud_connection_post(client, GPUD_OP_DATA, (uint32_t)i, body, size, in_good_time()), i);
  }
  return unused;
}

static void exchange(void)
{
  pthread_t poster, echoer;
  char message[GPUD_MAX_MESSAGE];
  gpud_connection_stats stats;
  start(&echoer, echo, NULL);
  start(&poster, post_all, NULL);
  for (uint64_t i = 1; i <= messages; i++) {
    gpud_message_head head;
    CHECK_EQUAL(gpud_connection_receive(client, message, in_good_time()), 16 + size_of(i));
    memcpy(&head, message, sizeof head);
    CHECK_EQUAL(head.stream, (uint32_t)i);
    CHECK(bytes_are(message + 16, size_of(i), i));
  }
  pthread_join(poster, NULL);
  CHECK(gpud_connection_post(client, GPUD_OP_CLOSE, 0, NULL, 0, in_good_time()) > 0);
  pthread_join(echoer, NULL);
  gpud_connection_get_stats(client, &stats);
  CHECK_EQUAL(stats.messages_sent, messages + 1);
  CHECK_EQUAL(stats.messages_received, messages);
}

/* ---------------------------------------------------------------- threads: several post and several receive */

static uint64_t arrived;

static void *post_some(void *unused)
{
  for (uint64_t i = 0; i < messages; i++)
    CHECK(gpud_connection_post(client, GPUD_OP_DATA, 0, &i, sizeof i, in_good_time()) > 0);
  return unused;
}

static void *receive_some(void *unused)
{
  char message[GPUD_MAX_MESSAGE];
  int size;
  while ((size = gpud_connection_receive(worker, message, in_good_time())) > 0 && op_of(message) == GPUD_OP_DATA)
    gpud_fetch_add_u64(&arrived, 1);
  CHECK(size > 0); /* a CLOSE: one for each of us */
  return unused;
}

static void threads(void)
{
  pthread_t posters[3], receivers[3];
  for (int i = 0; i < 3; i++) {
    start(&receivers[i], receive_some, NULL);
    start(&posters[i], post_some, NULL);
  }
  for (int i = 0; i < 3; i++)
    pthread_join(posters[i], NULL);
  for (int i = 0; i < 3; i++)
    CHECK(gpud_connection_post(client, GPUD_OP_CLOSE, 0, NULL, 0, in_good_time()) > 0);
  for (int i = 0; i < 3; i++)
    pthread_join(receivers[i], NULL);
  CHECK_EQUAL(arrived, 3 * messages);
}

/* ---------------------------------------------------------------- completion: waits of several threads, then a fault */

static void *complete(void *unused)
{
  char message[GPUD_MAX_MESSAGE];
  static const gpud_msg_fault fault = {.sequence = 1, .status = GPUD_STATUS_INVALID};
  for (uint64_t i = 1; i <= messages; i++) {
    CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
    gpud_connection_publish(worker, i, 0);
  }
  CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
  CHECK(gpud_connection_post(worker, GPUD_OP_FAULT, 0, &fault, sizeof fault, in_good_time()) > 0);
  gpud_connection_publish(worker, messages + 1, 1);
  return unused;
}

static void *synchronize(void *unused)
{
  for (uint64_t i = 0; i < messages / 3; i++) {
    int64_t sequence = gpud_connection_post(client, GPUD_OP_SYNCHRONIZE, 0, NULL, 0, in_good_time());
    CHECK(sequence > 0);
    CHECK_EQUAL(gpud_connection_wait(client, (uint64_t)sequence, in_good_time()), 0);
    CHECK(gpud_connection_completed(client) >= (uint64_t)sequence);
  }
  return unused;
}

static void completion(void)
{
  pthread_t completer, waiters[3];
  char message[GPUD_MAX_MESSAGE];
  messages -= messages % 3;
  start(&completer, complete, NULL);
  for (int i = 0; i < 3; i++)
    start(&waiters[i], synchronize, NULL);
  for (int i = 0; i < 3; i++)
    pthread_join(waiters[i], NULL);
  CHECK_EQUAL(gpud_connection_wait(client, messages + 1, 0), -ETIMEDOUT); /* not posted: not complete */
  CHECK(gpud_connection_post(client, GPUD_OP_SYNCHRONIZE, 0, NULL, 0, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_wait(client, messages + 1, in_good_time()), -EIO);
  /* Whoever sees the fault finds its message without waiting. */
  CHECK(gpud_connection_receive(client, message, 0) > 0);
  CHECK_EQUAL(op_of(message), GPUD_OP_FAULT);
  pthread_join(completer, NULL);
}

/* ---------------------------------------------------------------- credit: a worker that does not read */

static void *post_until_refused(void *unused)
{
  CHECK(gpud_connection_post(client, GPUD_OP_DATA, 0, "", 1, in_good_time()) > 0);
  return unused;
}

static void credit(void)
{
  char message[GPUD_MAX_MESSAGE];
  pthread_t poster;
  uint64_t posted = 0;
  gpud_connection_stats stats;
  while (gpud_connection_post(client, GPUD_OP_DATA, 0, "", 1, 0) > 0)
    posted++;
  CHECK_EQUAL(gpud_connection_post(client, GPUD_OP_DATA, 0, "", 1, 0), -ETIMEDOUT);
  CHECK_EQUAL(gpud_connection_post(client, GPUD_OP_DATA, 0, "", 1, gpud_now() + 1000000), -ETIMEDOUT);
  CHECK_EQUAL(posted, 1024);
  start(&poster, post_until_refused, NULL);
  for (uint64_t i = 0; i <= posted; i++)
    CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
  pthread_join(poster, NULL);
  CHECK_EQUAL(gpud_connection_receive(worker, message, 0), -EAGAIN);
  gpud_connection_get_stats(client, &stats);
  CHECK(stats.credit_waits > 0);
  CHECK_EQUAL(gpud_connection_post(client, GPUD_OP_DATA, 0, message, GPUD_MAX_MESSAGE - 15, 0), -EMSGSIZE);
  CHECK_EQUAL(gpud_connection_receive(client, message, gpud_now() + 1000000), -ETIMEDOUT);
}

/* ---------------------------------------------------------------- ends: how a wait ends that nobody satisfies */

static void *receive_nothing(void *c)
{
  char message[GPUD_MAX_MESSAGE];
  CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), -EPIPE);
  return NULL;
}

static void *wait_for_nothing(void *c)
{
  CHECK_EQUAL(gpud_connection_wait(c, 1000000, in_good_time()), -EPIPE);
  return NULL;
}

static void *post_for_ever(void *c)
{
  int64_t rc;
  while ((rc = gpud_connection_post(c, GPUD_OP_DATA, 0, "", 1, in_good_time())) > 0)
    continue;
  CHECK_EQUAL(rc, -EPIPE);
  return NULL;
}

static void ends(void)
{
  char message[GPUD_MAX_MESSAGE];
  for (uint64_t round = 0; round < messages; round++) {
    pthread_t waiters[3];
    start(&waiters[0], receive_nothing, client);
    start(&waiters[1], wait_for_nothing, client);
    start(&waiters[2], post_for_ever, client);
    CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
    if (round % 2) {
      gpud_connection_interrupt(client);
    } else {
      gpud_connection_free(worker);
    }
    for (int i = 0; i < 3; i++)
      pthread_join(waiters[i], NULL);
    CHECK_EQUAL(gpud_connection_alive(client), round % 2);
    if (round % 2)
      gpud_connection_free(worker);
    gpud_connection_free(client);
    open_both();
  }
}

/* ---------------------------------------------------------------- last words: what was sent before the end arrives */

static void last_words(void)
{
  char message[GPUD_MAX_MESSAGE];
  for (uint64_t round = 0; round < messages; round++) {
    for (uint64_t i = 1; i <= round % 200; i++)
      CHECK_EQUAL(gpud_connection_post(worker, GPUD_OP_DATA, 0, &i, sizeof i, 0), i);
    gpud_connection_free(worker);
    CHECK_EQUAL(gpud_connection_alive(client), 0);
    for (uint64_t i = 1; i <= round % 200; i++) {
      CHECK_EQUAL(gpud_connection_receive(client, message, in_good_time()), 24);
      CHECK(memcmp(message + 16, &i, sizeof i) == 0);
    }
    CHECK_EQUAL(gpud_connection_receive(client, message, in_good_time()), -EPIPE);
    CHECK_EQUAL(gpud_connection_post(client, GPUD_OP_DATA, 0, "", 1, in_good_time()), -EPIPE);
    gpud_connection_forget(client);
    CHECK_EQUAL(gpud_connection_receive(client, message, in_good_time()), -ESHUTDOWN);
    CHECK_EQUAL(gpud_connection_post(client, GPUD_OP_DATA, 0, "", 1, in_good_time()), -ESHUTDOWN);
    CHECK_EQUAL(gpud_connection_wait(client, 1, in_good_time()), -ESHUTDOWN);
    gpud_connection_free(client);
    open_both();
  }
}

int main(int count, char **arguments)
{
  static const struct {
    const char *name;
    void (*run)(void);
  } scenarios[] = {{"exchange", exchange}, {"threads", threads}, {"completion", completion},
                   {"credit", credit},     {"ends", ends},       {"last_words", last_words}};
  CHECK(count >= 3);
  messages = strtoull(arguments[2], NULL, 10);
  if (count > 3 && strcmp(arguments[3], "alone") == 0) {
    cpu_set_t all, one;
    CPU_ZERO(&one);
    CHECK_EQUAL(sched_getaffinity(0, sizeof all, &all), 0);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
      if (CPU_ISSET(i, &all))
        CPU_SET(i, &one);
    CHECK_EQUAL(sched_setaffinity(0, sizeof one, &one), 0);
    CHECK_EQUAL(gpud_spin_ns(), 0);
  }
  for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
    if (strcmp(scenarios[i].name, arguments[1]) != 0)
      continue;
    int descriptors = open_descriptors();
    open_both();
    scenarios[i].run();
    close_both();
    CHECK_EQUAL(open_descriptors(), descriptors);
    return 0;
  }
  return 2;
}
