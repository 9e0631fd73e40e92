#include "memcheck.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ARRAYS (1u << 20)
#define FREED 1024u      /* arrays remembered that are gone */
#define NULL_PAGE 65536u /* addresses below are a null pointer's */
#define LOCAL_FAR 65536u
#define FAR (1ull << 30) /* an array farther away than this has nothing to do with it */

typedef unsigned long long ull;

typedef struct array {
  uint64_t address;
  uint64_t size;
  uint64_t room;
  uint32_t owner;
  char *label;
} array;

struct gpud_check {
  const gpud_check_frame *outer; /* first: compiled code stores its own here before it calls */
  array *live;                   /* sorted, never overlapping */
  uint32_t count;
  uint32_t capacity;
  uint32_t last;       /* where the last access was */
  uint32_t freed_next; /* the oldest of `freed` */
  array freed[FREED];
  uint64_t dynamic; /* where in shared memory */
  uint64_t dynamic_size;
  uint64_t params;
  uint64_t params_size;
  bool bad;
  gpud_check_fault fault;
};
_Static_assert(offsetof(struct gpud_check, outer) == 0, "compiled code stores there");

gpud_check *gpud_check_new(void) { return calloc(1, sizeof(gpud_check)); }

void gpud_check_free(gpud_check *check)
{
  if (!check)
    return;
  for (uint32_t i = 0; i < check->count; i++)
    free(check->live[i].label);
  for (uint32_t i = 0; i < FREED; i++)
    free(check->freed[i].label);
  free(check->live);
  free(check);
}

/* ---------------------------------------------------------------- the table */

/* The first array that begins above `address`. */
static uint32_t first_above(const gpud_check *check, uint64_t address)
{
  uint32_t low = 0;
  uint32_t high = check->count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (check->live[middle].address <= address)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
  return b < a ? a - b < b_size : b - a < a_size;
}

/* Words of the client's: they go into a message that must be text. */
static char *copied(const char *label, uint32_t size)
{
  char *copy = malloc(size + 1u);
  if (!copy)
    return NULL;
  for (uint32_t i = 0; i < size; i++)
    copy[i] = label[i] >= ' ' && label[i] < 0x7f ? label[i] : '?';
  copy[size] = 0;
  return copy;
}

static int make_room(gpud_check *check)
{
  if (check->count < check->capacity)
    return 0;
  if (check->count >= MAX_ARRAYS)
    return -EMFILE;
  uint32_t capacity = check->capacity ? check->capacity * 2 : 64;
  array *live = realloc(check->live, capacity * sizeof *live);
  if (!live)
    return -ENOMEM;
  check->live = live;
  check->capacity = capacity;
  return 0;
}

int gpud_check_add(gpud_check *check, uint64_t address, uint64_t size, uint64_t room, uint32_t owner, const char *label,
                   uint32_t label_size)
{
  if (size == 0 || room < size || address > UINT64_MAX - room)
    return -EINVAL;
  uint32_t at = first_above(check, address);
  const array *before = at > 0 ? &check->live[at - 1] : NULL;
  const array *behind = at < check->count ? &check->live[at] : NULL;
  if ((before && overlap(before->address, before->room, address, room)) ||
      (behind && overlap(behind->address, behind->room, address, room)))
    return -EEXIST;
  int rc = make_room(check);
  if (rc)
    return rc;
  char *copy = copied(label, label_size);
  if (!copy)
    return -ENOMEM;
  /* What was there before is forgotten: its place is this one's now. */
  for (uint32_t i = 0; i < FREED; i++)
    if (overlap(check->freed[i].address, check->freed[i].size, address, room))
      check->freed[i].size = 0;
  memmove(&check->live[at + 1], &check->live[at], (check->count - at) * sizeof *check->live);
  check->live[at] = (array){address, size, room, owner, copy};
  check->count++;
  check->last = 0;
  return 0;
}

static void retire(gpud_check *check, uint32_t at)
{
  array *slot = &check->freed[check->freed_next];
  check->freed_next = (check->freed_next + 1) % FREED;
  free(slot->label);
  *slot = check->live[at];
}

int gpud_check_drop(gpud_check *check, uint64_t address)
{
  uint32_t at = first_above(check, address);
  if (at == 0 || check->live[at - 1].address != address || check->live[at - 1].owner)
    return -ENOENT;
  at--;
  retire(check, at);
  check->count--;
  memmove(&check->live[at], &check->live[at + 1], (check->count - at) * sizeof *check->live);
  check->last = 0;
  return 0;
}

void gpud_check_drop_owned(gpud_check *check, uint32_t owner)
{
  uint32_t kept = 0;
  for (uint32_t i = 0; i < check->count; i++) {
    if (check->live[i].owner == owner)
      retire(check, i);
    else
      check->live[kept++] = check->live[i];
  }
  check->count = kept;
  check->last = 0;
}

/* ---------------------------------------------------------------- what may be touched */

static bool within(uint64_t address, uint64_t size, uint64_t begin, uint64_t extent)
{
  return address >= begin && address - begin <= extent && size <= extent - (address - begin);
}

static bool in_array(gpud_check *check, uint64_t address, uint64_t size)
{
  if (check->last < check->count) {
    const array *a = &check->live[check->last];
    if (within(address, size, a->address, a->size))
      return true;
  }
  uint32_t at = first_above(check, address);
  if (at == 0 || !within(address, size, check->live[at - 1].address, check->live[at - 1].size))
    return false;
  check->last = at - 1;
  return true;
}

static bool in_local(const gpud_check_frame *frame, uint64_t address, uint64_t size)
{
  for (; frame; frame = frame->outer)
    for (uint64_t i = 0; i < frame->count; i++)
      if (within(address, size, frame->ranges[i].address, frame->ranges[i].size))
        return true;
  return false;
}

static uint64_t static_shared(const gpud_check_frame *frame)
{
  while (frame->outer)
    frame = frame->outer;
  return frame->shared;
}

static bool in_shared(const gpud_check *check, const gpud_kernel_context *context, const gpud_check_frame *frame,
                      uint64_t address, uint64_t size)
{
  uint64_t shared = (uint64_t)(uintptr_t)context->shared;
  return within(address, size, shared, static_shared(frame)) ||
         within(address, size, shared + check->dynamic, check->dynamic_size);
}

/* What the blocks of a cooperative launch meet at. */
static bool in_workspace(const gpud_kernel_context *context, uint64_t address, uint64_t size)
{
  const gpud_kernel_workspace *workspace = context->workspace;
  return workspace && within(address, size, (uint64_t)(uintptr_t)workspace, sizeof *workspace);
}

static bool allowed(gpud_check *check, const gpud_kernel_context *context, uint64_t address, uint64_t size,
                    const gpud_check_site *site, const gpud_check_frame *frame)
{
  bool reads = site->kind == GPUD_CHECK_READ;
  if (site->kind == GPUD_CHECK_CALL)
    return false;
  switch (site->space) {
  case GPUD_CHECK_SHARED:
    return in_shared(check, context, frame, address, size);
  case GPUD_CHECK_LOCAL:
    return in_local(frame, address, size);
  case GPUD_CHECK_PARAM: /* a kernel's, or a function's: those are variables of its caller's */
    return (reads && within(address, size, check->params, check->params_size)) || in_local(frame, address, size);
  case GPUD_CHECK_GENERIC:
    return in_array(check, address, size) || in_workspace(context, address, size) ||
           in_shared(check, context, frame, address, size) || in_local(frame, address, size) ||
           (reads && within(address, size, check->params, check->params_size));
  default:
    return in_array(check, address, size) || in_workspace(context, address, size);
  }
}

/* ---------------------------------------------------------------- the words for it */

static uint64_t gap(const array *a, uint64_t address)
{
  return address < a->address ? a->address - address : address - (a->address + a->size);
}

static void near_array(const array *a, uint64_t address, uint64_t size, char *text, size_t most)
{
  if (address < a->address && a->address - address < size)
    snprintf(text, most, "whose first %llu bytes are before %s (%llu bytes)", (ull)(a->address - address), a->label,
             (ull)a->size);
  else if (address < a->address)
    snprintf(text, most, "%llu bytes before %s (%llu bytes)", (ull)(a->address - address), a->label, (ull)a->size);
  else if (address - a->address < a->size)
    snprintf(text, most, "whose last %llu bytes are past the end of %s (%llu bytes)",
             (ull)(address + size - (a->address + a->size)), a->label, (ull)a->size);
  else if (address - a->address == a->size)
    snprintf(text, most, "just past the end of %s (%llu bytes)", a->label, (ull)a->size);
  else
    snprintf(text, most, "%llu bytes past the end of %s (%llu bytes)", (ull)(address - (a->address + a->size)),
             a->label, (ull)a->size);
}

static bool near_any(const gpud_check *check, uint64_t address)
{
  uint32_t at = first_above(check, address);
  return (at > 0 && (address - check->live[at - 1].address < check->live[at - 1].room ||
                     gap(&check->live[at - 1], address) < FAR)) ||
         (at < check->count && gap(&check->live[at], address) < FAR);
}

static void where_global(const gpud_check *check, uint64_t address, uint64_t size, char *text, size_t most)
{
  if (address < NULL_PAGE) {
    snprintf(text, most, "through a null pointer");
    return;
  }
  uint32_t at = first_above(check, address);
  const array *before = at > 0 ? &check->live[at - 1] : NULL;
  const array *behind = at < check->count ? &check->live[at] : NULL;
  bool inside = before && address - before->address < before->room;
  for (uint32_t i = 0; i < FREED && !inside; i++) {
    const array *a = &check->freed[i];
    if (a->size && a->label && overlap(a->address, a->size, address, size)) {
      snprintf(text, most, "in %s (%llu bytes), which was freed", a->label, (ull)a->size);
      return;
    }
  }
  const array *nearest = before;
  if (!nearest || (behind && !inside && gap(behind, address) < gap(nearest, address)))
    nearest = behind;
  if (nearest && (inside || gap(nearest, address) < FAR))
    near_array(nearest, address, size, text, most);
  else
    snprintf(text, most, "far from any array");
}

static void where_shared(const gpud_check *check, const gpud_check_frame *frame, uint64_t offset, char *text,
                         size_t most)
{
  uint64_t own = static_shared(frame);
  uint64_t end = check->dynamic_size ? check->dynamic + check->dynamic_size : own;
  if (offset > INT64_MAX)
    snprintf(text, most, "%llu bytes before the block's shared memory", (ull)-offset);
  else if (offset < own)
    snprintf(text, most, "which goes past the end of the block's %llu bytes of static shared memory", (ull)own);
  else if (offset >= end || !check->dynamic_size)
    snprintf(text, most, "%llu bytes past the end of the block's %llu bytes of shared memory", (ull)(offset - end),
             (ull)(own + check->dynamic_size));
  else if (offset < check->dynamic)
    snprintf(text, most, "%llu bytes before the block's %llu bytes of dynamic shared memory",
             (ull)(check->dynamic - offset), (ull)check->dynamic_size);
  else
    snprintf(text, most, "which goes past the end of the block's %llu bytes of shared memory",
             (ull)(own + check->dynamic_size));
}

/* The function's or a caller's local memory that is nearest, if one is so near that it can be meant. */
static bool where_local(const gpud_check_frame *frame, uint64_t address, char *text, size_t most)
{
  const char *whose = "the function's";
  uint64_t nearest = LOCAL_FAR;
  for (const gpud_check_frame *f = frame; f; f = f->outer, whose = "a caller's")
    for (uint64_t i = 0; i < f->count; i++) {
      uint64_t begin = f->ranges[i].address;
      uint64_t size = f->ranges[i].size;
      bool before = address < begin;
      uint64_t apart = before ? begin - address : address - begin < size ? 0 : address - begin - size;
      if (apart >= nearest)
        continue;
      nearest = apart;
      if (!before && address - begin < size)
        snprintf(text, most, "which goes past the end of %s %llu bytes of local memory", whose, (ull)size);
      else
        snprintf(text, most, "%llu bytes %s %s %llu bytes of local memory", (ull)apart,
                 before ? "before" : "past the end of", whose, (ull)size);
    }
  return nearest < LOCAL_FAR;
}

static void where(const gpud_check *check, const gpud_kernel_context *context, uint64_t address, uint64_t size,
                  const gpud_check_site *site, const gpud_check_frame *frame, char *text, size_t most)
{
  uint64_t shared = (uint64_t)(uintptr_t)context->shared;
  bool generic = site->space == GPUD_CHECK_GENERIC;
  if (site->kind == GPUD_CHECK_CALL) {
    snprintf(text, most, "where the module has no function with these parameters");
    return;
  }
  if (address % site->alignment) {
    snprintf(text, most, "an address that is not a multiple of %u", site->alignment);
    return;
  }
  if (site->space == GPUD_CHECK_SHARED || (generic && within(address, 0, shared, GPUD_CHECK_SHARED_MOST))) {
    where_shared(check, frame, address - shared, text, most);
    return;
  }
  if (site->space == GPUD_CHECK_LOCAL || (generic && !near_any(check, address))) {
    if (where_local(frame, address, text, most))
      return;
  }
  if (site->space == GPUD_CHECK_LOCAL)
    snprintf(text, most, "outside of the thread's local memory");
  else if (site->space == GPUD_CHECK_PARAM)
    snprintf(text, most, "outside of the kernel's %llu bytes of parameters", (ull)check->params_size);
  else
    where_global(check, address, size, text, most);
}

void gpud_check_place(const gpud_check_site *site, char *text, size_t most)
{
  char source[256] = "";
  char inlined[64] = "";
  if (site->inlined_line)
    snprintf(inlined, sizeof inlined, ", inlined at line %u", site->inlined_line);
  if (site->line && site->file)
    snprintf(source, sizeof source, "%.160s:%u%s, ", site->file, site->line, inlined);
  else if (site->line)
    snprintf(source, sizeof source, "line %u%s, ", site->line, inlined);
  snprintf(text, most, "%s%.60s at line %u of the PTX", source, site->text, site->ptx_line);
}

void gpud_check_begin(gpud_check *check, uint64_t dynamic, uint64_t dynamic_size, const void *params,
                      uint64_t params_size)
{
  check->dynamic = dynamic;
  check->dynamic_size = dynamic_size;
  check->params = (uint64_t)(uintptr_t)params;
  check->params_size = params_size;
  check->outer = NULL;
  check->bad = false;
}

static void what(const gpud_check_site *site, uint64_t address, uint64_t size, char *text, size_t most)
{
  static const char *const kinds[] = {"read", "write", "atomic operation"};
  static const char *const spaces[] = {"global", "shared", "local", "constant", "parameter"};
  if (site->kind >= GPUD_CHECK_CALL)
    snprintf(text, most, "invalid call of 0x%llx", (ull)address);
  else
    snprintf(text, most, "%s %s %s of %llu bytes at 0x%llx", address % site->alignment ? "misaligned" : "invalid",
             site->space < GPUD_CHECK_GENERIC ? spaces[site->space] : "memory", kinds[site->kind], (ull)size,
             (ull)address);
}

void gpud_check_access(gpud_kernel_context *context, uint64_t address, uint64_t size, uint32_t thread,
                       const gpud_check_site *site, const gpud_check_frame *frame)
{
  gpud_check *check = context->checked;
  if (size == 0 || (address % site->alignment == 0 && allowed(check, context, address, size, site, frame)))
    return;
  char access[96];
  char near[384];
  char code[384];
  what(site, address, size, access, sizeof access);
  where(check, context, address, size, site, frame, near, sizeof near);
  gpud_check_place(site, code, sizeof code);
  uint32_t x = context->block[0];
  uint32_t y = context->block[1];
  gpud_check_fault *fault = &check->fault;
  fault->address = address;
  fault->thread = thread;
  snprintf(fault->text, sizeof fault->text, "%s, %.300s; %.300s; thread (%u, %u, %u) of block (%u, %u, %u)", access,
           near, code, thread % x, thread / x % y, thread / x / y, context->current_block[0], context->current_block[1],
           context->current_block[2]);
  check->bad = true;
  gpud_fault_leave();
}

const gpud_check_fault *gpud_check_found(const gpud_check *check) { return check->bad ? &check->fault : NULL; }
