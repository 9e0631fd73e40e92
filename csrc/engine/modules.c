#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

#define MAX_KERNELS 65535u /* LAUNCH counts them in 16 bits */
#define MAX_VARIABLES 65536u

gpud_module *gpud_module_find(const gpud_engine *e, uint32_t id)
{
  const uint64_t *value = gpud_idmap_find(&e->modules, id);
  return value ? (gpud_module *)(uintptr_t)*value : NULL;
}

static void free_module(gpud_module *module)
{
  for (uint32_t i = 0; i < module->kernel_count; i++) {
    free(module->kernels[i].name);
    free(module->kernels[i].params);
  }
  for (uint32_t i = 0; i < module->variable_count; i++)
    free(module->variables[i].name);
  free(module->kernels);
  free(module->variables);
  free(module);
}

static void drop_image(gpud_loading *loading)
{
  if (loading->image)
    munmap(loading->image, loading->mapped_size);
  *loading = (gpud_loading){0};
}

/* ---------------------------------------------------------------- ids for Python to free */

/* Room for all that is loaded, one more, and all that Python has not asked for yet. */
static int reserve_unloaded(gpud_engine *e)
{
  gpud_unloaded *u = &e->unloaded;
  uint32_t waiting = u->end - u->first;
  if (u->first) {
    memmove(u->ids, u->ids + u->first, waiting * sizeof *u->ids);
    u->first = 0;
    u->end = waiting;
  }
  uint32_t needed = waiting + e->modules.count + 1;
  if (needed <= u->capacity)
    return 0;
  uint32_t *ids = realloc(u->ids, 2 * needed * sizeof *ids);
  if (!ids)
    return -ENOMEM;
  u->ids = ids;
  u->capacity = 2 * needed;
  return 0;
}

static void unload(gpud_engine *e, gpud_module *module)
{
  gpud_memory_remove_owned(&e->memory, GPUD_EXTENT_VARIABLE, module->id);
  if (e->check)
    gpud_check_drop_owned(e->check, module->id);
  e->unloaded.ids[e->unloaded.end++] = module->id;
  free_module(module);
}

int64_t gpud_engine_next_unloaded(gpud_engine *e)
{
  gpud_unloaded *u = &e->unloaded;
  return u->first < u->end ? (int64_t)u->ids[u->first++] : -ENOENT;
}

void gpud_modules_clear(gpud_engine *e)
{
  for (uint32_t i = 0; i < e->modules.capacity; i++)
    if (e->modules.entries[i].used)
      unload(e, (gpud_module *)(uintptr_t)e->modules.entries[i].value);
  gpud_idmap_clear(&e->modules);
  if (e->loading.module)
    free_module(e->loading.module);
  drop_image(&e->loading);
  gpud_store_relaxed_u64(&e->stats.modules, 0);
}

/* ---------------------------------------------------------------- commands */

static int judge(gpud_engine *e, const gpud_msg_module_load *m)
{
  if (gpud_module_find(e, m->module))
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "MODULE_LOAD: module %u exists: unload it first", m->module);
  if (e->modules.count >= GPUD_MAX_MODULES)
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, 0, "MODULE_LOAD: a session may have %u modules: unload some",
                       GPUD_MAX_MODULES);
  if (m->size == 0 || m->size > GPUD_MAX_IMAGE)
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "MODULE_LOAD: an image of %llu bytes; 1 to %u are possible",
                       (unsigned long long)m->size, GPUD_MAX_IMAGE);
  return 0;
}

/* A private copy: what is compiled must not change under the compiler. Zero after its last byte. */
static int copy_image(gpud_engine *e, const gpud_msg_module_load *m)
{
  gpud_loading *loading = &e->loading;
  void *source;
  int rc = gpud_region_span(e, m->region, m->offset, m->size, GPUD_ACCESS_READ, &source);
  if (rc)
    return rc;
  uint64_t mapped = (m->size / e->page + 1) * e->page;
  void *image = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (image == MAP_FAILED)
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, 0, "MODULE_LOAD: the worker has no memory for %llu bytes",
                       (unsigned long long)m->size);
  loading->image = image;
  loading->image_size = m->size;
  loading->mapped_size = mapped;
  rc = gpud_connection_rma_read(e->connection, m->region, m->offset, image, m->size);
  return gpud_region_moved(e, "MODULE_LOAD", m->region, rc);
}

int gpud_module_load(gpud_engine *e)
{
  gpud_msg_module_load m;
  memcpy(&m, gpud_body(e), sizeof m);
  gpud_message_head head;
  memcpy(&head, e->message, sizeof head);
  gpud_loading *loading = &e->loading;
  int rc = judge(e, &m);
  if (rc == 0)
    rc = copy_image(e, &m);
  if (rc == 0) {
    loading->module = calloc(1, sizeof *loading->module);
    if (!loading->module || reserve_unloaded(e))
      rc = gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, 0, "MODULE_LOAD: the worker has no memory left");
  }
  if (rc) {
    free(loading->module);
    drop_image(loading);
    return rc;
  }
  loading->module->id = m.module;
  loading->sequence = gpud_connection_received(e->connection);
  loading->options_size = head.size - (uint32_t)(sizeof head + sizeof m);
  memcpy(loading->options, e->message + sizeof head + sizeof m, loading->options_size);
  return GPUD_RUN_COMPILE;
}

int gpud_module_unload(gpud_engine *e)
{
  gpud_msg_module_ref m;
  memcpy(&m, gpud_body(e), sizeof m);
  gpud_module *module = gpud_module_find(e, m.module);
  if (!module)
    return gpud_refuse(e, GPUD_STATUS_NOT_FOUND, 0, "MODULE_UNLOAD: there is no module %u", m.module);
  gpud_idmap_remove(&e->modules, m.module);
  unload(e, module);
  gpud_store_relaxed_u64(&e->stats.modules, e->modules.count);
  return 0;
}

/* ---------------------------------------------------------------- what Python says of the module */

int gpud_engine_image(gpud_engine *e, gpud_image *image)
{
  const gpud_loading *loading = &e->loading;
  if (!loading->module)
    return -ENOENT;
  *image = (gpud_image){
    .module = loading->module->id,
    .bytes = loading->image,
    .size = loading->image_size,
    .options = loading->options,
    .options_size = loading->options_size,
  };
  return 0;
}

/* Room for one more element in a growing array. */
static int grow(void **array, uint32_t count, uint32_t *capacity, size_t element)
{
  if (count < *capacity)
    return 0;
  uint32_t larger = *capacity ? *capacity * 2 : 8;
  void *grown = realloc(*array, larger * element);
  if (!grown)
    return -ENOMEM;
  *array = grown;
  *capacity = larger;
  return 0;
}

int gpud_engine_module_kernel(gpud_engine *e, const char *name, uint64_t entry, const gpud_param *params,
                              uint32_t param_count, uint32_t params_size, uint32_t static_shared,
                              uint32_t scratch_fixed, uint32_t scratch_per_thread, uint32_t max_threads)
{
  gpud_module *module = e->loading.module;
  if (!module)
    return -ENOENT;
  size_t params_bytes = (size_t)param_count * sizeof *params;
  size_t name_size = strlen(name);
  /* KERNEL_INFO must hold it all. */
  if (module->kernel_count >= MAX_KERNELS || params_size > GPUD_MAX_PARAMS || name_size > GPUD_MAX_TEXT ||
      sizeof(gpud_message_head) + sizeof(gpud_msg_kernel_info) + params_bytes + name_size > GPUD_MAX_MESSAGE)
    return -EMSGSIZE;
  if (entry == 0)
    return -EINVAL;
  void *kernels = module->kernels;
  if (grow(&kernels, module->kernel_count, &module->kernel_capacity, sizeof *module->kernels))
    return -ENOMEM;
  module->kernels = kernels;
  gpud_kernel kernel = {
    .name = strdup(name),
    .entry = entry,
    .params = malloc(params_bytes + 1),
    .param_count = param_count,
    .params_size = params_size,
    .static_shared = static_shared,
    .scratch_fixed = scratch_fixed,
    .scratch_per_thread = scratch_per_thread,
    .max_threads = max_threads,
  };
  if (!kernel.name || !kernel.params) {
    free(kernel.name);
    free(kernel.params);
    return -ENOMEM;
  }
  if (params_bytes)
    memcpy(kernel.params, params, params_bytes);
  module->kernels[module->kernel_count++] = kernel;
  return 0;
}

int gpud_engine_module_global(gpud_engine *e, const char *name, uint64_t address, uint64_t size)
{
  gpud_module *module = e->loading.module;
  if (!module)
    return -ENOENT;
  if (module->variable_count >= MAX_VARIABLES || strlen(name) > GPUD_MAX_TEXT)
    return -EMSGSIZE;
  void *variables = module->variables;
  if (grow(&variables, module->variable_count, &module->variable_capacity, sizeof *module->variables))
    return -ENOMEM;
  module->variables = variables;
  char *copy = strdup(name);
  if (!copy)
    return -ENOMEM;
  module->variables[module->variable_count++] = (gpud_variable){copy, address, size};
  return 0;
}

static int describe(gpud_engine *e, const gpud_module *module)
{
  int rc = 0;
  for (uint32_t i = 0; i < module->kernel_count && rc == 0; i++) {
    const gpud_kernel *kernel = &module->kernels[i];
    gpud_msg_kernel_info m = {
      .module = module->id,
      .kernel = (uint16_t)i,
      .param_count = (uint16_t)kernel->param_count,
      .params_size = kernel->params_size,
      .static_shared = kernel->static_shared,
      .max_threads = kernel->max_threads,
      .name_size = (uint32_t)strlen(kernel->name),
    };
    unsigned char rest[GPUD_MAX_MESSAGE];
    uint32_t params = kernel->param_count * (uint32_t)sizeof *kernel->params;
    memcpy(rest, kernel->params, params);
    memcpy(rest + params, kernel->name, m.name_size);
    rc = gpud_reply(e, GPUD_OP_KERNEL_INFO, &m, sizeof m, rest, params + m.name_size);
  }
  for (uint32_t i = 0; i < module->variable_count && rc == 0; i++) {
    const gpud_variable *variable = &module->variables[i];
    gpud_msg_global_info m = {.module = module->id, .address = variable->address, .size = variable->size};
    rc = gpud_reply(e, GPUD_OP_GLOBAL_INFO, &m, sizeof m, variable->name, (uint32_t)strlen(variable->name));
  }
  return rc;
}

static int watch_variable(gpud_check *check, uint32_t module, const gpud_variable *variable)
{
  char label[200];
  int length = snprintf(label, sizeof label, "the variable %s", variable->name);
  uint32_t fits = length < (int)sizeof label ? (uint32_t)length : (uint32_t)sizeof label - 1;
  return gpud_check_add(check, variable->address, variable->size, variable->size, module, label, fits);
}

/* The loaded module becomes one of the session's. */
static int adopt(gpud_engine *e, gpud_module *module)
{
  int rc = gpud_idmap_add(&e->modules, module->id, (uint64_t)(uintptr_t)module);
  for (uint32_t i = 0; i < module->variable_count && rc == 0; i++) {
    const gpud_variable *variable = &module->variables[i];
    uint32_t access = GPUD_ACCESS_READ | GPUD_ACCESS_WRITE;
    gpud_extent extent = {variable->address, variable->size, GPUD_EXTENT_VARIABLE, access, module->id};
    rc = gpud_memory_add(&e->memory, &extent);
    if (rc == 0 && e->check)
      rc = watch_variable(e->check, module->id, variable);
    if (rc == -EEXIST || rc == -EINVAL)
      rc = 0; /* a second name of a variable, or an empty one */
  }
  if (rc == 0)
    return 0;
  gpud_memory_remove_owned(&e->memory, GPUD_EXTENT_VARIABLE, module->id);
  if (e->check)
    gpud_check_drop_owned(e->check, module->id);
  gpud_idmap_remove(&e->modules, module->id);
  return rc;
}

/* The MODULE_LOAD is complete, answered as `rc` says. */
static int complete(gpud_engine *e, int rc)
{
  uint64_t sequence = e->loading.sequence;
  drop_image(&e->loading);
  gpud_store_release_u32(&e->busy, 0);
  if (rc == 0)
    gpud_connection_publish(e->connection, sequence, e->fault.status != GPUD_STATUS_OK);
  return rc;
}

int gpud_engine_module_commit(gpud_engine *e)
{
  gpud_module *module = e->loading.module;
  if (!module)
    return -ENOENT;
  int rc = adopt(e, module);
  if (rc)
    return rc;
  gpud_store_relaxed_u64(&e->stats.modules, e->modules.count);
  gpud_msg_module_status status = {
    .module = module->id,
    .status = GPUD_STATUS_OK,
    .kernels = module->kernel_count,
    .globals = module->variable_count,
  };
  rc = describe(e, module);
  if (rc == 0)
    rc = gpud_reply_module_status(e, &status, "");
  return complete(e, rc);
}

int gpud_engine_module_fail(gpud_engine *e, uint32_t status, const char *text)
{
  gpud_module *module = e->loading.module;
  if (!module)
    return -ENOENT;
  gpud_msg_module_status m = {.module = module->id, .status = status};
  free_module(module);
  return complete(e, gpud_reply_module_status(e, &m, text));
}
