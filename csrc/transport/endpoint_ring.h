/*
 * What `loop` and `shm` share: an endpoint over two rings in memory that both sides map, and a Unix socket beside it
 * for the descriptors of regions and for noticing that the peer died. Private to those two.
 */
#ifndef GPUD_ENDPOINT_RING_H
#define GPUD_ENDPOINT_RING_H

#include <stddef.h>
#include <stdint.h>

#include "endpoint.h"

#define GPUD_COMMAND_SLOTS 1024u /* where nobody says otherwise */
#define GPUD_REPLY_SLOTS 512u

/* Whether a ring may have so many slots: a power of two with room for the longest message and its padding. */
int gpud_ring_memory_valid(uint32_t command_slots, uint32_t reply_slots);
/* Bytes of the memory both sides share, a multiple of the page. */
size_t gpud_ring_memory_size(uint32_t command_slots, uint32_t reply_slots);

/* How an end is made. `free_memory` is called once, at close, with the two values before it. */
typedef struct gpud_ring_setup {
  const char *name; /* of the transport */
  int client;
  uint32_t command_slots;
  uint32_t reply_slots;
  uint64_t features;
  void *memory; /* gpud_ring_memory_size bytes, zero before the first end uses it */
  void *owner;
  void (*free_memory)(void *memory, void *owner);
  int socket; /* owned on success */
  int pidfd;  /* the peer's, or -1; owned on success */
} gpud_ring_setup;

/* 0 or -ENOMEM: then the caller still owns all that the setup names. */
int gpud_ring_endpoint_new(const gpud_ring_setup *setup, gpud_endpoint **ep);

#endif
