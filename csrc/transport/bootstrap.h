/*
 * The socket before the ring: frames with deadlines, descriptors beside them (SCM_RIGHTS), and who the peer is
 * (SO_PEERCRED). Afterwards the socket stays open: descriptors of regions travel on it, and its hang-up is how either
 * side learns that the other died.
 */
#ifndef GPUD_BOOTSTRAP_H
#define GPUD_BOOTSTRAP_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
/* Sends one frame, whole, with a descriptor beside its first byte where fd >= 0. 0, -ETIMEDOUT, -EPIPE, -errno. */
int gpud_bootstrap_send(int socket, const void *frame, size_t size, int fd, uint64_t deadline);
/*
 * Receives one frame, whole, into frame[GPUD_MAX_FRAME]; *fd is the descriptor that came with it or -1 (extra ones are closed).
 * Its size, -ETIMEDOUT, -EPIPE (the peer closed), -EPROTO (no frame begins so), -errno.
 */
int gpud_bootstrap_receive(int socket, void *frame, int *fd, uint64_t deadline);
/* A lone descriptor for a region: one byte of payload each, in the order of the REGION_ADD messages. */
int gpud_bootstrap_send_fd(int socket, int fd, uint64_t deadline);
int gpud_bootstrap_receive_fd(int socket, int *fd, uint64_t deadline);

typedef struct gpud_peer {
  uint32_t pid; /* 0 where the kernel does not say */
  uint32_t uid;
  uint32_t gid;
} gpud_peer;
/* Who is at the other end of a Unix socket, by the kernel's word. 0 or -errno. */
int gpud_bootstrap_peer(int socket, gpud_peer *peer);
/* Whether the other end is still open: 1, or 0 once it hung up. Never blocks, reads nothing. */
int gpud_bootstrap_alive(int socket);
/*
 * Closes a descriptor that a peer sent. Where it is the last of a socket with SO_LINGER, close would wait for that
 * socket's unsent bytes, as long as the peer likes.
 */
void gpud_bootstrap_discard(int fd);
/* Shuts the socket down and closes it, and all descriptors that were sent and not taken: as gpud_bootstrap_discard does. */
void gpud_bootstrap_hang_up(int socket);
/* cffi: end */

/* A pidfd of the process that connected, the caller's to close; -1 where the kernel cannot say: then only the socket tells of its death. */
int gpud_bootstrap_pidfd(int socket);

#endif
