/*
 * Registered memory: what the client offers to its worker, what the worker knows of it, and the worker's own memory that
 * transfers reach directly. Private to the files of verbs. Each is used under a lock of the endpoint's.
 */
#ifndef GPUD_VERBS_MEMORY_H
#define GPUD_VERBS_MEMORY_H

#include "verbs_api.h"

#ifdef GPUD_HAVE_VERBS

#include "endpoint.h"

/* NULL with errno set; counted. `fd`: a dma-buf of it from `offset`, or -1. */
struct ibv_mr *gpud_verbs_register(const gpud_verbs_api *api, struct ibv_pd *domain, void *address, uint64_t size,
                                   int fd, uint64_t offset, int access);
void gpud_verbs_deregister(const gpud_verbs_api *api, struct ibv_mr *mr);

/* ---------------------------------------------------------------- client: offered */

typedef struct gpud_verbs_offer {
  struct gpud_verbs_offer *next; /* of those withdrawn */
  struct ibv_mr *mr;
  uint64_t sequence; /* once withdrawn: the command after which it may go */
} gpud_verbs_offer;

typedef struct gpud_verbs_offers {
  const gpud_verbs_api *api;
  struct ibv_pd *domain;
  gpud_verbs_offer *offered[GPUD_MAX_REGIONS];
  gpud_verbs_offer *withdrawn;
  uint32_t count; /* both */
} gpud_verbs_offers;

/* Registers for what the worker may do. 0, -EINVAL, -EEXIST, -ENOMEM (too many; or the system's limit: errno's), -errno. */
int gpud_verbs_offers_add(gpud_verbs_offers *offers, const gpud_region_offer *offer, struct ibv_mr **mr);
int gpud_verbs_offers_withdraw(gpud_verbs_offers *offers, uint32_t region, uint64_t sequence); /* 0, -ENOENT */
/* Deregisters what was withdrawn up to `completed`. */
void gpud_verbs_offers_sweep(gpud_verbs_offers *offers, uint64_t completed);
void gpud_verbs_offers_close(gpud_verbs_offers *offers);

/* ---------------------------------------------------------------- worker: the client's regions */

/* REGION_KEYs that came, in order: each REGION_ADD takes one. No more than there are receives for the REGION_ADDs that follow. */
#define GPUD_VERBS_KEYS 512u

typedef struct gpud_verbs_remote {
  uint64_t size; /* 0: none */
  uint64_t address;
  uint32_t access;
  uint32_t key;
} gpud_verbs_remote;

typedef struct gpud_verbs_remotes {
  gpud_verbs_remote regions[GPUD_MAX_REGIONS];
  gpud_msg_region_key keys[GPUD_VERBS_KEYS];
  uint32_t first;
  uint32_t count;
} gpud_verbs_remotes;

int gpud_verbs_remotes_key(gpud_verbs_remotes *remotes, const gpud_msg_region_key *key); /* 0, -EPROTO */
/* Takes a key in any case. 0, -EINVAL (the number), -EEXIST, -EPERM (size), -ENOTSUP (an address), -EPROTO (no key, or another's). */
int gpud_verbs_remotes_add(gpud_verbs_remotes *remotes, const gpud_msg_region_add *add);
int gpud_verbs_remotes_drop(gpud_verbs_remotes *remotes, uint32_t region); /* 0, -ENOENT */
/* 0, -ENOENT, -ERANGE, -EACCES: whether [offset, offset + size) may be accessed so. */
int gpud_verbs_remotes_span(const gpud_verbs_remotes *remotes, uint32_t region, uint64_t offset, uint64_t size,
                            uint32_t access, gpud_verbs_remote *found);

/* ---------------------------------------------------------------- worker: its own */

/* Registrations at once, and their bytes: pinned, they are lost to all else. The one used longest ago makes room. */
#define GPUD_VERBS_LOCALS 1024u
#define GPUD_VERBS_LOCAL_BYTES (4ull << 30)

typedef struct gpud_verbs_extent {
  uint64_t address;
  uint64_t size;
  struct ibv_mr *mr;
  uint64_t used;
} gpud_verbs_extent;

typedef struct gpud_verbs_locals {
  const gpud_verbs_api *api;
  struct ibv_pd *domain;
  gpud_verbs_extent *extents; /* sorted, disjoint */
  uint32_t count;
  uint32_t most; /* at once; 0: GPUD_VERBS_LOCALS */
  uint64_t bytes;
  uint64_t most_bytes; /* 0: GPUD_VERBS_LOCAL_BYTES, or half of what the process may lock */
  uint64_t clock;
} gpud_verbs_locals;

/*
 * Registers the memory, unless it is: replaces what overlaps it. Room is made by the least recently used where there are too many, or
 * too many bytes, or the system has no more. 0, -EINVAL, -ENOMEM (also where it alone is too much), or -errno as the adapter says.
 */
int gpud_verbs_locals_add(gpud_verbs_locals *locals, const gpud_local *local);
/* What is registered at the address: NULL where nothing is. Counts as a use. */
const gpud_verbs_extent *gpud_verbs_locals_find(gpud_verbs_locals *locals, uint64_t address);
/* How many bytes from the address on are not registered: the next extent, or `size`. */
uint64_t gpud_verbs_locals_gap(const gpud_verbs_locals *locals, uint64_t address, uint64_t size);
void gpud_verbs_locals_remove(gpud_verbs_locals *locals, uint64_t address, uint64_t size);
void gpud_verbs_locals_close(gpud_verbs_locals *locals);

#endif
#endif
