#include "pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "memcheck.h"
#include "pool_internal.h"
#include "wait.h"

/*
 * Two words coordinate a job, each changed by read-modify-write only, whose single order makes further fences needless:
 *   state     bit 63: a job is open; low half: helpers inside. A helper adds itself, and works only if the job was still open then. The
 *             caller closes the job, then waits for the last to leave; until then the job's fields stand still.
 *   sleepers  a helper adds itself, then looks at `generation` once more before it sleeps on it. The caller changes the generation first
 *             and reads the sleepers after: one of the two sees the other.
 */
#define JOB_OPEN (1ull << 63)
#define INSIDE(state) ((uint32_t)(state))
#define LARGE_LAUNCH 16384u /* threads: handed out at once; of a smaller launch, one block is timed first */
#define SHARE_NS 30000ull   /* work left that is worth waking helpers for */
#define SPIN_NS 20000ull    /* a helper's, between the launches of a burst */
#define RUNS_PER_THREAD 16u /* even loads against the cost of a shared counter */
#define CHECKED_MARGIN 512u /* bytes behind what a checked kernel allocates that are nobody's */
#define RUN_NS 1000000ull   /* about how long a thread is away with the blocks it took */
#define PAUSES 64u          /* of a thread, until it lets another have its CPU */

static void futex_wait(uint32_t *word, uint32_t value)
{
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(uint32_t *word, uint32_t count)
{
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

/* Under the net: runs blocks until none are left. Keeps its state in the pool, where a fault cannot lose it. */
static void run_blocks(void *argument)
{
  gpud_pool_thread *thread = argument;
  gpud_pool *pool = thread->pool;
  const gpud_pool_job *job = &pool->job;
  if (!pool->shared) {
    if (!gpud_pool_stopped(pool))
      job->function(job->params, &thread->context, pool->next, pool->run);
    return;
  }
  /* Short enough for an interrupt to be seen soon, and long enough for the counter and the clock to cost nothing. */
  uint64_t run = 1;
  uint64_t begin = gpud_now();
  while (!gpud_pool_stopped(pool)) {
    uint64_t first = gpud_fetch_add_u64(&pool->next, run);
    if (first >= pool->blocks)
      return;
    uint64_t left = pool->blocks - first;
    job->function(job->params, &thread->context, first, left < run ? left : run);
    uint64_t end = gpud_now();
    if (end - begin < RUN_NS / 2 && run * 2 <= pool->run)
      run *= 2;
    else if (end - begin > RUN_NS && run > 1)
      run /= 2;
    begin = end;
  }
}

/* printf. The text is made before the lock is taken: what the program points to may fault. */
static int32_t print(gpud_kernel_context *context, const char *format, const void *arguments)
{
  gpud_pool_thread *thread = (gpud_pool_thread *)(void *)context;
  char text[GPUD_PRINT_BYTES];
  uint32_t size;
  int32_t count = gpud_format(text, sizeof text, &size, format, arguments);
  if (size)
    gpud_output_add(&thread->pool->output, text, size);
  return count;
}

/* malloc and free. Checked, what was allocated is an array like others, with room behind it. */
static void *take(gpud_kernel_context *context, uint64_t size)
{
  gpud_pool_thread *thread = (gpud_pool_thread *)(void *)context;
  gpud_heap *heap = &thread->pool->heap;
  if (!context->checked)
    return gpud_heap_take(heap, size);
  uint64_t room = size + CHECKED_MARGIN;
  void *pointer = size > GPUD_HEAP_SIZE ? NULL : gpud_heap_take(heap, size ? room : 0);
  if (!pointer)
    return NULL;
  static const char label[] = "memory from malloc";
  uint64_t address = (uint64_t)(uintptr_t)pointer;
  if (gpud_check_add(context->checked, address, size, room, 0, label, sizeof label - 1) == 0)
    return pointer;
  gpud_heap_give(heap, pointer);
  return NULL;
}

static void give(gpud_kernel_context *context, void *pointer, uint32_t number, const gpud_check_site *site)
{
  gpud_pool_thread *thread = (gpud_pool_thread *)(void *)context;
  if (!pointer)
    return;
  bool known = gpud_heap_give(&thread->pool->heap, pointer) == 0;
  if (known && context->checked)
    gpud_check_drop(context->checked, (uint64_t)(uintptr_t)pointer);
  if (known)
    return;
  context->current_thread = number;
  context->site = site;
  thread->net.address = (uint64_t)(uintptr_t)pointer;
  thread->wrong = "free of a pointer that malloc did not give, or that was freed before";
  gpud_fault_leave();
}

/* Threads wait for one another in a loop: another may be what they wait for, or nothing, once the job was stopped. */
static void pause_thread(gpud_kernel_context *context)
{
  gpud_pool_thread *thread = (gpud_pool_thread *)(void *)context;
  if (gpud_pool_stopped(thread->pool))
    gpud_fault_leave();
  gpud_relax();
  if (++thread->pauses % PAUSES == 0)
    sched_yield();
}

/* Under a net: the words of a failed assertion are wherever the program says. */
static void describe_assertion(void *argument)
{
  gpud_pool_thread *thread = argument;
  const gpud_kernel_context *context = &thread->context;
  gpud_fault_info *fault = &thread->pool->fault;
  char text[sizeof fault->text];
  snprintf(text, sizeof text, "assertion `%.240s` failed at %.160s:%u in %.80s", context->failed, context->file,
           context->line, context->function);
  /* Words of the program need not be UTF-8, which the client checks for. */
  for (char *at = text; *at; at++)
    if ((unsigned char)*at >= 0x80)
      *at = '?';
  memcpy(fault->text, text, sizeof text);
}

/* Where a trap is, and what stood for it. */
static void describe_trap(gpud_pool_thread *thread)
{
  const gpud_kernel_context *context = &thread->context;
  gpud_fault_info *fault = &thread->pool->fault;
  if (context->failed && gpud_fault_guard(&thread->net, describe_assertion, thread) == 0)
    return;
  if (context->failed)
    snprintf(fault->text, sizeof fault->text, "a failed assertion at line %u", context->line);
  else if (context->site)
    gpud_check_place(context->site, fault->text, sizeof fault->text);
  else if (context->line)
    snprintf(fault->text, sizeof fault->text, "trap at line %u of the PTX", context->line);
}

static void append(gpud_fault_info *fault, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void append(gpud_fault_info *fault, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  size_t size = strlen(fault->text);
  vsnprintf(fault->text + size, sizeof fault->text - size, format, arguments);
  va_end(arguments);
}

/* Of a trap the code says which thread it was; of a wild access only which block, or the first of the threads that ran together. */
static void describe(gpud_pool_thread *thread)
{
  const gpud_kernel_context *context = &thread->context;
  gpud_fault_info *fault = &thread->pool->fault;
  const uint32_t *block = context->current_block;
  bool trap = thread->net.signal == SIGILL;
  bool access = thread->net.signal == SIGSEGV || thread->net.signal == SIGBUS;
  if (thread->wrong) {
    char place[320] = "free";
    if (context->site)
      gpud_check_place(context->site, place, sizeof place);
    snprintf(fault->text, sizeof fault->text, "%s: 0x%llx; %s", thread->wrong, (unsigned long long)fault->address,
             place);
  } else {
    gpud_fault_describe(&thread->net, fault->text, sizeof fault->text);
  }
  if (trap)
    describe_trap(thread);
  if ((trap || thread->wrong) && fault->thread != ~0u) {
    uint32_t x = context->block[0];
    uint32_t y = context->block[1];
    append(fault, "; thread (%u, %u, %u) of block (%u, %u, %u)", fault->thread % x, fault->thread / x % y,
           fault->thread / x / y, block[0], block[1], block[2]);
  } else {
    append(fault, "; block (%u, %u, %u)", block[0], block[1], block[2]);
  }
  if (trap && context->site && context->site->kind == 1 && !context->workspace)
    append(fault, "; the kernel synchronises its grid: launch it with cooperative=True");
  if (access && !thread->pool->job.config.check)
    append(fault, "; connect(check=True) finds the thread and the line");
}

void gpud_pool_report(gpud_pool_thread *thread, int rc)
{
  gpud_pool *pool = thread->pool;
  const gpud_check_fault *found = pool->job.config.check ? gpud_check_found(pool->job.config.check) : NULL;
  if (rc == -EFAULT && thread->net.signal == 0 && !found && !thread->wrong)
    return; /* it left because the job was stopped */
  gpud_store_relaxed_u32(&pool->halted, 1);
  if (gpud_exchange_u32(&pool->faulted, 1))
    return;
  gpud_fault_info *fault = &pool->fault;
  *fault = (gpud_fault_info){.status = GPUD_STATUS_DEVICE_FAULT, .thread = ~0u};
  if (rc != -EFAULT) {
    fault->status = GPUD_STATUS_OUT_OF_MEMORY;
    return;
  }
  if (found && thread->net.signal == 0) {
    fault->stopped = true;
    fault->address = found->address;
    fault->thread = found->thread;
    memcpy(fault->block, thread->context.current_block, sizeof fault->block);
    memcpy(fault->text, found->text, sizeof fault->text);
    return;
  }
  memcpy(fault->block, thread->context.current_block, sizeof fault->block);
  fault->thread = thread->context.current_thread;
  fault->stopped = thread->wrong != NULL;
  if (thread->wrong || thread->net.signal == SIGSEGV || thread->net.signal == SIGBUS)
    fault->address = thread->net.address;
  describe(thread);
}

void gpud_pool_thread_ready(gpud_pool_thread *thread)
{
  const gpud_launch_config *config = &thread->pool->job.config;
  gpud_kernel_context *context = &thread->context;
  memcpy(context->grid, config->grid, sizeof context->grid);
  memcpy(context->block, config->block, sizeof context->block);
  context->dynamic_shared = config->shared;
  context->grid_id = (uint32_t)config->sequence;
  context->scratch = thread->scratch;
  context->current_thread = ~0u;
  context->check = config->check ? gpud_check_access : NULL;
  context->checked = config->check;
  context->failed = NULL;
  context->line = 0;
  context->site = NULL;
  thread->wrong = NULL;
}

static void work(gpud_pool_thread *thread)
{
  gpud_pool_thread_ready(thread);
  int rc = gpud_fault_guard(&thread->net, run_blocks, thread);
  if (rc)
    gpud_pool_report(thread, rc);
}

static void leave(gpud_pool *pool)
{
  uint64_t before = gpud_fetch_add_u64(&pool->state, -1ull);
  if (before == 1 && gpud_exchange_u32(&pool->waiting, 0))
    futex_wake(&pool->waiting, 1);
}

static void await_generation(gpud_pool *pool, uint32_t seen)
{
  uint64_t until = gpud_now() + SPIN_NS;
  bool spins = gpud_spin_ns() > 0;
  for (uint32_t i = 1; spins; i++) {
    if (gpud_load_acquire_u32(&pool->generation) != seen)
      return;
    gpud_relax();
    if (i % 16 == 0 && gpud_now() > until)
      break;
  }
  gpud_fetch_add_u64(&pool->sleepers, 1);
  while (gpud_load_acquire_u32(&pool->generation) == seen)
    futex_wait(&pool->generation, seen);
  gpud_fetch_add_u64(&pool->sleepers, -1ull);
}

static void *helper(void *argument)
{
  gpud_pool_thread *thread = argument;
  gpud_pool *pool = thread->pool;
  uint32_t seen = 0;
  for (;;) {
    await_generation(pool, seen);
    seen = gpud_load_acquire_u32(&pool->generation);
    if (gpud_load_acquire_u32(&pool->closing))
      return NULL;
    if (gpud_fetch_add_u64(&pool->state, 1) & JOB_OPEN)
      work(thread);
    leave(pool);
  }
}

/* Only the caller changes the generation. */
static void next_generation(gpud_pool *pool, uint32_t wanted)
{
  gpud_exchange_u32(&pool->generation, gpud_load_relaxed_u32(&pool->generation) + 1);
  if (gpud_fetch_add_u64(&pool->sleepers, 0))
    futex_wake(&pool->generation, wanted);
}

static void close_job(gpud_pool *pool)
{
  if (INSIDE(gpud_fetch_add_u64(&pool->state, -JOB_OPEN)) == 0)
    return;
  for (uint64_t until = gpud_now() + SPIN_NS; gpud_now() < until; gpud_relax())
    if (INSIDE(gpud_load_acquire_u64(&pool->state)) == 0)
      return;
  for (;;) {
    gpud_exchange_u32(&pool->waiting, 1);
    if (INSIDE(gpud_load_acquire_u64(&pool->state)) == 0)
      break;
    futex_wait(&pool->waiting, 1);
  }
  gpud_store_relaxed_u32(&pool->waiting, 0);
}

static void free_scratch(gpud_pool_thread *thread)
{
  if (thread->scratch)
    munmap(thread->scratch, thread->scratch_size);
  thread->scratch = NULL;
  thread->scratch_size = 0;
}

/*
 * Pages come when they are touched: a thread that gets no blocks costs nothing. The caller's comes last: gpud_pool_run
 * takes its size for everybody's.
 */
static int grow_scratch(gpud_pool *pool, uint64_t size)
{
  if (size > GPUD_MAX_SCRATCH)
    return -ENOMEM;
  size = (size + 0xffff) & ~0xffffull;
  for (uint32_t i = pool->count; i-- > 0;) {
    gpud_pool_thread *thread = &pool->threads[i];
    if (thread->scratch_size >= size)
      continue;
    void *scratch = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (scratch == MAP_FAILED)
      return -ENOMEM;
    free_scratch(thread);
    thread->scratch = scratch;
    thread->scratch_size = size;
  }
  return 0;
}

/* Runs blocks [first, blocks) in runs, with the helpers' help where there are any. */
static void run_shared(gpud_pool *pool, uint64_t first)
{
  uint64_t left = pool->blocks - first;
  uint64_t run = left / (pool->count * RUNS_PER_THREAD);
  pool->run = run ? run : 1;
  pool->next = first;
  pool->shared = true;
  uint64_t wanted = left / pool->run;
  /* Checked, blocks run one after the other: the first bad access is the same each time. */
  if (pool->count == 1 || wanted < 2 || pool->job.config.check) {
    work(&pool->threads[0]);
    return;
  }
  gpud_fetch_add_u64(&pool->state, JOB_OPEN);
  next_generation(pool, wanted < pool->count ? (uint32_t)wanted - 1 : pool->count - 1);
  work(&pool->threads[0]);
  close_job(pool);
}

static void run_alone(gpud_pool *pool, uint64_t first, uint64_t count)
{
  pool->next = first;
  pool->run = count;
  pool->shared = false;
  work(&pool->threads[0]);
}

/* Little work, by the number of threads; but a thread may do anything, so the first block tells. */
static void run_small(gpud_pool *pool)
{
  if (pool->blocks == 1) {
    run_alone(pool, 0, pool->blocks);
    return;
  }
  uint64_t begin = gpud_now();
  run_alone(pool, 0, 1);
  uint64_t elapsed = gpud_now() - begin;
  if (pool->faulted)
    return;
  if (elapsed * (pool->blocks - 1) > SHARE_NS)
    run_shared(pool, 1);
  else
    run_alone(pool, 1, pool->blocks - 1);
}

void gpud_pool_begin(gpud_pool *pool, const gpud_pool_job *job)
{
  const uint32_t *grid = job->config.grid;
  pool->job = *job;
  pool->blocks = (uint64_t)grid[0] * grid[1] * grid[2];
  pool->halted = 0;
  pool->faulted = 0;
}

int gpud_pool_result(gpud_pool *pool, gpud_fault_info *fault)
{
  if (pool->faulted) {
    *fault = pool->fault;
    return fault->status == GPUD_STATUS_OUT_OF_MEMORY ? -ENOMEM : -EFAULT;
  }
  return gpud_load_relaxed_u32(&pool->interrupted) ? -EINTR : 0;
}

int gpud_pool_run(gpud_pool *pool, const gpud_pool_job *job, gpud_fault_info *fault)
{
  if (job->scratch > pool->threads[0].scratch_size) {
    int rc = grow_scratch(pool, job->scratch);
    if (rc)
      return rc;
  }
  gpud_pool_begin(pool, job);
  const uint32_t *block = job->config.block;
  uint64_t block_threads = (uint64_t)block[0] * block[1] * block[2];
  /* The product of both may not fit 64 bits, but then there are many blocks. */
  if (pool->blocks < LARGE_LAUNCH && pool->blocks * block_threads < LARGE_LAUNCH)
    run_small(pool);
  else
    run_shared(pool, 0);
  return gpud_pool_result(pool, fault);
}

void gpud_pool_interrupt(gpud_pool *pool) { gpud_store_relaxed_u32(&pool->interrupted, 1); }

void gpud_pool_scrub(gpud_pool *pool)
{
  for (uint32_t i = 0; i < pool->count; i++) {
    memset(pool->threads[i].shared, 0, pool->max_shared);
    free_scratch(&pool->threads[i]);
  }
  gpud_output_clear(&pool->output);
  gpud_heap_clear(&pool->heap);
  gpud_store_relaxed_u32(&pool->interrupted, 0);
}

uint32_t gpud_pool_output(gpud_pool *pool, const char **text, uint32_t most)
{
  return gpud_output_take(&pool->output, text, most);
}

uint32_t gpud_pool_threads(const gpud_pool *pool) { return pool->count; }

int gpud_pool_spawn(pthread_t *handle, void *(*run)(void *), void *argument)
{
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  sigdelset(&all, SIGSEGV);
  sigdelset(&all, SIGBUS);
  sigdelset(&all, SIGILL);
  sigdelset(&all, SIGFPE);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int rc = -pthread_create(handle, NULL, run, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return rc;
}

static int start_helpers(gpud_pool *pool)
{
  int rc = 0;
  for (uint32_t i = 1; i < pool->count && rc == 0; i++) {
    rc = gpud_pool_spawn(&pool->threads[i].handle, helper, &pool->threads[i]);
    pool->threads[i].started = rc == 0;
  }
  return rc;
}

void gpud_pool_thread_init(gpud_pool *pool, gpud_pool_thread *thread, uint32_t slot)
{
  thread->pool = pool;
  thread->context.shared = thread->shared;
  thread->context.thread_slot = slot;
  thread->context.thread_count = pool->count;
  thread->context.print = print;
  thread->context.pause = pause_thread;
  thread->context.take = take;
  thread->context.give = give;
}

int gpud_pool_new(uint32_t threads, uint32_t max_shared, gpud_pool **out)
{
  gpud_pool *pool = aligned_alloc(64, sizeof *pool);
  if (!pool)
    return -ENOMEM;
  memset(pool, 0, sizeof *pool);
  gpud_output_init(&pool->output);
  pool->count = threads;
  pool->max_shared = max_shared;
  pool->threads = aligned_alloc(64, threads * sizeof *pool->threads);
  if (!pool->threads) {
    gpud_output_free(&pool->output);
    free(pool);
    return -ENOMEM;
  }
  memset(pool->threads, 0, threads * sizeof *pool->threads);
  int rc = 0;
  for (uint32_t i = 0; i < threads && rc == 0; i++) {
    gpud_pool_thread *thread = &pool->threads[i];
    thread->shared = aligned_alloc(64, (max_shared + 63u) & ~63u);
    if (!thread->shared) {
      rc = -ENOMEM;
      break;
    }
    memset(thread->shared, 0, max_shared);
    gpud_pool_thread_init(pool, thread, i);
  }
  if (rc == 0)
    rc = start_helpers(pool);
  if (rc) {
    gpud_pool_free(pool);
    return rc;
  }
  *out = pool;
  return 0;
}

void gpud_pool_free(gpud_pool *pool)
{
  gpud_store_release_u32(&pool->closing, 1);
  next_generation(pool, pool->count);
  for (uint32_t i = 0; i < pool->count; i++) {
    if (pool->threads[i].started)
      pthread_join(pool->threads[i].handle, NULL);
    free_scratch(&pool->threads[i]);
    free(pool->threads[i].shared);
  }
  free(pool->threads);
  gpud_heap_clear(&pool->heap);
  gpud_output_free(&pool->output);
  free(pool);
}
