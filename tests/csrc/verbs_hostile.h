/*
 * Scenarios of verbs_processes.c: a client that does beneath the protocol what an adapter lets it do, handshakes that are cut, adapters that
 * do not obey. Each is one connection after another to the same worker: what one did, the next does not notice.
 */
#ifndef VERBS_HOSTILE_H
#define VERBS_HOSTILE_H

#include "verbs_rig.h"

/* ---------------------------------------------------------------- what an adapter lets one do */

/* Posts a request as it is, credit or not, and waits for its end: an IBV_WC_*, or -errno where it was not even taken. */
static int post_raw(gpud_connection *c, enum ibv_wr_opcode opcode, uint32_t size, uint64_t address, uint32_t key)
{
  gpud_verbs_link *link = &inside(c)->link;
  struct ibv_sge part = {.addr = (uintptr_t)link->memory, .length = size, .lkey = link->registered->lkey};
  struct ibv_send_wr request = {.wr_id = link->posted,
                                .sg_list = &part,
                                .num_sge = size != 0,
                                .opcode = opcode,
                                .send_flags = IBV_SEND_SIGNALED,
                                .wr.rdma = {.remote_addr = address, .rkey = key}};
  struct ibv_send_wr *bad;
  struct ibv_wc completion;
  int rc = ibv_post_send(link->pair, &request, &bad);
  if (rc != 0)
    return -rc;
  link->posted++;
  uint64_t deadline = in_good_time();
  do {
    while ((rc = ibv_poll_cq(link->sent, 1, &completion)) == 0 && gpud_now() < deadline)
      usleep(200);
    CHECK_EQUAL(rc, 1);
  } while (completion.wr_id != link->posted - 1);
  link->done = link->posted;
  return (int)completion.status;
}

/* The worker's memory for messages, as the client would have to know it. */
typedef struct target {
  uint64_t address;
  uint32_t key;
  uint32_t kind;
} target;

static target *told(void) { return (target *)(void *)&meetings[900]; }

enum {
  LONGER_THAN_A_RECEIVE,
  NO_MESSAGE_BUT_AN_IMMEDIATE,
  NOTHING_AT_ALL,
  WRITES_TO_THE_WORKER,
  READS_FROM_THE_WORKER,
  SENDS_WITHOUT_CREDIT,
  STOPS_ITS_QUEUE_PAIR,
  DESTROYS_ITS_QUEUE_PAIR,
  SAYS_IT_SENDS_NO_MORE,
  ASSAULTS
};

static void assaults(gpud_connection *c)
{
  gpud_verbs_link *link = &inside(c)->link;
  struct ibv_qp_attr stopped = {.qp_state = IBV_QPS_ERR};
  meet();
  memset(link->memory, 'x', GPUD_MAX_MESSAGE);
  switch (told()->kind) {
  case LONGER_THAN_A_RECEIVE:
    CHECK(post_raw(c, IBV_WR_SEND, 2 * GPUD_MAX_MESSAGE, 0, 0) != IBV_WC_SUCCESS);
    break;
  case NO_MESSAGE_BUT_AN_IMMEDIATE:
    post_raw(c, IBV_WR_RDMA_WRITE_WITH_IMM, 0, 0, 0);
    break;
  case NOTHING_AT_ALL:
    post_raw(c, IBV_WR_SEND, 0, 0, 0);
    break;
  case WRITES_TO_THE_WORKER:
    CHECK(post_raw(c, IBV_WR_RDMA_WRITE, 64, told()->address, told()->key) != IBV_WC_SUCCESS);
    break;
  case READS_FROM_THE_WORKER:
    CHECK(post_raw(c, IBV_WR_RDMA_READ, 64, told()->address, told()->key) != IBV_WC_SUCCESS);
    for (int i = 0; i < 64; i++)
      CHECK_EQUAL(link->memory[i], 'x');
    break;
  case SENDS_WITHOUT_CREDIT: {
    const gpud_message_head head = {.size = sizeof head, .op = GPUD_OP_SYNCHRONIZE};
    int rc = 0;
    for (uint32_t i = 1; rc == 0 && i < 2 * GPUD_VERBS_RECEIVES; i++) {
      memcpy(link->memory, &head, sizeof head);
      memcpy(link->memory + offsetof(gpud_message_head, sequence), &i, sizeof i);
      rc = post_raw(c, IBV_WR_SEND, sizeof head, 0, 0);
    }
    CHECK_EQUAL(rc, IBV_WC_RNR_RETRY_EXC_ERR);
    meet();
    break;
  }
  case STOPS_ITS_QUEUE_PAIR:
    CHECK_EQUAL(link->api->modify_qp(link->pair, &stopped, IBV_QP_STATE), 0);
    break;
  case DESTROYS_ITS_QUEUE_PAIR:
    gpud_verbs_link_fail(link, -EPIPE, "destroyed");
    gpud_verbs_link_disconnect(link);
    break;
  default:
    CHECK_EQUAL(shutdown(inside(c)->socket, SHUT_WR), 0);
  }
  meet();
}

static void is_assaulted(gpud_connection *c)
{
  gpud_verbs_link *link = &inside(c)->link;
  char message[GPUD_MAX_MESSAGE];
  int64_t rc;
  told()->address = (uintptr_t)link->memory;
  told()->key = link->registered->rkey ? link->registered->rkey : link->registered->lkey;
  meet();
  switch (told()->kind) {
  case NOTHING_AT_ALL:
    receive_ends(c, -EPROTO);
    meet();
    break;
  case LONGER_THAN_A_RECEIVE:
  case NO_MESSAGE_BUT_AN_IMMEDIATE:
  case WRITES_TO_THE_WORKER:
  case READS_FROM_THE_WORKER:
    rc = gpud_connection_receive(c, message, in_good_time());
    CHECK(rc == -EPROTO || rc == -EPIPE); /* not each adapter says why it stopped */
    meet();
    break;
  case SENDS_WITHOUT_CREDIT:
    meet(); /* it has run into the end of our receives */
    for (uint32_t i = 0; i < GPUD_VERBS_RECEIVES; i++)
      CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), sizeof(gpud_message_head));
    meet();
    receive_ends(c, -EPIPE);
    break;
  case STOPS_ITS_QUEUE_PAIR:
  case DESTROYS_ITS_QUEUE_PAIR:
    meet(); /* its socket is open: only who sends finds out */
    while ((rc = gpud_connection_post(c, GPUD_OP_DATA, 0, "", 1, in_good_time())) > 0)
      usleep(1000);
    CHECK_EQUAL(rc, -EPIPE);
    break;
  default:
    receive_ends(c, -EPIPE);
    meet();
  }
  CHECK(reason(c)[0] != 0);
  CHECK_EQUAL(gpud_connection_alive(c), 0);
}

static void whatever_a_clients_adapter_does_the_worker_ends_it_by_name(void)
{
  for (told()->kind = 0; told()->kind < ASSAULTS; told()->kind++)
    between(assaults, is_assaulted);
}

/* ---------------------------------------------------------------- garbage */

static uint64_t seed; /* set before the fork */

static void talks_nonsense(gpud_connection *c)
{
  char *memory = inside(c)->link.memory;
  uint64_t state = random_of(seed);
  int rc = IBV_WC_SUCCESS;
  for (int i = 0; i < 40 && rc == IBV_WC_SUCCESS; i++) {
    uint32_t size = (uint32_t)(random_next(&state) % (i % 2 ? 64 : GPUD_MAX_MESSAGE + 1));
    for (uint32_t at = 0; at < size; at++)
      memory[at] = (char)random_next(&state);
    gpud_message_head head;
    if (size >= sizeof head && random_next(&state) % 4 != 0) { /* so that it gets further */
      memcpy(&head, memory, sizeof head);
      head.size = (uint16_t)size;
      head.tag = random_next(&state) % 4 ? 0 : head.tag;
      head.flags = 0;
      if (random_next(&state) % 2) {
        head.op = (uint8_t)(GPUD_OP_COMPLETED + random_next(&state) % 6);
        head.stream = head.sequence = 0;
      }
      memcpy(memory, &head, sizeof head);
    }
    rc = post_raw(c, IBV_WR_SEND, size, 0, 0);
  }
  meet();
}

static void hears_nonsense(gpud_connection *c)
{
  receive_ends(c, -EPROTO);
  meet();
}

static void nonsense_ends_the_connection_and_no_more(void)
{
  for (seed = 1; seed <= 8; seed++)
    between(talks_nonsense, hears_nonsense);
}

/* ---------------------------------------------------------------- receives that are not there */

static void takes_nothing(gpud_connection *c)
{
  (void)c;
  meet();
}

/* A client that gives credit for receives it does not post: here it is the worker that is told so. */
static void believes_the_client(gpud_connection *c)
{
  gpud_verbs_link *link = &inside(c)->link;
  int64_t rc;
  link->peer_receives = link->credit = GPUD_VERBS_MOST;
  while ((rc = gpud_connection_post(c, GPUD_OP_DATA, 0, "", 1, in_good_time())) > 0)
    continue;
  CHECK_EQUAL(rc, -EPIPE);
  CHECK(strstr(reason(c), "fewer receives than it gave credit for") != NULL);
  meet();
}

static void receives_that_are_promised_and_not_posted_end_the_connection(void)
{
  between(takes_nothing, believes_the_client);
}

/* ---------------------------------------------------------------- handshakes that are cut */

static const gpud_queue_pair SOUND = {
  .gid = {[10] = 0xff, 0xff, 10, 77, 0, 1}, .number = 17, .mtu = IBV_MTU_1024, .receives = 64, .reads = 1};

static size_t frame_of(const gpud_queue_pair *pair, char *frame)
{
  return (size_t)gpud_frame_encode(frame, GPUD_MAX_FRAME, GPUD_FRAME_QUEUE_PAIR, pair, NULL, 0);
}

/* What a worker makes of so many bytes of a client's QUEUE_PAIR, and a hang-up. */
static int accept_cut(const char *frame, size_t size)
{
  struct sockaddr_in address;
  int listening = listener(&address);
  gpud_welcome welcome = {0};
  gpud_endpoint *ep = NULL;
  int client = dial(&address);
  int socket = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
  CHECK_EQUAL(send(client, frame, size, MSG_NOSIGNAL), size);
  CHECK_EQUAL(shutdown(client, SHUT_WR), 0);
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

static void a_client_that_leaves_the_handshake_at_any_byte_leaves_nothing(void)
{
  char frame[GPUD_MAX_FRAME];
  size_t whole = frame_of(&SOUND, frame);
  for (size_t size = 0; size < whole; size += size < 17 ? 4 : 13)
    CHECK_EQUAL(accept_cut(frame, size), -EPIPE);
  CHECK_EQUAL(accept_cut(frame, whole), 0);
  frame[4] = GPUD_FRAME_WELCOME; /* another frame in its place */
  CHECK_EQUAL(accept_cut(frame, whole), -EPROTO);
  frame_of(&SOUND, frame);
  frame[8] = 57; /* of another size, longer than any, shorter than it must be */
  CHECK(accept_cut(frame, whole) < 0);
  frame[10] = 1;
  CHECK_EQUAL(accept_cut(frame, whole), -EPROTO);
  frame[10] = 0;
  frame[8] = 20;
  CHECK_EQUAL(accept_cut(frame, whole), -EPROTO);
}

/* What a client makes of a server that sends `size` bytes of these, having waited `after` some of them for its QUEUE_PAIR, and hangs up. */
static void connect_cut(const char *bytes, size_t size, size_t after, int wanted, const char *says)
{
  struct sockaddr_in address;
  int listening = listener(&address);
  pid_t child = fork();
  if (child == 0) {
    char frame[GPUD_MAX_FRAME];
    int fd, socket = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    CHECK(gpud_bootstrap_receive(socket, frame, &fd, in_good_time()) > 0);
    size_t first = size < after ? size : after;
    CHECK_EQUAL(send(socket, bytes, first, MSG_NOSIGNAL), first);
    if (size > after) {
      CHECK(gpud_bootstrap_receive(socket, frame, &fd, in_good_time()) > 0);
      CHECK_EQUAL(send(socket, bytes + after, size - after, MSG_NOSIGNAL), size - after);
    }
    close(socket);
    close(listening);
    exit(0);
  }
  gpud_welcome welcome;
  gpud_refused refused;
  char text[GPUD_MAX_TEXT + 1];
  gpud_endpoint *ep = NULL;
  int socket = dial(&address);
  int rc = gpud_endpoint_connect(socket, &HELLO, "test", &welcome, &refused, text, in_good_time(), &ep);
  CHECK_EQUAL(rc, wanted);
  if (rc == 0)
    ep->ops->close(ep);
  else
    close(socket);
  gpud_verbs_why(text, sizeof text);
  CHECK_EQUAL(strcmp(text, says), 0);
  nothing_is_left();
  wait_for(child, 0);
  close(listening);
}

static void a_server_that_leaves_the_handshake_at_any_byte_leaves_nothing(void)
{
  char bytes[3 * GPUD_MAX_FRAME];
  const gpud_welcome welcome = {
    .version = GPUD_VERSION, .features = GPUD_FEATURE_VERBS, .command_slots = 4096, .reply_slots = 4096};
  const gpud_refused no = {.status = GPUD_STATUS_UNSUPPORTED};
  size_t first = (size_t)gpud_frame_encode(bytes, GPUD_MAX_FRAME, GPUD_FRAME_WELCOME, &welcome, "", 0);
  size_t pair = frame_of(&SOUND, bytes + first);
  size_t both = first + pair;
  memcpy(bytes + both, bytes + first, pair);
  connect_cut(bytes, 7, both, -EPIPE, "");
  connect_cut(bytes, first, both, -EPIPE, "");
  connect_cut(bytes, first + 16, both, -EPIPE, "");
  connect_cut(bytes, both - 1, both, -EPIPE, "");
  connect_cut(bytes, both, both, -EPIPE, "");
  connect_cut(bytes, both + 20, both, -EPIPE, "");
  connect_cut(bytes, both + pair, both, 0, "");
  bytes[both + 20] ^= 1; /* another than before */
  connect_cut(bytes, both + pair, both, -EPROTO, "");
  size_t refusal =
      (size_t)gpud_frame_encode(bytes + both, GPUD_MAX_FRAME, GPUD_FRAME_REFUSED, &no, "no way to you", 13);
  connect_cut(bytes, both + refusal, both, -ENOTSUP, "no way to you");
}

/* ---------------------------------------------------------------- adapters that do not obey */

static int refuses_to_stop(struct ibv_qp *pair, struct ibv_qp_attr *attributes, int mask)
{
  (void)pair, (void)attributes, (void)mask;
  return EIO;
}

static void is_left_in_a_transfer(gpud_connection *c)
{
  gpud_region *region;
  CHECK_EQUAL(gpud_region_create(c, 1, REGION, 3, 0, 1, in_good_time(), &region), 0);
  meet();
  receive_ends(c, -EPIPE);
  gpud_region_free(region);
}

static void gives_up_on_an_adapter_that_goes_on(gpud_connection *c)
{
  gpud_verbs_link *link = &inside(c)->link;
  gpud_verbs_api disobedient = *link->api;
  char *here = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_t other;
  int rc;
  take_region(c, 0);
  meet();
  const gpud_local local = {.memory = here, .size = REGION, .fd = -1};
  gpud_endpoint *ep = gpud_connection_endpoint(c);
  CHECK_EQUAL(ep->ops->local_here(ep, &local), 0);
  disobedient.modify_qp = refuses_to_stop;
  link->api = &disobedient;
  CHECK_EQUAL(pthread_create(&other, NULL, interrupt_soon, c), 0);
  while ((rc = gpud_connection_rma_read(c, 1, 0, here, REGION)) == 0)
    memset(here, 0, REGION);
  CHECK_EQUAL(rc, -EPIPE);
  memset(here, 0, REGION); /* whatever was under way: nothing comes any more */
  usleep(300000);
  for (uint32_t i = 0; i < REGION; i++)
    CHECK_EQUAL(here[i], 0);
  CHECK_EQUAL(gpud_connection_rma_read(c, 1, 0, here, 1), -EPIPE);
  pthread_join(other, NULL);
  ep->ops->local_gone(ep, here, REGION);
  munmap(here, REGION);
  link->api = gpud_verbs_load((char[256]){0}, 256);
}

static void a_transfer_that_cannot_be_stopped_is_ended_with_its_queue_pair(void)
{
  between(is_left_in_a_transfer, gives_up_on_an_adapter_that_goes_on);
}

#endif
