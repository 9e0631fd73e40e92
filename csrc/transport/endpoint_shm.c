#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bootstrap.h"
#include "endpoint_ring.h"
#include "handshake.h"
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

static int shm_accept(int socket, const gpud_welcome *welcome, const void *frame, size_t size, uint64_t deadline,
                      gpud_endpoint **ep)
{
  gpud_segment segment;
  int rc = gpud_segment_create(&segment, "gpudisagg-ring",
                               gpud_ring_memory_size(welcome->command_slots, welcome->reply_slots), 1);
  if (rc != 0)
    return rc;
  rc = gpud_bootstrap_send(socket, frame, size, segment.fd, deadline);
  close(segment.fd); /* from here on the mapping is enough */
  segment.fd = -1;
  if (rc == 0)
    rc = make_end(&segment, 0, welcome, socket, ep);
  if (rc != 0)
    gpud_segment_close(&segment, 0);
  return rc;
}

static int shm_connect(int socket, const gpud_welcome *welcome, int fd, uint64_t deadline, gpud_endpoint **ep)
{
  (void)deadline;
  gpud_segment segment = {.fd = fd};
  if (fd < 0)
    return -EPROTO;
  /* Opened at the size that the ring sizes give, so that no size comes from the segment itself. */
  int rc =
      gpud_segment_open(&segment, fd, gpud_ring_memory_size(welcome->command_slots, welcome->reply_slots), NULL, 1);
  if (rc != 0)
    return rc;
  close(segment.fd);
  segment.fd = -1;
  rc = make_end(&segment, 1, welcome, socket, ep);
  if (rc != 0)
    gpud_segment_close(&segment, 0);
  return rc;
}

const gpud_handshake gpud_handshake_shm = {
  .name = "shm",
  .features = GPUD_FEATURE_MEMBARRIER | GPUD_FEATURE_HOST_MAP | GPUD_FEATURE_DEVICE | GPUD_FEATURE_CHECK |
              GPUD_FEATURE_OUTPUT | GPUD_FEATURE_COOPERATIVE,
  .accept = shm_accept,
  .connect = shm_connect,
};
