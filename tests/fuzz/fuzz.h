/*
 * What the fuzz targets share: libFuzzer's interface, and a reader that makes values of an input's bytes.
 *
 * A target is a file target_<name>.c with LLVMFuzzerTestOneInput and, at its top, its invariant in a sentence. What must hold is
 * CHECKed; what must not happen besides (an over-read, a leak, undefined behaviour, a hang) the sanitizers and the driver see.
 */
#ifndef GPUD_FUZZ_H
#define GPUD_FUZZ_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct fuzz_input {
  const uint8_t *at;
  const uint8_t *end;
} fuzz_input;

static inline size_t fuzz_left(const fuzz_input *in) { return (size_t)(in->end - in->at); }

/* 0 where the input is used up. */
static inline uint8_t fuzz_byte(fuzz_input *in) { return in->at < in->end ? *in->at++ : 0; }

/* The next `width` bytes, little endian. */
static inline uint64_t fuzz_word(fuzz_input *in, unsigned width)
{
  uint64_t value = 0;
  for (unsigned i = 0; i < width; i++)
    value |= (uint64_t)fuzz_byte(in) << (8 * i);
  return value;
}

/* Up to `size` of the next bytes; how many there were. */
static inline size_t fuzz_bytes(fuzz_input *in, void *to, size_t size)
{
  if (size > fuzz_left(in))
    size = fuzz_left(in);
  if (size)
    memcpy(to, in->at, size);
  in->at += size;
  return size;
}

/*
 * How many descriptors are open. After a run as many as before it, where the run left none; between two runs libFuzzer may start a
 * symbolizer, and keep its pipes.
 */
static inline int fuzz_open_descriptors(void)
{
  struct pollfd fds[256];
  int count = 0;
  for (int i = 0; i < 256; i++)
    fds[i] = (struct pollfd){.fd = i};
  poll(fds, 256, 0); /* a tenth of what reading /proc/self/fd costs */
  for (int i = 0; i < 256; i++)
    count += (fds[i].revents & POLLNVAL) == 0;
  return count;
}

#endif
