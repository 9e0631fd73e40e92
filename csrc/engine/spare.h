/*
 * Memory kept at hand: granules (2 MiB) that are faulted in and zero, moved to where they are mapped and back by page
 * tables alone. The first touch of fresh memory is what MAP would cost otherwise, ten times a warm copy and more.
 */
#ifndef GPUD_SPARE_H
#define GPUD_SPARE_H

#include <stdint.h>

#define GPUD_GRANULE (2u << 20) /* a huge page */

typedef struct gpud_spare {
  void *reserved;
  uint64_t reserved_size;
  uint64_t area; /* granules [0, count) of it are there */
  uint32_t count;
  uint32_t capacity; /* 0: nothing is kept */
} gpud_spare;

/* Keeps up to `capacity` granules, and begins with `warm`, or as many as there is memory for. 0 or -ENOMEM. */
int gpud_spare_open(gpud_spare *spare, uint32_t capacity, uint32_t warm);
void gpud_spare_close(gpud_spare *spare);
/* Puts granules at `address`, over what is there, up to `size` bytes; how many bytes. */
uint64_t gpud_spare_take(gpud_spare *spare, uint64_t address, uint64_t size);
/* Takes granules from `address`, up to `size` bytes, and zeroes them; how many bytes. What is left there is empty, and still mapped. */
uint64_t gpud_spare_give(gpud_spare *spare, uint64_t address, uint64_t size);

#endif
