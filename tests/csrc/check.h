/* What the C test programs share: a check that says where it failed, a random stream, deadlines, a count of descriptors. */
#ifndef GPUD_TEST_CHECK_H
#define GPUD_TEST_CHECK_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "wait.h"

#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                          \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

/* Both values are long long: in the report they are numbers, whatever they were. */
#define CHECK_EQUAL(got, wanted)                                                                                       \
  do {                                                                                                                 \
    long long got_ = (long long)(got), wanted_ = (long long)(wanted);                                                  \
    if (got_ != wanted_) {                                                                                             \
      fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #got, got_, wanted_);                       \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

/* Far enough away for any machine: it ends what hangs. */
static inline uint64_t in_good_time(void) { return gpud_now() + 60000000000ull; }

static inline uint64_t random_next(uint64_t *state)
{
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

/* The bytes of the message with this index, in order: `state` begins as random_of(index). */
static inline uint64_t random_of(uint64_t index) { return index * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull; }

static inline void fill_bytes(void *bytes, uint32_t size, uint64_t index)
{
  uint64_t state = random_of(index);
  for (uint32_t i = 0; i < size; i++)
    ((unsigned char *)bytes)[i] = (unsigned char)random_next(&state);
}

static inline int bytes_are(const void *bytes, uint32_t size, uint64_t index)
{
  uint64_t state = random_of(index);
  for (uint32_t i = 0; i < size; i++)
    if (((const unsigned char *)bytes)[i] != (unsigned char)random_next(&state))
      return 0;
  return 1;
}

static inline int open_descriptors(void)
{
  int count = 0;
  DIR *folder = opendir("/proc/self/fd");
  CHECK(folder);
  while (readdir(folder))
    count++;
  closedir(folder);
  return count;
}

#endif
