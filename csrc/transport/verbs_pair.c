#include "verbs_link.h"

#ifdef GPUD_HAVE_VERBS

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "order.h"
#include "wait.h"

#define PSN 0xffffffu
#define MEMORY ((size_t)(GPUD_VERBS_RECEIVES + GPUD_VERBS_SENDS) * GPUD_MAX_MESSAGE)

/* How the hardware gives up: 2^14 * 4 us, six times; a receiver that is not ready, six times after 0.64 ms. */
enum { TIMEOUT = 14, RETRIES = 6 /* 7 is for ever to soft-RoCE */, RNR_TIMER = 12, RNR_RETRIES = 6, HOPS = 64 };

static void alive(uint64_t *counter, int more) { gpud_fetch_add_u64(counter, (uint64_t)(int64_t)more); }

static int not_made(gpud_verbs_link *link, const char *what, char *text, size_t size)
{
  int error = errno ? errno : EIO;
  struct rlimit limit = {0};
  if (error == ENOMEM && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    snprintf(text, size, "%s: %s cannot be had: %s; this process may lock %llu KiB: raise `ulimit -l`", link->port.name,
             what, strerror(error), (unsigned long long)limit.rlim_cur / 1024);
  else
    snprintf(text, size, "%s: %s cannot be had: %s", link->port.name, what, strerror(error));
  return -error;
}

static int make_pair(gpud_verbs_link *link)
{
  static const uint32_t inlines[] = {GPUD_VERBS_INLINE, 64, 0};
  for (size_t i = 0; i < sizeof inlines / sizeof inlines[0]; i++) {
    struct ibv_qp_init_attr attributes = {
      .send_cq = link->sent,
      .recv_cq = link->received,
      .qp_type = IBV_QPT_RC,
      .cap = {.max_send_wr = GPUD_VERBS_SENDS,
              .max_recv_wr = GPUD_VERBS_RECEIVES,
              .max_send_sge = 1,
              .max_recv_sge = 1,
              .max_inline_data = inlines[i]},
    };
    link->pair = link->api->create_qp(link->domain, &attributes);
    if (link->pair) {
      alive(&gpud_verbs_alive.queue_pairs, 1);
      link->inlined = attributes.cap.max_inline_data;
      return 0;
    }
  }
  return -1;
}

int gpud_verbs_link_post_receive(gpud_verbs_link *link, uint32_t slot)
{
  struct ibv_sge part = {.addr = (uintptr_t)(link->memory + (size_t)slot * GPUD_MAX_MESSAGE),
                         .length = GPUD_MAX_MESSAGE,
                         .lkey = link->registered->lkey};
  struct ibv_recv_wr request = {.wr_id = slot, .sg_list = &part, .num_sge = 1};
  struct ibv_recv_wr *bad;
  if (gpud_verbs_link_state(link) != 0) /* then there may be no queue pair */
    return gpud_verbs_link_state(link);
  int rc = ibv_post_recv(link->pair, &request, &bad);
  return rc == 0 ? 0 : gpud_verbs_link_fail(link, -EPIPE, "a receive could not be posted: %s", strerror(rc));
}

static int initialise(gpud_verbs_link *link, int client)
{
  /* Only the client's memory is reached from outside. */
  unsigned access = client ? IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE : 0;
  struct ibv_qp_attr attributes = {
    .qp_state = IBV_QPS_INIT, .port_num = link->port.number, .qp_access_flags = access | IBV_ACCESS_LOCAL_WRITE};
  int rc = link->api->modify_qp(link->pair, &attributes,
                                IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
  if (rc != 0) {
    errno = rc;
    return -1;
  }
  for (uint32_t slot = 0; slot < GPUD_VERBS_RECEIVES; slot++)
    if (gpud_verbs_link_post_receive(link, slot) != 0)
      return -1;
  return 0;
}

int gpud_verbs_link_open(gpud_verbs_link *link, const struct sockaddr_storage *local, int client, char *text,
                         size_t size)
{
  gpud_verbs_take *take = link->take;
  void *owner = link->owner;
  memset(link, 0, sizeof *link);
  link->take = take;
  link->owner = owner;
  link->from_client = !client;
  int rc = gpud_verbs_port_open(&link->port, local, text, size);
  if (rc != 0)
    return rc;
  const gpud_verbs_api *api = link->api = link->port.api;
  struct ibv_context *context = link->port.context;
  const char *what = NULL;
  errno = 0;
  link->memory =
      mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); /* fork copies none of it */
  if (link->memory == MAP_FAILED) {
    link->memory = NULL;
    what = "memory for messages";
  }
  if (!what) {
    link->domain = api->alloc_pd(context);
    if (link->domain)
      alive(&gpud_verbs_alive.domains, 1);
    else
      what = "a protection domain";
  }
  if (!what) {
    link->registered = api->reg_mr(link->domain, link->memory, MEMORY, IBV_ACCESS_LOCAL_WRITE);
    if (link->registered) {
      alive(&gpud_verbs_alive.memory_regions, 1);
      alive(&gpud_verbs_alive.registered, (int)MEMORY);
    } else {
      what = "registered memory for messages";
    }
  }
  if (!what) {
    link->channel = api->create_comp_channel(context);
    if (link->channel) {
      alive(&gpud_verbs_alive.channels, 1);
      int flags = fcntl(link->channel->fd, F_GETFL);
      if (flags < 0 || fcntl(link->channel->fd, F_SETFL, flags | O_NONBLOCK) != 0)
        what = "a completion channel that does not block";
    } else {
      what = "a completion channel";
    }
  }
  struct ibv_cq **queues[] = {&link->received, &link->sent};
  const int entries[] = {GPUD_VERBS_RECEIVES, GPUD_VERBS_SENDS};
  for (int i = 0; i < 2 && !what; i++) {
    *queues[i] = api->create_cq(context, entries[i], NULL, link->channel, 0);
    if (*queues[i])
      alive(&gpud_verbs_alive.completion_queues, 1);
    else
      what = "a completion queue";
  }
  if (!what && make_pair(link) != 0)
    what = "a queue pair";
  if (!what && initialise(link, client) != 0)
    what = "a queue pair that receives";
  if (!what && getrandom(&link->sequence, sizeof link->sequence, 0) != sizeof link->sequence)
    what = "a random number";
  if (what) {
    rc = not_made(link, what, text, size);
    gpud_verbs_link_close(link);
    return rc;
  }
  link->sequence &= PSN;
  return 0;
}

void gpud_verbs_link_disconnect(gpud_verbs_link *link)
{
  if (link->pair && link->api->destroy_qp(link->pair) == 0)
    alive(&gpud_verbs_alive.queue_pairs, -1);
  link->pair = NULL;
}

void gpud_verbs_link_forget(gpud_verbs_link *link)
{
  if (link->channel)
    close(link->channel->fd);
  if (link->port.context) {
    close(link->port.context->cmd_fd);
    close(link->port.context->async_fd);
  }
  if (link->memory)
    munmap(link->memory, MEMORY);
  link->memory = NULL;
}

void gpud_verbs_link_close(gpud_verbs_link *link)
{
  const gpud_verbs_api *api = link->api;
  gpud_verbs_link_disconnect(link);
  struct ibv_cq *queues[] = {link->received, link->sent};
  for (int i = 0; i < 2; i++)
    if (queues[i] && api->destroy_cq(queues[i]) == 0)
      alive(&gpud_verbs_alive.completion_queues, -1);
  if (link->channel && api->destroy_comp_channel(link->channel) == 0)
    alive(&gpud_verbs_alive.channels, -1);
  if (link->registered && api->dereg_mr(link->registered) == 0) {
    alive(&gpud_verbs_alive.memory_regions, -1);
    alive(&gpud_verbs_alive.registered, -(int)MEMORY);
  }
  if (link->domain && api->dealloc_pd(link->domain) == 0)
    alive(&gpud_verbs_alive.domains, -1);
  if (link->memory)
    munmap(link->memory, MEMORY);
  gpud_verbs_port_close(&link->port);
  link->received = link->sent = NULL;
  link->channel = NULL;
  link->registered = NULL;
  link->domain = NULL;
  link->memory = NULL;
}

void gpud_verbs_link_describe(const gpud_verbs_link *link, gpud_queue_pair *pair)
{
  *pair = (gpud_queue_pair){
    .number = link->pair->qp_num,
    .sequence = link->sequence,
    .lid = link->port.lid,
    .mtu = link->port.mtu,
    .receives = GPUD_VERBS_RECEIVES,
    .reads = link->port.reads,
  };
  memcpy(pair->gid, link->port.gid.raw, sizeof pair->gid);
}

int gpud_verbs_link_connect(gpud_verbs_link *link, const gpud_queue_pair *peer)
{
  if (peer->number > PSN || peer->sequence > PSN || peer->lid > UINT16_MAX || peer->mtu < IBV_MTU_256 ||
      peer->mtu > IBV_MTU_4096 || peer->receives < GPUD_VERBS_LEAST || peer->receives > GPUD_VERBS_MOST ||
      peer->reads < 1 || peer->reads > UINT8_MAX)
    return -EPROTO;
  uint32_t reads = peer->reads < link->port.reads ? peer->reads : link->port.reads;
  struct ibv_qp_attr ready = {
    .qp_state = IBV_QPS_RTR,
    .path_mtu = peer->mtu < link->port.mtu ? peer->mtu : link->port.mtu,
    .dest_qp_num = peer->number,
    .rq_psn = peer->sequence,
    .max_dest_rd_atomic = (uint8_t)link->port.reads,
    .min_rnr_timer = RNR_TIMER,
    .ah_attr = {.dlid = (uint16_t)peer->lid, .port_num = link->port.number},
  };
  if (link->port.routed || peer->lid == 0) {
    ready.ah_attr.is_global = 1;
    memcpy(ready.ah_attr.grh.dgid.raw, peer->gid, sizeof peer->gid);
    ready.ah_attr.grh.sgid_index = link->port.gid_index;
    ready.ah_attr.grh.hop_limit = HOPS;
  }
  struct ibv_qp_attr send = {.qp_state = IBV_QPS_RTS,
                             .timeout = TIMEOUT,
                             .retry_cnt = RETRIES,
                             .rnr_retry = RNR_RETRIES,
                             .sq_psn = link->sequence,
                             .max_rd_atomic = (uint8_t)reads};
  int rc = link->api->modify_qp(link->pair, &ready,
                                IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                    IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
  if (rc == 0)
    rc = link->api->modify_qp(link->pair, &send,
                              IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                                  IBV_QP_MAX_QP_RD_ATOMIC);
  if (rc != 0) /* no route to its GID, most often */
    return gpud_verbs_link_fail(link, -(rc == EINVAL ? EHOSTUNREACH : rc), "%s has no way to the peer's address: %s",
                                link->port.name, strerror(rc));
  link->transfers = reads < GPUD_VERBS_TRANSFERS ? reads : GPUD_VERBS_TRANSFERS;
  link->peer_receives = peer->receives;
  link->credit = peer->receives;
  return 0;
}

#endif
