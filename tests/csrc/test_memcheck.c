/* The check of kernels' accesses against the simplest model: a byte of memory, a byte that says whose it is. */
#include "memcheck.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "fault.h"

#define BASE 0x100000000ull
#define BYTES 512u
#define ARRAYS 24u

static uint64_t state = 88172645463325252ull;
static uint64_t choose(uint64_t below) { return random_next(&state) % below; }

typedef struct attempt {
  gpud_kernel_context *context;
  uint64_t address;
  uint64_t size;
  const gpud_check_site *site;
  const gpud_check_frame *frame;
  uint32_t thread;
  bool came_back;
} attempt;

static void ask(void *argument)
{
  attempt *a = argument;
  gpud_check_access(a->context, a->address, a->size, a->thread, a->site, a->frame);
  a->came_back = true;
}

typedef struct launch {
  gpud_check *check;
  gpud_kernel_context context;
  unsigned char shared[256];
  struct {
    gpud_check_frame head;
    uint64_t ranges[4];
  } frame, caller;
  uint64_t params[4];
} launch;

#define STATIC 40u
#define DYNAMIC 48u
#define DYNAMIC_SIZE 64u

static launch *begin(gpud_check *check)
{
  launch *l = calloc(1, sizeof *l);
  CHECK(l);
  l->check = check;
  l->context.shared = l->shared;
  l->context.block[0] = 4;
  l->context.block[1] = 2;
  l->context.block[2] = 1;
  l->context.current_block[0] = 5;
  l->context.checked = check;
  l->caller.head.shared = STATIC;
  l->caller.head.count = 1;
  l->caller.ranges[0] = BASE * 4;
  l->caller.ranges[1] = 12;
  l->frame.head.outer = &l->caller.head;
  l->frame.head.count = 2;
  l->frame.ranges[0] = BASE * 5;
  l->frame.ranges[1] = 8;
  l->frame.ranges[2] = BASE * 6;
  l->frame.ranges[3] = 5;
  gpud_check_begin(check, DYNAMIC, DYNAMIC_SIZE, l->params, sizeof l->params);
  return l;
}

/* What is said of the access; NULL: nothing, it may be made. */
static const char *said(launch *l, uint32_t space, uint32_t kind, uint64_t address, uint64_t size, uint32_t alignment)
{
  const gpud_check_site site = {
    .space = space, .kind = kind, .alignment = alignment, .ptx_line = 70, .line = 7, .text = "ld.thing"};
  attempt a = {&l->context, address, size, &site, &l->frame.head, 6, false};
  gpud_fault_net net;
  gpud_check_begin(l->check, DYNAMIC, DYNAMIC_SIZE, l->params, sizeof l->params);
  int rc = gpud_fault_guard(&net, ask, &a);
  const gpud_check_fault *found = gpud_check_found(l->check);
  CHECK((rc == 0) == a.came_back && (rc == 0) == (found == NULL));
  if (!found)
    return NULL;
  CHECK_EQUAL(found->address, address);
  CHECK_EQUAL(found->thread, 6);
  CHECK(strstr(found->text, "thread (2, 1, 0) of block (5, 0, 0)"));
  CHECK(strstr(found->text, "line 7, ld.thing at line 70 of the PTX"));
  return found->text;
}

static bool fine(launch *l, uint32_t space, uint64_t address, uint64_t size)
{
  return said(l, space, GPUD_CHECK_READ, address, size, 1) == NULL;
}

/* ---------------------------------------------------------------- arrays */

typedef struct model {
  uint8_t array[BYTES]; /* 1 + the array that a kernel may touch this byte of, or 0 */
  uint8_t room[BYTES];  /* likewise, whose room it is */
  uint64_t address[ARRAYS];
  uint64_t size[ARRAYS];
} model;

static void add(gpud_check *check, model *m, uint32_t i)
{
  uint64_t at = choose(BYTES - 40);
  uint64_t size = choose(24);
  uint64_t room = size + choose(16);
  int wanted = size ? 0 : -EINVAL;
  for (uint64_t b = at; b < at + room && wanted == 0; b++)
    if (m->room[b])
      wanted = -EEXIST;
  char label[16];
  int length = snprintf(label, sizeof label, "array %u", i);
  CHECK_EQUAL(gpud_check_add(check, BASE + at, size, room, i % 3, label, (uint32_t)length), wanted);
  if (wanted)
    return;
  m->address[i] = at;
  m->size[i] = room;
  memset(m->room + at, (int)i + 1, room);
  memset(m->array + at, (int)i + 1, size);
}

static void forget(model *m, uint32_t i)
{
  memset(m->room + m->address[i], 0, m->size[i]);
  memset(m->array + m->address[i], 0, m->size[i]);
  m->size[i] = 0;
}

static void look(launch *l, const model *m)
{
  uint64_t at = choose(BYTES - 16);
  uint64_t size = 1 + choose(16);
  bool allowed = m->array[at] != 0;
  for (uint64_t b = at; b < at + size; b++)
    allowed = allowed && m->array[b] == m->array[at];
  CHECK_EQUAL(fine(l, choose(2) ? GPUD_CHECK_GLOBAL : GPUD_CHECK_GENERIC, BASE + at, size), allowed);
}

static void test_arrays_agree_with_a_model(void)
{
  gpud_check *check = gpud_check_new();
  launch *l = begin(check);
  model m = {0};
  for (int turn = 0; turn < 100000; turn++) {
    uint32_t i = (uint32_t)choose(ARRAYS);
    switch (choose(8)) {
    case 0:
    case 1:
      if (!m.size[i])
        add(check, &m, i);
      break;
    case 2: { /* the client's own are dropped one by one, a module's all together */
      if (!m.size[i])
        break;
      CHECK_EQUAL(gpud_check_drop(check, BASE + m.address[i]), i % 3 ? -ENOENT : 0);
      if (i % 3 == 0)
        forget(&m, i);
      break;
    }
    case 3:
      if (choose(20))
        break;
      gpud_check_drop_owned(check, 1 + i % 2);
      for (uint32_t j = 0; j < ARRAYS; j++)
        if (m.size[j] && j % 3 == 1 + i % 2)
          forget(&m, j);
      break;
    default:
      look(l, &m);
    }
  }
  free(l);
  gpud_check_free(check);
}

static void test_the_ends_of_the_address_space(void)
{
  gpud_check *check = gpud_check_new();
  launch *l = begin(check);
  CHECK_EQUAL(gpud_check_add(check, UINT64_MAX - 7, 8, 8, 0, "last", 4), -EINVAL);
  CHECK_EQUAL(gpud_check_add(check, UINT64_MAX - 8, 8, 8, 0, "last", 4), 0);
  CHECK_EQUAL(gpud_check_add(check, 8, UINT64_MAX, UINT64_MAX, 0, "all", 3), -EINVAL);
  CHECK_EQUAL(gpud_check_add(check, 8, 9, 8, 0, "less", 4), -EINVAL);
  CHECK(fine(l, GPUD_CHECK_GLOBAL, UINT64_MAX - 8, 8));
  CHECK(!fine(l, GPUD_CHECK_GLOBAL, UINT64_MAX - 8, 9));
  CHECK(!fine(l, GPUD_CHECK_GLOBAL, UINT64_MAX - 1, 4)); /* wraps */
  CHECK(!fine(l, GPUD_CHECK_GENERIC, UINT64_MAX, UINT64_MAX));
  CHECK(strstr(said(l, GPUD_CHECK_GLOBAL, GPUD_CHECK_WRITE, 8, 4, 4), "through a null pointer"));
  CHECK(fine(l, GPUD_CHECK_GLOBAL, 1, 0)); /* a copy of nothing */
  free(l);
  gpud_check_free(check);
}

/* ---------------------------------------------------------------- the other kinds of memory */

static void test_shared_memory_has_two_parts(void)
{
  gpud_check *check = gpud_check_new();
  launch *l = begin(check);
  uint64_t shared = (uint64_t)(uintptr_t)l->shared;
  for (uint64_t at = 0; at < 128; at++)
    for (uint64_t size = 1; size <= 16; size++) {
      bool allowed = at + size <= STATIC || (at >= DYNAMIC && at + size <= DYNAMIC + DYNAMIC_SIZE);
      CHECK_EQUAL(fine(l, GPUD_CHECK_SHARED, shared + at, size), allowed);
      CHECK_EQUAL(fine(l, GPUD_CHECK_GENERIC, shared + at, size), allowed);
      CHECK(!fine(l, GPUD_CHECK_GLOBAL, shared + at, size));
    }
  CHECK(strstr(said(l, GPUD_CHECK_SHARED, GPUD_CHECK_READ, shared - 4, 4, 4), "4 bytes before the block's shared"));
  free(l);
  gpud_check_free(check);
}

static void test_local_memory_is_the_function_s_and_its_callers(void)
{
  gpud_check *check = gpud_check_new();
  launch *l = begin(check);
  const uint64_t ranges[][2] = {{BASE * 4, 12}, {BASE * 5, 8}, {BASE * 6, 5}};
  for (int i = 0; i < 3; i++)
    for (uint64_t at = 0; at < 16; at++)
      for (uint64_t size = 1; size <= 8; size++) {
        bool allowed = at + size <= ranges[i][1];
        CHECK_EQUAL(fine(l, GPUD_CHECK_LOCAL, ranges[i][0] + at, size), allowed);
        CHECK_EQUAL(fine(l, GPUD_CHECK_GENERIC, ranges[i][0] + at, size), allowed);
      }
  const uint32_t spaces[] = {GPUD_CHECK_LOCAL, GPUD_CHECK_GENERIC};
  for (int i = 0; i < 2; i++) {
    CHECK(strstr(said(l, spaces[i], 0, BASE * 4 + 16, 4, 4), "4 bytes past the end of a caller's 12 bytes of local"));
    CHECK(strstr(said(l, spaces[i], 0, BASE * 5 - 8, 4, 4), "8 bytes before the function's 8 bytes of local memory"));
    CHECK(strstr(said(l, spaces[i], 0, BASE * 5 + 4, 8, 4),
                 "which goes past the end of the function's 8 bytes of local"));
  }
  CHECK(strstr(said(l, GPUD_CHECK_LOCAL, 0, BASE * 50, 4, 4), "outside of the thread's local memory"));
  CHECK(strstr(said(l, GPUD_CHECK_GENERIC, 0, BASE * 50, 4, 4), "far from any array"));
  free(l);
  gpud_check_free(check);
}

static void test_a_call_of_no_function(void)
{
  gpud_check *check = gpud_check_new();
  launch *l = begin(check);
  CHECK_EQUAL(gpud_check_add(check, BASE, 40, 40, 0, "array", 5), 0);
  const char *text = said(l, GPUD_CHECK_GENERIC, GPUD_CHECK_CALL, BASE, 1, 1);
  CHECK(text && strstr(text, "invalid call of 0x100000000, where the module has no function with these parameters"));
  free(l);
  gpud_check_free(check);
}

static void test_parameters_are_only_read(void)
{
  gpud_check *check = gpud_check_new();
  launch *l = begin(check);
  uint64_t params = (uint64_t)(uintptr_t)l->params;
  const uint32_t spaces[] = {GPUD_CHECK_PARAM, GPUD_CHECK_GENERIC};
  for (int i = 0; i < 2; i++) {
    CHECK(!said(l, spaces[i], GPUD_CHECK_READ, params + 24, 8, 8));
    CHECK(said(l, spaces[i], GPUD_CHECK_READ, params + 32, 1, 1));
    CHECK(said(l, spaces[i], GPUD_CHECK_WRITE, params + 24, 8, 8));
    CHECK(said(l, spaces[i], GPUD_CHECK_ATOMIC, params + 24, 8, 8));
    CHECK(!said(l, spaces[i], GPUD_CHECK_READ, BASE * 4 + 8, 4, 4)); /* a function's are its caller's variables */
    CHECK(said(l, spaces[i], GPUD_CHECK_READ, BASE * 4 + 12, 4, 4));
  }
  free(l);
  gpud_check_free(check);
}

/* ---------------------------------------------------------------- the words */

static void test_what_is_said(void)
{
  gpud_check *check = gpud_check_new();
  launch *l = begin(check);
  const uint32_t w = GPUD_CHECK_WRITE;
  CHECK_EQUAL(gpud_check_add(check, BASE, 40, 512, 0, "int32[10] made at a.py:1", 24), 0);
  CHECK_EQUAL(gpud_check_add(check, BASE + 1024, 40, 512, 0, "b\n\xff", 3), 0);
  CHECK(strstr(said(l, 0, w, BASE + 48, 4, 4),
               "invalid global write of 4 bytes at 0x100000030, 8 bytes past the end of int32[10] made at a.py:1 (40 "
               "bytes); "));
  CHECK(strstr(said(l, 0, w, BASE + 40, 4, 4), "just past the end of int32[10] made at a.py:1 (40 bytes); "));
  CHECK(strstr(said(l, 0, w, BASE + 36, 8, 4), "whose last 4 bytes are past the end of int32[10]"));
  CHECK(strstr(said(l, 0, w, BASE - 4, 8, 4), "whose first 4 bytes are before int32[10]"));
  CHECK(strstr(said(l, 0, w, BASE - 8, 8, 4), "8 bytes before int32[10]"));
  CHECK(strstr(said(l, 0, w, BASE + 1020, 4, 4), "4 bytes before b?? (40 bytes)"));      /* nearer than the first */
  CHECK(strstr(said(l, 0, w, BASE + 508, 4, 4), "468 bytes past the end of int32[10]")); /* in the room of the first */
  CHECK(strstr(said(l, 0, w, BASE + 2, 4, 4),
               "misaligned global write of 4 bytes at 0x100000002, an address that is not "
               "a multiple of 4"));
  CHECK(
      strstr(said(l, 0, 2, BASE * 9, 4, 4), "invalid global atomic operation of 4 bytes at 0x900000000, far from any"));
  CHECK_EQUAL(gpud_check_drop(check, BASE), 0);
  CHECK(strstr(said(l, 0, w, BASE + 4, 4, 4), "in int32[10] made at a.py:1 (40 bytes), which was freed"));
  CHECK_EQUAL(gpud_check_add(check, BASE + 8, 4, 4, 0, "new", 3), 0);
  CHECK(!strstr(said(l, 0, w, BASE + 4, 4, 4), "freed")); /* its place is used again */
  CHECK(strstr(said(l, 0, w, BASE + 4, 4, 4), "4 bytes before new"));
  free(l);
  gpud_check_free(check);
}

/* Labels are as long as the client's messages let them be, file names as long as the program's. */
static void test_long_words_are_cut(void)
{
  gpud_check *check = gpud_check_new();
  launch *l = begin(check);
  char label[2000];
  memset(label, 'x', sizeof label);
  CHECK_EQUAL(gpud_check_add(check, BASE, 4, 4, 0, label, sizeof label), 0);
  char file[3000];
  memset(file, 'f', sizeof file - 1);
  file[sizeof file - 1] = 0;
  const gpud_check_site site = {
    .alignment = 1, .ptx_line = ~0u, .line = ~0u, .inlined_line = ~0u, .file = file, .text = file};
  attempt a = {&l->context, BASE + 4, 4, &site, &l->frame.head, 6, false};
  gpud_fault_net net;
  CHECK_EQUAL(gpud_fault_guard(&net, ask, &a), -EFAULT);
  const gpud_check_fault *found = gpud_check_found(check);
  CHECK(strlen(found->text) < sizeof found->text && strstr(found->text, "thread (2, 1, 0) of block (5, 0, 0)"));
  free(l);
  gpud_check_free(check);
}

int main(void)
{
  test_arrays_agree_with_a_model();
  test_the_ends_of_the_address_space();
  test_shared_memory_has_two_parts();
  test_local_memory_is_the_function_s_and_its_callers();
  test_parameters_are_only_read();
  test_a_call_of_no_function();
  test_what_is_said();
  test_long_words_are_cut();
  return 0;
}
