#include "verbs_link.h"

#ifdef GPUD_HAVE_VERBS

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "order.h"
#include "wait.h"

#define SIGNAL_EVERY (GPUD_VERBS_SENDS / 4)
#define BATCH 16
#define LETS_GO_NS 1000000000ull

/* Of the send queue: what ordinary messages and transfers leave for link messages, and these for CREDIT. */
#define LEFT_BY_ORDINARY 4u
#define LEFT_BY_LINK 2u
_Static_assert(GPUD_VERBS_TRANSFERS + SIGNAL_EVERY + LEFT_BY_ORDINARY < GPUD_VERBS_SENDS, "something is signalled");

int gpud_verbs_link_state(const gpud_verbs_link *link) { return -(int)gpud_load_acquire_u32(&link->error); }

int gpud_verbs_link_fail(gpud_verbs_link *link, int rc, const char *format, ...)
{
  static gpud_lock lock; /* the reason is whole before the error is seen; two ends of one process may share it */
  gpud_lock_acquire(&lock);
  if (link->error == 0) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(link->reason, sizeof link->reason, format, arguments);
    va_end(arguments);
    gpud_store_release_u32(&link->error, (uint32_t)-rc);
  }
  gpud_lock_release(&lock);
  return gpud_verbs_link_state(link);
}

/* ---------------------------------------------------------------- the send queue */

static void send_failed(gpud_verbs_link *link, const struct ibv_wc *completion)
{
  switch (completion->status) {
  case IBV_WC_REM_ACCESS_ERR:
    if (link->refused == 0)
      link->refused = completion->wr_id + 1;
    gpud_verbs_link_fail(link, -EPIPE,
                         "the peer's adapter refused access to its memory: the region is gone or smaller");
    break;
  case IBV_WC_RETRY_EXC_ERR:
    gpud_verbs_link_fail(link, -EPIPE, "the peer's adapter does not answer: it, or the network to it, is gone");
    break;
  case IBV_WC_RNR_RETRY_EXC_ERR:
    gpud_verbs_link_fail(link, -EPIPE, "the peer posts fewer receives than it gave credit for");
    break;
  case IBV_WC_WR_FLUSH_ERR:
    gpud_verbs_link_fail(link, -EPIPE,
                         "the queue pair was stopped: the peer ended the connection or broke the protocol");
    break;
  default:
    gpud_verbs_link_fail(link, -EPIPE, "%s (vendor's code 0x%x)", link->api->wc_status_str(completion->status),
                         completion->vendor_err);
  }
}

/* Takes completions. Under the send lock. */
static void reap(gpud_verbs_link *link)
{
  struct ibv_wc completions[BATCH];
  int n;
  do {
    n = ibv_poll_cq(link->sent, BATCH, completions);
    for (int i = 0; i < n; i++) {
      if (completions[i].status != IBV_WC_SUCCESS)
        send_failed(link, &completions[i]);
      else /* and all before it: a queue pair completes in order */
        gpud_store_release_u64(&link->done, completions[i].wr_id + 1);
      link->seen = completions[i].wr_id + 1;
    }
  } while (n == BATCH);
  if (n < 0)
    gpud_verbs_link_fail(link, -EPIPE, "the adapter's completion queue cannot be read");
}

uint64_t gpud_verbs_link_reap(gpud_verbs_link *link)
{
  gpud_lock_acquire(&link->send_lock);
  reap(link);
  gpud_lock_release(&link->send_lock);
  return gpud_load_acquire_u64(&link->done);
}

static uint32_t free_entries(const gpud_verbs_link *link)
{
  return GPUD_VERBS_SENDS - (uint32_t)(link->posted - link->done) - link->held;
}

/* Whether a message of the class may go: 0, -EAGAIN, or what ended the link. Under the send lock. */
static int room(gpud_verbs_link *link, gpud_verbs_class class)
{
  const uint32_t entries[] = {LEFT_BY_ORDINARY, LEFT_BY_LINK, 0};
  const uint32_t credits[] = {link->peer_receives / 4, link->peer_receives / 8, 0};
  int state = gpud_verbs_link_state(link);
  if (state != 0)
    return state;
  if (free_entries(link) <= entries[class]) {
    reap(link);
    state = gpud_verbs_link_state(link);
    if (state != 0)
      return state;
  }
  bool may = free_entries(link) > entries[class] && link->credit > credits[class] + link->held;
  return may ? 0 : -EAGAIN;
}

/* Under the send lock; there is room. */
static int post(gpud_verbs_link *link, struct ibv_send_wr *request, bool signalled)
{
  struct ibv_send_wr *bad;
  /* A lone one, so that a flush can wait for it; and one of many, so that the queue does not fill up unseen. */
  if (signalled || link->posted == link->done || link->unsignalled + 1 >= SIGNAL_EVERY) {
    request->send_flags |= IBV_SEND_SIGNALED;
    link->unsignalled = 0;
  } else {
    link->unsignalled++;
  }
  request->wr_id = link->posted;
  int rc = ibv_post_send(link->pair, request, &bad);
  if (rc != 0)
    return gpud_verbs_link_fail(link, -EPIPE, "nothing more can be sent: %s", strerror(rc));
  link->posted++;
  return 0;
}

static int post_message(gpud_verbs_link *link, const void *message, uint32_t size)
{
  const void *from = message;
  struct ibv_send_wr request = {.num_sge = 1, .opcode = IBV_WR_SEND};
  struct ibv_sge part = {.length = size};
  if (size <= link->inlined) {
    request.send_flags = IBV_SEND_INLINE;
  } else {
    char *buffer = link->memory + (GPUD_VERBS_RECEIVES + link->posted % GPUD_VERBS_SENDS) * (size_t)GPUD_MAX_MESSAGE;
    memcpy(buffer, message, size);
    part.lkey = link->registered->lkey;
    from = buffer;
  }
  part.addr = (uintptr_t)from;
  request.sg_list = &part;
  int rc = post(link, &request, false);
  if (rc == 0)
    link->credit--;
  return rc;
}

int gpud_verbs_link_room(gpud_verbs_link *link, int hold)
{
  gpud_lock_acquire(&link->send_lock);
  int rc = room(link, GPUD_VERBS_ORDINARY);
  if (rc == 0 && hold)
    link->held = 1;
  gpud_lock_release(&link->send_lock);
  return rc;
}

int gpud_verbs_link_send(gpud_verbs_link *link, const void *message, uint32_t size, gpud_verbs_class class)
{
  gpud_lock_acquire(&link->send_lock);
  int rc;
  if (class == GPUD_VERBS_ORDINARY) {
    link->held = 0;
    rc = gpud_verbs_link_state(link);
  } else {
    rc = room(link, class);
  }
  if (rc == 0)
    rc = post_message(link, message, size);
  gpud_lock_release(&link->send_lock);
  return rc;
}

int64_t gpud_verbs_link_transfer(gpud_verbs_link *link, int write, uint64_t address, uint32_t key, void *local,
                                 uint32_t local_key, uint32_t size)
{
  struct ibv_sge part = {.addr = (uintptr_t)local, .length = size, .lkey = local_key};
  struct ibv_send_wr request = {
    .sg_list = &part,
    .num_sge = 1,
    .opcode = write ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ,
    .wr.rdma = {.remote_addr = address, .rkey = key},
  };
  gpud_lock_acquire(&link->send_lock);
  int64_t rc = gpud_verbs_link_state(link);
  if (rc == 0 && free_entries(link) <= LEFT_BY_ORDINARY)
    reap(link);
  if (rc == 0)
    rc = free_entries(link) > LEFT_BY_ORDINARY ? gpud_verbs_link_state(link) : -EAGAIN;
  if (rc == 0)
    rc = post(link, &request, true);
  if (rc == 0)
    rc = (int64_t)(link->posted - 1);
  gpud_lock_release(&link->send_lock);
  return rc;
}

int64_t gpud_verbs_link_mark(gpud_verbs_link *link)
{
  gpud_lock_acquire(&link->send_lock);
  reap(link);
  int64_t rc = gpud_verbs_link_state(link);
  if (rc == 0 && link->unsignalled != 0 && free_entries(link) > 0) {
    /* A WRITE of no bytes needs no key, and completes after all before it. */
    struct ibv_send_wr nothing = {.opcode = IBV_WR_RDMA_WRITE};
    rc = post(link, &nothing, true);
  }
  if (rc == 0)
    rc = (int64_t)link->posted;
  gpud_lock_release(&link->send_lock);
  return rc;
}

void gpud_verbs_link_stop(gpud_verbs_link *link, uint64_t place)
{
  struct ibv_qp_attr attributes = {.qp_state = IBV_QPS_ERR};
  gpud_verbs_link_fail(link, -EPIPE, "a transfer was given up");
  bool stopped = link->pair && link->api->modify_qp(link->pair, &attributes, IBV_QP_STATE) == 0;
  /* Flushed at once, and a transfer is always signalled. */
  uint64_t deadline = stopped ? gpud_now() + LETS_GO_NS : 0;
  bool gone = false;
  do {
    gpud_lock_acquire(&link->send_lock);
    reap(link);
    gone = link->seen > place;
    gpud_lock_release(&link->send_lock);
  } while (!gone && gpud_now() < deadline);
  if (gone)
    return;
  /* It does not stop when told to. Without a queue pair it must; nobody posts to a link that has ended. */
  gpud_lock_acquire(&link->receive_lock);
  gpud_lock_acquire(&link->send_lock);
  gpud_verbs_link_disconnect(link);
  gpud_lock_release(&link->send_lock);
  gpud_lock_release(&link->receive_lock);
}

/* ---------------------------------------------------------------- the receive queue */

static void owe(gpud_verbs_link *link) { gpud_fetch_add_u32(&link->owed, 1); }

/* Returns credit where an eighth is owed. What cannot go now goes with the next look. */
static void return_credit(gpud_verbs_link *link)
{
  if (gpud_load_relaxed_u32(&link->owed) < GPUD_VERBS_RECEIVES / 8)
    return;
  struct {
    gpud_message_head head;
    gpud_msg_credit body;
  } message = {.head = {.size = sizeof message, .op = GPUD_OP_CREDIT}};
  gpud_lock_acquire(&link->send_lock);
  message.body.messages = gpud_load_relaxed_u32(&link->owed);
  if (message.body.messages >= GPUD_VERBS_RECEIVES / 8 && room(link, GPUD_VERBS_CREDIT) == 0 &&
      post_message(link, &message, sizeof message) == 0)
    gpud_fetch_add_u32(&link->owed, -message.body.messages);
  gpud_lock_release(&link->send_lock);
}

static int take_credit(gpud_verbs_link *link, const void *message)
{
  gpud_msg_credit credit;
  memcpy(&credit, (const char *)message + sizeof(gpud_message_head), sizeof credit);
  gpud_lock_acquire(&link->send_lock);
  int sound = credit.messages <= link->peer_receives - link->credit;
  if (sound)
    link->credit += credit.messages;
  gpud_lock_release(&link->send_lock);
  return sound ? 0 : -EPROTO;
}

/* One message that came. Under the receive lock. */
static void arrived(gpud_verbs_link *link, const struct ibv_wc *completion)
{
  uint32_t slot = (uint32_t)completion->wr_id;
  const char *message = link->memory + (size_t)slot * GPUD_MAX_MESSAGE;
  gpud_message_head head;
  if (completion->opcode != IBV_WC_RECV || completion->byte_len < sizeof head) {
    gpud_verbs_link_fail(link, -EPROTO, "the peer sent what is no message");
    return;
  }
  memcpy(&head, message, sizeof head);
  if (head.size != completion->byte_len) {
    gpud_verbs_link_fail(link, -EPROTO, "the peer sent a message of another size than it says");
    return;
  }
  if (head.op < GPUD_OP_COMPLETED) {
    link->ready[(link->first + link->count) % GPUD_VERBS_RECEIVES] = (gpud_verbs_ready){slot, head.size};
    gpud_store_release_u32(&link->count, link->count + 1);
    return;
  }
  int rc = gpud_link_check(message, head.size, link->from_client);
  if (rc == 0)
    rc = head.op == GPUD_OP_CREDIT ? take_credit(link, message) : link->take(link->owner, message);
  if (rc != 0) {
    gpud_verbs_link_fail(link, -EPROTO, "the peer's %s message is out of place", gpud_op_name(head.op));
    return;
  }
  if (gpud_verbs_link_post_receive(link, slot) == 0)
    owe(link);
}

/* Whether a receive ended so because of what the peer asked our adapter for. Which of these, each make of adapter has its own opinion. */
static bool is_offence(enum ibv_wc_status status)
{
  return status == IBV_WC_LOC_LEN_ERR || status == IBV_WC_REM_INV_REQ_ERR || status == IBV_WC_REM_ACCESS_ERR;
}

int gpud_verbs_link_poll(gpud_verbs_link *link)
{
  struct ibv_wc completions[BATCH];
  int came = 0;
  int n;
  gpud_lock_acquire(&link->receive_lock);
  do {
    n = ibv_poll_cq(link->received, BATCH, completions);
    for (int i = 0; i < n; i++) {
      if (completions[i].status == IBV_WC_SUCCESS)
        arrived(link, &completions[i]);
      else if (gpud_verbs_link_reap(link), gpud_verbs_link_state(link) == 0) /* the send queue knows why, or nobody */
        gpud_verbs_link_fail(link, is_offence(completions[i].status) ? -EPROTO : -EPIPE,
                             "the queue pair was stopped (%s)", link->api->wc_status_str(completions[i].status));
    }
    came += n > 0 ? n : 0;
  } while (n == BATCH);
  if (n < 0)
    gpud_verbs_link_fail(link, -EPIPE, "the adapter's completion queue cannot be read");
  gpud_lock_acquire(&link->send_lock);
  uint64_t done = link->done;
  if (done != link->posted)
    reap(link);
  came += link->done != done;
  gpud_lock_release(&link->send_lock);
  int state = link->count == 0 ? gpud_verbs_link_state(link) : 0;
  gpud_lock_release(&link->receive_lock);
  return_credit(link);
  return state != 0 ? state : came;
}

int gpud_verbs_link_front(gpud_verbs_link *link, void *message)
{
  uint32_t size = 0;
  gpud_lock_acquire(&link->receive_lock);
  if (link->count != 0) {
    gpud_verbs_ready ready = link->ready[link->first];
    size = ready.size;
    memcpy(message, link->memory + (size_t)ready.slot * GPUD_MAX_MESSAGE, size);
  }
  gpud_lock_release(&link->receive_lock);
  return (int)size;
}

void gpud_verbs_link_pop(gpud_verbs_link *link)
{
  gpud_lock_acquire(&link->receive_lock);
  uint32_t slot = link->ready[link->first].slot;
  link->first = (link->first + 1) % GPUD_VERBS_RECEIVES;
  gpud_store_release_u32(&link->count, link->count - 1);
  if (gpud_verbs_link_state(link) == 0 && gpud_verbs_link_post_receive(link, slot) == 0)
    owe(link);
  gpud_lock_release(&link->receive_lock);
  return_credit(link);
}

/* ---------------------------------------------------------------- sleeping */

int gpud_verbs_link_arm(gpud_verbs_link *link)
{
  int rc = ibv_req_notify_cq(link->received, 0);
  if (rc == 0)
    rc = ibv_req_notify_cq(link->sent, 0);
  return rc == 0 ? 0 : gpud_verbs_link_fail(link, -EPIPE, "the adapter cannot be waited for: %s", strerror(rc));
}

void gpud_verbs_link_quiet(gpud_verbs_link *link)
{
  struct ibv_cq *queue;
  void *context;
  while (link->api->get_cq_event(link->channel, &queue, &context) == 0)
    link->api->ack_cq_events(queue, 1);
}

#endif
