#include "handshake.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "bootstrap.h"
#include "endpoint_ring.h"
#include "wait.h"

/* Which transport a socket is the beginning of. NULL: none. */
static const gpud_handshake *transport_of(int socket, uint64_t features)
{
  int domain = AF_UNSPEC;
  socklen_t size = sizeof domain;
  if (getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0)
    return NULL;
  if (domain == AF_UNIX)
    return &gpud_handshake_shm;
  if (domain != AF_INET && domain != AF_INET6)
    return NULL;
  return features & GPUD_FEATURE_VERBS ? &gpud_handshake_verbs : &gpud_handshake_tcp;
}

/* Of what a transport can do, that which this process can. */
static uint64_t features_here(const gpud_handshake *transport)
{
  uint64_t features = transport->features;
  if ((features & GPUD_FEATURE_MEMBARRIER) && !gpud_membarrier_available())
    features &= ~(uint64_t)GPUD_FEATURE_MEMBARRIER;
  return features;
}

int gpud_endpoint_accept(int socket, const gpud_hello *hello, gpud_welcome *welcome, const char *text,
                         uint64_t deadline, gpud_endpoint **ep)
{
  const gpud_handshake *transport = transport_of(socket, hello->features);
  char frame[GPUD_MAX_FRAME];
  if (!transport)
    return -ENOTSOCK;
  if (hello->version_min > GPUD_VERSION || hello->version_max < GPUD_VERSION)
    return -EPROTO;
  welcome->version = GPUD_VERSION;
  /* Of the transport's own features nobody above has an opinion; the others are granted from there, if they can be. */
  welcome->features |= GPUD_FEATURE_MEMBARRIER | GPUD_FEATURE_VERBS;
  welcome->features &= features_here(transport) & hello->features;
  if (welcome->command_slots == 0)
    welcome->command_slots = GPUD_COMMAND_SLOTS;
  if (welcome->reply_slots == 0)
    welcome->reply_slots = GPUD_REPLY_SLOTS;
  if (!gpud_ring_memory_valid(welcome->command_slots, welcome->reply_slots))
    return -EINVAL;
  int size = gpud_frame_encode(frame, sizeof frame, GPUD_FRAME_WELCOME, welcome, text, strlen(text));
  if (size < 0)
    return size;
  return transport->accept(socket, welcome, frame, (size_t)size, deadline, ep);
}

/* What this side uses of WELCOME, judged. */
static int check_welcome(const gpud_welcome *welcome, const gpud_hello *hello)
{
  if (welcome->version != GPUD_VERSION || (welcome->features & ~hello->features) != 0 ||
      ((welcome->features ^ hello->features) & GPUD_FEATURE_VERBS) != 0 ||
      !gpud_ring_memory_valid(welcome->command_slots, welcome->reply_slots) ||
      welcome->window_size > UINT64_MAX - welcome->window_base ||
      (welcome->window_base != 0 && welcome->granularity == 0))
    return -EPROTO;
  return 0;
}

/* WELCOME (0, checked), REFUSED (-ECONNREFUSED) or neither (-EPROTO); the text in both cases. */
static int answered(const char *frame, size_t size, const gpud_hello *hello, gpud_welcome *welcome,
                    gpud_refused *refused, char *text)
{
  const char *begin;
  int count = gpud_frame_decode(frame, size, GPUD_FRAME_REFUSED, refused, &begin);
  int rc = -ECONNREFUSED;
  if (count < 0) {
    count = gpud_frame_decode(frame, size, GPUD_FRAME_WELCOME, welcome, &begin);
    rc = count < 0 ? -EPROTO : check_welcome(welcome, hello);
  }
  if (count >= 0) { /* shorter than a frame, so the end mark fits */
    memcpy(text, begin, (size_t)count);
    text[count] = 0;
  }
  return rc;
}

int gpud_endpoint_connect(int socket, const gpud_hello *hello, const char *name, gpud_welcome *welcome,
                          gpud_refused *refused, char *text, uint64_t deadline, gpud_endpoint **ep)
{
  const gpud_handshake *transport = transport_of(socket, hello->features);
  gpud_hello offer = *hello;
  char frame[GPUD_MAX_FRAME];
  int fd;
  if (!transport)
    return -ENOTSOCK;
  /* What this source can do with any worker that grants it, whatever the caller thought of. */
  offer.features = features_here(transport);
  /* To be checked is a wish of the caller's, not what a transport can do. */
  if ((hello->features & GPUD_FEATURE_CHECK) == 0)
    offer.features &= ~(uint64_t)GPUD_FEATURE_CHECK;
  int size = gpud_frame_encode(frame, sizeof frame, GPUD_FRAME_HELLO, &offer, name, strlen(name));
  if (size < 0)
    return size;
  int rc = gpud_bootstrap_send(socket, frame, (size_t)size, -1, deadline);
  /* Refused by a server that did not even read HELLO: its reason is still there to be read. */
  if (rc != 0 && rc != -EPIPE)
    return rc;
  size = gpud_bootstrap_receive(socket, frame, &fd, deadline);
  if (size < 0)
    return size;
  rc = answered(frame, (size_t)size, &offer, welcome, refused, text);
  if (rc == 0)
    return transport->connect(socket, welcome, fd, deadline, ep);
  if (fd >= 0)
    gpud_bootstrap_discard(fd);
  return rc;
}
