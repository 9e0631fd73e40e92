/*
 * A single-producer, single-consumer ring of 64-byte slots, polled in place: the first word of a message's first slot
 * holds the lap's tag, so no index stands between the message and its reader.
 *
 * A message of n bytes takes ceil(n/64) slots in a row; where the row would wrap, the rest of the ring is filled with
 * one padding message (op 0, size = bytes to the end) and the message starts at slot 0.
 * tag(position) = (position / slots) mod (2^32 - 1) + 1, never 0. The consumer zeroes the tag word of every slot but the first of a message
 * before it returns the credit, so that a stale continuation slot is never taken for a message.
 *
 * The peer is hostile. Each side keeps its own positions in private memory and takes from shared memory only: the tag,
 * a message (copied once, then checked) and the peer's credit (bounded before use).
 */
#ifndef GPUD_RING_H
#define GPUD_RING_H

#include <stdint.h>

#include "wire.h"

typedef struct gpud_slot {
  _Alignas(GPUD_SLOT_SIZE) unsigned char bytes[GPUD_SLOT_SIZE];
} gpud_slot;

typedef struct gpud_ring_producer {
  gpud_slot *slots;
  const uint64_t *credit; /* shared: the position up to which the consumer has released */
  uint32_t count;         /* slots, a power of two, >= 2 * GPUD_MAX_MESSAGE / 64 */
  uint64_t position;      /* next slot to fill, counted from 0 and never wrapped */
  uint64_t released;      /* the last credit seen */
  uint32_t reserved;      /* slots of the message being filled, padding not included; 0: none */
} gpud_ring_producer;

typedef struct gpud_ring_consumer {
  gpud_slot *slots;
  uint64_t *credit; /* shared: ours to store */
  uint32_t count;
  uint64_t position;  /* next slot to look at */
  uint64_t published; /* the credit last stored */
  uint32_t peeked;    /* slots of the message last peeked; 0: none */
} gpud_ring_consumer;

/* Both sides' halves over the same memory. The memory must be zero before either is used. */
void gpud_ring_producer_init(gpud_ring_producer *ring, gpud_slot *slots, uint32_t count, const uint64_t *credit);
void gpud_ring_consumer_init(gpud_ring_consumer *ring, gpud_slot *slots, uint32_t count, uint64_t *credit);

/*
 * Room for a message of `size` bytes (16 .. GPUD_MAX_MESSAGE), in *message, to be filled from byte 8 on:
 * its first word is commit's. 0, -EMSGSIZE, -EAGAIN (no credit), -EPROTO (the peer's credit makes no sense).
 * Reserving again before commit gives the reservation up. The pointer may lead into shared memory: write it, never read it back.
 */
int gpud_ring_reserve(gpud_ring_producer *ring, uint32_t size, void **message);
/* Whether reserving `size` bytes would succeed: 1, 0 or -EPROTO. Changes nothing, so any thread may ask. */
int gpud_ring_room(const gpud_ring_producer *ring, uint32_t size);
/* Publishes the reserved message: stores the first word (tag, size, op, flags) with release. */
void gpud_ring_commit(gpud_ring_producer *ring, uint8_t op, uint32_t size);

/*
 * Copies the next message to `message[GPUD_MAX_MESSAGE]`. Its size (> 0), -EAGAIN (none), -EPROTO (a size that no message has).
 * Does not free its slots: peeking again gives the same slots anew. An empty peek publishes outstanding credit.
 */
int gpud_ring_peek(gpud_ring_consumer *ring, void *message);
/* Whether a message stands there: one acquire load, for polling. */
int gpud_ring_ready(const gpud_ring_consumer *ring);
/* Frees the peeked message's slots; the credit is published in eighths of the ring. 1 when it was: a waiting producer may go on. */
int gpud_ring_release(gpud_ring_consumer *ring);
/* Publishes all credit there is. 1 when there was some. */
int gpud_ring_publish_credit(gpud_ring_consumer *ring);

#endif
