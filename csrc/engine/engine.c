#include "internal.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---------------------------------------------------------------- life */

static uint32_t cpus(void)
{
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set))
    return 1;
  int count = CPU_COUNT(&set);
  return count > 0 ? (uint32_t)count : 1;
}

int gpud_engine_new(uint32_t threads, uint64_t window, gpud_engine **out)
{
  gpud_engine *e = aligned_alloc(_Alignof(gpud_engine), sizeof *e);
  if (!e)
    return -ENOMEM;
  memset(e, 0, sizeof *e);
  gpud_idmap_init(&e->modules, GPUD_MAX_MODULES);
  gpud_idmap_init(&e->events, GPUD_MAX_EVENTS);
  gpud_idmap_init(&e->streams, GPUD_MAX_STREAMS);
  e->socket = -1;
  e->page = (uint64_t)sysconf(_SC_PAGESIZE);
  e->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  int rc = e->wake < 0 ? -errno : gpud_device_cpu_open(threads ? threads : cpus(), window, &e->device);
  if (rc) {
    if (e->wake >= 0)
      close(e->wake);
    free(e);
    return rc;
  }
  e->device->ops->limits(e->device, &e->limits);
  *out = e;
  return 0;
}

void gpud_engine_free(gpud_engine *e)
{
  if (!e || e->connection)
    return;
  e->device->ops->close(e->device);
  close(e->wake);
  free(e->unloaded.ids);
  free(e);
}

/* ---------------------------------------------------------------- a session */

static void describe(const gpud_engine *e, uint64_t session, uint64_t memory, uint64_t host_memory,
                     gpud_welcome *welcome)
{
  const gpud_device_limits *limits = &e->limits;
  *welcome = (gpud_welcome){
    .version = GPUD_VERSION,
    .warp_size = (uint16_t)limits->warp_size,
    .granularity = limits->granularity,
    .features = GPUD_FEATURE_HOST_MAP | GPUD_FEATURE_DEVICE | GPUD_FEATURE_CHECK | GPUD_FEATURE_OUTPUT |
                GPUD_FEATURE_COOPERATIVE,
    .session = session,
    .window_base = limits->window_base,
    .window_size = limits->window_size,
    .memory = memory < limits->window_size ? memory : limits->window_size,
    .host_memory = host_memory,
    .max_block_threads = limits->max_block_threads,
    .max_shared = limits->max_shared,
    .multiprocessors = limits->multiprocessors,
    .compute_capability = limits->compute_capability,
  };
  memcpy(welcome->max_grid, limits->max_grid, sizeof welcome->max_grid);
  memcpy(welcome->max_block, limits->max_block, sizeof welcome->max_block);
}

/* Takes the endpoint, also on failure. */
static int begin(gpud_engine *e, gpud_endpoint *ep, int socket, const gpud_welcome *welcome)
{
  e->connection = gpud_connection_new(ep, 0);
  if (!e->connection) {
    ep->ops->close(ep);
    return -ENOMEM;
  }
  e->socket = socket;
  e->host_limit = welcome->host_memory;
  e->output_wanted = (welcome->features & GPUD_FEATURE_OUTPUT) != 0;
  e->output_ahead = 0;
  e->cooperative = (welcome->features & GPUD_FEATURE_COOPERATIVE) != 0;
  e->stats = (gpud_engine_stats){.session = welcome->session};
  gpud_memory_init(&e->memory, welcome->window_base, welcome->window_size, welcome->memory);
  gpud_transfer_begin(&e->transfer, e->connection, e->device, &e->memory);
  int rc = 0;
  if (welcome->features & GPUD_FEATURE_CHECK) {
    e->check = gpud_check_new();
    rc = e->check ? 0 : -ENOMEM;
  }
  if (rc == 0)
    rc = gpud_watch_start(e);
  if (rc == 0)
    return 0;
  gpud_check_free(e->check);
  e->check = NULL;
  gpud_transfer_end(&e->transfer);
  gpud_connection_free(e->connection);
  e->connection = NULL;
  return rc;
}

static int may_attach(const gpud_engine *e)
{
  if (e->connection)
    return -EALREADY;
  return e->broken ? -EBUSY : 0;
}

int gpud_engine_attach(gpud_engine *e, int socket, const gpud_hello *hello, uint64_t session, uint64_t memory,
                       uint64_t host_memory, uint64_t deadline)
{
  gpud_welcome welcome;
  gpud_endpoint *ep;
  int rc = may_attach(e);
  if (rc == 0) {
    describe(e, session, memory, host_memory, &welcome);
    rc = gpud_endpoint_accept(socket, hello, &welcome, e->limits.name, deadline, &ep);
  }
  if (rc) {
    close(socket);
    return rc;
  }
  return begin(e, ep, socket, &welcome);
}

int gpud_engine_attach_endpoint(gpud_engine *e, gpud_endpoint *ep, uint64_t session, uint64_t memory,
                                uint64_t host_memory, gpud_welcome *welcome)
{
  int rc = may_attach(e);
  if (rc) {
    ep->ops->close(ep);
    return rc;
  }
  describe(e, session, memory, host_memory, welcome);
  welcome->features = (welcome->features & ep->features) | GPUD_FEATURE_DEVICE;
  return begin(e, ep, -1, welcome);
}

static void unmap_all(gpud_engine *e)
{
  for (uint32_t i = 0; i < e->memory.count; i++) {
    const gpud_extent *extent = &e->memory.extents[i];
    if (extent->kind == GPUD_EXTENT_CHUNK)
      e->device->ops->unmap(e->device, extent->address, extent->size); /* what fails, reset sees to */
  }
  gpud_memory_clear(&e->memory);
}

int gpud_engine_detach(gpud_engine *e, uint32_t status, const char *text)
{
  if (!e->connection)
    return -ENOTCONN;
  if (status != GPUD_STATUS_OK)
    gpud_reply_bye(e, status, text);
  gpud_watch_stop(e);
  gpud_modules_clear(e);
  gpud_check_free(e->check);
  e->check = NULL;
  gpud_transfer_end(&e->transfer);
  gpud_connection_free(e->connection); /* the client's regions go with it, before the window they lie in is cleared */
  e->connection = NULL;
  e->socket = -1;
  gpud_transfer_free(&e->transfer);
  gpud_idmap_clear(&e->events);
  gpud_idmap_clear(&e->streams);
  unmap_all(e);
  gpud_store_relaxed_u64(&e->stats.memory, 0);
  gpud_store_relaxed_u64(&e->stats.host_memory, 0);
  e->fault = (gpud_failure){0};
  e->bye_sent = false;
  gpud_store_relaxed_u32(&e->busy, 0);
  gpud_store_relaxed_u32(&e->gone, 0);
  gpud_store_relaxed_u32(&e->interrupted, 0);
  explicit_bzero(e->message, sizeof e->message);
  if (e->device->ops->reset(e->device))
    e->broken = true;
  return e->broken ? -EBUSY : 0;
}

/* ---------------------------------------------------------------- the loop */

/* The next command, in e->message. Asleep only in here: everything else counts as busy. */
static int next_command(gpud_engine *e)
{
  int rc = gpud_connection_receive(e->connection, e->message, 0);
  if (rc != -EAGAIN)
    return rc;
  gpud_store_release_u32(&e->busy, 0);
  do
    rc = gpud_connection_receive(e->connection, e->message, gpud_in_ms(60000));
  while (rc == -ETIMEDOUT);
  gpud_store_release_u32(&e->busy, 1);
  return rc;
}

/* The connection's last word, as the reason to leave the loop. */
static int ended(gpud_engine *e, int rc)
{
  switch (rc) {
  case -EPIPE:
    return gpud_load_acquire_u32(&e->interrupted) ? GPUD_RUN_INTERRUPTED : GPUD_RUN_GONE;
  case -EPROTO:
    gpud_reply_bye(e, GPUD_STATUS_PROTOCOL,
                   "a message broke the protocol: client and server may be of different builds");
    return GPUD_RUN_PROTOCOL;
  case -ETIMEDOUT:
    gpud_reply_bye(e, GPUD_STATUS_PROTOCOL,
                   "the client neither takes its replies nor sends the descriptors it announces");
    return GPUD_RUN_PROTOCOL;
  default:
    return rc;
  }
}

/* Executes the command in e->message. 0: go on; else as gpud_engine_run. */
static int execute(gpud_engine *e)
{
  uint64_t sequence = gpud_connection_received(e->connection);
  gpud_message_head head;
  memcpy(&head, e->message, sizeof head);
  bool poisoned = e->fault.status != GPUD_STATUS_OK;
  int rc = poisoned ? gpud_dispatch_poisoned(e) : gpud_dispatch(e);
  gpud_count(&e->stats.commands, 1);
  if (rc == GPUD_FAILED) {
    poisoned = true;
    gpud_count(&e->stats.faults, 1);
    rc = gpud_reply_fault(e, sequence, head.op);
    /* Whoever waits for this command's own answer gets it as well. */
    if (rc == 0 && head.op != GPUD_OP_REGION_ADD)
      rc = gpud_dispatch_poisoned(e);
  }
  if (rc == -EINTR)
    return 0; /* stopped half-way, for good: never complete; the loop sees why */
  if (rc < 0)
    return ended(e, rc);
  if (rc != GPUD_RUN_COMPILE)
    gpud_connection_publish(e->connection, sequence, poisoned);
  return rc;
}

/* What the client sent before it hung up is not executed any more, only looked through for its CLOSE. */
static int drain(gpud_engine *e)
{
  gpud_message_head head;
  while (gpud_connection_receive(e->connection, e->message, 0) > 0) {
    memcpy(&head, e->message, sizeof head);
    if (head.op == GPUD_OP_CLOSE)
      return GPUD_RUN_CLOSED;
  }
  return GPUD_RUN_GONE;
}

static int run(gpud_engine *e)
{
  for (;;) {
    if (gpud_load_relaxed_u32(&e->interrupted))
      return GPUD_RUN_INTERRUPTED;
    if (gpud_load_relaxed_u32(&e->gone))
      return drain(e);
    int rc = next_command(e);
    if (rc == -EPIPE && gpud_load_acquire_u32(&e->gone))
      continue;
    if (rc < 0)
      return ended(e, rc);
    rc = execute(e);
    if (rc)
      return rc;
  }
}

int gpud_engine_run(gpud_engine *e)
{
  if (!e->connection)
    return -ENOTCONN;
  if (e->loading.module)
    return -EINPROGRESS;
  gpud_store_release_u32(&e->busy, 1);
  int rc = run(e);
  if (rc != GPUD_RUN_COMPILE)
    gpud_store_release_u32(&e->busy, 0);
  return rc;
}

int gpud_engine_checked(const gpud_engine *e) { return e->check != NULL; }

void gpud_engine_interrupt(gpud_engine *e)
{
  gpud_store_release_u32(&e->interrupted, 1);
  gpud_watch_wake(e);
}

int gpud_engine_direct(gpud_engine *e, char *text, size_t size)
{
  return gpud_transfer_describe(&e->transfer, text, size);
}

void gpud_engine_get_stats(gpud_engine *e, gpud_engine_stats *stats)
{
  const uint64_t *from = (const uint64_t *)&e->stats;
  uint64_t *to = (uint64_t *)stats;
  for (size_t i = 0; i < sizeof *stats / sizeof *to; i++)
    to[i] = gpud_load_relaxed_u64(&from[i]);
}
