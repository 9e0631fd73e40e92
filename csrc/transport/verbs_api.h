/*
 * libibverbs, loaded when it is first needed: the library is no dependency, its header is needed to build. Private to
 * the files of verbs.
 */
#ifndef GPUD_VERBS_API_H
#define GPUD_VERBS_API_H

#if !defined(GPUD_NO_VERBS) && defined(__has_include)
#if __has_include(<infiniband/verbs.h>)
#define GPUD_HAVE_VERBS 1
#endif
#endif

#ifdef GPUD_HAVE_VERBS

#include <infiniband/verbs.h>

#include "verbs.h"

#define GPUD_VERBS_SYMBOLS(X)                                                                                          \
  X(get_device_list)                                                                                                   \
  X(free_device_list)                                                                                                  \
  X(get_device_name)                                                                                                   \
  X(open_device)                                                                                                       \
  X(close_device)                                                                                                      \
  X(query_device)                                                                                                      \
  X(query_port)                                                                                                        \
  X(query_gid)                                                                                                         \
  X(alloc_pd)                                                                                                          \
  X(dealloc_pd)                                                                                                        \
  X(reg_mr)                                                                                                            \
  X(dereg_mr)                                                                                                          \
  X(create_comp_channel)                                                                                               \
  X(destroy_comp_channel)                                                                                              \
  X(create_cq)                                                                                                         \
  X(destroy_cq)                                                                                                        \
  X(get_cq_event)                                                                                                      \
  X(ack_cq_events)                                                                                                     \
  X(create_qp)                                                                                                         \
  X(modify_qp)                                                                                                         \
  X(destroy_qp)                                                                                                        \
  X(wc_status_str)

typedef struct gpud_verbs_api {
#define FIELD(name) __typeof__(&ibv_##name) name;
  GPUD_VERBS_SYMBOLS(FIELD)
#undef FIELD
  /* NULL in a library older than version 34. */
  struct ibv_mr *(*reg_dmabuf_mr)(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd, int access);
} gpud_verbs_api;

/* The library's functions, the same ones each time; NULL where it cannot be loaded, and why in text[size]. Any thread. */
const gpud_verbs_api *gpud_verbs_load(char *text, size_t size);

/* What is alive: counted up where it is made, down where it is destroyed. Relaxed: for tests and reports. */
extern gpud_verbs_objects gpud_verbs_alive;

#endif
#endif
