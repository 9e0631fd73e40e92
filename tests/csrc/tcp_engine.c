/* The engine behind a TCP socket: copies and images whose bytes ride behind their command; how its sessions end. */
#include <stdbool.h>

#include "bulk.h"
#include "engine_kernels.h"
#include "tcp_link.h"

static pthread_t runner;
static int ending; /* GPUD_RUN_* of the session */

static void *run(void *argument)
{
  ending = rig_run(argument);
  return argument;
}

/* The engine takes the socket, in a thread of its own, as a worker does. */
static void serve(rig *r, int socket, uint64_t memory, uint64_t host_memory)
{
  gpud_hello hello = {.version_min = 1, .version_max = 1, .features = GPUD_FEATURE_DEVICE | GPUD_FEATURE_HOST_MAP};
  CHECK_EQUAL(gpud_engine_attach(r->engine, socket, &hello, 7, memory, host_memory, in_good_time()), 0);
  CHECK_EQUAL(pthread_create(&runner, NULL, run, r), 0);
}

static void begin(rig *r)
{
  int sockets[2];
  gpud_hello hello;
  pthread_t thread;
  tcp_sockets(sockets);
  tcp_connecting connecting = {.socket = sockets[0]};
  CHECK_EQUAL(pthread_create(&thread, NULL, tcp_connect_client, &connecting), 0);
  tcp_hello(sockets[1], &hello);
  serve(r, sockets[1], 64 * MiB, 16 * MiB);
  pthread_join(thread, NULL);
  CHECK_EQUAL(connecting.rc, 0);
  CHECK_EQUAL(connecting.welcome.features, GPUD_FEATURE_DEVICE); /* and nothing is mapped in the window */
  r->welcome = connecting.welcome;
  r->client = gpud_connection_new(connecting.ep, 1);
  CHECK(r->client);
  CHECK_EQUAL(gpud_region_create(r->client, 0, MiB, 3, 0, 0, in_good_time(), &r->region), 0);
}

static void detach(rig *r)
{
  pthread_join(runner, NULL);
  CHECK_EQUAL(gpud_engine_detach(r->engine, GPUD_STATUS_OK, NULL), 0);
  while (gpud_engine_next_unloaded(r->engine) >= 0)
    continue;
}

static void end(rig *r)
{
  int64_t last = rig_post(r, GPUD_OP_CLOSE, 0, NULL, 0);
  int rc = gpud_connection_wait(r->client, (uint64_t)last, in_good_time());
  CHECK(rc == 0 || rc == -EIO);
  gpud_region_free(r->region);
  gpud_connection_free(r->client);
  detach(r);
  CHECK_EQUAL(ending, GPUD_RUN_CLOSED);
}

static void settle(rig *r)
{
  CHECK_EQUAL(gpud_connection_wait(r->client, gpud_connection_posted(r->client), in_good_time()), 0);
}

static void reply_of(rig *r, uint8_t op, rig_reply *reply)
{
  memset(reply, 0, sizeof *reply);
  reply->size = gpud_connection_receive(r->client, reply->bytes, in_good_time());
  CHECK(reply->size > 0);
  CHECK_EQUAL(reply->head.op, op);
}

static void copy(rig *r, uint8_t op, uint64_t at, uint32_t region, uint64_t offset, uint64_t size)
{
  POST(r, op, gpud_msg_copy_host, .address = r->welcome.window_base + at, .offset = offset, .size = size,
       .region = region);
}

static void memory_goes_there_and_back(rig *r)
{
  begin(r);
  rig_map(r, 0, 8 * CHUNK);
  unsigned char *bytes = gpud_region_pointer(r->region);
  for (uint32_t size = 1; size <= MiB / 2; size = size * 3 + 1) {
    fill_bytes(bytes, size, size);
    copy(r, GPUD_OP_COPY_IN, 5, 0, 0, size);
    copy(r, GPUD_OP_COPY_OUT, 5, 0, MiB / 2, size);
    settle(r);
    CHECK(bytes_are(bytes + MiB / 2, size, size));
  }
  gpud_stage *stage;
  CHECK_EQUAL(gpud_stage_create(r->client, 1, 2, 65536, in_good_time(), &stage), 0);
  char *here = malloc(9 * MiB);
  for (uint32_t size = 1; size <= 9 * MiB; size = size * 5 + 2) { /* the small ones are WRITEs */
    fill_bytes(here, size, size);
    CHECK(gpud_bulk_put(stage, r->welcome.window_base + 1, here, size, 0, in_good_time()) > 0);
    memset(here, 0, size);
    CHECK(gpud_bulk_get(stage, here, r->welcome.window_base + 1, size, 0, in_good_time()) > 0);
    CHECK(bytes_are(here, size, size));
  }
  free(here);
  gpud_stage_free(stage);
  end(r);
}

static void a_module_is_loaded_and_runs(rig *r)
{
  rig_reply reply;
  begin(r);
  rig_map(r, 0, CHUNK);
  uint64_t counter = r->welcome.window_base;
  rig_load(r, 3, "good");
  settle(r); /* until then its image is the worker's to read */
  rig_load(r, 4, "bad source");
  rig_launch(r, 3, "count", 7, 32, &counter, sizeof counter);
  copy(r, GPUD_OP_COPY_OUT, 0, 0, 0, 8);
  settle(r);
  for (uint32_t i = 0; all_kernels[i].name; i++)
    reply_of(r, GPUD_OP_KERNEL_INFO, &reply);
  reply_of(r, GPUD_OP_MODULE_STATUS, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_module_status)->status, GPUD_STATUS_OK);
  reply_of(r, GPUD_OP_MODULE_STATUS, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_module_status)->status, GPUD_STATUS_COMPILE);
  CHECK(strcmp(TEXT_OF(&reply, gpud_msg_module_status), "line 1: this is bad") == 0);
  CHECK_EQUAL(*(uint64_t *)gpud_region_pointer(r->region), 7 * 32);
  end(r);
}

/* One command that fails, then many that bring bytes: all of them complete, and the stream stays in step. */
static void refused(rig *r, uint8_t op, const void *body, size_t size, uint32_t status)
{
  rig_reply reply;
  const gpud_msg_module_load load = {.module = 1, .size = 5000};
  begin(r);
  rig_map(r, 0, CHUNK);
  memset(gpud_region_pointer(r->region), 0x11, MiB); /* what would be commands, were it taken for some */
  rig_post(r, op, 0, body, size);
  for (uint32_t i = 0; i < 10; i++) {
    copy(r, GPUD_OP_COPY_IN, 0, 0, i, 60000 * i);
    copy(r, GPUD_OP_COPY_OUT, 0, 0, i, 60000 * i);
    rig_post(r, GPUD_OP_MODULE_LOAD, 0, &load, sizeof load);
    POST(r, GPUD_OP_EVENT_QUERY, gpud_msg_event_ref, .event = 1);
  }
  CHECK_EQUAL(gpud_connection_wait(r->client, gpud_connection_posted(r->client), in_good_time()), -EIO);
  reply_of(r, GPUD_OP_FAULT, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_fault)->status, status);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_fault)->op, op);
  if (op == GPUD_OP_MODULE_LOAD)
    reply_of(r, GPUD_OP_MODULE_STATUS, &reply);
  for (uint32_t i = 0; i < 10; i++) {
    reply_of(r, GPUD_OP_MODULE_STATUS, &reply);
    CHECK_EQUAL(BODY_OF(&reply, gpud_msg_module_status)->status, status);
    reply_of(r, GPUD_OP_EVENT_TIME, &reply);
  }
  end(r);
}

static void what_is_refused_leaves_the_stream_in_step(rig *r)
{
  begin(r);
  uint64_t base = r->welcome.window_base;
  end(r);
  const struct {
    gpud_msg_copy_host m;
    uint32_t status;
  } copies[] = {
    {{.address = base + CHUNK, .size = 100000}, GPUD_STATUS_INVALID},
    {{.address = base, .size = CHUNK + 1}, GPUD_STATUS_INVALID},
    {{.address = base, .size = 8, .region = 9}, GPUD_STATUS_NOT_FOUND},
    {{.address = base, .size = 8, .region = 1u << 20}, GPUD_STATUS_NOT_FOUND},
    {{.address = base, .size = CHUNK, .region = 9}, GPUD_STATUS_NOT_FOUND},
    {{.address = base, .size = 8, .offset = MiB - 4}, GPUD_STATUS_INVALID},
    {{.address = base, .size = CHUNK, .offset = MiB}, GPUD_STATUS_INVALID},
    {{.address = base, .size = UINT64_MAX}, GPUD_STATUS_INVALID},
  };
  for (size_t i = 0; i < sizeof copies / sizeof copies[0]; i++) {
    refused(r, GPUD_OP_COPY_IN, &copies[i].m, sizeof copies[i].m, copies[i].status);
    refused(r, GPUD_OP_COPY_OUT, &copies[i].m, sizeof copies[i].m, copies[i].status);
  }
  const gpud_msg_module_load loads[] = {{.size = 0}, {.size = GPUD_MAX_IMAGE + 1ull}, {.size = 9, .offset = MiB}};
  for (size_t i = 0; i < sizeof loads / sizeof loads[0]; i++)
    refused(r, GPUD_OP_MODULE_LOAD, &loads[i], sizeof loads[i], GPUD_STATUS_INVALID);
  const gpud_msg_module_load nowhere = {.size = 9, .region = 3};
  refused(r, GPUD_OP_MODULE_LOAD, &nowhere, sizeof nowhere, GPUD_STATUS_NOT_FOUND);
  const gpud_msg_region_add placed = {.region = 1, .access = 3, .size = 4096, .address = base + 8 * MiB};
  refused(r, GPUD_OP_REGION_ADD, &placed, sizeof placed, GPUD_STATUS_UNSUPPORTED);
  const gpud_msg_region_add again = {.region = 0, .access = 3, .size = 4096};
  refused(r, GPUD_OP_REGION_ADD, &again, sizeof again, GPUD_STATUS_INVALID);
}

/* ---------------------------------------------------------------- the client as bytes */

typedef struct stream {
  unsigned char bytes[1 << 16];
  size_t size;
  uint32_t sequence;
  uint64_t base;
} stream;

static void say(stream *s, uint8_t op, const void *body, size_t size)
{
  gpud_message_head head = {.size = (uint16_t)(sizeof head + size), .op = op, .sequence = ++s->sequence};
  memcpy(s->bytes + s->size, &head, sizeof head);
  if (size)
    memcpy(s->bytes + s->size + sizeof head, body, size);
  s->size += sizeof head + size;
}

static void say_payload(stream *s, size_t size, uint64_t index)
{
  fill_bytes(s->bytes + s->size, (uint32_t)size, index);
  s->size += size;
}

/* A session with a bit of everything, as it goes over the wire. */
static void say_all(stream *s)
{
  const gpud_msg_region_add add = {.access = 3, .size = 4096};
  const gpud_msg_map map = {.address = s->base, .size = CHUNK};
  const gpud_msg_copy_host in = {.address = s->base, .size = 300};
  const gpud_msg_copy_host streamed = {.address = s->base + 7, .size = 501, .region = GPUD_REGION_STREAM};
  const gpud_msg_module_load load = {.module = 1, .size = 6};
  say(s, GPUD_OP_REGION_ADD, &add, sizeof add);
  say(s, GPUD_OP_MAP, &map, sizeof map);
  say(s, GPUD_OP_COPY_IN, &in, sizeof in);
  say_payload(s, in.size, 1);
  say(s, GPUD_OP_COPY_IN, &streamed, sizeof streamed);
  say_payload(s, streamed.size, 2);
  say(s, GPUD_OP_COPY_OUT, &in, sizeof in);
  say(s, GPUD_OP_COPY_OUT, &streamed, sizeof streamed);
  say(s, GPUD_OP_MODULE_LOAD, &load, sizeof load);
  say_payload(s, load.size, 3);
  say(s, GPUD_OP_SYNCHRONIZE, NULL, 0);
  say(s, GPUD_OP_CLOSE, NULL, 0);
}

/* Sends bytes[size] as a client and hangs up, at once or after the session's end. How that ended. */
static int as_client(rig *r, const unsigned char *bytes, size_t size, bool at_once)
{
  int sockets[2];
  char frame[GPUD_MAX_FRAME];
  int fd;
  tcp_sockets(sockets);
  serve(r, sockets[1], 64 * MiB, 16 * MiB);
  CHECK(gpud_bootstrap_receive(sockets[0], frame, &fd, in_good_time()) > 0);
  for (size_t sent = 0; sent < size;) {
    ssize_t n = send(sockets[0], bytes + sent, size - sent, MSG_NOSIGNAL);
    if (n <= 0)
      break; /* it has heard enough */
    sent += (size_t)n;
  }
  if (at_once)
    shutdown(sockets[0], SHUT_WR);
  detach(r);
  close(sockets[0]);
  return ending;
}

static uint64_t window_base(rig *r)
{
  begin(r);
  uint64_t base = r->welcome.window_base;
  end(r);
  return base;
}

static void a_stream_may_end_at_any_byte(rig *r)
{
  stream s = {.base = window_base(r)};
  say_all(&s);
  for (size_t size = 0; size < s.size; size += size < 400 || s.size - size < 200 ? 1 : 37) {
    int how = as_client(r, s.bytes, size, true);
    if (how != GPUD_RUN_GONE) /* not a command that was not whole was executed, nor taken for broken */
      fprintf(stderr, "after %zu bytes\n", size);
    CHECK_EQUAL(how, GPUD_RUN_GONE);
  }
  CHECK_EQUAL(as_client(r, s.bytes, s.size, false), GPUD_RUN_CLOSED);
}

static void a_stream_of_anything_ends_its_session_and_nothing_else(rig *r)
{
  stream good = {.base = window_base(r)};
  uint64_t state = 88172645463325252ull;
  say_all(&good);
  for (int round = 0; round < 400; round++) {
    stream s = good;
    uint32_t changes = 1 + (uint32_t)(random_next(&state) % 6);
    for (uint32_t i = 0; i < changes; i++) { /* near the heads, mostly: elsewhere it is but other data */
      size_t at = random_next(&state) % (random_next(&state) % 2 ? s.size : 120);
      s.bytes[at] = (unsigned char)(random_next(&state) % 3 ? random_next(&state) : 255);
    }
    if (round % 5 == 0) {
      s.size = random_next(&state) % sizeof s.bytes;
      fill_bytes(s.bytes, (uint32_t)s.size, (uint64_t)round);
    }
    int how = as_client(r, s.bytes, s.size, true);
    CHECK(how == GPUD_RUN_GONE || how == GPUD_RUN_PROTOCOL || how == GPUD_RUN_CLOSED);
  }
  memory_goes_there_and_back(r);
}

static void a_broken_message_is_answered_by_bye(rig *r)
{
  static const gpud_message_head heads[] = {
    {.size = 15, .op = GPUD_OP_DATA, .sequence = 1},
    {.size = 0, .op = GPUD_OP_DATA, .sequence = 1},
    {.size = GPUD_MAX_MESSAGE + 1, .op = GPUD_OP_DATA, .sequence = 1},
    {.tag = 1, .size = 16, .op = GPUD_OP_SYNCHRONIZE, .sequence = 1},
    {.size = 16, .op = GPUD_OP_SYNCHRONIZE, .sequence = 2},
    {.size = 16, .op = GPUD_OP_SYNCHRONIZE, .flags = 1, .sequence = 1},
    {.size = 16, .op = 0, .sequence = 1},
    {.size = 16, .op = 99, .sequence = 1},
    {.size = 16, .op = GPUD_OP_COPY_IN, .sequence = 1},
    {.size = 16, .op = GPUD_OP_BYE, .sequence = 1},
    {.size = 32, .op = GPUD_OP_COMPLETED},
    {.size = 24, .op = GPUD_OP_CREDIT},
  };
  for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
    int sockets[2];
    char frame[GPUD_MAX_FRAME];
    int fd;
    unsigned char answer[GPUD_MAX_MESSAGE];
    unsigned char bytes[32] = {0};
    memcpy(bytes, &heads[i], sizeof heads[i]);
    tcp_sockets(sockets);
    serve(r, sockets[1], 64 * MiB, 16 * MiB);
    CHECK(gpud_bootstrap_receive(sockets[0], frame, &fd, in_good_time()) > 0);
    CHECK_EQUAL(send(sockets[0], bytes, sizeof bytes, 0), sizeof bytes);
    detach(r);
    CHECK_EQUAL(ending, GPUD_RUN_PROTOCOL);
    CHECK(recv(sockets[0], answer, sizeof answer, MSG_WAITALL) > 24); /* although not all of ours was read */
    gpud_message_head head;
    memcpy(&head, answer, sizeof head);
    CHECK_EQUAL(head.op, GPUD_OP_BYE);
    CHECK_EQUAL(gpud_message_check(answer, head.size, 0), 0);
    close(sockets[0]);
  }
}

#define SCENARIO(name) {#name, name}

int main(int count, char **arguments)
{
  static const struct {
    const char *name;
    void (*run)(rig *r);
  } scenarios[] = {
    SCENARIO(memory_goes_there_and_back),
    SCENARIO(a_module_is_loaded_and_runs),
    SCENARIO(what_is_refused_leaves_the_stream_in_step),
    SCENARIO(a_stream_may_end_at_any_byte),
    SCENARIO(a_stream_of_anything_ends_its_session_and_nothing_else),
    SCENARIO(a_broken_message_is_answered_by_bye),
  };
  CHECK(count == 2);
  for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
    if (strcmp(scenarios[i].name, arguments[1]) != 0)
      continue;
    rig r;
    int descriptors = open_descriptors();
    rig_open(&r, 2, all_kernels);
    scenarios[i].run(&r);
    rig_shut(&r);
    CHECK_EQUAL(open_descriptors(), descriptors);
    return 0;
  }
  return 2;
}
