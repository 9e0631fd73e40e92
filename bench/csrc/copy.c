#include "floor.h"

#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>

static int copy_movsb(void *destination, const void *source, uint64_t size)
{
  __asm__ __volatile__("rep movsb" : "+D"(destination), "+S"(source), "+c"(size) : : "memory");
  return 1;
}

__attribute__((target("avx2"))) static void stream_avx2(unsigned char *to, const unsigned char *from, uint64_t size)
{
  for (uint64_t i = 0; i < size; i += 128) {
    __m256i a = _mm256_loadu_si256((const __m256i *)(from + i));
    __m256i b = _mm256_loadu_si256((const __m256i *)(from + i + 32));
    __m256i c = _mm256_loadu_si256((const __m256i *)(from + i + 64));
    __m256i d = _mm256_loadu_si256((const __m256i *)(from + i + 96));
    _mm256_stream_si256((__m256i *)(to + i), a);
    _mm256_stream_si256((__m256i *)(to + i + 32), b);
    _mm256_stream_si256((__m256i *)(to + i + 64), c);
    _mm256_stream_si256((__m256i *)(to + i + 96), d);
  }
  _mm_sfence();
}

static int copy_stream(void *destination, const void *source, uint64_t size)
{
  if (!__builtin_cpu_supports("avx2"))
    return 0;
  uint64_t head = (128 - (uintptr_t)destination % 128) % 128;
  if (head > size)
    head = size;
  uint64_t body = (size - head) / 128 * 128;
  memcpy(destination, source, head);
  stream_avx2((unsigned char *)destination + head, (const unsigned char *)source + head, body);
  memcpy((unsigned char *)destination + head + body, (const unsigned char *)source + head + body, size - head - body);
  return 1;
}
#else
static int copy_movsb(void *destination, const void *source, uint64_t size)
{
  (void)destination, (void)source, (void)size;
  return 0;
}

static int copy_stream(void *destination, const void *source, uint64_t size)
{
  (void)destination, (void)source, (void)size;
  return 0;
}
#endif

static int copy_libc(void *destination, const void *source, uint64_t size)
{
  memcpy(destination, source, size);
  return 1;
}

uint64_t floor_copy(void *destination, const void *source, uint64_t size, int how)
{
  static int (*const copies[FLOOR_COPIES])(void *, const void *, uint64_t) = {
    [FLOOR_COPY_LIBC] = copy_libc,
    [FLOOR_COPY_MOVSB] = copy_movsb,
    [FLOOR_COPY_STREAM] = copy_stream,
  };
  if (how < 0 || how >= FLOOR_COPIES)
    return 0;
  struct timespec begin, end;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  if (!copies[how](destination, source, size))
    return 0;
  clock_gettime(CLOCK_MONOTONIC, &end);
  return (uint64_t)(end.tv_sec - begin.tv_sec) * 1000000000u + (uint64_t)end.tv_nsec - (uint64_t)begin.tv_nsec;
}
