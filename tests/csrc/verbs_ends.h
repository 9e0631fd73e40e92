/* Scenarios of verbs_processes.c: death, forks, closing, and peers that break the protocol. */
#ifndef VERBS_ENDS_H
#define VERBS_ENDS_H

#include "verbs_rig.h"

/* ---------------------------------------------------------------- death */

static void a_killed_client_is_noticed(void)
{
  for (int kind = 0; kind < 3; kind++) {
    struct sockaddr_in address;
    int listening = listener(&address);
    pid_t child = fork();
    if (child == 0) {
      gpud_region *region;
      gpud_connection *c = connect_to(&address);
      CHECK_EQUAL(gpud_region_create(c, 1, REGION, 3, 0, 1, in_good_time(), &region), 0);
      tell(c, "ready");
      receive_ends(c, 0);
    }
    gpud_connection *c = accept_from(listening);
    char *here = malloc(REGION);
    int64_t rc = 0;
    take_region(c, 0);
    hear(c, "ready");
    CHECK_EQUAL(gpud_connection_alive(c), 1);
    if (kind != 1)
      kill(child, SIGKILL);
    if (kind == 0) {
      receive_ends(c, -EPIPE);
    } else if (kind == 1) { /* in the middle of transfers */
      for (int i = 0; rc == 0; i++) {
        if (i == 2)
          kill(child, SIGKILL);
        rc = gpud_connection_rma_read(c, 1, 0, here, REGION);
      }
      CHECK(rc == -EPIPE || rc == -EACCES); /* its memory goes first, or its queue pair */
    } else {
      while ((rc = gpud_connection_post(c, GPUD_OP_DATA, 0, "", 1, in_good_time())) > 0)
        continue;
      CHECK_EQUAL(rc, -EPIPE);
    }
    CHECK_EQUAL(gpud_connection_alive(c), 0);
    CHECK(reason(c)[0] != 0);
    wait_for(child, SIGKILL);
    free(here);
    end(c);
    close(listening);
  }
}

static void a_killed_worker_is_noticed_in_every_wait(void)
{
  for (int kind = 0; kind < 3; kind++) {
    struct sockaddr_in address;
    int listening = listener(&address);
    pid_t child = fork();
    if (child == 0) {
      gpud_connection *c = accept_from(listening);
      tell(c, "last words");
      hear(c, "go");
      kill(getpid(), SIGKILL);
    }
    gpud_connection *c = connect_to(&address);
    int64_t rc;
    tell(c, "go");
    switch (kind) {
    case 0:
      while ((rc = gpud_connection_post(c, GPUD_OP_DATA, 0, "", 1, in_good_time())) > 0)
        continue;
      break;
    case 1:
      rc = gpud_connection_wait(c, 1, in_good_time());
      break;
    default:
      hear(c, "last words");
      rc = gpud_connection_receive(c, (char[GPUD_MAX_MESSAGE]){0}, in_good_time());
    }
    CHECK_EQUAL(rc, -EPIPE);
    if (kind < 2)
      hear(c, "last words");
    CHECK_EQUAL(gpud_connection_alive(c), 0);
    wait_for(child, SIGKILL);
    end(c);
    close(listening);
  }
}

static void forks(gpud_connection *c)
{
  char message[GPUD_MAX_MESSAGE];
  uint64_t times[5];
  pid_t child = fork();
  if (child == 0) {
    gpud_connection_forget(c);
    CHECK_EQUAL(gpud_connection_post(c, GPUD_OP_DATA, 0, "", 1, in_good_time()), -ESHUTDOWN);
    CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), -ESHUTDOWN);
    CHECK_EQUAL(gpud_connection_alive(c), 0);
    gpud_connection_free(c);
    _exit(0);
  }
  wait_for(child, 0);
  CHECK_EQUAL(gpud_connection_alive(c), 1);
  CHECK_EQUAL(gpud_connection_pingpong(c, 64, 5, times), 0);
  CHECK_EQUAL(gpud_connection_pingpong(c, GPUD_MAX_MESSAGE, 5, times), 0);
  CHECK(gpud_connection_post(c, GPUD_OP_CLOSE, 0, NULL, 0, in_good_time()) > 0);
  receive_ends(c, -EPIPE);
}

static void a_forked_child_forgets_and_its_parent_goes_on(void) { between(forks, echoes); }

static void leaves_at_once(gpud_connection *c) { (void)c; }

static void posts_unread(gpud_connection *c)
{
  char body[GPUD_MAX_MESSAGE - sizeof(gpud_message_head)] = "";
  for (int i = 0; i < 60; i++)
    CHECK(gpud_connection_post(c, GPUD_OP_DATA, 0, body, sizeof body, in_good_time()) > 0);
}

static void close_in_every_state_leaves_nothing(void)
{
  between(leaves_at_once, leaves_at_once);
  between(posts_unread, leaves_at_once);
  between(leaves_at_once, posts_unread);
  between(posts_unread, posts_unread);
}

/* ---------------------------------------------------------------- peers that break the protocol */

static uint32_t offence; /* set before the fork */

/* Sends what the protocol does not allow, beneath everything that would stop it. */
static void offends(gpud_connection *c)
{
  struct {
    gpud_message_head head;
    unsigned char body[48];
  } m = {.head = {.size = 24}};
  gpud_verbs_link *link = &inside(c)->link;
  uint32_t times = 1;
  const gpud_msg_credit credit = {.messages = GPUD_VERBS_RECEIVES};
  switch (offence) {
  case 0: /* credit that was never owed */
    m.head.op = GPUD_OP_CREDIT;
    memcpy(m.body, &credit, sizeof credit);
    break;
  case 1: /* the worker's to send */
    m.head.op = GPUD_OP_COMPLETED;
    m.head.size = 32;
    break;
  case 2: /* tcp's */
    m.head.op = GPUD_OP_BYTES;
    break;
  case 3: /* another size than was sent */
    m.head.op = GPUD_OP_DATA;
    m.head.size = 25;
    break;
  case 4: /* no message */
    break;
  case 5: /* keys of regions that are never added */
    m.head.op = GPUD_OP_REGION_KEY;
    m.head.size = 32;
    times = GPUD_VERBS_KEYS + 1;
    break;
  default: /* less than a head */
    times = 1;
  }
  uint32_t size = offence == 6 ? 8 : m.head.size == 25 ? 24 : m.head.size;
  for (uint32_t i = 0; i < times; i++) {
    int rc;
    while ((rc = gpud_verbs_link_send(link, &m, size, GPUD_VERBS_LINK)) == -EAGAIN)
      if (gpud_connection_receive(c, (char[GPUD_MAX_MESSAGE]){0}, gpud_now() + 1000000u) == -EPIPE)
        break;
    if (rc != 0)
      break;
  }
  receive_ends(c, -EPIPE);
}

static void is_offended(gpud_connection *c)
{
  receive_ends(c, -EPROTO);
  if (offence != 4) /* that one is the connection's to judge */
    CHECK(reason(c)[0] != 0);
}

static void a_broken_protocol_ends_the_connection(void)
{
  for (offence = 0; offence < 7; offence++)
    between(offends, is_offended);
}

static void a_region_without_its_key(gpud_connection *c)
{
  const gpud_msg_region_add add = {.region = 1, .access = 3, .size = 4096};
  CHECK(gpud_connection_post(c, GPUD_OP_REGION_ADD, 0, &add, sizeof add, in_good_time()) > 0);
  receive_ends(c, -EPIPE);
}

static void takes_none(gpud_connection *c) { take_region(c, -EPROTO); }

static void a_region_without_its_key_is_refused(void) { between(a_region_without_its_key, takes_none); }

/* What a worker makes of a client that answers WELCOME with `pair`, or hangs up. */
static int answer_with(const gpud_queue_pair *pair)
{
  struct sockaddr_in address;
  int listening = listener(&address);
  char frame[GPUD_MAX_FRAME];
  gpud_welcome welcome = {0};
  gpud_endpoint *ep = NULL;
  int client = dial(&address);
  int socket = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
  if (pair) {
    int size = gpud_frame_encode(frame, sizeof frame, GPUD_FRAME_QUEUE_PAIR, pair, NULL, 0);
    CHECK_EQUAL(gpud_bootstrap_send(client, frame, (size_t)size, -1, in_good_time()), 0);
  } else {
    CHECK_EQUAL(shutdown(client, SHUT_WR), 0);
  }
  int rc = gpud_endpoint_accept(socket, &HELLO, &welcome, "", in_good_time(), &ep);
  if (rc == 0)
    ep->ops->close(ep);
  else
    close(socket);
  nothing_is_left();
  close(client);
  close(listening);
  return rc;
}

static void a_queue_pair_is_judged(void)
{
  const gpud_queue_pair good = {
    .gid = {[10] = 0xff, 0xff, 10, 77, 0, 1}, .number = 17, .mtu = IBV_MTU_1024, .receives = 64, .reads = 1};
  CHECK_EQUAL(answer_with(&good), 0);
  CHECK_EQUAL(answer_with(NULL), -EPIPE);
#define BAD(field, value)                                                                                              \
  do {                                                                                                                 \
    gpud_queue_pair bad = good;                                                                                        \
    bad.field = (value);                                                                                               \
    CHECK_EQUAL(answer_with(&bad), -EPROTO);                                                                           \
  } while (0)
  BAD(number, 1u << 24);
  BAD(sequence, 1u << 24);
  BAD(lid, 65536);
  BAD(mtu, 0);
  BAD(mtu, 6);
  BAD(receives, GPUD_VERBS_LEAST - 1);
  BAD(receives, GPUD_VERBS_MOST + 1);
  BAD(reads, 0);
  BAD(reads, 256);
}

static void the_probe_names_the_device(void)
{
  char text[256] = "";
  CHECK_EQUAL(gpud_verbs_probe(text, sizeof text), 0);
  CHECK(strncmp(text, "rxe0:1, RoCE v2 ", 16) == 0);
  setenv("GPUDISAGG_RDMA_DEVICE", "rxe0:1", 1);
  CHECK_EQUAL(gpud_verbs_probe(text, sizeof text), 0);
  setenv("GPUDISAGG_RDMA_DEVICE", "rxe0:2", 1);
  CHECK_EQUAL(gpud_verbs_probe(text, sizeof text), -ENETDOWN);
  setenv("GPUDISAGG_RDMA_DEVICE", "mlx5_0", 1);
  CHECK_EQUAL(gpud_verbs_probe(text, sizeof text), -ENODEV);
  CHECK(strstr(text, "mlx5_0") != NULL);
  unsetenv("GPUDISAGG_RDMA_DEVICE");
  nothing_is_left();
}

#endif
