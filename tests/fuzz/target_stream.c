/*
 * Invariant: whatever bytes the peer sends over tcp, and wherever they are cut, an end takes the messages that a plain reading of the stream
 * finds, in order, each byte of a payload once and where it was asked for and nowhere else; the end is -EPIPE or -EPROTO, which of the two
 * the stream says; it holds no more memory than it began with, and gives back all.
 *
 * An input: which end (bit 0 of a byte: the worker's or the client's), what that end does, then the stream: pieces that are well formed but for what
 * a byte or two say, and raw ones, each with a place to be cut. The peer is this thread as well: it sends the next part when the
 * end that is tested would sleep for want of it (poll and ppoll are wrapped), so nothing here depends on time.
 */
#include <sched.h>

#include "stream_peer.h"

size_t __sanitizer_get_current_allocated_bytes(void); /* gcc brings no header that has it */

#define SLOTS 256u
#define ACTS 16u      /* what an end does, a byte for each command or copy */
#define GROWN 262144u /* bytes that an end may take while it runs: none of its own, the sanitizer's and libc's */

static uint8_t acts[ACTS];
static gpud_connection *end; /* that is tested */

/* The next message, waited for. gpud_connection_receive would look for it fifty times before it sleeps. */
static int receive(void *message)
{
  gpud_endpoint *ep = gpud_connection_endpoint(end);
  int rc;
  while ((rc = gpud_connection_receive(end, message, 0)) == -EAGAIN)
    if ((rc = ep->ops->wait(ep, GPUD_WAIT_MESSAGE, 0, in_good_time())) != 0)
      return rc;
  return rc;
}

/* ---------------------------------------------------------------- the worker's end */

static struct {
  uint64_t size;
  uint32_t access;
} added[GPUD_MAX_REGIONS];
static uint32_t added_numbers[64]; /* to be forgotten again */
static unsigned added_count;
static uint64_t out_bytes, out_replies; /* what the worker said */
static uint64_t published_at[4096];     /* bytes that it had sent before it said so */
static uint64_t last_published;
static bool fault_published;

static int judge(uint32_t region, uint64_t offset, uint64_t size, uint32_t access)
{
  if (region == GPUD_REGION_STREAM) /* of any size, but numbers end */
    return size > UINT64_MAX - offset ? -ERANGE : 0;
  if (region >= GPUD_MAX_REGIONS || added[region].size == 0)
    return -ENOENT;
  if (offset > added[region].size || size > added[region].size - offset)
    return -ERANGE;
  return added[region].access & access ? 0 : -EACCES;
}

static void add_region(const gpud_msg_region_add *m, const void *message)
{
  int wanted = m->region >= GPUD_MAX_REGIONS                         ? -EINVAL
               : added[m->region].size                               ? -EEXIST
               : m->address                                          ? -ENOTSUP
               : m->size == 0 || m->size % 4096 || added_count == 64 ? -EPERM
                                                                     : 0;
  if (wanted == -EPERM && added_count == 64)
    return;
  CHECK_EQUAL(gpud_connection_region_add(end, message, in_good_time()), wanted);
  if (wanted != 0)
    return;
  added[m->region].size = m->size;
  added[m->region].access = m->access;
  added_numbers[added_count++] = m->region;
}

static void drop_region(const gpud_msg_region_drop *m, const void *message)
{
  bool there = m->region < GPUD_MAX_REGIONS && added[m->region].size;
  CHECK_EQUAL(gpud_connection_region_drop(end, message), there ? 0 : -ENOENT);
  if (there)
    added[m->region].size = 0;
}

/* Reads the next `size` bytes of a payload, of which `left` are due and that goes on at `at` of the stream. */
static int read_part(uint32_t region, uint64_t offset, uint64_t size, uint64_t left, size_t at)
{
  if (size > ROOM)
    size = ROOM;
  uint8_t *bytes = malloc(size + !size);
  CHECK(bytes);
  int wanted = judge(region, offset, size, GPUD_ACCESS_READ);
  if (wanted == 0 && size > left)
    wanted = -ENOTSUP;
  if (wanted == 0 && size > stream_size - at)
    wanted = -EPIPE;
  CHECK_EQUAL(gpud_connection_rma_read(end, region, offset, bytes, size), wanted);
  CHECK(wanted != 0 || size == 0 || memcmp(bytes, stream + at, size) == 0);
  free(bytes);
  return wanted;
}

/* What is done with a payload of `size` bytes at `at`: nothing, all, a part, in parts, or what may not be. */
static void read_payload(uint8_t act, uint32_t region, uint64_t offset, uint64_t size, size_t at)
{
  uint64_t piece = 1 + (uint64_t)(act >> 3) * 97;
  switch (act % 8) {
  case 0:
    return;
  case 1:
    read_part(region, offset, size, size, at);
    return;
  case 2:
    read_part(region, offset, size / 2, size, at);
    return;
  case 3:
    for (uint64_t done = 0; done < size && done / piece < 64; done += piece) {
      piece = piece < size - done ? piece : size - done;
      if (read_part(region, offset + done, piece, size - done, at + done) != 0)
        return;
    }
    return;
  case 4: { /* not the next ones */
    uint8_t byte;
    int rc = judge(region, offset + 1, 1, GPUD_ACCESS_READ);
    CHECK_EQUAL(gpud_connection_rma_read(end, region, offset + 1, &byte, 1), rc ? rc : -ENOTSUP);
    return;
  }
  case 5: { /* another's */
    uint8_t byte;
    uint32_t other = region == 1 ? 2 : 1;
    int rc = judge(other, offset, 1, GPUD_ACCESS_READ);
    CHECK_EQUAL(gpud_connection_rma_read(end, other, offset, &byte, 1), rc ? rc : -ENOTSUP);
    return;
  }
  case 6: /* one more than there are */
    if (size < ROOM)
      read_part(region, offset, size + 1, size, at);
    return;
  default: /* twice */
    if (size && read_part(region, offset, 1, size, at) == 0)
      CHECK_EQUAL(gpud_connection_rma_read(end, region, offset, &act, 1), -ENOTSUP);
  }
}

static int write_part(uint32_t region, uint64_t offset, uint64_t size, uint64_t left)
{
  static uint8_t bytes[ROOM];
  if (size > ROOM)
    size = ROOM;
  for (uint64_t i = 0; i < size; i++)
    bytes[i] = filler(out_bytes + i);
  int wanted = judge(region, offset, size, GPUD_ACCESS_WRITE);
  if (wanted == 0 && size > left)
    wanted = -ENOTSUP;
  CHECK_EQUAL(gpud_connection_rma_write(end, region, offset, bytes, size), wanted);
  out_bytes += wanted == 0 ? size : 0;
  return wanted;
}

static void write_payload(uint8_t act, uint32_t region, uint64_t offset, uint64_t size)
{
  if (act % 4 == 1)
    write_part(region, offset, size, size);
  else if (act % 4 == 2 && write_part(region, offset, size / 3, size) == 0 && size / 3 <= ROOM)
    write_part(region, offset + size / 3, size - size / 3, size - size / 3);
  else if (act % 4 == 3 && size < ROOM)
    write_part(region, offset, size + 1, size);
}

/* Executes a command, the payload of which is at `at`; how many bytes that has. */
static uint64_t execute(const uint8_t *message, uint8_t act, size_t at)
{
  const uint8_t *body = message + HEAD_SIZE;
  gpud_msg_copy_host m;
  gpud_msg_module_load load;
  gpud_msg_region_add add;
  gpud_msg_region_drop drop;
  switch (message[offsetof(gpud_message_head, op)]) {
  case GPUD_OP_REGION_ADD:
    memcpy(&add, body, sizeof add);
    add_region(&add, message);
    return 0;
  case GPUD_OP_REGION_DROP:
    memcpy(&drop, body, sizeof drop);
    drop_region(&drop, message);
    return 0;
  case GPUD_OP_COPY_IN:
    memcpy(&m, body, sizeof m);
    read_payload(act, m.region, m.offset, m.size, at);
    return m.size;
  case GPUD_OP_MODULE_LOAD:
    memcpy(&load, body, sizeof load);
    read_payload(act, load.region, load.offset, load.size, at);
    return load.size;
  case GPUD_OP_COPY_OUT:
    memcpy(&m, body, sizeof m);
    write_payload(act, m.region, m.offset, m.size);
    return 0;
  default:
    return 0;
  }
}

static void answer(uint8_t act, uint64_t sequence)
{
  if (act & 16 && gpud_connection_post(end, GPUD_OP_DATA, 0, &act, 1, in_good_time()) > 0)
    out_replies++;
  if (!(act & 32) || sequence >= sizeof published_at / sizeof published_at[0])
    return;
  fault_published = fault_published || act == 255;
  published_at[sequence] = out_bytes;
  last_published = sequence;
  gpud_connection_publish(end, sequence, fault_published);
}

/* What the peer was sent, read plainly: all of what the worker said, and nothing else. True once that is so. */
static bool all_answered(void)
{
  size_t at = 0;
  uint64_t bytes = 0, replies = 0, completed = 0;
  bool faulted = false;
  while (taken_size - at >= HEAD_SIZE) {
    gpud_message_head head;
    memcpy(&head, taken + at, sizeof head);
    CHECK(head.size >= HEAD_SIZE && head.tag == 0 && head.flags == 0);
    if (taken_size - at < head.size)
      return false;
    const uint8_t *body = taken + at + HEAD_SIZE;
    at += head.size;
    if (head.op == GPUD_OP_BYTES) {
      gpud_msg_bytes m;
      memcpy(&m, body, sizeof m);
      CHECK(m.size > 0 && m.size <= out_bytes - bytes);
      for (; m.size && at < taken_size; m.size--, at++, bytes++)
        CHECK_EQUAL(taken[at], filler(bytes));
      if (m.size)
        return false;
    } else if (head.op == GPUD_OP_COMPLETED) {
      gpud_msg_completed m;
      memcpy(&m, body, sizeof m);
      CHECK(m.sequence >= completed && m.sequence <= last_published && (m.faulted || !faulted));
      CHECK(!m.faulted || fault_published);
      CHECK(bytes >= published_at[m.sequence]);
      completed = m.sequence;
      faulted = m.faulted;
    } else {
      CHECK_EQUAL(head.op, GPUD_OP_DATA);
      CHECK_EQUAL(head.sequence, ++replies);
      CHECK(replies <= out_replies);
    }
  }
  return at == taken_size && bytes == out_bytes && replies == out_replies && completed == last_published &&
         faulted == fault_published;
}

static void flush_and_take(void)
{
  gpud_endpoint *ep = gpud_connection_endpoint(end);
  uint64_t deadline = in_good_time();
  do {
    ep->ops->wait(ep, GPUD_WAIT_MESSAGE, 0, 0); /* sends what was held back */
    take_answers();
    CHECK(gpud_now() < deadline);
  } while (!all_answered());
}

static void run_worker(fuzz_input *in)
{
  const gpud_hello hello = {.version_min = 1, .version_max = 1, .features = GPUD_FEATURE_DEVICE};
  gpud_welcome welcome = {.command_slots = SLOTS, .reply_slots = SLOTS};
  gpud_endpoint *ep;
  char message[GPUD_MAX_MESSAGE];
  int sockets[2], fd;
  connect_sockets(sockets);
  peer = sockets[0];
  CHECK_EQUAL(gpud_endpoint_accept(sockets[1], &hello, &welcome, "", in_good_time(), &ep), 0);
  CHECK(gpud_bootstrap_receive(peer, message, &fd, in_good_time()) > 0);
  end = gpud_connection_new(ep, 0);
  CHECK(end);
  begin_stream();
  make_stream(in, true);
  added_count = 0;
  out_bytes = out_replies = last_published = 0;
  fault_published = false;
  driving = true;
  size_t at = 0;
  for (uint32_t sequence = 1;; sequence++) {
    int wanted = plain_checked(at, sequence, 1);
    int rc = receive(message);
    CHECK_EQUAL(rc, wanted);
    if (rc < 0)
      break;
    uint8_t act = acts[sequence % ACTS];
    CHECK(memcmp(message, stream + at, (size_t)rc) == 0);
    at += (size_t)rc;
    uint64_t payload = execute((const uint8_t *)message, act, at);
    at += payload < stream_size - at ? payload : stream_size - at;
    if (taken_size < sizeof taken - 2 * ROOM)
      answer(act, sequence);
    else
      memset(acts, 0, sizeof acts); /* it has said enough */
  }
  driving = false;
  flush_and_take();
  for (unsigned i = 0; i < added_count; i++)
    added[added_numbers[i]].size = 0;
}

/* ---------------------------------------------------------------- the client's end */

static uint8_t *memory[REGIONS];
static uint8_t wanted_memory[REGIONS][ROOM]; /* the same after a plain reading */
static struct {
  uint32_t region; /* the place in `memory` */
  uint64_t offset, left, sequence;
} expected[ACTS];
static unsigned expected_count;

static void offer(uint32_t place, uint32_t number)
{
  const gpud_region_offer o = {.number = number, .access = 3, .size = ROOM, .pointer = memory[place], .fd = -1};
  int rc = number == GPUD_REGION_STREAM ? gpud_connection_offer(end, &o, in_good_time())
                                        : gpud_connection_announce(end, &o, 0, in_good_time());
  CHECK_EQUAL(rc, 0);
}

/* Asks for copies, as the acts say: how much, to where. */
static void ask(void)
{
  uint64_t offset[REGIONS] = {0};
  expected_count = 0;
  for (unsigned i = 0; i < ACTS && acts[i]; i++) {
    uint32_t place = acts[i] % REGIONS; /* the last has no memory: its bytes are dropped */
    uint64_t size = (uint64_t)(acts[i] >> 2) * (uint64_t)(acts[i] >> 2) * (1 + 12 * (i % 3));
    if (size > ROOM - offset[place])
      continue;
    const gpud_msg_copy_host m = {
      .offset = offset[place], .size = size, .region = place == 0 ? GPUD_REGION_STREAM : place};
    int64_t sequence = gpud_connection_post(end, GPUD_OP_COPY_OUT, 0, &m, sizeof m, in_good_time());
    CHECK(sequence > 0);
    if (size == 0)
      continue;
    expected[expected_count].region = place;
    expected[expected_count].offset = offset[place];
    expected[expected_count].left = size;
    expected[expected_count++].sequence = (uint64_t)sequence;
    offset[place] += size;
  }
}

/* How far the carrier reads: where the stream is wrong or ends. What lands meanwhile is in wanted_memory. */
static int plain_reading(uint64_t *completed, bool *faulted)
{
  unsigned oldest = 0;
  size_t at = 0;
  *completed = 0;
  *faulted = false;
  for (;;) {
    int size = plain_message(at);
    if (size < 0)
      return size;
    gpud_message_head head;
    memcpy(&head, stream + at, sizeof head);
    const uint8_t *message = stream + at;
    at += (size_t)size;
    if (head.op < GPUD_OP_COMPLETED) {
      if (head.op == 0 || head.flags != 0)
        return -EPROTO;
      continue;
    }
    if (gpud_link_check(message, (size_t)size, 0) != 0)
      return -EPROTO;
    if (head.op == GPUD_OP_COMPLETED) {
      gpud_msg_completed m;
      memcpy(&m, message + HEAD_SIZE, sizeof m);
      for (; oldest < expected_count && expected[oldest].sequence <= m.sequence; oldest++)
        if (!m.faulted)
          return -EPROTO;
      if (m.sequence < *completed || (*faulted && !m.faulted))
        return -EPROTO;
      *completed = m.sequence;
      *faulted = m.faulted;
      continue;
    }
    gpud_msg_bytes m;
    memcpy(&m, message + HEAD_SIZE, sizeof m);
    if (head.op != GPUD_OP_BYTES || oldest == expected_count || m.size == 0 || m.size > expected[oldest].left)
      return -EPROTO;
    uint64_t there = m.size < stream_size - at ? m.size : stream_size - at;
    memcpy(wanted_memory[expected[oldest].region] + expected[oldest].offset, stream + at, there);
    at += there;
    expected[oldest].offset += there;
    expected[oldest].left -= there;
    if (expected[oldest].left == 0)
      oldest++;
    if (there < m.size)
      return -EPIPE;
  }
}

/*
 * The next reply at *at or behind it, bytes and link messages passed over; plain_reading has said that the carrier gets as far. *refused: it
 * is the connection that does not take the reply, and the carrier may read on.
 */
static int plain_reply(size_t *at, uint32_t sequence, bool *refused)
{
  *refused = false;
  for (;;) {
    gpud_message_head head;
    int size = plain_message(*at);
    if (size < 0)
      return size;
    memcpy(&head, stream + *at, sizeof head);
    if (head.op < GPUD_OP_COMPLETED) {
      if (head.op == 0 || head.flags)
        return -EPROTO;
      size = plain_checked(*at, sequence, 0);
      *refused = size < 0;
      return size;
    }
    gpud_msg_bytes m = {0};
    if (head.op == GPUD_OP_BYTES && size == (int)(HEAD_SIZE + sizeof m))
      memcpy(&m, stream + *at + HEAD_SIZE, sizeof m);
    *at += (size_t)size;
    *at += m.size < stream_size - *at ? m.size : stream_size - *at;
  }
}

/* Whether each byte is what it was, or what should have come there; all of them the latter where `all` is. */
static void look_at_memory(bool all)
{
  for (uint32_t place = 0; place < REGIONS - 1; place++) {
    if (memcmp(memory[place], wanted_memory[place], ROOM) == 0)
      continue;
    CHECK(!all);
    for (size_t i = 0; i < ROOM; i++)
      CHECK(memory[place][i] == wanted_memory[place][i] || memory[place][i] == 0);
  }
}

static void send_welcome(void)
{
  const gpud_welcome welcome = {.version = 1, .command_slots = SLOTS, .reply_slots = SLOTS};
  char frame[GPUD_MAX_FRAME];
  int size = gpud_frame_encode(frame, sizeof frame, GPUD_FRAME_WELCOME, &welcome, "", 0);
  CHECK_EQUAL(send(peer, frame, (size_t)size, 0), size);
}

static void open_client(void)
{
  const gpud_hello hello = {.version_min = 1, .version_max = 1};
  gpud_welcome welcome;
  gpud_refused refused;
  gpud_endpoint *ep;
  char text[GPUD_MAX_TEXT + 1];
  int sockets[2];
  connect_sockets(sockets);
  peer = sockets[1];
  send_welcome();
  CHECK_EQUAL(gpud_endpoint_connect(sockets[0], &hello, "", &welcome, &refused, text, in_good_time(), &ep), 0);
  end = gpud_connection_new(ep, 1);
  CHECK(end);
}

static void run_client(fuzz_input *in, bool withdraws)
{
  char message[GPUD_MAX_MESSAGE];
  uint64_t completed;
  bool faulted;
  size_t at = 0;
  open_client();
  for (uint32_t place = 0; place < REGIONS - 1; place++) {
    memory[place] = calloc(1, ROOM); /* of its own, so that what is written beyond it is seen */
    CHECK(memory[place]);
    memset(wanted_memory[place], 0, ROOM);
    offer(place, place == 0 ? GPUD_REGION_STREAM : place);
  }
  ask();
  begin_stream();
  make_stream(in, false);
  int at_end = plain_reading(&completed, &faulted);
  int wanted = 0;
  bool refused = false;
  driving = true;
  if (withdraws) {
    feed();
    gpud_connection_wait(end, 1, 0);
    CHECK_EQUAL(gpud_connection_withdraw(end, 1, gpud_connection_posted(end)), 0);
    look_at_memory(false);
    memcpy(wanted_memory[1], memory[1], ROOM); /* nothing is written there any more */
  }
  for (uint32_t sequence = 1;; sequence++) {
    uint64_t posted = gpud_connection_posted(end);
    wanted = plain_reply(&at, sequence, &refused);
    int rc = receive(message);
    if (wanted > 0 && rc < 0) /* the end came before */
      CHECK_EQUAL(rc, at_end);
    else
      CHECK(rc == wanted || rc == at_end);
    if (rc < 0)
      break;
    CHECK(memcmp(message + 8, stream + at + 8, (size_t)rc - 8) == 0);
    at += (size_t)rc;
    CHECK(gpud_connection_completed(end) <= posted);
  }
  driving = false;
  gpud_endpoint *ep = gpud_connection_endpoint(end);
  bool whole = wanted == at_end && !refused;
  look_at_memory(whole);
  if (whole) {
    int seen;
    CHECK_EQUAL(ep->ops->completed(ep, &seen), completed);
    CHECK_EQUAL(seen, faulted);
  }
}

/* ---------------------------------------------------------------- a run */

/* Then nobody spins, and the end that is tested sleeps, and is fed, as soon as it has nothing to do. */
static void use_one_cpu(void)
{
  static bool done;
  cpu_set_t one;
  int cpu = sched_getcpu();
  if (done || cpu < 0)
    return;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  done = sched_setaffinity(0, sizeof one, &one) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  fuzz_input in = {data, data + size};
  uint8_t first = fuzz_byte(&in);
  use_one_cpu();
  open_listener();
  int open = fuzz_open_descriptors();
  memset(acts, 0, sizeof acts);
  fuzz_bytes(&in, acts, 1 + (first >> 2) % ACTS);
  size_t before = __sanitizer_get_current_allocated_bytes();
  if (first & 1)
    run_client(&in, first & 2);
  else
    run_worker(&in);
  CHECK(__sanitizer_get_current_allocated_bytes() <= before + GROWN + (REGIONS + 1) * ROOM);
  take_answers();
  reset_peer();
  gpud_connection_free(end);
  end = NULL;
  for (uint32_t place = 0; place < REGIONS - 1; place++) {
    free(memory[place]);
    memory[place] = NULL;
  }
  CHECK_EQUAL(fuzz_open_descriptors(), open);
  return 0;
}
