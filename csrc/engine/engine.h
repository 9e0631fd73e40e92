/*
 * The worker's command loop. One engine lives as long as its worker process and serves one session after another:
 *
 *   engine_new -> ( attach -> run* -> detach )* -> free
 *
 * run() executes commands until something needs Python or the session is over, and says which. All of a session's commands but
 * the compilation of a module stay in C.
 */
#ifndef GPUD_ENGINE_H
#define GPUD_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "connection.h"
#include "device.h"

/* cffi: begin */
typedef struct gpud_engine gpud_engine;

/* Why run() returned. */
#define GPUD_RUN_COMPILE                                                                                               \
  1 /* a MODULE_LOAD waits: gpud_engine_image, then module_commit or module_fail, then run again */
#define GPUD_RUN_CLOSED 2      /* the client said CLOSE */
#define GPUD_RUN_GONE 3        /* the client died or hung up */
#define GPUD_RUN_PROTOCOL 4    /* the client broke the protocol; BYE was sent */
#define GPUD_RUN_INTERRUPTED 5 /* gpud_engine_interrupt */

/* A cpu device of `threads` pool threads (0: one per CPU). 0 or -errno. */
int gpud_engine_new(uint32_t threads, uint64_t window, gpud_engine **engine);
/* Refuses while a session is attached: detach first. */
void gpud_engine_free(gpud_engine *engine);

/*
 * Begins a session on a connected socket whose HELLO the daemon accepted: does the handshake and owns the socket from here on,
 * also on failure. `memory`, `host_memory`: the limits granted, bytes. 0 or -errno.
 */
int gpud_engine_attach(gpud_engine *engine, int socket, const gpud_hello *hello, uint64_t session, uint64_t memory,
                       uint64_t host_memory, uint64_t deadline);
/*
 * The same over an endpoint that exists already (loop, for tests): no handshake; *welcome is filled in as it would have been sent.
 */
int gpud_engine_attach_endpoint(gpud_engine *engine, gpud_endpoint *ep, uint64_t session, uint64_t memory,
                                uint64_t host_memory, gpud_welcome *welcome);
/* GPUD_RUN_*, or -errno on an error of ours. */
int gpud_engine_run(gpud_engine *engine);
/* From another thread or a signal handler: run() returns soon, also out of a wait. Holds until detach. */
void gpud_engine_interrupt(gpud_engine *engine);
/*
 * Ends the session with a BYE (GPUD_STATUS_OK: none), gives back all it had. 0 when the engine is as new; -EBUSY when the process must be
 * replaced (a kernel faulted or is stuck). Modules not unloaded are then in gpud_engine_next_unloaded.
 */
int gpud_engine_detach(gpud_engine *engine, uint32_t status, const char *text);
/*
 * How long after the client's death a kernel may go on before the process ends itself with exit status GPUD_EXIT_ORPHAN.
 */
#define GPUD_ORPHAN_MS 300
#define GPUD_EXIT_ORPHAN 87

/* The waiting MODULE_LOAD. `options`: NUL-terminated strings, options_size bytes in all. Valid until commit or fail. */
typedef struct gpud_image {
  uint32_t module;
  const void *bytes;
  uint64_t size;
  const char *options;
  uint32_t options_size;
} gpud_image;
int gpud_engine_image(gpud_engine *engine, gpud_image *image);
/*
 * Describe the compiled module, kernel by kernel in index order, then commit; or fail. 0 or -errno. -EMSGSIZE: no message can
 * describe it (names over GPUD_MAX_TEXT, too many kernels or parameters). -EDQUOT: its variables and those of the others
 * take more than the session's memory. After these and -ENOMEM fail is still to be called. Commit's -EPIPE and -ETIMEDOUT are the client's: the module is loaded, and run says what became of the session.
 */
int gpud_engine_module_kernel(gpud_engine *engine, const char *name, uint64_t entry, const gpud_param *params,
                              uint32_t param_count, uint32_t params_size, uint32_t static_shared,
                              uint32_t scratch_fixed, uint32_t scratch_per_thread, uint32_t max_threads);
int gpud_engine_module_global(gpud_engine *engine, const char *name, uint64_t address, uint64_t size);
int gpud_engine_module_commit(gpud_engine *engine);
int gpud_engine_module_fail(gpud_engine *engine, uint32_t status, const char *text);
/*
 * Modules whose code Python may free now: the next id, or -ENOENT. Also after detach. Ask until there is none before a new
 * module is compiled: the client may give an id again. One that was never committed is not among them.
 */
int64_t gpud_engine_next_unloaded(gpud_engine *engine);

/* How transfers to and from regions that are not mapped here reach device memory (transfer.h). 0: none was made yet. */
#define GPUD_DIRECT_HOST 1
#define GPUD_DIRECT_DMABUF 2
#define GPUD_DIRECT_PEER 3
#define GPUD_DIRECT_BOUNCE 4
/* That, of this session: GPUD_DIRECT_* or 0, and in text[size] its name and why no better one. */
int gpud_engine_direct(gpud_engine *engine, char *text, size_t size);

typedef struct gpud_engine_stats {
  uint64_t session;
  uint64_t commands;
  uint64_t launches;
  uint64_t kernel_ns;
  uint64_t bytes_in;  /* COPY_IN and WRITE */
  uint64_t bytes_out; /* COPY_OUT */
  uint64_t memory;    /* device bytes mapped now */
  uint64_t memory_peak;
  uint64_t host_memory; /* bytes of client regions registered now */
  uint64_t modules;
  uint64_t faults;
} gpud_engine_stats;
void gpud_engine_get_stats(gpud_engine *engine, gpud_engine_stats *stats);
/* cffi: end */

#endif
