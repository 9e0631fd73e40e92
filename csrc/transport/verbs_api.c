#include "verbs_api.h"

#include "order.h"
#include "verbs.h"

#ifdef GPUD_HAVE_VERBS

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

gpud_verbs_objects gpud_verbs_alive;

static gpud_verbs_api api;
static char failure[256]; /* empty: loaded */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Whether the library has the function. A version need not be named: the default one is the newest, which the header describes. */
static int find(void *library, const char *name, void *function)
{
  void *found = dlsym(library, name);
  memcpy(function, &found, sizeof found);
  if (!found)
    snprintf(failure, sizeof failure, "libibverbs.so.1 has no %s: update rdma-core", name);
  return found != NULL;
}

static void load(void)
{
  /* Never closed: its providers keep state and handlers of their own. */
  void *library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    snprintf(failure, sizeof failure, "%s: install libibverbs1 and ibverbs-providers (rdma-core)", dlerror());
    return;
  }
  find(library, "ibv_reg_dmabuf_mr", &api.reg_dmabuf_mr);
  failure[0] = 0; /* that one may be missing */
#define FIND(name)                                                                                                     \
  if (!find(library, "ibv_" #name, &api.name))                                                                         \
    return;
  GPUD_VERBS_SYMBOLS(FIND)
#undef FIND
}

const gpud_verbs_api *gpud_verbs_load(char *text, size_t size)
{
  pthread_once(&once, load);
  if (!failure[0])
    return &api;
  snprintf(text, size, "%s", failure);
  return NULL;
}

void gpud_verbs_census(gpud_verbs_objects *objects)
{
  const uint64_t *from = (const uint64_t *)&gpud_verbs_alive;
  uint64_t *to = (uint64_t *)objects;
  for (size_t i = 0; i < sizeof *objects / sizeof *to; i++)
    to[i] = gpud_load_relaxed_u64(&from[i]);
}

#else

#include <errno.h>
#include <stdio.h>

int gpud_verbs_probe(char *text, size_t size)
{
  snprintf(text, size, "built without headers: install libibverbs-dev and reinstall");
  return -ENOTSUP;
}

void gpud_verbs_census(gpud_verbs_objects *objects) { *objects = (gpud_verbs_objects){0}; }

#endif
