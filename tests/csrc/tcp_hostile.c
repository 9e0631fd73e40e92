/* A client at the other end of whose socket is no worker of ours, but bytes. */
#include <errno.h>
#include <stdbool.h>

#include "order.h"
#include "tcp_link.h"

#define SIZE 65536u

static gpud_connection *client;
static gpud_region *region;
static int peer; /* the raw end */
static unsigned char answers[1 << 18];
static size_t said;

static void open_client(void)
{
  int sockets[2];
  char frame[GPUD_MAX_FRAME];
  gpud_hello hello;
  pthread_t thread;
  const gpud_welcome welcome = {.version = 1, .command_slots = 256, .reply_slots = 256};
  tcp_sockets(sockets);
  tcp_connecting connecting = {.socket = sockets[0]};
  CHECK_EQUAL(pthread_create(&thread, NULL, tcp_connect_client, &connecting), 0);
  tcp_hello(sockets[1], &hello);
  int size = gpud_frame_encode(frame, sizeof frame, GPUD_FRAME_WELCOME, &welcome, "", 0);
  CHECK_EQUAL(send(sockets[1], frame, (size_t)size, 0), size);
  pthread_join(thread, NULL);
  CHECK_EQUAL(connecting.rc, 0);
  client = gpud_connection_new(connecting.ep, 1);
  peer = sockets[1];
  said = 0;
  CHECK_EQUAL(gpud_region_create(client, 0, SIZE, 3, 0, 0, in_good_time(), &region), 0); /* command 1 */
}

static void close_client(void)
{
  close(peer);
  gpud_region_free(region);
  gpud_connection_free(client);
}

static int64_t ask(uint64_t offset, uint64_t size)
{
  const gpud_msg_copy_host m = {.offset = offset, .size = size};
  int64_t rc = gpud_connection_post(client, GPUD_OP_COPY_OUT, 0, &m, sizeof m, in_good_time());
  CHECK(rc > 0);
  return rc;
}

static void say_raw(const void *bytes, size_t size)
{
  memcpy(answers + said, bytes, size);
  said += size;
}

static void say(uint8_t op, uint32_t sequence, const void *body, size_t size)
{
  const gpud_message_head head = {.size = (uint16_t)(sizeof head + size), .op = op, .sequence = sequence};
  say_raw(&head, sizeof head);
  if (size)
    say_raw(body, size);
}

static void say_completed(uint64_t sequence, uint32_t faulted)
{
  say(GPUD_OP_COMPLETED, 0, &(gpud_msg_completed){.sequence = sequence, .faulted = faulted},
      sizeof(gpud_msg_completed));
}

static void say_bytes(uint64_t size, uint64_t index)
{
  unsigned char bytes[SIZE];
  say(GPUD_OP_BYTES, 0, &(gpud_msg_bytes){.size = size}, sizeof(gpud_msg_bytes));
  if (size <= sizeof bytes) {
    fill_bytes(bytes, (uint32_t)size, index);
    say_raw(bytes, size);
  }
}

static void send_said(size_t size)
{
  for (size_t sent = 0; sent < size;) {
    ssize_t n = send(peer, answers + sent, size - sent, MSG_NOSIGNAL);
    if (n <= 0)
      return; /* it has heard enough */
    sent += (size_t)n;
  }
}

/* What the client makes of what was said, having asked for 100 bytes as command 2. */
static int verdict(uint64_t sequence)
{
  send_said(said);
  return gpud_connection_wait(client, sequence, in_good_time());
}

static void honest(void)
{
  say_bytes(60, 1);
  say_completed(1, 0);
  say_bytes(40, 2);
  say_completed(2, 0);
}

static void bytes_unasked(void)
{
  say_bytes(100, 1);
  say_bytes(1, 1);
}
static void bytes_too_many(void) { say_bytes(101, 1); }
static void bytes_for_ever(void) { say_bytes(UINT64_MAX, 1); }
static void bytes_none(void) { say_bytes(0, 1); }
static void complete_without_bytes(void) { say_completed(2, 0); }
static void complete_short(void)
{
  say_bytes(99, 1);
  say_completed(2, 0);
}
static void complete_backwards(void)
{
  say_completed(1, 0);
  say_completed(0, 0);
}
static void link_of_verbs(void) { say(GPUD_OP_CREDIT, 0, &(gpud_msg_credit){.messages = 1}, sizeof(gpud_msg_credit)); }
static void link_of_a_client(void)
{
  say(GPUD_OP_REGION_KEY, 0, &(gpud_msg_region_key){0}, sizeof(gpud_msg_region_key));
}
static void link_with_a_sequence(void)
{
  say(GPUD_OP_COMPLETED, 1, &(gpud_msg_completed){.sequence = 1}, sizeof(gpud_msg_completed));
}
static void link_unknown(void) { say(255, 0, NULL, 0); }
static void no_op(void) { say(0, 1, NULL, 0); }
static void head_too_short(void) { say_raw(&(gpud_message_head){.size = 15, .op = 1}, sizeof(gpud_message_head)); }
static void head_too_long(void) { say_raw(&(gpud_message_head){.size = 8193, .op = 1}, sizeof(gpud_message_head)); }
static void head_with_a_tag(void)
{
  say_raw(&(gpud_message_head){.tag = 1, .size = 16, .op = 1, .sequence = 1}, sizeof(gpud_message_head));
}
static void head_with_flags(void)
{
  say_raw(&(gpud_message_head){.flags = 1, .size = 16, .op = 1, .sequence = 1}, sizeof(gpud_message_head));
}

static void a_worker_that_breaks_the_protocol_is_found_out(void)
{
  static void (*const broken[])(void) = {
    bytes_unasked,      bytes_too_many, bytes_for_ever,   bytes_none,           complete_without_bytes, complete_short,
    complete_backwards, link_of_verbs,  link_of_a_client, link_with_a_sequence, link_unknown,           no_op,
    head_too_short,     head_too_long,  head_with_a_tag,  head_with_flags,
  };
  open_client();
  honest();
  CHECK_EQUAL(verdict((uint64_t)ask(0, 100)), 0);
  CHECK(bytes_are(gpud_region_pointer(region), 60, 1));
  CHECK(bytes_are((char *)gpud_region_pointer(region) + 60, 40, 2));
  close_client();
  for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
    open_client();
    uint64_t sequence = (uint64_t)ask(0, 100);
    broken[i]();
    CHECK_EQUAL(verdict(sequence), -EPROTO);
    CHECK_EQUAL(gpud_connection_alive(client), 0);
    close_client();
  }
  open_client(); /* complete, and never posted */
  ask(0, 100);
  say_bytes(100, 1);
  say_completed(3, 0);
  CHECK_EQUAL(verdict(2), -EPROTO);
  close_client();
  open_client(); /* a fault is for good */
  ask(0, 100);
  say_completed(1, 1);
  say_completed(2, 0);
  send_said(said);
  char message[GPUD_MAX_MESSAGE];
  CHECK_EQUAL(gpud_connection_receive(client, message, in_good_time()), -EPROTO);
  close_client();
}

static void everything(void)
{
  const gpud_msg_fault fault = {.sequence = 3, .status = GPUD_STATUS_INVALID};
  const gpud_msg_event_time time = {.event = 1};
  say(GPUD_OP_EVENT_TIME, 1, &time, sizeof time);
  say_bytes(60, 1);
  say_completed(1, 0);
  say_bytes(40, 2);
  say_completed(2, 0);
  say_bytes(40000, 3);
  say(GPUD_OP_FAULT, 2, &fault, sizeof fault);
  say_completed(3, 1);
  say(GPUD_OP_BYE, 3, &(gpud_msg_bye){.status = GPUD_STATUS_SHUTDOWN}, sizeof(gpud_msg_bye));
}

/* Reads and waits as a session does, until the end. */
static int listen_to_the_end(uint64_t sequence)
{
  char message[GPUD_MAX_MESSAGE];
  gpud_connection_wait(client, sequence, in_good_time());
  for (;;) {
    int rc = gpud_connection_receive(client, message, in_good_time());
    if (rc <= 0)
      return rc;
  }
}

static void a_worker_may_fall_silent_at_any_byte(void)
{
  said = 0;
  everything();
  size_t all = said;
  for (size_t size = 0; size <= all; size += size < 400 || all - size < 300 ? 1 : 997) {
    open_client();
    everything();
    ask(0, 100);
    uint64_t sequence = (uint64_t)ask(100, 50000);
    send_said(size);
    shutdown(peer, SHUT_WR);
    CHECK_EQUAL(listen_to_the_end(sequence), -EPIPE);
    close_client();
  }
}

static void a_worker_may_say_anything(void)
{
  uint64_t state = 1234567;
  for (int round = 0; round < 600; round++) {
    open_client();
    if (round % 4)
      everything();
    else
      for (said = random_next(&state) % 60000; said % 60000 < 4; said = random_next(&state) % 60000)
        continue;
    if (round % 4 == 0)
      fill_bytes(answers, (uint32_t)said, (uint64_t)round);
    for (uint64_t changes = random_next(&state) % 6 + 1; changes; changes--)
      answers[random_next(&state) % (random_next(&state) % 2 ? said : 200)] = (unsigned char)random_next(&state);
    ask(0, 100);
    uint64_t sequence = (uint64_t)ask(100, 50000);
    send_said(said);
    shutdown(peer, SHUT_WR);
    int rc = listen_to_the_end(sequence);
    CHECK(rc == -EPIPE || rc == -EPROTO);
    close_client();
  }
}

/* Replies that nobody takes fill the client's queue and then the sockets, not its memory; what comes behind them waits. */
static void replies_that_nobody_takes_are_not_read(void)
{
  char message[GPUD_MAX_MESSAGE];
  char body[1000] = {0};
  uint32_t sent = 0;
  open_client();
  for (uint32_t i = 1; i <= 200; i++) /* the queue has 256 slots of 64 bytes */
    say(GPUD_OP_DATA, i, body, sizeof body);
  say_completed(1, 0);
  send_said(said);
  CHECK_EQUAL(gpud_connection_wait(client, 1, gpud_now() + 300000000), -ETIMEDOUT);
  while (gpud_connection_receive(client, message, 0) > 0)
    sent++;
  CHECK(sent > 0);
  for (; sent < 200; sent++)
    CHECK_EQUAL(gpud_connection_receive(client, message, in_good_time()), 16 + sizeof body);
  CHECK_EQUAL(gpud_connection_wait(client, 1, in_good_time()), 0);
  close_client();
}

static void *take_replies(void *unused)
{
  char message[GPUD_MAX_MESSAGE];
  uint64_t until = gpud_now() + 100000000;
  while (gpud_now() < until)
    gpud_relax();
  for (int i = 0; i < 200; i++)
    CHECK_EQUAL(gpud_connection_receive(client, message, in_good_time()), 16 + 1000);
  return unused;
}

static void a_wait_goes_on_once_another_thread_takes_the_replies(void)
{
  char body[1000] = {0};
  pthread_t taker;
  open_client();
  for (uint32_t i = 1; i <= 200; i++)
    say(GPUD_OP_DATA, i, body, sizeof body);
  say_completed(1, 0);
  send_said(said);
  CHECK_EQUAL(pthread_create(&taker, NULL, take_replies, NULL), 0);
  CHECK_EQUAL(gpud_connection_wait(client, 1, in_good_time()), 0);
  pthread_join(taker, NULL);
  close_client();
}

#define SCENARIO(name) {#name, name}

int main(int count, char **arguments)
{
  static const struct {
    const char *name;
    void (*run)(void);
  } scenarios[] = {
    SCENARIO(a_worker_that_breaks_the_protocol_is_found_out),
    SCENARIO(a_worker_may_fall_silent_at_any_byte),
    SCENARIO(a_worker_may_say_anything),
    SCENARIO(replies_that_nobody_takes_are_not_read),
    SCENARIO(a_wait_goes_on_once_another_thread_takes_the_replies),
  };
  CHECK(count == 2);
  for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
    if (strcmp(scenarios[i].name, arguments[1]) != 0)
      continue;
    int descriptors = open_descriptors();
    scenarios[i].run();
    CHECK_EQUAL(open_descriptors(), descriptors);
    return 0;
  }
  return 2;
}
