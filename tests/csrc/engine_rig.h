/*
 * What the engine's test programs share: an engine over a loop endpoint, a client that posts, a stand-in for Python that
 * "compiles" by looking kernels up in a table.
 *
 * A session is scripted without a second thread: the client posts, the last thing it posts is CLOSE, the engine runs.
 */
#ifndef ENGINE_RIG_H
#define ENGINE_RIG_H

#include <errno.h>
#include <string.h>

#include "check.h"
#include "connection.h"
#include "engine.h"

#define MiB (1ull << 20)
#define CHUNK (2 * MiB)

/* What the image names. Their functions are in kernels.h. */
typedef struct rig_kernel {
  const char *name;
  uint64_t entry;
  uint32_t params_size;
  uint32_t static_shared;
  uint32_t scratch_per_thread;
  uint32_t max_threads;
} rig_kernel;

typedef struct rig {
  gpud_engine *engine;
  gpud_connection *client;
  gpud_region *region; /* number 0, 1 MiB */
  gpud_welcome welcome;
  const rig_kernel *kernels; /* of every module; ended by a NULL name */
} rig;

/* A message received, with room for a NUL after its text. */
typedef struct rig_reply {
  union {
    gpud_message_head head;
    unsigned char bytes[GPUD_MAX_MESSAGE + 8];
  };
  int size;
} rig_reply;

static inline void rig_open(rig *r, uint32_t threads, const rig_kernel *kernels)
{
  memset(r, 0, sizeof *r);
  r->kernels = kernels;
  CHECK_EQUAL(gpud_engine_new(threads, 256 * MiB, &r->engine), 0);
}

static inline void rig_attach(rig *r, uint64_t memory, uint64_t host_memory)
{
  gpud_endpoint *client;
  gpud_endpoint *worker;
  CHECK_EQUAL(gpud_endpoint_loop(0, 0, &client, &worker), 0);
  CHECK_EQUAL(gpud_engine_attach_endpoint(r->engine, worker, 7, memory, host_memory, &r->welcome), 0);
  r->client = gpud_connection_new(client, 1);
  CHECK(r->client != NULL);
  r->region = NULL;
}

/* A session with a region, as most begin. */
static inline void rig_begin(rig *r)
{
  rig_attach(r, 64 * MiB, 16 * MiB);
  uint32_t access = GPUD_ACCESS_READ | GPUD_ACCESS_WRITE;
  CHECK_EQUAL(gpud_region_create(r->client, 0, MiB, access, 0, 0, in_good_time(), &r->region), 0);
}

static inline int64_t rig_post(rig *r, uint8_t op, uint32_t stream, const void *body, size_t size)
{
  int64_t sequence = gpud_connection_post(r->client, op, stream, body, (uint32_t)size, in_good_time());
  CHECK(sequence > 0);
  return sequence;
}

#define POST(r, op, type, ...) rig_post((r), (op), 0, &(type){__VA_ARGS__}, sizeof(type))

/* Answers a MODULE_LOAD: an image that begins with "bad" does not compile, all others hold r->kernels. */
static inline void rig_compile(rig *r)
{
  gpud_image image;
  CHECK_EQUAL(gpud_engine_image(r->engine, &image), 0);
  if (image.size >= 3 && memcmp(image.bytes, "bad", 3) == 0) {
    CHECK_EQUAL(gpud_engine_module_fail(r->engine, GPUD_STATUS_COMPILE, "line 1: this is bad"), 0);
    return;
  }
  for (const rig_kernel *k = r->kernels; k && k->name; k++) {
    gpud_param param = {.offset = 0, .size = 8};
    CHECK_EQUAL(gpud_engine_module_kernel(r->engine, k->name, k->entry, &param, 1, k->params_size, k->static_shared, 64,
                                          k->scratch_per_thread, k->max_threads),
                0);
  }
  int rc = gpud_engine_module_commit(r->engine);
  CHECK(rc == 0 || rc == -EPIPE || rc == -ETIMEDOUT);
}

/* Runs the session until something other than a compilation ends it: GPUD_RUN_*. */
static inline int rig_run(rig *r)
{
  for (;;) {
    int rc = gpud_engine_run(r->engine);
    if (rc != GPUD_RUN_COMPILE)
      return rc;
    while (gpud_engine_next_unloaded(r->engine) >= 0)
      continue;
    rig_compile(r);
  }
}

static inline void rig_close(rig *r)
{
  rig_post(r, GPUD_OP_CLOSE, 0, NULL, 0);
  CHECK_EQUAL(rig_run(r), GPUD_RUN_CLOSED);
}

static inline int rig_end(rig *r)
{
  gpud_region_free(r->region);
  r->region = NULL;
  int rc = gpud_engine_detach(r->engine, GPUD_STATUS_OK, NULL);
  while (gpud_engine_next_unloaded(r->engine) >= 0)
    continue;
  gpud_connection_free(r->client);
  r->client = NULL;
  return rc;
}

static inline void rig_shut(rig *r)
{
  gpud_engine_free(r->engine);
  r->engine = NULL;
}

/* The next reply, which must be of `op`; its text, if any, is ended by NUL. */
static inline void rig_reply_of(rig *r, uint8_t op, rig_reply *reply)
{
  memset(reply, 0, sizeof *reply);
  reply->size = gpud_connection_receive(r->client, reply->bytes, 0);
  CHECK(reply->size > 0);
  if (reply->head.op != op)
    fprintf(stderr, "got %s\n", gpud_op_name(reply->head.op));
  CHECK_EQUAL(reply->head.op, op);
}

static inline void rig_no_reply(rig *r)
{
  unsigned char message[GPUD_MAX_MESSAGE];
  CHECK(gpud_connection_receive(r->client, message, 0) < 0);
}

#define BODY_OF(reply, type) ((const type *)(const void *)((reply)->bytes + sizeof(gpud_message_head)))
#define TEXT_OF(reply, type) ((const char *)(reply)->bytes + sizeof(gpud_message_head) + sizeof(type))

/* Posts a MODULE_LOAD of the text, put at the region's start. */
static inline int64_t rig_load(rig *r, uint32_t module, const char *text)
{
  strcpy(gpud_region_pointer(r->region), text);
  return POST(r, GPUD_OP_MODULE_LOAD, gpud_msg_module_load, .module = module, .region = 0, .size = strlen(text));
}

static inline int64_t rig_launch(rig *r, uint32_t module, const char *name, uint32_t blocks, uint32_t threads,
                                 const void *params, uint32_t params_size)
{
  struct {
    gpud_msg_launch head;
    unsigned char params[256];
  } m = {.head = {.module = module,
                  .params_size = (uint16_t)params_size,
                  .grid = {blocks, 1, 1},
                  .block = {(uint16_t)threads, 1, 1}}};
  while (strcmp(r->kernels[m.head.kernel].name, name))
    m.head.kernel++;
  if (params_size)
    memcpy(m.params, params, params_size);
  return rig_post(r, GPUD_OP_LAUNCH, 0, &m, sizeof m.head + params_size);
}

static inline int64_t rig_map(rig *r, uint64_t offset, uint64_t size)
{
  return POST(r, GPUD_OP_MAP, gpud_msg_map, r->welcome.window_base + offset, size);
}

#endif
