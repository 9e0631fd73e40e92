#include "floor.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 2048
#define FREED_AT_ONCE 128 /* slots: how many a reader takes before it says so */

typedef struct line {
  _Alignas(64) uint64_t words[7];
  uint64_t sequence;
} line;

typedef struct word {
  _Alignas(128) uint64_t value;
} word;

/* Lines that go different ways lie two apart: the adjacent-line prefetcher would tie them together. */
typedef struct shared {
  line request;
  line gap;
  line reply;
  _Alignas(128) uint32_t asked;
  _Alignas(128) uint32_t answered;
  word freed; /* sequence number up to which the reader is done with its slots */
  _Alignas(4096) line slots[SLOTS];
} shared;

static_assert(sizeof(shared) <= FLOOR_MEMORY, "FLOOR_MEMORY is too small");

uint64_t floor_now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int await(const line *l, uint64_t sequence)
{
  floor_patience patience = {0};
  while (__atomic_load_n(&l->sequence, __ATOMIC_ACQUIRE) != sequence)
    if (floor_poll_again(&patience) != 0)
      return -1;
  return 0;
}

static void put(line *l, const void *bytes, uint64_t sequence)
{
  memcpy(l->words, bytes, sizeof l->words);
  __atomic_store_n(&l->sequence, sequence, __ATOMIC_RELEASE);
}

int floor_serve(void *memory, uint64_t first, uint64_t rounds)
{
  shared *s = memory;
  for (uint64_t i = first; i < first + rounds; i++) {
    if (await(&s->request, i) != 0)
      return -1;
    uint64_t words[7];
    memcpy(words, s->request.words, sizeof words);
    words[0]++;
    put(&s->reply, words, i);
  }
  return 0;
}

int floor_round_trip(void *memory, const void *request, void *reply, uint64_t sequence)
{
  shared *s = memory;
  put(&s->request, request, sequence);
  if (await(&s->reply, sequence) != 0)
    return -1;
  memcpy(reply, &s->reply, sizeof s->reply);
  return 0;
}

int floor_pingpong(void *memory, uint64_t first, uint64_t rounds, uint64_t *ns)
{
  unsigned char request[64] = {0}, reply[64];
  for (uint64_t i = 0; i < rounds; i++) {
    uint64_t begin = ns != NULL ? floor_now() : 0;
    if (floor_round_trip(memory, request, reply, first + i) != 0)
      return -1;
    if (ns != NULL)
      ns[i] = floor_now() - begin;
  }
  return 0;
}

static int sleep_until(uint32_t *at, uint32_t wanted)
{
  const struct timespec patience = {.tv_sec = 10};
  for (;;) {
    uint32_t seen = __atomic_load_n(at, __ATOMIC_ACQUIRE);
    if (seen == wanted)
      return 0;
    if (syscall(SYS_futex, at, FUTEX_WAIT, seen, &patience, NULL, 0) != 0 && errno == ETIMEDOUT)
      return -1;
  }
}

static void wake(uint32_t *at, uint32_t value)
{
  __atomic_store_n(at, value, __ATOMIC_RELEASE);
  syscall(SYS_futex, at, FUTEX_WAKE, 1, NULL, NULL, 0);
}

int floor_sleepy_serve(void *memory, uint32_t first, uint32_t rounds)
{
  shared *s = memory;
  for (uint32_t i = first; i < first + rounds; i++) {
    if (sleep_until(&s->asked, i) != 0)
      return -1;
    wake(&s->answered, i);
  }
  return 0;
}

int floor_sleepy_pingpong(void *memory, uint32_t first, uint32_t rounds, uint64_t *ns)
{
  shared *s = memory;
  for (uint32_t i = 0; i < rounds; i++) {
    uint64_t begin = floor_now();
    wake(&s->asked, first + i);
    if (sleep_until(&s->answered, first + i) != 0)
      return -1;
    ns[i] = floor_now() - begin;
  }
  return 0;
}

int floor_flood(void *memory, uint64_t first, uint64_t count)
{
  shared *s = memory;
  uint64_t freed = first;
  for (uint64_t i = first; i < first + count; i++) {
    floor_patience patience = {0};
    while (i - freed >= SLOTS) {
      freed = __atomic_load_n(&s->freed.value, __ATOMIC_ACQUIRE);
      if (i - freed >= SLOTS && floor_poll_again(&patience) != 0)
        return -1;
    }
    const uint64_t words[7] = {i};
    put(&s->slots[i % SLOTS], words, i + 1);
  }
  floor_patience patience = {0};
  while (__atomic_load_n(&s->freed.value, __ATOMIC_ACQUIRE) != first + count)
    if (floor_poll_again(&patience) != 0)
      return -1;
  return 0;
}

int floor_drain(void *memory, uint64_t first, uint64_t count, uint64_t *sum)
{
  shared *s = memory;
  for (uint64_t i = first; i < first + count; i++) {
    line *slot = &s->slots[i % SLOTS];
    if (await(slot, i + 1) != 0)
      return -1;
    *sum += slot->words[0];
    if ((i + 1) % FREED_AT_ONCE == 0 || i + 1 == first + count)
      __atomic_store_n(&s->freed.value, i + 1, __ATOMIC_RELEASE);
  }
  return 0;
}
