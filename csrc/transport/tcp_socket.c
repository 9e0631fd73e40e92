#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "endpoint_tcp.h"
#include "wait.h"

#define IDLE_S 5 /* of silence before the first probe; the peer is gone after 5 + 3 * 2 s */
#define INTERVAL_S 2
#define PROBES 3
#define SILENCE_MS 10000u /* without an acknowledgement of what was sent, and with attempts to get one */
#define LEAVING_MS 1      /* how often to look whether what was sent has arrived */
#define UNANSWERED 3u     /* attempts */

static void set(int socket, int level, int option, int value)
{
  setsockopt(socket, level, option, &value, sizeof value); /* what a kernel does not know it goes without */
}

void gpud_tcp_socket_options(int socket)
{
  set(socket, IPPROTO_TCP, TCP_NODELAY, 1); /* what may be put together is put together here */
  set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(socket, IPPROTO_TCP, TCP_KEEPIDLE, IDLE_S);
  set(socket, IPPROTO_TCP, TCP_KEEPINTVL, INTERVAL_S);
  set(socket, IPPROTO_TCP, TCP_KEEPCNT, PROBES);
}

/*
 * Keepalive probes are not sent while data waits to be acknowledged, and the retransmissions go on for a quarter of an
 * hour. TCP_USER_TIMEOUT would shorten that, but it also ends a connection whose peer merely has not read for so long (a window of
 * zero), as a worker does whose kernel runs. So this looks at what the kernel knows: attempts that nothing has answered.
 */
static bool silent(int socket)
{
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  if (getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
    return false;
  return info.tcpi_last_ack_recv >= SILENCE_MS &&
         (info.tcpi_retransmits >= UNANSWERED || info.tcpi_probes >= UNANSWERED);
}

bool gpud_tcp_socket_dead(int socket)
{
  struct pollfd p = {.fd = socket, .events = POLLRDHUP};
  return poll(&p, 1, 0) > 0 || silent(socket);
}

static int64_t result(ssize_t n, bool zero_is_end)
{
  if (n > 0 || (n == 0 && !zero_is_end))
    return n;
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
    return -EAGAIN;
  return -EPIPE;
}

int64_t gpud_tcp_socket_receive(int socket, struct iovec *parts, int count)
{
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
  if (count == 1) /* a tenth of a microsecond less */
    return result(recv(socket, parts->iov_base, parts->iov_len, MSG_DONTWAIT), true);
  return result(recvmsg(socket, &message, MSG_DONTWAIT), true);
}

int64_t gpud_tcp_socket_send(int socket, struct iovec *parts, int count)
{
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
  if (count == 1)
    return result(send(socket, parts->iov_base, parts->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL), false);
  return result(sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL), false);
}

/*
 * A process that dies leaves its socket to the kernel, which goes on sending; behind a full window its end is then not seen for minutes.
 * With this it is seen at once, and what was queued is dropped.
 */
void gpud_tcp_socket_abort_on_death(int socket, bool on)
{
  const struct linger linger = {.l_onoff = on};
  setsockopt(socket, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

/* Whether the peer's kernel has not acknowledged all of what was sent. */
static bool unacknowledged(int socket)
{
  int bytes;
  return ioctl(socket, SIOCOUTQ, &bytes) == 0 && bytes > 0;
}

/* Reads what comes and drops it. 1: something did; 0: nothing is there; -1: the end. */
static int drop(int socket)
{
  char bytes[16384];
  ssize_t n = recv(socket, bytes, sizeof bytes, MSG_DONTWAIT);
  return n > 0 ? 1 : n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

/*
 * A socket that is closed answers what comes, or came and was not read, by a reset; that takes along what it had still to send, and
 * from the peer what it has not read. So it is kept until all has arrived, or the peer has stopped sending as well.
 */
void gpud_tcp_socket_hang_up(int socket, uint64_t deadline)
{
  bool leaving = unacknowledged(socket);
  bool coming = false;
  shutdown(socket, SHUT_WR);
  for (uint64_t now = gpud_now(); now < deadline; now = gpud_now()) {
    int rc = drop(socket);
    if (rc < 0)
      break;
    coming = coming || rc > 0;
    leaving = leaving && unacknowledged(socket);
    if (rc > 0)
      continue;
    if (!leaving && !coming)
      break;
    struct pollfd p = {.fd = socket, .events = POLLIN};
    poll(&p, 1, leaving ? LEAVING_MS : (int)((deadline - now) / 1000000u) + 1);
  }
  if (!unacknowledged(socket))
    gpud_tcp_socket_abort_on_death(socket, false);
  close(socket);
}
