/*
 * The floors that the benches measure beside their subjects: what this machine can do at all, with nothing in the way.
 * Built at bench time; no part of the library.
 *
 * Whatever waits here gives up after 10 s of silence; functions that can fail return 0 or -1.
 */
#ifndef GPUD_BENCH_FLOOR_H
#define GPUD_BENCH_FLOOR_H

#include <stdint.h>

/* cffi: begin */
/* What the floors in shared memory are given as `memory`: so many zeroed bytes, page-aligned, that two processes share. */
#define FLOOR_MEMORY 139264

/*
 * Ping-pong over one cache line each way: 56 bytes and a sequence number in the line, polled in place. Sequence numbers
 * first .. first + rounds - 1.
 */
int floor_serve(void *memory, uint64_t first, uint64_t rounds);
/* The other side; ns[i], where not NULL, is the time of round i. */
int floor_pingpong(void *memory, uint64_t first, uint64_t rounds, uint64_t *ns);
/* One round: 64 bytes out of `request` (the last 8 are the sequence number's place), 64 into `reply`. */
int floor_round_trip(void *memory, const void *request, void *reply, uint64_t sequence);

/* Ping-pong in which a side that has nothing to do sleeps on a futex at once; as floor_serve and floor_pingpong. */
int floor_sleepy_serve(void *memory, uint32_t first, uint32_t rounds);
int floor_sleepy_pingpong(void *memory, uint32_t first, uint32_t rounds, uint64_t *ns);

/*
 * One way: 64-byte messages through a ring of slots, 56 bytes and a sequence number in each. `sum` of their first words;
 * message i's is i.
 */
int floor_flood(void *memory, uint64_t first, uint64_t count);
int floor_drain(void *memory, uint64_t first, uint64_t count, uint64_t *sum);

/*
 * Over a connected stream socket, with SO_RCVTIMEO and SO_SNDTIMEO for its patience. `spin`: ask again and again instead
 * of blocking in the kernel. Round trips and floods are of 64-byte messages; flood waits for drain to have had them all.
 */
int floor_socket_serve(int fd, uint64_t rounds, int spin);
int floor_socket_pingpong(int fd, uint64_t rounds, int spin, uint64_t *ns);
int floor_socket_flood(int fd, uint64_t count);
int floor_socket_drain(int fd, uint64_t count, uint64_t *sum);
/* `size` bytes to the other side, which has called take for as many; put returns when take has them all. */
int floor_socket_put(int fd, const void *source, uint64_t size, int spin);
int floor_socket_take(int fd, void *destination, uint64_t size, int spin);

/* Single copies by one thread; the time each took, ns. `how`: FLOOR_COPY_*. 0 when this CPU has no such copy. */
#define FLOOR_COPY_LIBC 0
#define FLOOR_COPY_MOVSB 1
#define FLOOR_COPY_STREAM 2
#define FLOOR_COPIES 3
uint64_t floor_copy(void *destination, const void *source, uint64_t size, int how);
/* cffi: end */

uint64_t floor_now(void);

/* For a wait that polls: how many polls have been made, and until when more may be. Zeroed before the wait begins. */
typedef struct floor_patience {
  uint64_t deadline;
  uint32_t polls;
} floor_patience;

/* To be called between two polls: 0, or -1 after 10 s. Looks at the clock so rarely that it costs nothing. */
static inline int floor_poll_again(floor_patience *patience)
{
  if (++patience->polls % (1u << 20) != 0)
    return 0;
  if (patience->deadline == 0)
    patience->deadline = floor_now() + 10000000000u;
  return floor_now() < patience->deadline ? 0 : -1;
}

#endif
