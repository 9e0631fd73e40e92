#include <errno.h>

#include "handshake.h"

static int verbs_accept(int socket, const gpud_welcome *welcome, const void *frame, size_t size, uint64_t deadline,
                        gpud_endpoint **ep)
{
  (void)socket, (void)welcome, (void)frame, (void)size, (void)deadline, (void)ep;
  return -ENOTSUP;
}

static int verbs_connect(int socket, const gpud_welcome *welcome, int fd, uint64_t deadline, gpud_endpoint **ep)
{
  (void)socket, (void)welcome, (void)fd, (void)deadline, (void)ep;
  return -ENOTSUP;
}

const gpud_handshake gpud_handshake_verbs = {
  .name = "verbs",
  .features = GPUD_FEATURE_DEVICE | GPUD_FEATURE_CHECK | GPUD_FEATURE_OUTPUT | GPUD_FEATURE_VERBS,
  .accept = verbs_accept,
  .connect = verbs_connect,
};
