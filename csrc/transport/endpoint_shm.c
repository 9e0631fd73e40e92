#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bootstrap.h"
#include "endpoint_ring.h"
#include "segment.h"
#include "wait.h"

static void shm_free_memory(void *memory, void *owner)
{
  gpud_segment *segment = owner;
  (void)memory;
  gpud_segment_close(segment, 0);
  free(segment);
}

/* Makes the end over a mapped segment. Takes the segment on success only. */
static int make_end(const gpud_segment *segment, int client, const gpud_welcome *welcome, int socket,
                    gpud_endpoint **ep)
{
  gpud_ring_setup setup = {
    .name = "shm",
    .client = client,
    .command_slots = welcome->command_slots,
    .reply_slots = welcome->reply_slots,
    .features = welcome->features,
    .memory = segment->base,
    .free_memory = shm_free_memory,
    .socket = socket,
    /* A client is connected to whoever listened, which need not be its worker and may go before it. */
    .pidfd = client ? -1 : gpud_bootstrap_pidfd(socket),
  };
  gpud_segment *owner = malloc(sizeof *owner);
  int rc = -ENOMEM;
  if (owner) {
    *owner = *segment;
    setup.owner = owner;
    rc = gpud_ring_endpoint_new(&setup, ep);
  }
  if (rc != 0) {
    free(owner);
    if (setup.pidfd >= 0)
      close(setup.pidfd);
  }
  return rc;
}

int gpud_endpoint_shm_accept(int socket, const gpud_hello *hello, gpud_welcome *welcome, const char *text,
                             uint64_t deadline, gpud_endpoint **ep)
{
  if (hello->version_min > GPUD_VERSION || hello->version_max < GPUD_VERSION)
    return -EPROTO;
  welcome->version = GPUD_VERSION;
  welcome->features &= ~(uint64_t)GPUD_FEATURE_MEMBARRIER;
  if (gpud_membarrier_available())
    welcome->features |= GPUD_FEATURE_MEMBARRIER;
  welcome->features &= hello->features;
  if (welcome->command_slots == 0)
    welcome->command_slots = GPUD_COMMAND_SLOTS;
  if (welcome->reply_slots == 0)
    welcome->reply_slots = GPUD_REPLY_SLOTS;
  if (!gpud_ring_memory_valid(welcome->command_slots, welcome->reply_slots))
    return -EINVAL;

  gpud_segment segment;
  char frame[GPUD_MAX_FRAME];
  int size = gpud_frame_encode(frame, sizeof frame, GPUD_FRAME_WELCOME, welcome, text, strlen(text));
  if (size < 0)
    return size;
  int rc = gpud_segment_create(&segment, "gpudisagg-ring",
                               gpud_ring_memory_size(welcome->command_slots, welcome->reply_slots), 1);
  if (rc != 0)
    return rc;
  rc = gpud_bootstrap_send(socket, frame, (size_t)size, segment.fd, deadline);
  close(segment.fd); /* from here on the mapping is enough */
  segment.fd = -1;
  if (rc == 0)
    rc = make_end(&segment, 0, welcome, socket, ep);
  if (rc != 0)
    gpud_segment_close(&segment, 0);
  return rc;
}

/* What this side uses of WELCOME, judged. */
static int check_welcome(const gpud_welcome *welcome, const gpud_hello *hello)
{
  if (welcome->version != GPUD_VERSION || (welcome->features & ~hello->features) != 0 ||
      !gpud_ring_memory_valid(welcome->command_slots, welcome->reply_slots) ||
      welcome->window_size > UINT64_MAX - welcome->window_base ||
      (welcome->window_base != 0 && welcome->granularity == 0))
    return -EPROTO;
  return 0;
}

/* On WELCOME or REFUSED, as gpud_endpoint_shm_connect says. Takes fd. */
static int answered(int socket, const char *frame, size_t size, int fd, const gpud_hello *hello, gpud_welcome *welcome,
                    gpud_refused *refused, char *text, gpud_endpoint **ep)
{
  const char *begin;
  gpud_segment segment = {.fd = fd};
  int count = gpud_frame_decode(frame, size, GPUD_FRAME_REFUSED, refused, &begin);
  int rc = -ECONNREFUSED;
  if (count < 0) {
    count = gpud_frame_decode(frame, size, GPUD_FRAME_WELCOME, welcome, &begin);
    rc = count < 0 || fd < 0 ? -EPROTO : check_welcome(welcome, hello);
  }
  if (rc == 0) {
    /* Opened at the size that the ring sizes give, so that no size comes from the segment itself. */
    rc = gpud_segment_open(&segment, fd, gpud_ring_memory_size(welcome->command_slots, welcome->reply_slots), NULL, 1);
    if (rc == 0) {
      close(segment.fd);
      segment.fd = -1;
      rc = make_end(&segment, 1, welcome, socket, ep);
      if (rc != 0)
        gpud_segment_close(&segment, 0);
    }
  } else if (fd >= 0) {
    gpud_bootstrap_discard(fd);
  }
  if (count >= 0) { /* shorter than a frame, so the end mark fits */
    memcpy(text, begin, (size_t)count);
    text[count] = 0;
  }
  return rc;
}

int gpud_endpoint_shm_connect(int socket, const gpud_hello *hello, const char *name, gpud_welcome *welcome,
                              gpud_refused *refused, char *text, uint64_t deadline, gpud_endpoint **ep)
{
  gpud_hello offer = *hello;
  char frame[GPUD_MAX_FRAME];
  int fd;
  /* What this source can do with any worker that grants it, whatever the caller thought of. */
  offer.features |= GPUD_FEATURE_HOST_MAP | GPUD_FEATURE_DEVICE;
  offer.features &= ~(uint64_t)GPUD_FEATURE_MEMBARRIER;
  if (gpud_membarrier_available())
    offer.features |= GPUD_FEATURE_MEMBARRIER;
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
  return answered(socket, frame, (size_t)size, fd, &offer, welcome, refused, text, ep);
}
