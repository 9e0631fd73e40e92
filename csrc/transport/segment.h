/*
 * Sealed shared memory. A segment is a memfd whose size nobody can change any more (F_SEAL_SHRINK, F_SEAL_GROW,
 * F_SEAL_SEAL): so no access to a mapping of it can raise SIGBUS, whatever the peer does.
 */
#ifndef GPUD_SEGMENT_H
#define GPUD_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

typedef struct gpud_segment {
  int fd; /* owned; -1 once handed over or closed */
  void *base;
  size_t size;
} gpud_segment;

/* Creates, sizes, seals and maps. `prefault`: touch every page now. 0 or -errno. */
int gpud_segment_create(gpud_segment *segment, const char *name, size_t size, int prefault);
/*
 * Maps a descriptor that a peer sent: refuses (-EPERM) one that is not sealed or not of exactly `size`. Takes ownership
 * of fd, also on failure. `address`: where (MAP_FIXED over an existing reservation), or NULL. `writable`: map for writing too.
 */
int gpud_segment_open(gpud_segment *segment, int fd, size_t size, void *address, int writable);
/* Unmaps and closes. A mapping at a fixed address is replaced by an inaccessible reservation, not by a hole. */
void gpud_segment_close(gpud_segment *segment, int keep_reservation);

#endif
