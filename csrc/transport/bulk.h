/*
 * Pageable memory to and from the device. Where the endpoint is DIRECT it takes and fills the caller's memory itself; else bytes are staged through one pre-faulted region cut into chunks, so that the client's
 * copy of one chunk runs while the worker copies the last. Blocks for credit and for free chunks, never for more.
 *
 * Ownership: a chunk is busy until the command that uses it is complete (its sequence number).
 * Threads: a stage has a lock; transfers of several threads interleave whole, not by chunk.
 */
#ifndef GPUD_BULK_H
#define GPUD_BULK_H

#include <stdint.h>

#include "connection.h"

/* cffi: begin */
#define GPUD_STAGE_CHUNKS 12         /* recommended: enough to keep both sides copying, */
#define GPUD_STAGE_CHUNK_SIZE 196608 /* and few enough that the chunks stay in the two sides' own caches */
#define GPUD_STAGE_MAX_CHUNKS 65536
#define GPUD_BULK_INLINE 2048     /* puts up to this size travel in the command itself */
#define GPUD_BULK_CACHED 16777216 /* transfers below this may still be in the cache when they are used: */
#define GPUD_BULK_PIECE 131072    /* they go in pieces that gpud_copy leaves there, */
#define GPUD_COPY_STREAM 196608   /* but not whole chunks */
#define GPUD_BULK_DIRECT 8388608  /* a direct put goes in commands of so many bytes: each, once begun, is ended */
#define GPUD_BULK_MAX 268435456   /* what to ask for in one call, so that signals are heard in between */

typedef struct gpud_stage gpud_stage;

/*
 * Creates the region `number` of chunks * chunk_size bytes, pre-faulted; where the endpoint is DIRECT, nothing but the stage. 0 or -errno as
 * gpud_region_create.
 */
int gpud_stage_create(gpud_connection *c, uint32_t number, uint32_t chunks, uint64_t chunk_size, uint64_t deadline,
                      gpud_stage **stage);
void gpud_stage_free(gpud_stage *stage);

/*
 * source[size] -> device `address`, as COPY_IN commands on `stream`. Returns when the source may be reused: the last chunks
 * may still be on their way. The sequence number of the last command (> 0; size 0: the last posted), or -errno as post and wait
 * (-EIO: the session has faulted).
 */
int64_t gpud_bulk_put(gpud_stage *stage, uint64_t address, const void *source, uint64_t size, uint32_t stream,
                      uint64_t deadline);
/* The same; *done: how many bytes of the source, from its beginning, are on their way also where it fails. After -ETIMEDOUT, put the rest. */
int64_t gpud_bulk_put_some(gpud_stage *stage, uint64_t address, const void *source, uint64_t size, uint32_t stream,
                           uint64_t deadline, uint64_t *done);
/*
 * Device `address` -> destination[size], as COPY_OUT commands on `stream`; returns when the bytes are there. As above. After -ETIMEDOUT
 * the same call, repeated, goes on where it was, until gpud_stage_abandon. Where copies are direct, the destination is still
 * written to meanwhile.
 */
int64_t gpud_bulk_get(gpud_stage *stage, void *destination, uint64_t address, uint64_t size, uint32_t stream,
                      uint64_t deadline);
/* How many bytes to put or get in one call, so that time and signals can be looked at between two. */
uint64_t gpud_stage_piece(const gpud_stage *stage, int put);
/* A get into memory[size] that ran out of time will not be repeated, or begins anew: nothing is written there any more. 0, or -ETIMEDOUT: keep the memory. */
int gpud_stage_abandon(gpud_stage *stage, const void *memory, uint64_t size);
/* Copies with what suits the size: libc, or from GPUD_COPY_STREAM on stores that pass the caches by. */
void gpud_copy(void *destination, const void *source, uint64_t size);
/* The same towards memory that the other side reads next (stays in the shared cache): for staging. */
void gpud_copy_cached(void *destination, const void *source, uint64_t size);
/* cffi: end */

#endif
