/*
 * The engine's inside, shared by its own files: engine.c (life and loop), dispatch.c (commands), modules.c, events.c, replies.c, watch.c.
 *
 * Threads: all of it belongs to the thread in gpud_engine_run (and the calls between), but for the words marked "watcher".
 */
#ifndef GPUD_ENGINE_INTERNAL_H
#define GPUD_ENGINE_INTERNAL_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine.h"
#include "idmap.h"
#include "memcheck.h"
#include "memory.h"
#include "order.h"
#include "transfer.h"
#include "wait.h"

#define GPUD_MAX_MODULES 4096u
#define GPUD_MAX_EVENTS 65536u
#define GPUD_MAX_STREAMS 4096u
#define GPUD_REPLY_MS 10000u /* a client that does not take its replies for so long has broken the protocol */

/* OUTPUT sent before the client says that it takes it in: so little that other replies always find room in the smallest ring. */
#define GPUD_OUTPUT_AHEAD 6144u
#define GPUD_OUTPUT_PIECE 2048u

#define GPUD_FAILED (-EBADMSG) /* a handler's answer: the command failed, engine->fault says how */

typedef struct gpud_variable {
  char *name;
  uint64_t address;
  uint64_t size;
} gpud_variable;

typedef struct gpud_module {
  uint32_t id;
  uint32_t kernel_count;
  uint32_t kernel_capacity;
  uint32_t variable_count;
  uint32_t variable_capacity;
  gpud_kernel *kernels;
  gpud_variable *variables;
} gpud_module;

/* A MODULE_LOAD on its way through Python. */
typedef struct gpud_loading {
  gpud_module *module; /* NULL: none */
  void *image;
  uint64_t image_size;  /* the client's */
  uint64_t mapped_size; /* ours */
  uint64_t sequence;
  uint32_t options_size;
  char options[GPUD_MAX_OPTIONS];
} gpud_loading;

/* Ids whose code Python may free, oldest first. Has room for every loaded module, so that unloading cannot fail. */
typedef struct gpud_unloaded {
  uint32_t *ids;
  uint32_t first;
  uint32_t end;
  uint32_t capacity;
} gpud_unloaded;

/* The first failure of the session. */
typedef struct gpud_failure {
  uint32_t status; /* GPUD_STATUS_OK: none yet */
  uint32_t module;
  uint32_t kernel;
  uint32_t block[3];
  uint32_t thread;
  uint64_t address;
  char text[1024];
} gpud_failure;

struct gpud_engine {
  gpud_device *device;
  gpud_device_limits limits;
  uint64_t page;
  bool broken; /* the device could not be reset */

  gpud_connection *connection; /* NULL: no session */
  gpud_memory memory;
  gpud_check *check; /* NULL: not a checked session */
  gpud_transfer transfer;
  uint64_t host_limit;
  gpud_idmap modules; /* gpud_module * */
  gpud_idmap events;  /* nanoseconds */
  gpud_idmap streams;
  gpud_loading loading;
  gpud_unloaded unloaded;
  gpud_failure fault;
  bool bye_sent;
  bool output_wanted;
  bool cooperative;        /* launches may be */
  uint32_t output_ahead;   /* bytes of OUTPUT since the last SYNCHRONIZE */
  gpud_engine_stats stats; /* watcher: none, but gpud_engine_get_stats reads it from any thread */

  /* watch.c */
  int socket; /* the connection's, -1: none to watch */
  int wake;   /* eventfd: look at the words below */
  pthread_t watcher;
  bool watching;
  uint32_t busy;        /* engine thread stores: a command or a compilation is under way */
  uint32_t gone;        /* watcher stores: the client hung up */
  uint32_t interrupted; /* any thread stores */
  uint32_t unwatch;     /* the watcher is to end */

  _Alignas(64) unsigned char message[GPUD_MAX_MESSAGE]; /* parameters at byte 48: 16-aligned, as kernels expect */
};

static inline const void *gpud_body(const gpud_engine *e) { return e->message + sizeof(gpud_message_head); }

/* Only the engine's thread counts; others may read. */
static inline void gpud_count(uint64_t *counter, uint64_t more)
{
  gpud_store_relaxed_u64(counter, gpud_load_relaxed_u64(counter) + more);
}

static inline uint64_t gpud_in_ms(uint64_t ms) { return gpud_now() + ms * 1000000u; }

/* dispatch.c: executes e->message. 0: complete; GPUD_RUN_*: leave the loop (nothing to complete yet); GPUD_FAILED; other -errno: of the connection. */
int gpud_dispatch(gpud_engine *e);
/* The same for a session that has failed: nothing is executed but what must be. */
int gpud_dispatch_poisoned(gpud_engine *e);

/* replies.c */
/* Notes why the command in hand fails; returns GPUD_FAILED. */
int gpud_refuse(gpud_engine *e, uint32_t status, uint64_t address, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* 0 or -errno of the connection. */
int gpud_reply(gpud_engine *e, uint8_t op, const void *head, uint32_t head_size, const void *body, uint32_t body_size);
int gpud_reply_fault(gpud_engine *e, uint64_t sequence, uint8_t op);
int gpud_reply_module_status(gpud_engine *e, const gpud_msg_module_status *status, const char *text);
int gpud_reply_event_time(gpud_engine *e, uint32_t event, uint32_t status, uint64_t nanoseconds);
/* Sends what kernels printed, as far as that may be sent. */
int gpud_reply_output(gpud_engine *e);
int gpud_reply_direct(gpud_engine *e);
/* Once a session; does not wait. */
void gpud_reply_bye(gpud_engine *e, uint32_t status, const char *text);

/* modules.c: handlers, and what launches need. */
int gpud_module_load(gpud_engine *e);
int gpud_module_unload(gpud_engine *e);
gpud_module *gpud_module_find(const gpud_engine *e, uint32_t id);
/* Everything is unloaded; a MODULE_LOAD that waits is forgotten. */
void gpud_modules_clear(gpud_engine *e);

/* events.c: handlers. */
int gpud_stream_create(gpud_engine *e);
int gpud_stream_destroy(gpud_engine *e);
int gpud_event_record(gpud_engine *e);
int gpud_event_wait(gpud_engine *e);
int gpud_event_query(gpud_engine *e);
int gpud_event_destroy(gpud_engine *e);

/* regions.c: handlers. */
int gpud_region_add_command(gpud_engine *e);
int gpud_region_drop_command(gpud_engine *e);
/* Takes the descriptor of a REGION_ADD that is not executed. 0 or -errno of the connection. */
int gpud_region_refuse(gpud_engine *e);
/*
 * Whether the region has bytes [offset, offset + size) and allows `access`: 0 or GPUD_FAILED. *pointer is where they are mapped
 * here, or NULL: then gpud_connection_rma_read and _write reach them.
 */
int gpud_region_span(gpud_engine *e, uint32_t region, uint64_t offset, uint64_t size, uint32_t access, void **pointer);
/* What rma_read or rma_write of such bytes said: 0, GPUD_FAILED, or -errno of the connection. */
int gpud_region_moved(gpud_engine *e, const char *op, uint32_t region, int rc);

/* watch.c */
int gpud_watch_start(gpud_engine *e);
void gpud_watch_stop(gpud_engine *e);
/* The words have news. Any thread; async-signal-safe; also where nobody watches yet. */
void gpud_watch_wake(gpud_engine *e);

#endif
