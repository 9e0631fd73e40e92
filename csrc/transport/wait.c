#include "wait.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000u
#define SPIN_NS 50000u

uint64_t gpud_now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

int gpud_membarrier_available(void)
{
#ifdef __SANITIZE_THREAD__
  return 0; /* the sanitizer cannot see what the kernel does to other threads' order */
#else
  const long wanted = MEMBARRIER_CMD_GLOBAL_EXPEDITED | MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED;
  long known = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
  if (known < 0 || (known & wanted) != wanted)
    return 0;
  return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
#endif
}

uint64_t gpud_spin_ns(void)
{
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) != 0)
    return SPIN_NS; /* more CPUs than the set has bits */
  return CPU_COUNT(&cpus) > 1 ? SPIN_NS : 0;
}

void gpud_heavy_fence(bool membarrier)
{
  if (membarrier && syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0)
    return;
  gpud_full_fence();
}

void gpud_futex_sleep(uint32_t *word, uint64_t slice, uint64_t deadline)
{
  uint64_t now = gpud_now();
  if (now >= deadline)
    return;
  uint64_t left = deadline - now < slice ? deadline - now : slice;
  const struct timespec time = {.tv_sec = (time_t)(left / SECOND_NS), .tv_nsec = (long)(left % SECOND_NS)};
  syscall(SYS_futex, word, FUTEX_WAIT, 1, &time, NULL, 0);
}

void gpud_futex_wake(uint32_t *word)
{
  int error = errno;
  gpud_exchange_u32(word, 0);
  syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
  errno = error; /* called from signal handlers too */
}
