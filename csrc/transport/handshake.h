/*
 * What the transports' handshakes share, and what each adds. Private to handshake.c and the endpoints.
 */
#ifndef GPUD_HANDSHAKE_H
#define GPUD_HANDSHAKE_H

#include <stddef.h>
#include <stdint.h>

#include "endpoint.h"

typedef struct gpud_handshake {
  const char *name;
  uint64_t features; /* of GPUD_FEATURE_*: what this transport can offer or grant */
  /*
   * Worker: WELCOME, filled in and encoded in frame[size], is the transport's to send, with what goes beside or behind it.
   * Owns `socket` on success only. 0 or -errno.
   */
  int (*accept)(int socket, const gpud_welcome *welcome, const void *frame, size_t size, uint64_t deadline,
                gpud_endpoint **ep);
  /*
   * Client: WELCOME came and is sound; fd came with it or is -1, and is taken in any case. Owns `socket` on success only. 0 or -errno.
   */
  int (*connect)(int socket, const gpud_welcome *welcome, int fd, uint64_t deadline, gpud_endpoint **ep);
} gpud_handshake;

extern const gpud_handshake gpud_handshake_shm;
extern const gpud_handshake gpud_handshake_tcp;
extern const gpud_handshake gpud_handshake_verbs;

#endif
