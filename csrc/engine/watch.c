/*
 * The watcher: one thread per session that does nothing until the client hangs up or somebody interrupts, so that
 * neither has to wait for a kernel to end. It is also what ends the process when the kernel does not.
 */
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "bootstrap.h"
#include "internal.h"

#define LOOK_MS 250  /* without a pidfd, a death that the socket does not show (a child holds a copy) is seen so late */
#define FOREVER (-1) /* until a descriptor has news */

/* Waits for the eventfd, or `ms`, or a hang-up on `socket`, or the end of the process behind `pidfd` (-1: neither). Whether that
 * process has ended. */
static bool wait_for_news(gpud_engine *e, int socket, int pidfd, int ms)
{
  struct pollfd p[3] = {
    {.fd = e->wake, .events = POLLIN}, {.fd = socket, .events = POLLRDHUP}, {.fd = pidfd, .events = POLLIN}};
  if (poll(p, 3, ms) <= 0)
    return false;
  uint64_t count;
  if ((p[0].revents & POLLIN) && read(e->wake, &count, sizeof count) < 0)
    return false; /* another took it */
  return (p[2].revents & POLLIN) != 0;
}

static bool unwatched(const gpud_engine *e) { return gpud_load_acquire_u32(&e->unwatch) != 0; }

static void stop_work(gpud_engine *e)
{
  gpud_connection_interrupt(e->connection);
  e->device->ops->interrupt(e->device);
}

static void client_gone(gpud_engine *e)
{
  gpud_store_release_u32(&e->gone, 1);
  stop_work(e);
  uint64_t now = gpud_now();
  uint64_t until = now + GPUD_ORPHAN_MS * 1000000ull;
  for (; now < until && !unwatched(e); now = gpud_now())
    wait_for_news(e, -1, -1, (int)((until - now) / 1000000u) + 1);
  /* A kernel nobody waits for, or a compilation, and no way to stop either: this process is replaced. */
  if (!unwatched(e) && gpud_load_acquire_u32(&e->busy))
    _exit(GPUD_EXIT_ORPHAN);
  while (!unwatched(e))
    wait_for_news(e, -1, -1, FOREVER);
}

static void *watch(void *argument)
{
  gpud_engine *e = argument;
  int pidfd = e->socket < 0 ? -1 : gpud_bootstrap_pidfd(e->socket);
  bool stopped = false;
  while (!unwatched(e)) {
    if (!stopped && gpud_load_acquire_u32(&e->interrupted)) {
      stop_work(e);
      stopped = true;
    }
    bool ended = wait_for_news(e, e->socket, pidfd, pidfd >= 0 ? FOREVER : LOOK_MS);
    if (!unwatched(e) && (ended || !gpud_connection_alive(e->connection))) {
      client_gone(e);
      break;
    }
  }
  if (pidfd >= 0)
    close(pidfd);
  return NULL;
}

int gpud_watch_start(gpud_engine *e)
{
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  gpud_store_relaxed_u32(&e->unwatch, 0);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int rc = -pthread_create(&e->watcher, NULL, watch, e);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  e->watching = rc == 0;
  return rc;
}

void gpud_watch_wake(gpud_engine *e)
{
  uint64_t one = 1;
  int error = errno;
  if (write(e->wake, &one, sizeof one) < 0) /* the count is full: then it is awake anyway */
    errno = error;                          /* called from signal handlers too */
}

void gpud_watch_stop(gpud_engine *e)
{
  if (!e->watching)
    return;
  gpud_store_release_u32(&e->unwatch, 1);
  gpud_watch_wake(e);
  pthread_join(e->watcher, NULL);
  e->watching = false;
}
