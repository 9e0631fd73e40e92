#include "ring.h"

#include <errno.h>
#include <string.h>

#include "order.h"
#include "small_copy.h"

#define HEAD_SIZE ((uint32_t)sizeof(gpud_message_head))
#define MAX_SLOTS (GPUD_MAX_MESSAGE / GPUD_SLOT_SIZE)
#define OP_PADDING 0u

/* The first word of a message: what the tag, size, op and flags fields hold, little endian. */
#define WORD(tag, size, op) ((uint64_t)(tag) | (uint64_t)(size) << 32 | (uint64_t)(op) << 48)
#define WORD_TAG(word) ((uint32_t)(word))
#define WORD_SIZE(word) ((uint32_t)((word) >> 32) & 0xffffu)
#define WORD_OP(word) ((uint32_t)((word) >> 48) & 0xffu)
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little endian and so are we");
_Static_assert(offsetof(gpud_message_head, size) == 4 && offsetof(gpud_message_head, op) == 6, "WORD");

static inline uint32_t tag_of(uint64_t position, uint32_t count)
{
  uint64_t lap = position >> __builtin_ctz(count);
  if (__builtin_expect(lap >= UINT32_MAX, 0))
    lap %= UINT32_MAX;
  return (uint32_t)lap + 1;
}

static inline gpud_slot *slot_at(gpud_slot *slots, uint32_t count, uint64_t position)
{
  return &slots[position & (count - 1)];
}

static inline uint64_t *word_of(gpud_slot *slot) { return (uint64_t *)(void *)slot->bytes; }

void gpud_ring_producer_init(gpud_ring_producer *ring, gpud_slot *slots, uint32_t count, const uint64_t *credit)
{
  *ring = (gpud_ring_producer){.slots = slots, .credit = credit, .count = count};
}

void gpud_ring_consumer_init(gpud_ring_consumer *ring, gpud_slot *slots, uint32_t count, uint64_t *credit)
{
  *ring = (gpud_ring_consumer){.slots = slots, .credit = credit, .count = count};
}

/* Slots that a message of `slots` slots takes from `position` on, the padding that must come before it included. */
static inline uint32_t slots_taken(uint64_t position, uint32_t count, uint32_t slots)
{
  uint32_t to_end = count - (uint32_t)(position & (count - 1));
  return slots <= to_end ? slots : to_end + slots;
}

/* The peer's credit, bounded: it may neither go back nor pass what was sent. */
static inline int load_credit(const gpud_ring_producer *ring, uint64_t position, uint64_t released, uint64_t *credit)
{
  uint64_t seen = gpud_load_acquire_u64(ring->credit);
  if (seen - released > position - released)
    return -EPROTO;
  *credit = seen;
  return 0;
}

int gpud_ring_room(const gpud_ring_producer *ring, uint32_t size)
{
  uint64_t released = gpud_load_relaxed_u64(&ring->released);
  uint64_t position = gpud_load_relaxed_u64(&ring->position);
  uint64_t seen = gpud_load_acquire_u64(ring->credit);
  uint32_t slots = GPUD_SLOTS(size);
  /* Another thread may post meanwhile, so what looks wrong here is only judged by reserve, under the lock. */
  if (seen - released > position - released)
    return 1;
  return slots_taken(position, ring->count, slots) <= ring->count - (position - seen);
}

int gpud_ring_reserve(gpud_ring_producer *ring, uint32_t size, void **message)
{
  if (size < HEAD_SIZE || size > GPUD_MAX_MESSAGE)
    return -EMSGSIZE;
  uint32_t slots = GPUD_SLOTS(size);
  uint32_t count = ring->count;
  uint64_t position = ring->position;
  uint32_t taken = slots_taken(position, count, slots);
  if (taken > count - (position - ring->released)) {
    uint64_t credit;
    int rc = load_credit(ring, position, ring->released, &credit);
    if (rc != 0)
      return rc;
    gpud_store_relaxed_u64(&ring->released, credit);
    if (taken > count - (position - credit))
      return -EAGAIN;
  }
  if (taken != slots) {
    uint32_t padding = taken - slots;
    gpud_store_release_u64(word_of(slot_at(ring->slots, count, position)),
                           WORD(tag_of(position, count), padding * GPUD_SLOT_SIZE, OP_PADDING));
    position += padding;
    gpud_store_relaxed_u64(&ring->position, position);
  }
  ring->reserved = slots;
  *message = slot_at(ring->slots, count, position);
  return 0;
}

void gpud_ring_commit(gpud_ring_producer *ring, uint8_t op, uint32_t size)
{
  uint64_t position = ring->position;
  uint64_t *word = word_of(slot_at(ring->slots, ring->count, position));
  gpud_store_relaxed_u64(&ring->position, position + ring->reserved);
  ring->reserved = 0;
  gpud_store_release_u64(word, WORD(tag_of(position, ring->count), size, op));
}

int gpud_ring_ready(const gpud_ring_consumer *ring)
{
  uint64_t position = gpud_load_relaxed_u64(&ring->position);
  const uint32_t *tag = (const uint32_t *)(const void *)slot_at(ring->slots, ring->count, position);
  return gpud_load_acquire_u32(tag) == tag_of(position, ring->count);
}

int gpud_ring_peek(gpud_ring_consumer *ring, void *message)
{
  uint32_t count = ring->count;
  for (;;) {
    uint64_t position = ring->position;
    gpud_slot *slot = slot_at(ring->slots, count, position);
    uint64_t word = gpud_load_acquire_u64(word_of(slot));
    if (WORD_TAG(word) != tag_of(position, count)) {
      gpud_ring_publish_credit(ring);
      return -EAGAIN;
    }
    uint32_t size = WORD_SIZE(word);
    uint32_t to_end = count - (uint32_t)(position & (count - 1));
    if (WORD_OP(word) == OP_PADDING) {
      /* Exactly to the end, and shorter than the message it made room for: so never two in a row. */
      if (size != to_end * GPUD_SLOT_SIZE || to_end >= MAX_SLOTS)
        return -EPROTO;
      gpud_store_relaxed_u64(&ring->position, position + to_end);
      continue;
    }
    if (size < HEAD_SIZE || size > GPUD_MAX_MESSAGE || GPUD_SLOTS(size) > to_end)
      return -EPROTO;
    /* The peer may be writing: what was judged above is what the copy says. */
    gpud_copy_slot(message, slot, word);
    if (size > GPUD_SLOT_SIZE)
      memcpy((char *)message + GPUD_SLOT_SIZE, slot[1].bytes, size - GPUD_SLOT_SIZE);
    ring->peeked = GPUD_SLOTS(size);
    return (int)size;
  }
}

int gpud_ring_publish_credit(gpud_ring_consumer *ring)
{
  if (ring->published == ring->position)
    return 0;
  ring->published = ring->position;
  gpud_store_release_u64(ring->credit, ring->position);
  return 1;
}

int gpud_ring_release(gpud_ring_consumer *ring)
{
  uint64_t position = ring->position;
  for (uint32_t i = 1; i < ring->peeked; i++)
    gpud_store_relaxed_u32((uint32_t *)(void *)slot_at(ring->slots, ring->count, position + i), 0);
  gpud_store_relaxed_u64(&ring->position, position + ring->peeked);
  ring->peeked = 0;
  if (ring->position - ring->published < ring->count / 8)
    return 0;
  return gpud_ring_publish_credit(ring);
}
