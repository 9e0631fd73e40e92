/*
 * The floors that the benches measure beside their subjects: what this machine can do at all, with nothing in the way.
 * Built at bench time; no part of the library.
 */
#ifndef GPUD_BENCH_FLOOR_H
#define GPUD_BENCH_FLOOR_H

#include <stdint.h>

/* cffi: begin */
/*
 * Ping-pong over one cache line each way: 56 bytes and a sequence number in the line, polled in place. `memory`: 256
 * zeroed shared bytes, 64-aligned. Sequence numbers first .. first + rounds - 1; 0, or -1 when the other side was silent for 10 s.
 */
int floor_serve(void *memory, uint64_t first, uint64_t rounds);
/* The other side; ns[i], where not NULL, is the time of round i. */
int floor_pingpong(void *memory, uint64_t first, uint64_t rounds, uint64_t *ns);
/* One round: 64 bytes out of `request` (the last 8 are the sequence number's place), 64 into `reply`. */
int floor_round_trip(void *memory, const void *request, void *reply, uint64_t sequence);

/* Single copies by one thread; the time each took, ns. `how`: FLOOR_COPY_*. 0 when this CPU has no such copy. */
#define FLOOR_COPY_LIBC 0
#define FLOOR_COPY_MOVSB 1
#define FLOOR_COPY_STREAM 2
#define FLOOR_COPIES 3
uint64_t floor_copy(void *destination, const void *source, uint64_t size, int how);
/* cffi: end */

#endif
