#include "cooperative.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fiber.h"
#include "lock.h"
#include "pool_internal.h"
#include "wait.h"

#define MOST_MEMORY (8ull << 30) /* of a launch; pages come when they are touched */
#define STACK (1ull << 20)
#define ROUND(size, to) (((size) + (to) - 1) & ~(uint64_t)((to) - 1))
#define LOOK_FIRST_NS 300000ull /* how often the caller looks whether another thread is needed, at first */
#define LOOK_NS 5000000ull      /* and later */
#define SHARE_NS                                                                                                       \
  200000ull /* CPU time of a round of all blocks, from one wait to the next, that is worth another thread */
#define STUCK_NS 5000000ull /* of each thread without a turn's end: the blocks that wait to run get another */
#define NAP_NS 20000        /* of a thread that has no block */
#define TURNS 4096u         /* until a thread whose blocks wait lets others have its CPU */

struct crew;

typedef struct block {
  gpud_pool_thread thread; /* first: compiled code has its context */
  gpud_fiber fiber;
  gpud_fiber *home;    /* of the thread that runs it */
  gpud_fault_net *net; /* what guards it, while it waits */
  uint64_t number;
  bool ended;
  struct block *next; /* in a queue */
} block;

/* A thread, and those of the blocks that wait that it is to run next. Others help themselves when they have none. */
typedef struct worker {
  _Alignas(64) gpud_lock lock;
  block *first;
  block *last;
  uint64_t length;
  uint64_t turns; /* only this thread writes it */
  pthread_t handle;
  struct crew *crew;
} worker;

typedef struct crew {
  gpud_pool *pool;
  block *blocks;
  worker *workers;
  uint32_t count; /* of workers that there are; only the caller writes it */
  uint64_t left;  /* blocks that have not ended */
  uint32_t busy;  /* the caller sleeps while it is 1 */
  unsigned char *memory;
  uint64_t memory_size;
  gpud_kernel_workspace workspace;
} crew;

static uint64_t page_size(void) { return (uint64_t)sysconf(_SC_PAGESIZE); }

/* A page that nobody may touch, the stack, shared memory, working memory. */
static uint64_t block_memory(const gpud_pool_job *job)
{
  uint64_t page = page_size();
  return page + STACK + ROUND(job->shared, page) + ROUND(job->scratch, page);
}

uint32_t gpud_cooperative_most(const gpud_pool_job *job)
{
  if (job->scratch > GPUD_MAX_SCRATCH)
    return 0;
  uint64_t most = MOST_MEMORY / block_memory(job);
  return most < GPUD_MAX_COOPERATIVE_BLOCKS ? (uint32_t)most : GPUD_MAX_COOPERATIVE_BLOCKS;
}

/* ---------------------------------------------------------------- a block, on its own stack */

static void run_block(void *argument)
{
  block *b = argument;
  const gpud_pool *pool = b->thread.pool;
  if (!gpud_pool_stopped(pool))
    pool->job.function(pool->job.params, &b->thread.context, b->number, 1);
}

static void begin(void *argument)
{
  block *b = argument;
  int rc = gpud_fault_guard(&b->thread.net, run_block, b);
  if (rc)
    gpud_pool_report(&b->thread, rc);
  b->ended = true;
  gpud_fiber_end(&b->fiber, b->home);
}

static void pause_block(gpud_kernel_context *context)
{
  block *b = (block *)(void *)context;
  gpud_fiber_switch(&b->fiber, b->home);
  if (gpud_pool_stopped(b->thread.pool))
    gpud_fault_leave();
}

/* ---------------------------------------------------------------- threads */

static void put(worker *w, block *b)
{
  b->next = NULL;
  gpud_lock_acquire(&w->lock);
  if (w->first)
    w->last->next = b;
  else
    w->first = b;
  w->last = b;
  w->length++;
  gpud_lock_release(&w->lock);
}

static block *take(worker *w)
{
  gpud_lock_acquire(&w->lock);
  block *b = w->first;
  if (b) {
    w->first = b->next;
    w->length--;
  }
  gpud_lock_release(&w->lock);
  return b;
}

/* Half of what waits for another thread, the larger one: its first is the answer, the others are w's from now on. */
static block *take_half(worker *from, worker *w)
{
  gpud_lock_acquire(&from->lock);
  block *b = from->first;
  uint64_t count = (from->length + 1) / 2;
  block *last = b;
  for (uint64_t i = 1; i < count; i++)
    last = last->next;
  if (b) {
    from->first = last->next;
    from->length -= count;
    last->next = NULL;
  }
  gpud_lock_release(&from->lock);
  for (block *next = b ? b->next : NULL; next;) {
    block *following = next->next;
    put(w, next);
    next = following;
  }
  return b;
}

static block *find(crew *c, worker *w)
{
  block *b = take(w);
  uint32_t count = gpud_load_acquire_u32(&c->count);
  for (uint32_t i = 0; i < count && !b; i++)
    if (&c->workers[i] != w)
      b = take_half(&c->workers[i], w);
  return b;
}

static void nap(void)
{
  struct timespec time = {.tv_nsec = NAP_NS};
  nanosleep(&time, NULL);
}

static void turn(crew *c, worker *w, block *b, gpud_fiber *home)
{
  b->home = home;
  gpud_fault_resume(b->net);
  gpud_fiber_switch(home, &b->fiber);
  b->net = gpud_fault_suspend();
  gpud_store_relaxed_u64(&w->turns, w->turns + 1);
  if (!b->ended)
    put(w, b);
  else if (gpud_fetch_add_u64(&c->left, -1ull) == 1)
    gpud_futex_wake(&c->busy);
}

static void *work(void *argument)
{
  worker *w = argument;
  crew *c = w->crew;
  gpud_fiber home;
  gpud_fiber_here(&home);
  gpud_fault_ready(); /* else a block that came from elsewhere and uses up its stack ends the process */
  while (gpud_load_acquire_u64(&c->left)) {
    block *b = find(c, w);
    if (b)
      turn(c, w, b, &home);
    else
      nap();
    if (w->turns % TURNS == TURNS - 1)
      sched_yield();
  }
  return NULL;
}

/* ---------------------------------------------------------------- the launch */

static int make_memory(crew *c, uint64_t count)
{
  const gpud_pool_job *job = &c->pool->job;
  uint64_t page = page_size();
  uint64_t each = block_memory(job);
  c->memory_size = each * count;
  void *memory = mmap(NULL, c->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    return -ENOMEM;
  c->memory = memory;
  madvise(memory, c->memory_size, MADV_NOHUGEPAGE); /* of each stack little is used */
  for (uint64_t i = 0; i < count; i++) {
    unsigned char *at = c->memory + i * each;
    block *b = &c->blocks[i];
    if (mprotect(at, page, PROT_NONE))
      return -ENOMEM;
    b->number = i;
    b->thread.shared = at + page + STACK;
    b->thread.scratch = at + page + STACK + ROUND(job->shared, page);
    gpud_pool_thread_init(c->pool, &b->thread, (uint32_t)(i % c->pool->count));
    gpud_pool_thread_ready(&b->thread);
    b->thread.context.workspace = &c->workspace;
    b->thread.context.pause = pause_block;
    gpud_fiber_make(&b->fiber, at + page, STACK, begin, b);
  }
  return 0;
}

static int start_worker(crew *c)
{
  worker *w = &c->workers[c->count];
  w->crew = c;
  int rc = gpud_pool_spawn(&w->handle, work, w);
  if (rc == 0)
    gpud_store_release_u32(&c->count, c->count + 1);
  return rc;
}

/* What the threads have done: turns of blocks, and CPU time, which says how long those took whoever else is on the machine. */
typedef struct progress {
  uint64_t turns;
  uint64_t cpu;
} progress;

static progress look(const crew *c)
{
  progress sum = {0};
  for (uint32_t i = 0; i < c->count; i++) {
    clockid_t clock;
    struct timespec time = {0};
    if (pthread_getcpuclockid(c->workers[i].handle, &clock) == 0)
      clock_gettime(clock, &time);
    sum.cpu += (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
    sum.turns += gpud_load_relaxed_u64(&c->workers[i].turns);
  }
  return sum;
}

/*
 * Until the last block has ended. One thread begins with all of them: where they do little between their waits, more would
 * only wait for one another's CPUs. Where they do much, and where one goes on and on (the others may be what it waits for), there is
 * another thread.
 */
static void await(crew *c, uint64_t blocks)
{
  progress before = {0};
  uint64_t slice = LOOK_FIRST_NS;
  while (gpud_load_acquire_u64(&c->left)) {
    gpud_futex_sleep(&c->busy, slice, gpud_now() + slice);
    slice = slice * 2 < LOOK_NS ? slice * 2 : LOOK_NS;
    if (c->pool->job.config.check)
      continue; /* one thread runs them all: the first bad access is the same each time */
    progress now = look(c);
    uint64_t turns = now.turns - before.turns;
    uint64_t cpu = now.cpu - before.cpu;
    bool stuck = turns == 0 && cpu > STUCK_NS * c->count && c->count < blocks;
    bool busy = cpu > SHARE_NS && cpu / SHARE_NS * blocks > turns && c->count < c->pool->count && c->count < blocks;
    if (stuck || busy)
      start_worker(c);
    if (turns || stuck)
      before = now;
  }
}

static int run(crew *c, uint64_t blocks)
{
  int rc = make_memory(c, blocks);
  if (rc)
    return rc;
  for (uint64_t i = 0; i < blocks; i++)
    put(&c->workers[0], &c->blocks[i]);
  rc = start_worker(c);
  if (rc)
    return rc;
  await(c, blocks);
  for (uint32_t i = 0; i < c->count; i++)
    pthread_join(c->workers[i].handle, NULL);
  return 0;
}

int gpud_cooperative_run(gpud_pool *pool, const gpud_pool_job *job, gpud_fault_info *fault)
{
  gpud_pool_begin(pool, job);
  uint64_t blocks = pool->blocks;
  crew c = {.pool = pool, .left = blocks, .busy = 1};
  if (blocks > gpud_cooperative_most(job))
    return -ENOMEM;
  c.blocks = aligned_alloc(64, blocks * sizeof *c.blocks);
  c.workers = aligned_alloc(64, blocks * sizeof *c.workers);
  int rc = -ENOMEM;
  if (c.blocks && c.workers) {
    memset(c.blocks, 0, blocks * sizeof *c.blocks);
    memset(c.workers, 0, blocks * sizeof *c.workers);
    rc = run(&c, blocks);
  }
  for (uint64_t i = 0; c.blocks && i < blocks; i++)
    gpud_fiber_free(&c.blocks[i].fiber);
  if (c.memory)
    munmap(c.memory, c.memory_size);
  free(c.workers);
  free(c.blocks);
  return rc ? rc : gpud_pool_result(pool, fault);
}
