#include "verbs_device.h"

#ifdef GPUD_HAVE_VERBS

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "order.h"

#define VARIABLE "GPUDISAGG_RDMA_DEVICE"
#define MOST_READS 16u

/* How good a port's address is. */
enum { NONE, ANY, ROUTABLE, MATCHES };

typedef struct search {
  const gpud_verbs_api *api;
  const struct sockaddr_storage *local;
  const char *wanted; /* NULL: any device */
  int devices;        /* that may be used */
  int closed;         /* of those, that cannot be opened */
  int best;
  gpud_verbs_port *port;
} search;

/* The address as a GID has it, IPv4 mapped into IPv6. 0 where the socket's family has none. */
static int address_of(const struct sockaddr_storage *local, uint8_t gid[16])
{
  if (local && local->ss_family == AF_INET) {
    memset(gid, 0, 10);
    memset(gid + 10, 0xff, 2);
    memcpy(gid + 12, &((const struct sockaddr_in *)(const void *)local)->sin_addr, 4);
    return 1;
  }
  if (local && local->ss_family == AF_INET6) {
    memcpy(gid, &((const struct sockaddr_in6 *)(const void *)local)->sin6_addr, 16);
    return 1;
  }
  return 0;
}

/* Whether the entry speaks RoCE v2: the library tells it in newer versions only, the kernel always. */
static int is_roce_v2(const char *device, unsigned port, int index)
{
  char path[160];
  char type[32] = "";
  snprintf(path, sizeof path, "/sys/class/infiniband/%s/ports/%u/gid_attrs/types/%d", device, port, index);
  FILE *file = fopen(path, "re");
  if (!file)
    return 0;
  const char *read = fgets(type, sizeof type, file); /* an entry that is not in use has none: EINVAL */
  fclose(file);
  return read && strncmp(type, "RoCE v2", 7) == 0;
}

static int judge_gid(const search *s, const char *device, const struct ibv_port_attr *attributes, unsigned port,
                     int index, const union ibv_gid *gid)
{
  static const uint8_t nothing[16];
  static const uint8_t link_local[8] = {0xfe, 0x80};
  uint8_t local[16];
  if (memcmp(gid->raw, nothing, 16) == 0)
    return NONE;
  if (attributes->link_layer == IBV_LINK_LAYER_ETHERNET && !is_roce_v2(device, port, index))
    return NONE;
  if (address_of(s->local, local) && memcmp(gid->raw, local, 16) == 0)
    return MATCHES;
  return memcmp(gid->raw, link_local, 8) == 0 ? ANY : ROUTABLE;
}

/* Takes the port, if none as good was seen before. Whether it did: the context is then the search's. */
static int judge_port(search *s, struct ibv_context *context, const char *device, uint8_t number, uint32_t reads)
{
  struct ibv_port_attr attributes = {0};
  int taken = 0;
  /* The function fills in the first version of the struct, which is how the one of today begins. */
  if (s->api->query_port(context, number, (struct _compat_ibv_port_attr *)(void *)&attributes) != 0 ||
      attributes.state != IBV_PORT_ACTIVE)
    return 0;
  for (int i = 0; i < attributes.gid_tbl_len && i < 256; i++) {
    union ibv_gid gid;
    if (s->api->query_gid(context, number, i, &gid) != 0)
      continue;
    int good = judge_gid(s, device, &attributes, number, i, &gid);
    if (good <= s->best)
      continue;
    if (s->port->context != context)
      gpud_verbs_port_close(s->port);
    taken = 1;
    s->best = good;
    *s->port = (gpud_verbs_port){
      .api = s->api,
      .context = context,
      .gid = gid,
      .lid = attributes.lid,
      .max_message = attributes.max_msg_sz ? attributes.max_msg_sz : 1u << 20,
      .mtu = attributes.active_mtu,
      .reads = reads,
      .number = number,
      .gid_index = (uint8_t)i,
      .routed = attributes.link_layer == IBV_LINK_LAYER_ETHERNET,
    };
    snprintf(s->port->name, sizeof s->port->name, "%s:%u", device, number);
  }
  return taken;
}

static void judge_device(search *s, struct ibv_device *device)
{
  const char *name = s->api->get_device_name(device);
  size_t length = strlen(name);
  unsigned only = 0; /* every port */
  if (s->wanted) {
    if (strncmp(s->wanted, name, length) != 0 || (s->wanted[length] != 0 && s->wanted[length] != ':'))
      return;
    if (s->wanted[length] == ':')
      only = (unsigned)strtoul(s->wanted + length + 1, NULL, 10);
  }
  s->devices++;
  struct ibv_device_attr attributes;
  struct ibv_context *context = s->api->open_device(device);
  if (!context) {
    s->closed++;
    return;
  }
  gpud_fetch_add_u64(&gpud_verbs_alive.contexts, 1);
  int taken = 0;
  if (s->api->query_device(context, &attributes) == 0) {
    int reads = attributes.max_qp_rd_atom < attributes.max_qp_init_rd_atom ? attributes.max_qp_rd_atom
                                                                           : attributes.max_qp_init_rd_atom;
    uint32_t most = reads < 1 ? 1 : (uint32_t)reads < MOST_READS ? (uint32_t)reads : MOST_READS;
    for (unsigned number = 1; number <= attributes.phys_port_cnt; number++)
      if (only == 0 || only == number)
        taken |= judge_port(s, context, name, (uint8_t)number, most);
  }
  if (!taken) {
    s->api->close_device(context);
    gpud_fetch_add_u64(&gpud_verbs_alive.contexts, UINT64_MAX);
  }
}

static int nothing_found(const search *s, char *text, size_t size)
{
  if (s->devices == 0 && s->wanted) {
    snprintf(text, size, "there is no RDMA device %s: " VARIABLE " names it; `ibv_devices` lists those there are",
             s->wanted);
    return -ENODEV;
  }
  if (s->devices == 0) {
    snprintf(text, size,
             "this machine has no RDMA device: install its driver, give the container /dev/infiniband, or use tcp://");
    return -ENODEV;
  }
  if (s->closed == s->devices) {
    snprintf(text, size,
             "the RDMA device cannot be opened: this user needs read and write access to "
             "/dev/infiniband/uverbs*");
    return -EACCES;
  }
  snprintf(text, size,
           "no port of the RDMA device%s%s is active with an address of its own (RoCE v2 or InfiniBand): "
           "bring its link up; `ibv_devinfo` shows the ports",
           s->wanted ? " " : "", s->wanted ? s->wanted : "");
  return -ENETDOWN;
}

static void describe(const gpud_verbs_port *port, int matches, char *text, size_t size)
{
  static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
  char address[INET6_ADDRSTRLEN] = "";
  if (memcmp(port->gid.raw, mapped, sizeof mapped) == 0)
    inet_ntop(AF_INET, port->gid.raw + 12, address, sizeof address);
  else
    inet_ntop(AF_INET6, port->gid.raw, address, sizeof address);
  snprintf(text, size, "%s, %s %s (GID %u)%s", port->name, port->routed ? "RoCE v2" : "InfiniBand", address,
           port->gid_index, matches ? ", the connection's own address" : "");
}

int gpud_verbs_port_open(gpud_verbs_port *port, const struct sockaddr_storage *local, char *text, size_t size)
{
  const char *wanted = getenv(VARIABLE);
  *port = (gpud_verbs_port){0};
  search s = {.local = local, .wanted = wanted && *wanted ? wanted : NULL, .port = port};
  s.api = gpud_verbs_load(text, size);
  if (!s.api)
    return -ELIBACC;
  /* NULL with ENOSYS where the kernel knows nothing of RDMA: that is no device, too. */
  struct ibv_device **devices = s.api->get_device_list(NULL);
  for (int i = 0; devices && devices[i]; i++)
    judge_device(&s, devices[i]);
  if (devices)
    s.api->free_device_list(devices);
  if (s.best == NONE)
    return nothing_found(&s, text, size);
  describe(port, s.best == MATCHES, text, size);
  return 0;
}

void gpud_verbs_port_close(gpud_verbs_port *port)
{
  if (!port->context)
    return;
  port->api->close_device(port->context);
  gpud_fetch_add_u64(&gpud_verbs_alive.contexts, UINT64_MAX);
  port->context = NULL;
}

int gpud_verbs_probe(char *text, size_t size)
{
  gpud_verbs_port port;
  int rc = gpud_verbs_port_open(&port, NULL, text, size);
  if (rc == 0)
    gpud_verbs_port_close(&port);
  return rc;
}

#endif
