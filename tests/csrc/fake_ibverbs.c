/*
 * Stands in for libibverbs.so.1 where a test wants a machine with other devices than this one has: as FAKE_VERBS says. REST: the
 * functions that looking for a device does not call; without them it is a library too old to have them.
 */
#ifdef REST

#include <stdlib.h>

#define NEVER_CALLED(name)                                                                                             \
  void ibv_##name(void);                                                                                               \
  void ibv_##name(void) { abort(); }
NEVER_CALLED(alloc_pd)
NEVER_CALLED(dealloc_pd)
NEVER_CALLED(reg_mr)
NEVER_CALLED(dereg_mr)
NEVER_CALLED(create_comp_channel)
NEVER_CALLED(destroy_comp_channel)
NEVER_CALLED(create_cq)
NEVER_CALLED(destroy_cq)
NEVER_CALLED(get_cq_event)
NEVER_CALLED(ack_cq_events)
NEVER_CALLED(create_qp)
NEVER_CALLED(modify_qp)
NEVER_CALLED(destroy_qp)
NEVER_CALLED(wc_status_str)

#else

#include <errno.h>
#include <infiniband/verbs.h>
#include <stdlib.h>
#include <string.h>

static int is(const char *mode) { return strcmp(getenv("FAKE_VERBS"), mode) == 0; }

static struct ibv_device device = {.name = "fake_0"};
static struct ibv_device *devices[] = {&device, NULL};
static struct ibv_context context;

struct ibv_device **ibv_get_device_list(int *count)
{
  if (count)
    *count = !is("none");
  if (is("no kernel support"))
    errno = ENOSYS;
  return is("no kernel support") ? NULL : devices + is("none");
}
void ibv_free_device_list(struct ibv_device **list) { (void)list; }
const char *ibv_get_device_name(struct ibv_device *d) { return d->name; }
struct ibv_context *ibv_open_device(struct ibv_device *d)
{
  (void)d;
  errno = EACCES;
  return is("closed") ? NULL : &context;
}
int ibv_close_device(struct ibv_context *c) { return (void)c, 0; }
int ibv_query_device(struct ibv_context *c, struct ibv_device_attr *a)
{
  (void)c;
  *a = (struct ibv_device_attr){.phys_port_cnt = 2, .max_qp_rd_atom = 4, .max_qp_init_rd_atom = 4};
  return 0;
}
#undef ibv_query_port
int ibv_query_port(struct ibv_context *c, uint8_t number, struct _compat_ibv_port_attr *compat)
{
  struct ibv_port_attr *a = (struct ibv_port_attr *)(void *)compat;
  (void)c;
  a->state = is("down") || number == 1 ? IBV_PORT_DOWN : IBV_PORT_ACTIVE;
  a->gid_tbl_len = 2;
  a->lid = 7;
  a->max_msg_sz = 1 << 30;
  a->active_mtu = IBV_MTU_4096;
  a->link_layer = is("ethernet") ? IBV_LINK_LAYER_ETHERNET : IBV_LINK_LAYER_INFINIBAND;
  return 0;
}
int ibv_query_gid(struct ibv_context *c, uint8_t number, int index, union ibv_gid *gid)
{
  static const union ibv_gid gids[2] = {{.raw = {0xfe, 0x80, [15] = 1}}, {.raw = {0x20, 0x01, [15] = 2}}};
  (void)c, (void)number;
  *gid = gids[index];
  return 0;
}

#endif
