/*
 * A ring driven step by step from standard input, one request and one answer at a time:
 *   'n' slots (u32)             a new, empty ring                      -> 0
 *   'p' size (u32), index (u64) reserve, fill with index's bytes, commit -> reserve's result
 *   'r' size (u32)              reserve and give it up                  -> reserve's result
 *   'g' index (u64)             peek, check for index's bytes, release  -> size or -errno; -1000: other bytes
 *   'c'                         publish all credit                      -> 0
 * Every answer is an i32.
 */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "ring.h"

static gpud_slot *slots;
static uint64_t credit;
static gpud_ring_producer producer;
static gpud_ring_consumer consumer;

static void take(void *to, size_t size) { CHECK_EQUAL(fread(to, 1, size, stdin), size); }

static int32_t start(void)
{
  uint32_t count;
  take(&count, sizeof count);
  free(slots);
  slots = aligned_alloc(GPUD_SLOT_SIZE, count * sizeof *slots);
  CHECK(slots);
  memset(slots, 0, count * sizeof *slots);
  credit = 0;
  gpud_ring_producer_init(&producer, slots, count, &credit);
  gpud_ring_consumer_init(&consumer, slots, count, &credit);
  return 0;
}

static int32_t put(void)
{
  uint32_t size;
  uint64_t index;
  void *message;
  take(&size, sizeof size);
  take(&index, sizeof index);
  int room = gpud_ring_room(&producer, size);
  int rc = gpud_ring_reserve(&producer, size, &message);
  if (size >= 16 && size <= GPUD_MAX_MESSAGE)
    CHECK_EQUAL(room, rc == 0);
  if (rc == 0) {
    fill_bytes((char *)message + 8, size - 8, index);
    gpud_ring_commit(&producer, 1, size);
  }
  return rc;
}

static int32_t reserve(void)
{
  uint32_t size;
  void *message;
  take(&size, sizeof size);
  return gpud_ring_reserve(&producer, size, &message);
}

static int32_t get(void)
{
  unsigned char message[GPUD_MAX_MESSAGE];
  uint64_t index;
  take(&index, sizeof index);
  int size = gpud_ring_peek(&consumer, message);
  if (size < 0)
    return size;
  if (!bytes_are(message + 8, (uint32_t)size - 8, index))
    return -1000;
  gpud_ring_release(&consumer);
  return size;
}

int main(void)
{
  for (int request; (request = getchar()) != EOF;) {
    int32_t answer = 0;
    switch (request) {
    case 'n':
      answer = start();
      break;
    case 'p':
      answer = put();
      break;
    case 'r':
      answer = reserve();
      break;
    case 'g':
      answer = get();
      break;
    case 'c':
      gpud_ring_publish_credit(&consumer);
      break;
    default:
      return 2;
    }
    fwrite(&answer, sizeof answer, 1, stdout);
    fflush(stdout);
  }
  free(slots);
  return 0;
}
