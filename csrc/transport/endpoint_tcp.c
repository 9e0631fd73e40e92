#include <errno.h>

#include "handshake.h"

static int tcp_accept(int socket, const gpud_welcome *welcome, const void *frame, size_t size, uint64_t deadline,
                      gpud_endpoint **ep)
{
  (void)socket, (void)welcome, (void)frame, (void)size, (void)deadline, (void)ep;
  return -ENOTSUP;
}

static int tcp_connect(int socket, const gpud_welcome *welcome, int fd, uint64_t deadline, gpud_endpoint **ep)
{
  (void)socket, (void)welcome, (void)fd, (void)deadline, (void)ep;
  return -ENOTSUP;
}

const gpud_handshake gpud_handshake_tcp = {
  .name = "tcp",
  .features = GPUD_FEATURE_DEVICE | GPUD_FEATURE_CHECK | GPUD_FEATURE_OUTPUT,
  .accept = tcp_accept,
  .connect = tcp_connect,
};
