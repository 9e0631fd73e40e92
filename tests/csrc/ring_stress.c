/*
 * One producer thread, one consumer thread: messages of every size, each checked byte by byte. In turns the consumer
 * stops until the producer has been refused for lack of credit, so every run sees a full ring as well as an empty one.
 * usage: ring_stress SLOTS MESSAGES SEED
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "check.h"
#include "ring.h"

#define FULL_EVERY 3000

static struct {
  _Alignas(128) uint64_t credit;
  _Alignas(128) uint32_t refused; /* how often the producer found the ring full */
} shared;
static gpud_slot *slots;
static uint32_t slot_count;
static uint64_t messages, seed;

/* Mostly of one slot, as on a real connection; often long enough to wrap and to need padding. */
static uint32_t size_of(uint64_t index)
{
  uint64_t state = random_of(index ^ seed << 32);
  uint64_t kind = random_next(&state) % 8;
  uint32_t most = kind < 5 ? GPUD_SLOT_SIZE : kind < 7 ? 400 : GPUD_MAX_MESSAGE;
  return 16 + (uint32_t)(random_next(&state) % (most - 15));
}

static uint8_t op_of(uint64_t index) { return (uint8_t)(index % 255 + 1); }

/*
 * Every other message is made of the worst there is: the tag by which, in the next lap, a message would be known at each
 * of its slots.
 */
static int is_trap(uint64_t index) { return index % 2; }

static uint32_t next_tag(uint64_t position) { return (uint32_t)(position / slot_count) + 2; }

static void fill_trap(char *bytes, uint32_t size, uint32_t tag)
{
  for (uint32_t i = 0; i < size; i++)
    bytes[i] = (char)(tag >> i % 4 * 8);
}

static int trap_is(const char *bytes, uint32_t size, uint32_t tag)
{
  for (uint32_t i = 0; i < size; i++)
    if (bytes[i] != (char)(tag >> i % 4 * 8))
      return 0;
  return 1;
}

static void *produce(void *unused)
{
  gpud_ring_producer ring;
  gpud_ring_producer_init(&ring, slots, slot_count, &shared.credit);
  for (uint64_t i = 0; i < messages; i++) {
    uint32_t size = size_of(i);
    void *message;
    int rc;
    while ((rc = gpud_ring_reserve(&ring, size, &message)) == -EAGAIN) {
      gpud_store_release_u32(&shared.refused, gpud_load_relaxed_u32(&shared.refused) + 1);
      while (gpud_ring_room(&ring, size) == 0)
        gpud_relax();
    }
    CHECK_EQUAL(rc, 0);
    if (is_trap(i))
      fill_trap((char *)message + 8, size - 8, next_tag(ring.position));
    else
      fill_bytes((char *)message + 8, size - 8, i);
    gpud_ring_commit(&ring, op_of(i), size);
  }
  return unused;
}

static void consume_one(gpud_ring_consumer *ring, uint64_t index)
{
  static _Alignas(64) char message[GPUD_MAX_MESSAGE];
  int size;
  while ((size = gpud_ring_peek(ring, message)) == -EAGAIN)
    gpud_relax();
  CHECK_EQUAL(size, size_of(index));
  gpud_message_head head;
  memcpy(&head, message, sizeof head);
  CHECK_EQUAL(head.size, size);
  CHECK_EQUAL(head.op, op_of(index));
  if (is_trap(index))
    CHECK(trap_is(message + 8, (uint32_t)size - 8, next_tag(ring->position)));
  else
    CHECK(bytes_are(message + 8, (uint32_t)size - 8, index));
  CHECK_EQUAL(gpud_ring_peek(ring, message), size); /* again the same, until it is released */
  gpud_ring_release(ring);
}

int main(int count, char **arguments)
{
  CHECK_EQUAL(count, 4);
  slot_count = (uint32_t)strtoul(arguments[1], NULL, 10);
  messages = strtoull(arguments[2], NULL, 10);
  seed = strtoull(arguments[3], NULL, 10);
  slots = aligned_alloc(GPUD_SLOT_SIZE, slot_count * sizeof *slots); /* exactly so many: the sanitizer sees one more */
  CHECK(slots);
  memset(slots, 0, slot_count * sizeof *slots);

  gpud_ring_consumer ring;
  gpud_ring_consumer_init(&ring, slots, slot_count, &shared.credit);
  pthread_t producer;
  CHECK_EQUAL(pthread_create(&producer, NULL, produce, NULL), 0);
  uint32_t refused = 0;
  for (uint64_t i = 0; i < messages; i++) {
    if (i % FULL_EVERY == 0 && messages - i > slot_count) {
      while (gpud_load_acquire_u32(&shared.refused) == refused)
        gpud_relax();
      refused = gpud_load_acquire_u32(&shared.refused);
    }
    consume_one(&ring, i);
  }
  pthread_join(producer, NULL);
  CHECK_EQUAL(gpud_ring_ready(&ring), 0);
  CHECK(refused > 0);
  free(slots);
  return 0;
}
