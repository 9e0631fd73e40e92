/*
 * Which device, port and address a session uses. Private to the files of verbs.
 */
#ifndef GPUD_VERBS_DEVICE_H
#define GPUD_VERBS_DEVICE_H

#include "verbs_api.h"

#ifdef GPUD_HAVE_VERBS

#include <sys/socket.h>

typedef struct gpud_verbs_port {
  const gpud_verbs_api *api;
  struct ibv_context *context;
  union ibv_gid gid;
  uint32_t lid;
  uint32_t max_message; /* bytes of one transfer */
  uint32_t mtu;         /* enum ibv_mtu */
  uint32_t reads;       /* READs at once, of ours and of the peer's */
  uint8_t number;
  uint8_t gid_index;
  uint8_t routed; /* the peer is addressed by its GID: always so on Ethernet */
  char name[64];  /* rxe0:1 */
} gpud_verbs_port;

/*
 * Opens the port whose address is `local`, the address of a socket's own end (NULL: any); where there is none such, the first that
 * is active. GPUDISAGG_RDMA_DEVICE ("rxe0", "mlx5_0:1") restricts both. What was found, or why nothing was, in text[size].
 * 0, or as gpud_verbs_probe.
 */
int gpud_verbs_port_open(gpud_verbs_port *port, const struct sockaddr_storage *local, char *text, size_t size);
void gpud_verbs_port_close(gpud_verbs_port *port);

#endif
#endif
