/*
 * The verbs endpoint's inside, shared by endpoint_verbs.c (messages, handshake, life) and verbs_rma.c (transfers).
 *
 * Locks: `transfer` covers the worker's memory and lasts as long as a transfer, `offers` covers the client's; the link's are taken inside.
 */
#ifndef GPUD_VERBS_ENDPOINT_H
#define GPUD_VERBS_ENDPOINT_H

#include "verbs_link.h"
#include "verbs_memory.h"

#ifdef GPUD_HAVE_VERBS

#include <pthread.h>

#include "endpoint_carried.h"

#define GPUD_VERBS_BOUNCE 65536u /* bytes of a transfer through memory of the endpoint's own */

typedef struct gpud_verbs_endpoint {
  gpud_carried carried; /* first */
  gpud_verbs_link link;
  int socket;
  bool forgotten;
  unsigned char message[GPUD_MAX_MESSAGE]; /* reserved, being filled in */

  gpud_lock publishing;
  bool dirty; /* a COMPLETED is to be sent once there is credit */
  gpud_msg_completed completed;

  pthread_mutex_t offers_lock; /* client */
  gpud_verbs_offers offers;
  uint32_t withdrawn; /* some offers are: any thread reads it */
  bool out_of_step;   /* a key went out that no REGION_ADD takes; one caller of offer and withdraw at a time */
  char refusal[192];

  pthread_mutex_t transfer_lock; /* worker */
  gpud_lock remotes_lock;        /* the keys come while a transfer may be under way */
  gpud_verbs_remotes *remotes;
  gpud_verbs_locals locals;
  char *bounce; /* GPUD_VERBS_TRANSFERS of GPUD_VERBS_BOUNCE, made when first needed */
  struct ibv_mr *bounced;
} gpud_verbs_endpoint;

static inline gpud_verbs_endpoint *gpud_verbs_endpoint_of(gpud_endpoint *ep) { return (gpud_verbs_endpoint *)ep; }

bool gpud_verbs_endpoint_hung_up(const gpud_verbs_endpoint *e);

/* verbs_rma.c: the table's slots, and what they leave. */
int gpud_verbs_rma_read(gpud_endpoint *ep, uint32_t region, uint64_t offset, void *destination, uint64_t size);
int gpud_verbs_rma_write(gpud_endpoint *ep, uint32_t region, uint64_t offset, const void *source, uint64_t size);
int gpud_verbs_local_here(gpud_endpoint *ep, const gpud_local *local);
void gpud_verbs_local_gone(gpud_endpoint *ep, const void *memory, uint64_t size);
/* Deregisters and frees all of that; the queue pair is gone. */
void gpud_verbs_rma_close(gpud_verbs_endpoint *e);

#endif
#endif
