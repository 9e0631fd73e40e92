/*
 * The flusher: one thread for each end, asleep unless there is something that nobody else sees to. It sends what a burst left in the
 * queue, goes on where the socket was full, and, at a client, takes in the bytes of copies that nobody waits for, since the worker
 * is held up by them.
 */
#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "endpoint_tcp.h"

void gpud_tcp_ring(gpud_tcp *t)
{
  uint64_t one = 1;
  int error = errno;
  if (write(t->flusher.bell, &one, sizeof one) < 0) /* full: then it is heard anyway */
    errno = error;
}

static bool quits(const gpud_tcp *t) { return gpud_load_acquire_u32(&t->flusher.quit) != 0; }

/* Whether bytes come for a copy and nobody looks at the socket. */
static bool must_read(const gpud_tcp *t)
{
  return t->base.client && gpud_tcp_expecting(t) && gpud_load_acquire_u32(&t->base.leading) == 0 &&
         gpud_carried_ended(&t->base) == 0;
}

/* Sleeps until the bell, or until the socket is ready for what is wanted of it. */
static void sleep_until_needed(gpud_tcp *t, bool full)
{
  gpud_tcp_flusher *f = &t->flusher;
  gpud_lock_acquire(&t->out.lock);
  bool more = t->out.pending && !full && t->out.error == 0 && gpud_load_relaxed_u32(&t->out.sending.held) == 0;
  bool read_on = must_read(t) && gpud_load_relaxed_u32(&t->in.stalled) == 0;
  if (!more)
    f->asleep = GPUD_TCP_ASLEEP | (full ? GPUD_TCP_WATCHES_OUT : 0) | (read_on ? GPUD_TCP_WATCHES_IN : 0);
  gpud_lock_release(&t->out.lock);
  if (more)
    return;
  struct pollfd fds[2] = {
    {.fd = f->bell, .events = POLLIN},
    {.fd = full || read_on ? t->socket : -1, .events = (short)((full ? POLLOUT : 0) | (read_on ? POLLIN : 0))},
  };
  poll(fds, 2, -1);
  gpud_lock_acquire(&t->out.lock);
  f->asleep = 0;
  gpud_lock_release(&t->out.lock);
  uint64_t times;
  while ((fds[0].revents & POLLIN) && read(f->bell, &times, sizeof times) > 0)
    continue;
}

static void *flush(void *argument)
{
  gpud_tcp *t = argument;
  while (!quits(t)) {
    int rc = gpud_tcp_try_flush(t);
    while (!quits(t) && must_read(t) && gpud_carried_step(&t->base) > 0)
      continue;
    sleep_until_needed(t, rc == -EAGAIN);
  }
  return NULL;
}

int gpud_tcp_flusher_start(gpud_tcp *t)
{
  sigset_t all;
  sigset_t before;
  t->flusher.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (t->flusher.bell < 0)
    return -errno;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int rc = -pthread_create(&t->flusher.thread, NULL, flush, t);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  t->flusher.started = rc == 0;
  return rc;
}

void gpud_tcp_flusher_stop(gpud_tcp *t)
{
  if (t->flusher.started) {
    gpud_store_release_u32(&t->flusher.quit, 1);
    gpud_tcp_ring(t);
    pthread_join(t->flusher.thread, NULL);
    t->flusher.started = false;
  }
}
