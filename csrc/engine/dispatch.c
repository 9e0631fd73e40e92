/*
 * Commands, one by one. Each handler judges all that the client said before it uses any of it: the message was
 * checked for its form only (wire.h), and the client is not to be trusted.
 */
#include <string.h>

#include "internal.h"

typedef unsigned long long ull;

/* A device address range in the words of every refusal. */
static int unmapped(gpud_engine *e, const char *op, uint64_t address, uint64_t size)
{
  return gpud_refuse(e, GPUD_STATUS_INVALID, address, "%s: [0x%llx, +%llu) is not device memory of this session", op,
                     (ull)address, (ull)size);
}

static int done_by_device(gpud_engine *e, const char *op, uint64_t address, int rc)
{
  switch (rc) {
  case 0:
  case -EINTR:
    return rc;
  case -ENOMEM:
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, address, "%s: the device has no memory left", op);
  case -EFAULT:
    return gpud_refuse(e, GPUD_STATUS_DEVICE_FAULT, address,
                       "%s: the memory behind the range is gone (was a region's file cut?)", op);
  default:
    return gpud_refuse(e, GPUD_STATUS_INTERNAL, address, "%s: %s", op, strerror(-rc));
  }
}

static uint32_t stream_of(const gpud_engine *e)
{
  gpud_message_head head;
  memcpy(&head, e->message, sizeof head);
  return head.stream;
}

/* ---------------------------------------------------------------- memory */

static void memory_changed(gpud_engine *e)
{
  gpud_store_relaxed_u64(&e->stats.memory, e->memory.mapped);
  if (e->memory.mapped > e->stats.memory_peak)
    gpud_store_relaxed_u64(&e->stats.memory_peak, e->memory.mapped);
}

static int map(gpud_engine *e)
{
  gpud_msg_map m;
  memcpy(&m, gpud_body(e), sizeof m);
  if (!gpud_memory_in_window(&e->memory, m.address, m.size, e->limits.granularity))
    return gpud_refuse(e, GPUD_STATUS_INVALID, m.address,
                       "MAP: [0x%llx, +%llu) is not a part of the window in multiples of %u", (ull)m.address,
                       (ull)m.size, e->limits.granularity);
  gpud_extent chunk = {m.address, m.size, GPUD_EXTENT_CHUNK, GPUD_ACCESS_READ | GPUD_ACCESS_WRITE, 0};
  switch (gpud_memory_add(&e->memory, &chunk)) {
  case 0:
    break;
  case -EDQUOT:
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, m.address,
                       "MAP: %llu bytes, and %llu of the session's %llu are in use", (ull)m.size, (ull)e->memory.mapped,
                       (ull)e->memory.limit);
  case -ENOMEM:
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, m.address, "MAP: the worker has no memory left");
  default:
    return gpud_refuse(e, GPUD_STATUS_INVALID, m.address, "MAP: [0x%llx, +%llu) overlaps what is mapped",
                       (ull)m.address, (ull)m.size);
  }
  int rc = e->device->ops->map(e->device, m.address, m.size);
  if (rc)
    gpud_memory_remove_chunks(&e->memory, m.address, m.size);
  memory_changed(e);
  return done_by_device(e, "MAP", m.address, rc);
}

static int unmap(gpud_engine *e)
{
  gpud_msg_map m;
  memcpy(&m, gpud_body(e), sizeof m);
  if (gpud_memory_remove_chunks(&e->memory, m.address, m.size))
    return gpud_refuse(e, GPUD_STATUS_INVALID, m.address, "UNMAP: [0x%llx, +%llu) is not made of whole mapped chunks",
                       (ull)m.address, (ull)m.size);
  gpud_transfer_gone(&e->transfer, m.address, m.size);
  int rc = e->device->ops->unmap(e->device, m.address, m.size);
  memory_changed(e);
  return done_by_device(e, "UNMAP", m.address, rc);
}

static int moved(gpud_engine *e, const char *op, const gpud_msg_copy_host *m, int rc, bool by_device)
{
  return by_device ? done_by_device(e, op, m->address, rc) : gpud_region_moved(e, op, m->region, rc);
}

/* After a session's first transfer over verbs the client is told which way the bytes go. */
static int tell_way(gpud_engine *e, uint32_t before)
{
  if (before || !(gpud_connection_endpoint(e->connection)->features & GPUD_FEATURE_VERBS))
    return 0;
  return gpud_reply_direct(e);
}

static int fetch(gpud_engine *e, const gpud_msg_copy_host *m)
{
  bool by_device;
  uint32_t before = e->transfer.rung;
  int rc = gpud_transfer_in(&e->transfer, m->address, m->region, m->offset, m->size, stream_of(e), &by_device);
  gpud_count(&e->stats.bytes_in, m->size);
  int told = tell_way(e, before);
  return told ? told : moved(e, "COPY_IN", m, rc, by_device);
}

static int send_back(gpud_engine *e, const gpud_msg_copy_host *m)
{
  bool by_device;
  uint32_t before = e->transfer.rung;
  int rc = gpud_transfer_out(&e->transfer, m->address, m->region, m->offset, m->size, stream_of(e), &by_device);
  gpud_count(&e->stats.bytes_out, m->size);
  int told = tell_way(e, before);
  return told ? told : moved(e, "COPY_OUT", m, rc, by_device);
}

static int copy_in(gpud_engine *e)
{
  gpud_msg_copy_host m;
  memcpy(&m, gpud_body(e), sizeof m);
  if (!gpud_memory_covers(&e->memory, m.address, m.size, GPUD_ACCESS_WRITE))
    return unmapped(e, "COPY_IN", m.address, m.size);
  void *source;
  int rc = gpud_region_span(e, m.region, m.offset, m.size, GPUD_ACCESS_READ, &source);
  if (rc)
    return rc;
  if (!source)
    return fetch(e, &m);
  rc = e->device->ops->copy_in(e->device, m.address, source, m.size, stream_of(e));
  gpud_count(&e->stats.bytes_in, m.size);
  gpud_connection_count_copied(e->connection, m.size, 0);
  return done_by_device(e, "COPY_IN", m.address, rc);
}

static int copy_out(gpud_engine *e)
{
  gpud_msg_copy_host m;
  memcpy(&m, gpud_body(e), sizeof m);
  if (!gpud_memory_covers(&e->memory, m.address, m.size, GPUD_ACCESS_READ))
    return unmapped(e, "COPY_OUT", m.address, m.size);
  void *destination;
  int rc = gpud_region_span(e, m.region, m.offset, m.size, GPUD_ACCESS_WRITE, &destination);
  if (rc)
    return rc;
  if (!destination)
    return send_back(e, &m);
  rc = e->device->ops->copy_out(e->device, destination, m.address, m.size, stream_of(e));
  gpud_count(&e->stats.bytes_out, m.size);
  gpud_connection_count_copied(e->connection, 0, m.size);
  return done_by_device(e, "COPY_OUT", m.address, rc);
}

static int copy(gpud_engine *e)
{
  gpud_msg_copy m;
  memcpy(&m, gpud_body(e), sizeof m);
  if (!gpud_memory_covers(&e->memory, m.source, m.size, GPUD_ACCESS_READ))
    return unmapped(e, "COPY", m.source, m.size);
  if (!gpud_memory_covers(&e->memory, m.destination, m.size, GPUD_ACCESS_WRITE))
    return unmapped(e, "COPY", m.destination, m.size);
  int rc = e->device->ops->copy(e->device, m.destination, m.source, m.size, stream_of(e));
  return done_by_device(e, "COPY", m.destination, rc);
}

static int fill(gpud_engine *e)
{
  gpud_msg_fill m;
  memcpy(&m, gpud_body(e), sizeof m);
  if (m.count > UINT64_MAX / m.width ||
      !gpud_memory_covers(&e->memory, m.address, m.count * m.width, GPUD_ACCESS_WRITE))
    return gpud_refuse(e, GPUD_STATUS_INVALID, m.address,
                       "FILL: %llu elements of %u bytes at 0x%llx are not in device memory of this session",
                       (ull)m.count, m.width, (ull)m.address);
  if (m.address % m.width)
    return gpud_refuse(e, GPUD_STATUS_INVALID, m.address, "FILL: 0x%llx is not a multiple of the element's %u bytes",
                       (ull)m.address, m.width);
  int rc = e->device->ops->fill(e->device, m.address, m.count, m.pattern, m.width, stream_of(e));
  return done_by_device(e, "FILL", m.address, rc);
}

static int write_inline(gpud_engine *e)
{
  gpud_message_head head;
  gpud_msg_write m;
  memcpy(&head, e->message, sizeof head);
  memcpy(&m, gpud_body(e), sizeof m);
  uint64_t size = head.size - (sizeof head + sizeof m);
  if (!gpud_memory_covers(&e->memory, m.address, size, GPUD_ACCESS_WRITE))
    return unmapped(e, "WRITE", m.address, size);
  const void *source = e->message + sizeof head + sizeof m;
  int rc = e->device->ops->copy_in(e->device, m.address, source, size, head.stream);
  gpud_count(&e->stats.bytes_in, size);
  return done_by_device(e, "WRITE", m.address, rc);
}

/* ---------------------------------------------------------------- arrays, of a checked session */

static int array_add(gpud_engine *e)
{
  gpud_message_head head;
  gpud_msg_array_add m;
  memcpy(&head, e->message, sizeof head);
  memcpy(&m, gpud_body(e), sizeof m);
  if (!e->check)
    return gpud_refuse(e, GPUD_STATUS_UNSUPPORTED, m.address, "ARRAY_ADD: the session is not checked");
  if (!gpud_memory_covers(&e->memory, m.address, m.room, GPUD_ACCESS_READ))
    return unmapped(e, "ARRAY_ADD", m.address, m.room);
  const char *label = (const char *)e->message + sizeof head + sizeof m;
  switch (
      gpud_check_add(e->check, m.address, m.size, m.room, 0, label, head.size - (uint32_t)(sizeof head + sizeof m))) {
  case 0:
    return 0;
  case -EEXIST:
    return gpud_refuse(e, GPUD_STATUS_INVALID, m.address, "ARRAY_ADD: [0x%llx, +%llu) overlaps another array",
                       (ull)m.address, (ull)m.room);
  case -EINVAL:
    return gpud_refuse(e, GPUD_STATUS_INVALID, m.address, "ARRAY_ADD: %llu bytes in a room of %llu", (ull)m.size,
                       (ull)m.room);
  default:
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, m.address, "ARRAY_ADD: more arrays than can be watched");
  }
}

static int array_drop(gpud_engine *e)
{
  gpud_msg_array_drop m;
  memcpy(&m, gpud_body(e), sizeof m);
  if (!e->check || gpud_check_drop(e->check, m.address))
    return gpud_refuse(e, GPUD_STATUS_NOT_FOUND, m.address, "ARRAY_DROP: there is no array at 0x%llx", (ull)m.address);
  return 0;
}

/* ---------------------------------------------------------------- launch */

static int judge_launch(gpud_engine *e, const gpud_msg_launch *m, const gpud_kernel *kernel)
{
  const gpud_device_limits *limits = &e->limits;
  for (int i = 0; i < 3; i++) {
    if (m->grid[i] == 0 || m->grid[i] > limits->max_grid[i])
      return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "kernel '%.512s': grid[%d] = %u; 1 to %u are possible",
                         kernel->name, i, m->grid[i], limits->max_grid[i]);
    if (m->block[i] == 0 || m->block[i] > limits->max_block[i])
      return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "kernel '%.512s': block[%d] = %u; 1 to %u are possible",
                         kernel->name, i, m->block[i], limits->max_block[i]);
  }
  uint64_t threads = (uint64_t)m->block[0] * m->block[1] * m->block[2];
  uint32_t most = kernel->max_threads < limits->max_block_threads ? kernel->max_threads : limits->max_block_threads;
  if (threads > most)
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "kernel '%.512s': %llu threads in a block; it may have %u",
                       kernel->name, (ull)threads, most);
  /* The dynamic part begins 16-aligned after the static one. */
  uint64_t shared = m->shared ? (((uint64_t)kernel->static_shared + 15) & ~15ull) + m->shared : kernel->static_shared;
  if (shared > limits->max_shared)
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "kernel '%.512s': %llu bytes of shared memory; a block may have %u",
                       kernel->name, (ull)shared, limits->max_shared);
  if (m->params_size != kernel->params_size)
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "kernel '%.512s': %u bytes of parameters; it takes %u", kernel->name,
                       m->params_size, kernel->params_size);
  return 0;
}

static int judge_cooperative(gpud_engine *e, const gpud_kernel *kernel, const gpud_launch_config *config)
{
  if (!e->cooperative)
    return gpud_refuse(e, GPUD_STATUS_UNSUPPORTED, 0,
                       "kernel '%.512s': the session has no cooperative launches: HELLO did not offer them",
                       kernel->name);
  uint64_t blocks = (uint64_t)config->grid[0] * config->grid[1] * config->grid[2];
  uint32_t most = e->device->ops->most_cooperative(e->device, kernel, config);
  if (blocks > most)
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0,
                       "kernel '%.512s': a cooperative launch of %llu blocks; %u of this kernel can run at the same "
                       "time: use fewer, and a loop in the kernel",
                       kernel->name, (ull)blocks, most);
  return 0;
}

static int launch_failed(gpud_engine *e, const gpud_kernel *kernel, const gpud_fault_info *info, int rc)
{
  if (rc == -EINTR)
    return rc;
  if (rc == -ENOMEM)
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, 0,
                       "kernel '%.512s': no working memory for so many threads in a block: use fewer", kernel->name);
  if (rc != -EFAULT)
    return gpud_refuse(e, GPUD_STATUS_INTERNAL, 0, "kernel '%.512s': %s", kernel->name, strerror(-rc));
  gpud_refuse(e, info->status, info->address, "kernel '%.512s': %s", kernel->name, info->text);
  memcpy(e->fault.block, info->block, sizeof e->fault.block);
  e->fault.thread = info->thread;
  return GPUD_FAILED;
}

static int launch(gpud_engine *e)
{
  gpud_msg_launch m;
  memcpy(&m, gpud_body(e), sizeof m);
  const gpud_module *module = gpud_module_find(e, m.module);
  if (!module)
    return gpud_refuse(e, GPUD_STATUS_NOT_FOUND, 0, "LAUNCH: there is no module %u", m.module);
  if (m.kernel >= module->kernel_count)
    return gpud_refuse(e, GPUD_STATUS_NOT_FOUND, 0, "LAUNCH: module %u has %u kernels, none of index %u", m.module,
                       module->kernel_count, m.kernel);
  const gpud_kernel *kernel = &module->kernels[m.kernel];
  gpud_launch_config config = {
    .grid = {m.grid[0], m.grid[1], m.grid[2]},
    .block = {m.block[0], m.block[1], m.block[2]},
    .shared = m.shared,
    .stream = stream_of(e),
    .sequence = gpud_connection_received(e->connection),
    .cooperative = (m.flags & GPUD_LAUNCH_COOPERATIVE) != 0,
    .check = e->check,
  };
  int rc = judge_launch(e, &m, kernel);
  if (rc == 0 && config.cooperative)
    rc = judge_cooperative(e, kernel, &config);
  if (rc == 0) {
    gpud_fault_info info;
    const void *params = e->message + sizeof(gpud_message_head) + sizeof m;
    uint64_t begin = gpud_now();
    rc = e->device->ops->launch(e->device, kernel, &config, params, &info);
    gpud_count(&e->stats.kernel_ns, gpud_now() - begin);
    gpud_count(&e->stats.launches, 1);
    /* Before the FAULT, if there is one. */
    int sent = rc == -EINTR ? 0 : gpud_reply_output(e);
    if (rc)
      rc = launch_failed(e, kernel, &info, rc);
    if (sent)
      rc = sent;
  }
  if (rc == GPUD_FAILED) {
    e->fault.module = m.module;
    e->fault.kernel = m.kernel;
  }
  return rc;
}

/* ---------------------------------------------------------------- the rest */

/* The client has taken in the OUTPUT there was, and now gets the rest. */
static int send_output(gpud_engine *e)
{
  e->output_ahead = 0;
  return gpud_reply_output(e);
}

static int synchronize(gpud_engine *e)
{
  int rc = done_by_device(e, "SYNCHRONIZE", 0, e->device->ops->synchronize(e->device));
  return rc ? rc : send_output(e);
}

static int close_session(gpud_engine *e)
{
  (void)e;
  return GPUD_RUN_CLOSED;
}

static int no_device_command(gpud_engine *e)
{
  return gpud_refuse(e, GPUD_STATUS_UNSUPPORTED, 0, "DATA is for peers without a device: send commands here");
}

typedef int (*handler)(gpud_engine *e);

static const handler handlers[64] = {
  [GPUD_OP_DATA] = no_device_command,
  [GPUD_OP_REGION_ADD] = gpud_region_add_command,
  [GPUD_OP_REGION_DROP] = gpud_region_drop_command,
  [GPUD_OP_MAP] = map,
  [GPUD_OP_UNMAP] = unmap,
  [GPUD_OP_COPY_IN] = copy_in,
  [GPUD_OP_COPY_OUT] = copy_out,
  [GPUD_OP_COPY] = copy,
  [GPUD_OP_FILL] = fill,
  [GPUD_OP_WRITE] = write_inline,
  [GPUD_OP_ARRAY_ADD] = array_add,
  [GPUD_OP_ARRAY_DROP] = array_drop,
  [GPUD_OP_MODULE_LOAD] = gpud_module_load,
  [GPUD_OP_MODULE_UNLOAD] = gpud_module_unload,
  [GPUD_OP_LAUNCH] = launch,
  [GPUD_OP_STREAM_CREATE] = gpud_stream_create,
  [GPUD_OP_STREAM_DESTROY] = gpud_stream_destroy,
  [GPUD_OP_EVENT_RECORD] = gpud_event_record,
  [GPUD_OP_EVENT_WAIT] = gpud_event_wait,
  [GPUD_OP_EVENT_QUERY] = gpud_event_query,
  [GPUD_OP_EVENT_DESTROY] = gpud_event_destroy,
  [GPUD_OP_SYNCHRONIZE] = synchronize,
  [GPUD_OP_CLOSE] = close_session,
};

int gpud_dispatch(gpud_engine *e)
{
  gpud_message_head head;
  memcpy(&head, e->message, sizeof head);
  /* The message's check knows every op of the client's: one that is not here is a newer one, or a hole in the table above. */
  handler handle = head.op < sizeof handlers / sizeof handlers[0] ? handlers[head.op] : NULL;
  if (!handle)
    return gpud_refuse(e, GPUD_STATUS_UNSUPPORTED, 0, "%s is not known here", gpud_op_name(head.op));
  bool names_stream = head.op == GPUD_OP_STREAM_CREATE || head.op == GPUD_OP_STREAM_DESTROY;
  if (head.stream != 0 && !names_stream && !gpud_idmap_find(&e->streams, head.stream)) {
    int rc = head.op == GPUD_OP_REGION_ADD ? gpud_region_refuse(e) : 0;
    return rc ? rc
              : gpud_refuse(e, GPUD_STATUS_NOT_FOUND, 0, "%s: there is no stream %u", gpud_op_name(head.op),
                            head.stream);
  }
  return handle(e);
}

int gpud_dispatch_poisoned(gpud_engine *e)
{
  gpud_message_head head;
  memcpy(&head, e->message, sizeof head);
  switch (head.op) {
  case GPUD_OP_CLOSE:
    return GPUD_RUN_CLOSED;
  case GPUD_OP_REGION_ADD:
    return gpud_region_refuse(e);
  case GPUD_OP_MODULE_LOAD: {
    gpud_msg_module_load m;
    memcpy(&m, gpud_body(e), sizeof m);
    gpud_msg_module_status status = {.module = m.module, .status = e->fault.status};
    return gpud_reply_module_status(e, &status, e->fault.text);
  }
  case GPUD_OP_EVENT_QUERY: {
    gpud_msg_event_ref m;
    memcpy(&m, gpud_body(e), sizeof m);
    return gpud_reply_event_time(e, m.event, e->fault.status, 0);
  }
  case GPUD_OP_SYNCHRONIZE:
    return send_output(e);
  default:
    return 0;
  }
}
