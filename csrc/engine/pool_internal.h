/* The inside of a pool, for what runs blocks: pool.c, and cooperative.c beside it. */
#ifndef GPUD_POOL_INTERNAL_H
#define GPUD_POOL_INTERNAL_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>

#include "fault.h"
#include "heap.h"
#include "order.h"
#include "output.h"
#include "pool.h"

#define GPUD_MAX_SCRATCH (1ull << 30) /* of a block */

/* What runs blocks, one after another: a thread of the pool's, or one block of a cooperative launch. */
typedef struct gpud_pool_thread {
  _Alignas(64) gpud_kernel_context context;
  gpud_fault_net net;
  gpud_pool *pool;
  void *shared;
  void *scratch;
  uint64_t scratch_size;
  uint32_t pauses;
  const char *wrong; /* why the engine ended its block; NULL: it did not */
  pthread_t handle;
  bool started;
} gpud_pool_thread;

struct gpud_pool {
  _Alignas(64) uint64_t state;
  _Alignas(64) uint64_t next; /* first block nobody has */
  _Alignas(64) uint32_t generation;
  uint32_t waiting; /* the caller sleeps until the last helper leaves */
  uint64_t sleepers;
  uint32_t halted;      /* of this job: a block faulted */
  uint32_t interrupted; /* until scrubbed */
  uint32_t closing;
  /* The job: written by the caller while no job is open and nobody inside. */
  _Alignas(64) gpud_pool_job job;
  uint64_t blocks;
  uint64_t run;     /* blocks taken at a time */
  bool shared;      /* `next` is a counter that several may draw from */
  uint32_t faulted; /* whoever exchanges it first reports */
  gpud_fault_info fault;
  gpud_output output; /* with a lock of its own */
  gpud_heap heap;     /* the same */
  /* Constant. */
  uint32_t count;
  uint32_t max_shared;
  gpud_pool_thread *threads; /* threads[0]: the caller */
};

static inline bool gpud_pool_stopped(const gpud_pool *pool)
{
  return gpud_load_relaxed_u32(&pool->halted) || gpud_load_relaxed_u32(&pool->interrupted);
}

/* What stays the same in a context for as long as there is the pool. */
void gpud_pool_thread_init(gpud_pool *pool, gpud_pool_thread *thread, uint32_t slot);
/* What the pool's job needs in a context. */
void gpud_pool_thread_ready(gpud_pool_thread *thread);
/* What a guard around its blocks said: the first to report is who faulted. */
void gpud_pool_report(gpud_pool_thread *thread, int rc);
/* The job begins; nothing is running. */
void gpud_pool_begin(gpud_pool *pool, const gpud_pool_job *job);
/* It is over: what gpud_pool_run returns. */
int gpud_pool_result(gpud_pool *pool, gpud_fault_info *fault);
/* For threads that run kernels: they take no signals meant for the process. */
int gpud_pool_spawn(pthread_t *handle, void *(*run)(void *), void *argument);

#endif
