/*
 * What of verbs is known outside the endpoint: whether this machine has any, and what this process holds of it.
 */
#ifndef GPUD_VERBS_H
#define GPUD_VERBS_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
/*
 * Whether verbs can be had here, with the words for it in text[size]: which device, port and address would be used, or why there is
 * none and what to do. 0, -ENOTSUP (built without), -ELIBACC (no library), -ENODEV (no device, or none of that name), -EACCES (it
 * cannot be opened), -ENETDOWN (no active port).
 */
int gpud_verbs_probe(char *text, size_t size);

/*
 * In words, why the last handshake over verbs that this thread tried failed, where it was for want of something here: the device, memory
 * that may be locked, a way to the peer's address. Empty where none failed so.
 */
void gpud_verbs_why(char *text, size_t size);

/* The objects of libibverbs that this process has made and not destroyed. */
typedef struct gpud_verbs_objects {
  uint64_t contexts;
  uint64_t domains;
  uint64_t channels;
  uint64_t completion_queues;
  uint64_t queue_pairs;
  uint64_t memory_regions;
  uint64_t registered; /* bytes of those memory regions */
} gpud_verbs_objects;
void gpud_verbs_census(gpud_verbs_objects *objects);
/* cffi: end */

#endif
