#include "bootstrap.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "wait.h"
#include "wire.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

#define MAX_FDS 253 /* the most that one message carries (SCM_MAX_FD): none is left for the kernel to close */

/* 0 once the socket is ready for `events` or has hung up, -ETIMEDOUT, -errno. */
static int wait_ready(int socket, short events, uint64_t deadline)
{
  for (;;) {
    uint64_t now = gpud_now();
    if (now >= deadline)
      return -ETIMEDOUT;
    uint64_t ms = (deadline - now + 999999u) / 1000000u;
    struct pollfd p = {.fd = socket, .events = events};
    int n = poll(&p, 1, ms > INT_MAX ? INT_MAX : (int)ms);
    if (n > 0)
      return 0;
    if (n < 0 && errno != EINTR)
      return -errno;
  }
}

/* The last two: what kernel TLS makes of an alert and of a record that was tampered with. */
static bool gone(int error) { return error == ECONNRESET || error == ENOTCONN || error == EIO || error == EBADMSG; }

/* One sendmsg, waited for: how many bytes went, or -ETIMEDOUT, -EPIPE, -errno. */
static ssize_t send_some(int socket, const void *bytes, size_t size, int fd, uint64_t deadline)
{
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (fd >= 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  for (;;) {
    ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0)
      return sent;
    if (errno == EINTR)
      continue;
    if (gone(errno))
      return -EPIPE;
    if (errno != EAGAIN && errno != EWOULDBLOCK)
      return -errno;
    int rc = wait_ready(socket, POLLOUT, deadline);
    if (rc != 0)
      return rc;
  }
}

void gpud_bootstrap_discard(int fd)
{
  const struct linger off = {0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
  close(fd);
}

/* The first descriptor of the control data is *fd's, if that has none yet; all others are closed. */
static void take_fds(struct msghdr *message, int *fd)
{
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
      continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int received;
      memcpy(&received, CMSG_DATA(c) + i * sizeof received, sizeof received);
      if (*fd < 0)
        *fd = received;
      else
        gpud_bootstrap_discard(received);
    }
  }
}

/* One recvmsg, waited for: how many bytes came (> 0), or -ETIMEDOUT, -EPIPE, -errno. */
static ssize_t receive_some(int socket, void *bytes, size_t size, int *fd, uint64_t deadline)
{
  union {
    char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
    struct cmsghdr align;
  } control;
  for (;;) {
    struct iovec part = {.iov_base = bytes, .iov_len = size};
    struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got >= 0) {
      take_fds(&message, fd);
      return got > 0 ? got : -EPIPE;
    }
    if (errno == EINTR)
      continue;
    if (gone(errno))
      return -EPIPE;
    if (errno != EAGAIN && errno != EWOULDBLOCK)
      return -errno;
    int rc = wait_ready(socket, POLLIN, deadline);
    if (rc != 0)
      return rc;
  }
}

int gpud_bootstrap_send(int socket, const void *frame, size_t size, int fd, uint64_t deadline)
{
  for (size_t sent = 0; sent < size;) {
    ssize_t n = send_some(socket, (const char *)frame + sent, size - sent, sent == 0 ? fd : -1, deadline);
    if (n < 0)
      return (int)n;
    sent += (size_t)n;
  }
  return 0;
}

/* Fills bytes[got..want] of the frame. */
static int receive_until(int socket, char *bytes, size_t *got, size_t want, int *fd, uint64_t deadline)
{
  while (*got < want) {
    ssize_t n = receive_some(socket, bytes + *got, want - *got, fd, deadline);
    if (n < 0)
      return (int)n;
    *got += (size_t)n;
  }
  return 0;
}

int gpud_bootstrap_receive(int socket, void *frame, int *fd, uint64_t deadline)
{
  size_t got = 0;
  *fd = -1;
  /* Never a byte beyond the frame: what follows on the socket belongs to its descriptors. */
  int rc = receive_until(socket, frame, &got, sizeof(gpud_frame_head), fd, deadline);
  int size = rc == 0 ? gpud_frame_size(frame, got) : rc;
  if (size > 0)
    rc = receive_until(socket, frame, &got, (size_t)size, fd, deadline);
  else
    rc = size;
  if (rc == 0)
    return size;
  if (*fd >= 0)
    gpud_bootstrap_discard(*fd);
  *fd = -1;
  return rc;
}

int gpud_bootstrap_send_fd(int socket, int fd, uint64_t deadline)
{
  return gpud_bootstrap_send(socket, "", 1, fd, deadline);
}

int gpud_bootstrap_receive_fd(int socket, int *fd, uint64_t deadline)
{
  char byte;
  *fd = -1;
  ssize_t n = receive_some(socket, &byte, 1, fd, deadline);
  if (n < 0)
    return (int)n;
  return *fd >= 0 ? 0 : -EPROTO;
}

void gpud_bootstrap_hang_up(int socket)
{
  char bytes[4096];
  int fd = -1;
  shutdown(socket, SHUT_RDWR); /* from here on nothing more can come */
  while (receive_some(socket, bytes, sizeof bytes, &fd, 0) > 0) {
    if (fd >= 0)
      gpud_bootstrap_discard(fd);
    fd = -1;
  }
  close(socket);
}

int gpud_bootstrap_peer(int socket, gpud_peer *peer)
{
  struct ucred credentials;
  socklen_t size = sizeof credentials;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0)
    return -errno;
  *peer = (gpud_peer){
    .pid = credentials.pid > 0 ? (uint32_t)credentials.pid : 0, .uid = credentials.uid, .gid = credentials.gid};
  return 0;
}

int gpud_bootstrap_alive(int socket)
{
  struct pollfd p = {.fd = socket, .events = POLLRDHUP};
  int n = poll(&p, 1, 0);
  return n <= 0;
}

int gpud_bootstrap_pidfd(int socket)
{
  gpud_peer peer;
  int fd;
  socklen_t size = sizeof fd;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) == 0)
    return fd;
  if (gpud_bootstrap_peer(socket, &peer) != 0 || peer.pid == 0)
    return -1;
  fd = (int)syscall(SYS_pidfd_open, (pid_t)peer.pid, 0);
  return fd < 0 ? -1 : fd;
}
