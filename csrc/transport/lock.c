#include "lock.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "wait.h"

#define SPINS 200
#define NAP_NS 20000
#define SECOND_NS 1000000000u

void gpud_lock_contended(gpud_lock *lock)
{
  const struct timespec nap = {.tv_nsec = NAP_NS};
  for (;;) {
    for (int i = 0; i < SPINS; i++) {
      if (gpud_load_relaxed_u32(&lock->held) == 0 && gpud_exchange_u32(&lock->held, 1) == 0)
        return;
      gpud_relax();
    }
    nanosleep(&nap, NULL);
  }
}

int gpud_mutex_acquire(gpud_mutex *mutex, uint64_t deadline)
{
  if (gpud_exchange_u32(&mutex->state, 1) == 0)
    return 0;
  /* From here on the lock is taken as 2, also by who got it at once: it cannot know whether others sleep. */
  while (gpud_exchange_u32(&mutex->state, 2) != 0) {
    uint64_t now = gpud_now();
    if (now >= deadline)
      return -ETIMEDOUT;
    uint64_t left = deadline - now;
    const struct timespec time = {.tv_sec = (time_t)(left / SECOND_NS), .tv_nsec = (long)(left % SECOND_NS)};
    syscall(SYS_futex, &mutex->state, FUTEX_WAIT_PRIVATE, 2, &time, NULL, 0);
  }
  return 0;
}

void gpud_mutex_release(gpud_mutex *mutex)
{
  if (gpud_exchange_u32(&mutex->state, 0) == 2)
    syscall(SYS_futex, &mutex->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
