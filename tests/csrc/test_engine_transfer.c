/*
 * The ladder by which transfers reach device memory: a device that hides its memory from the engine, over an endpoint whose regions are
 * not mapped, each of which takes or refuses what the test says.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine_rig.h"
#include "internal.h"

#define REGION (8 * MiB)
#define BLOCK (16 * MiB)

/* What the two answer, and what they were asked. */
static struct {
  bool hidden;     /* the device's memory cannot be dereferenced */
  int export;      /* 0: a descriptor is made; else what export_dmabuf returns */
  int dmabuf;      /* what local_here returns for one, */
  int peer;        /* and for a device's address */
  uint64_t refuse; /* except for the block that has this address: -ENOMEM */
  int read;        /* what rma_read returns for the second piece */
  int copy;        /* what copy_in and copy_out return */
  bool in_step;    /* a copy_in ends once the transfer of the next piece has begun */

  uint32_t exports;
  uint32_t copies;
  uint32_t reads;
  uint32_t writes;
  uint32_t host; /* registrations of host memory */
  uint32_t device;
  uint64_t gone;
  uint64_t gone_size;
} says;

/* ---------------------------------------------------------------- a device that hides its memory */

static gpud_device *inner;

static void *hidden_pointer(gpud_device *d, uint64_t address)
{
  (void)d;
  return says.hidden ? NULL : inner->ops->host_pointer(inner, address);
}

static int export_dmabuf(gpud_device *d, uint64_t address, uint64_t size, uint64_t *offset)
{
  (void)d, (void)address, (void)size;
  says.exports++;
  *offset = 77;
  return says.export ? says.export : memfd_create("stands in for a dma-buf", MFD_CLOEXEC);
}

static int copy_in(gpud_device *d, uint64_t destination, const void *source, uint64_t size, uint32_t stream)
{
  (void)d;
  uint32_t next = ++says.copies + 1;
  uint64_t deadline = in_good_time();
  while (says.in_step && gpud_load_acquire_u32(&says.reads) < next)
    CHECK(gpud_now() < deadline);
  return says.copy ? says.copy : inner->ops->copy_in(inner, destination, source, size, stream);
}

static int copy_out(gpud_device *d, void *destination, uint64_t source, uint64_t size, uint32_t stream)
{
  (void)d;
  says.copies++;
  return says.copy ? says.copy : inner->ops->copy_out(inner, destination, source, size, stream);
}

/* The rest that a session here uses is the cpu device's: it is to find its own struct. Nothing else may be called. */
static void limits(const gpud_device *d, gpud_device_limits *l) { (void)d, inner->ops->limits(inner, l); }
static int map(gpud_device *d, uint64_t address, uint64_t size)
{
  return (void)d, inner->ops->map(inner, address, size);
}
static int unmap(gpud_device *d, uint64_t address, uint64_t size)
{
  return (void)d, inner->ops->unmap(inner, address, size);
}
static int copy(gpud_device *d, uint64_t destination, uint64_t source, uint64_t size, uint32_t stream)
{
  return (void)d, inner->ops->copy(inner, destination, source, size, stream);
}
static int synchronize(gpud_device *d) { return (void)d, inner->ops->synchronize(inner); }
static void interrupt(gpud_device *d) { (void)d, inner->ops->interrupt(inner); }
static int reset(gpud_device *d) { return (void)d, inner->ops->reset(inner); }
static void close_device(gpud_device *d) { (void)d, inner->ops->close(inner); }

static gpud_device_ops device_ops;
static gpud_device device = {.ops = &device_ops};

static void hide(gpud_engine *e)
{
  inner = e->device;
  device_ops.name = "hidden";
  device_ops.limits = limits;
  device_ops.map = map;
  device_ops.unmap = unmap;
  device_ops.host_pointer = hidden_pointer;
  device_ops.export_dmabuf = export_dmabuf;
  device_ops.copy_in = copy_in;
  device_ops.copy_out = copy_out;
  device_ops.copy = copy;
  device_ops.synchronize = synchronize;
  device_ops.interrupt = interrupt;
  device_ops.reset = reset;
  device_ops.close = close_device;
  e->device = &device;
}

/* ---------------------------------------------------------------- an endpoint whose regions are not mapped */

static const gpud_endpoint_ops *loop;

static int view(gpud_endpoint *ep, uint32_t region, gpud_region_view *v)
{
  int rc = loop->region_view(ep, region, v);
  v->pointer = NULL;
  return rc;
}

static int rma_read(gpud_endpoint *ep, uint32_t region, uint64_t offset, void *destination, uint64_t size)
{
  uint32_t count = gpud_fetch_add_u32(&says.reads, 1) + 1;
  return count == 2 && says.read ? says.read : loop->rma_read(ep, region, offset, destination, size);
}

static int rma_write(gpud_endpoint *ep, uint32_t region, uint64_t offset, const void *source, uint64_t size)
{
  gpud_fetch_add_u32(&says.writes, 1);
  return loop->rma_write(ep, region, offset, source, size);
}

static int local_here(gpud_endpoint *ep, const gpud_local *local)
{
  (void)ep;
  uint64_t address = (uint64_t)(uintptr_t)local->memory;
  CHECK(local->size <= BLOCK);
  CHECK(address / BLOCK == (address + local->size - 1) / BLOCK || !local->device);
  if (!local->device) {
    CHECK_EQUAL(local->fd, -1);
    says.host++;
    return 0;
  }
  says.device++;
  if (says.refuse >= address && says.refuse - address < local->size)
    return -ENOMEM;
  if (local->fd >= 0)
    CHECK_EQUAL(local->offset, 77);
  return local->fd >= 0 ? says.dmabuf : says.peer;
}

static void local_gone(gpud_endpoint *ep, const void *memory, uint64_t size)
{
  (void)ep;
  says.gone = (uint64_t)(uintptr_t)memory;
  says.gone_size = size;
}

/* ---------------------------------------------------------------- sessions */

static gpud_endpoint_ops endpoint_ops;

static void begin(rig *r)
{
  gpud_endpoint *client;
  gpud_endpoint *worker;
  CHECK_EQUAL(gpud_endpoint_loop(0, 0, &client, &worker), 0);
  loop = worker->ops;
  endpoint_ops = *loop;
  endpoint_ops.region_view = view;
  endpoint_ops.rma_read = rma_read;
  endpoint_ops.rma_write = rma_write;
  endpoint_ops.local_here = local_here;
  endpoint_ops.local_gone = local_gone;
  worker->ops = &endpoint_ops;
  CHECK_EQUAL(gpud_engine_attach_endpoint(r->engine, worker, 7, 64 * MiB, 16 * MiB, &r->welcome), 0);
  r->client = gpud_connection_new(client, 1);
  CHECK(r->client != NULL);
  CHECK_EQUAL(gpud_region_create(r->client, 0, REGION, 3, 0, 0, in_good_time(), &r->region), 0);
}

static uint64_t base;

static void post_copy(rig *r, uint8_t op, uint64_t at, uint64_t offset, uint64_t size)
{
  POST(r, op, gpud_msg_copy_host, .address = base + at, .offset = offset, .size = size);
}

/*
 * Maps chunks at [14 MiB, 20 MiB) and copies across their borders and a block's: in to one place, from there to another on the
 * device, and out to the region's other half.
 */
static void copies(rig *r, uint64_t size)
{
  const uint64_t from = 14 * MiB + 333, to = 24 * MiB + 5;
  unsigned char *memory = gpud_region_pointer(r->region);
  base = r->welcome.window_base;
  fill_bytes(memory, REGION / 2, size + 3);
  for (uint64_t at = 14 * MiB; at < 20 * MiB; at += CHUNK)
    rig_map(r, at, CHUNK);
  rig_map(r, 24 * MiB, 3 * CHUNK);
  post_copy(r, GPUD_OP_COPY_IN, from, 1, size);
  POST(r, GPUD_OP_COPY, gpud_msg_copy, .destination = base + to, .source = base + from, .size = size);
  post_copy(r, GPUD_OP_COPY_OUT, to, REGION / 2 + 2, size);
  POST(r, GPUD_OP_UNMAP, gpud_msg_map, base + 16 * MiB, CHUNK);
  rig_close(r);
  rig_no_reply(r);
  CHECK(memcmp(memory + 1, memory + REGION / 2 + 2, size) == 0);
  CHECK_EQUAL(says.gone, base + 16 * MiB);
  CHECK_EQUAL(says.gone_size, CHUNK);
}

static void stands_on(rig *r, int rung, const char *text)
{
  char got[600];
  CHECK_EQUAL(gpud_engine_direct(r->engine, got, sizeof got), rung);
  if (strcmp(got, text) != 0)
    fprintf(stderr, "it says: %s\n", got);
  CHECK(strcmp(got, text) == 0);
}

static const uint64_t sizes[] = {1,           5000,        GPUD_BOUNCE_SIZE - 1, GPUD_BOUNCE_SIZE, GPUD_BOUNCE_SIZE + 1,
                                 1900 * 1024, 3 * MiB + 7, REGION / 2 - 2};
#define EACH(i) for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)

static void ends(rig *r)
{
  char text[64];
  CHECK_EQUAL(rig_end(r), 0);
  CHECK(gpud_engine_direct(r->engine, text, sizeof text) > 0); /* still known */
}

static void host_memory_is_registered_and_reached_as_it_is(rig *r)
{
  EACH(i)
  {
    memset(&says, 0, sizeof says);
    begin(r);
    stands_on(r, 0, "no copy yet");
    copies(r, sizes[i]);
    stands_on(r, GPUD_DIRECT_HOST, "host memory");
    CHECK_EQUAL(says.copies, 0);
    CHECK_EQUAL(says.exports, 0);
    CHECK_EQUAL(says.device, 0);
    CHECK_EQUAL(says.reads, 1);
    CHECK_EQUAL(says.writes, 1);
    CHECK(says.host >= 2);
    ends(r);
  }
}

static void an_exported_dma_buf_is_the_first_choice(rig *r)
{
  EACH(i)
  {
    memset(&says, 0, sizeof says);
    says.hidden = true;
    int descriptors = open_descriptors();
    begin(r);
    copies(r, sizes[i]);
    stands_on(r, GPUD_DIRECT_DMABUF, "dma-buf");
    CHECK_EQUAL(says.copies, 0);
    CHECK_EQUAL(says.host, 0);
    CHECK_EQUAL(says.exports, says.device);
    ends(r);
    CHECK_EQUAL(open_descriptors(), descriptors);
  }
}

static void without_one_the_adapter_may_know_the_addresses(rig *r)
{
  for (int who = 0; who < 2; who++) {
    memset(&says, 0, sizeof says);
    says.hidden = true;
    if (who == 0)
      says.export = -ENOTSUP; /* the device has none */
    else
      says.dmabuf = -EOPNOTSUPP; /* the adapter takes none */
    begin(r);
    copies(r, sizes[6]);
    stands_on(r, GPUD_DIRECT_PEER, "peer memory (no dma-buf: Operation not supported)");
    CHECK_EQUAL(says.exports, 1); /* not tried again */
    CHECK_EQUAL(says.copies, 0);
    ends(r);
  }
}

static void without_either_copies_bounce(rig *r)
{
  EACH(i)
  {
    memset(&says, 0, sizeof says);
    says = (__typeof__(says)){.hidden = true, .export = -ENOTSUP, .peer = -EFAULT};
    begin(r);
    copies(r, sizes[i]);
    stands_on(r, GPUD_DIRECT_BOUNCE,
              "bounce buffers (no dma-buf: Operation not supported; no peer memory: Bad address)");
    CHECK_EQUAL(says.copies, says.reads + says.writes);
    CHECK(says.copies >= 2 * ((sizes[i] + GPUD_BOUNCE_SIZE - 1) / GPUD_BOUNCE_SIZE));
    CHECK_EQUAL(says.host, 1); /* both buffers */
    ends(r);
  }
}

static void a_piece_is_transferred_while_the_device_copies_the_one_before(rig *r)
{
  const uint64_t pieces = 4, size = pieces * GPUD_BOUNCE_SIZE;
  says = (__typeof__(says)){.hidden = true, .export = -ENOTSUP, .peer = -EFAULT, .in_step = true};
  begin(r);
  base = r->welcome.window_base;
  rig_map(r, 0, 3 * CHUNK);
  post_copy(r, GPUD_OP_COPY_IN, 0, 0, size);
  /* The last piece has none behind it: one more transfer is counted for it. */
  says.reads = 1;
  rig_close(r);
  CHECK_EQUAL(says.reads, pieces + 1);
  ends(r);
}

static void memory_that_cannot_be_registered_bounces_alone(rig *r)
{
  memset(&says, 0, sizeof says);
  begin(r); /* only to learn the window */
  says.refuse = r->welcome.window_base + 17 * MiB;
  copies(r, 1);
  ends(r);
  says = (__typeof__(says)){.hidden = true, .refuse = says.refuse};
  begin(r);
  copies(r, sizes[7]);
  stands_on(r, GPUD_DIRECT_DMABUF, "dma-buf");
  CHECK(says.copies > 0);
  CHECK(says.copies <= 3);
  ends(r);
}

static void what_fails_on_the_way_is_the_commands_failure(rig *r)
{
  rig_reply reply;
  for (int who = 0; who < 3; who++) {
    says = (__typeof__(says)){.hidden = true, .export = -ENOTSUP, .peer = -EFAULT};
    if (who == 0)
      says.read = -EACCES;
    else
      says.copy = who == 1 ? -EFAULT : -ENOMEM;
    begin(r);
    base = r->welcome.window_base;
    rig_map(r, 0, 3 * CHUNK);
    int64_t failing = POST(r, GPUD_OP_COPY_IN, gpud_msg_copy_host, .address = base, .size = 3 * MiB + 1);
    post_copy(r, GPUD_OP_COPY_OUT, 0, 0, MiB);
    rig_close(r);
    rig_reply_of(r, GPUD_OP_FAULT, &reply);
    const uint32_t statuses[] = {GPUD_STATUS_INVALID, GPUD_STATUS_DEVICE_FAULT, GPUD_STATUS_OUT_OF_MEMORY};
    CHECK_EQUAL(BODY_OF(&reply, gpud_msg_fault)->status, statuses[who]);
    CHECK_EQUAL(BODY_OF(&reply, gpud_msg_fault)->sequence, failing);
    CHECK_EQUAL(says.writes, 0);
    ends(r);
  }
  says = (__typeof__(says)){.hidden = true, .export = -ENOTSUP, .peer = -EFAULT, .copy = -EFAULT};
  begin(r);
  rig_map(r, 0, 3 * CHUNK);
  post_copy(r, GPUD_OP_COPY_OUT, 0, 0, 3 * MiB);
  rig_close(r);
  rig_reply_of(r, GPUD_OP_FAULT, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_fault)->status, GPUD_STATUS_DEVICE_FAULT);
  ends(r);
}

int main(void)
{
  rig r;
  rig_open(&r, 1, NULL);
  hide(r.engine);
  host_memory_is_registered_and_reached_as_it_is(&r);
  an_exported_dma_buf_is_the_first_choice(&r);
  without_one_the_adapter_may_know_the_addresses(&r);
  without_either_copies_bounce(&r);
  a_piece_is_transferred_while_the_device_copies_the_one_before(&r);
  memory_that_cannot_be_registered_bounces_alone(&r);
  what_fails_on_the_way_is_the_commands_failure(&r);
  rig_shut(&r);
  return 0;
}
