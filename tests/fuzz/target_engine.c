/*
 * Invariant: whatever commands a client posts, in whatever order, the engine's loop ends with one of GPUD_RUN_*; the first
 * command that fails is reported once, by its number, for a reason that is the client's; each load and query that completes is
 * answered once; what completes is what was posted; and detaching gives all of it back, scrubbed, for the session after it.
 *
 * An input is one session on an engine that goes on: how it begins and ends (a byte), when memory runs out (a byte), then commands, each an op and then its fields,
 * most of them a byte that picks a usual value, an odd one, or says that the value itself follows. So most bytes mean something, and a
 * change of one byte is a change of one field. All of it runs on this thread: what is posted first is run afterwards.
 */
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine_kernels.h"
#include "fuzz.h"
#include "internal.h"

#define COMMANDS 64u /* of a session at most */
#define SLOTS 16384u /* room for all of them and all that is said to them: nobody ever waits for room */
#define MEMORY (8 * MiB)
#define PROBE 1000u /* a region of ours, by which memory that should be zero is looked at */
#define PROBE_AT (100 * CHUNK)

#define BEGUN 128u /* in an input's first byte, beside its ending */

enum ending { END_CLOSE, END_HANG_UP = 4, END_INTERRUPT, END_HANG_UP_COMPILING, END_CLOSE_EARLY, ENDINGS };
/* Ops that are no commands: what else a client can do. */
enum { DO_POKE = 200, DO_RAW, DO_RAW_SEQUENCE, DO_RAW_WORD };

static const uint8_t OPS[] = {
  GPUD_OP_REGION_ADD,
  GPUD_OP_REGION_DROP,
  GPUD_OP_MAP,
  GPUD_OP_UNMAP,
  GPUD_OP_COPY_IN,
  GPUD_OP_COPY_OUT,
  GPUD_OP_COPY,
  GPUD_OP_FILL,
  GPUD_OP_WRITE,
  GPUD_OP_MODULE_LOAD,
  GPUD_OP_LAUNCH,
  GPUD_OP_STREAM_CREATE,
  GPUD_OP_EVENT_RECORD,
  GPUD_OP_EVENT_WAIT,
  GPUD_OP_EVENT_QUERY,
  GPUD_OP_SYNCHRONIZE,
  GPUD_OP_STREAM_DESTROY,
  GPUD_OP_EVENT_DESTROY,
  GPUD_OP_MODULE_UNLOAD,
  GPUD_OP_DATA,
  DO_POKE,
  DO_RAW,
  DO_RAW_SEQUENCE,
  DO_RAW_WORD,
};

static gpud_engine *engine;
static gpud_connection *client;
static gpud_region *region, *probe;
static gpud_welcome welcome;
static uint8_t posted_ops[COMMANDS + 16]; /* by sequence number */
static unsigned ending;
static uint32_t committed, unloaded; /* modules */
static int trap_compiled;
static int raw; /* a message went out that the client's end did not count */
static uint64_t variables[8][32];

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
  /* A kernel's trap is the device's to catch. */
  return "handle_segv=0:handle_sigbus=0:handle_sigill=0:handle_sigfpe=0:detect_stack_use_after_return=0";
}

/* ---------------------------------------------------------------- memory that runs out */

static uint32_t scarce; /* while the engine runs: the allocation, counted from here, that fails; 0: none does */

static int fails(void) { return scarce && --scarce == 0; }

/* The linker leads the calls of all sources here (--wrap). */
#define WRAPPED(type, name, parameters, arguments)                                                                     \
  type __real_##name parameters;                                                                                       \
  type __wrap_##name parameters;                                                                                       \
  type __wrap_##name parameters { return fails() ? NULL : __real_##name arguments; }
WRAPPED(void *, malloc, (size_t size), (size))
WRAPPED(void *, calloc, (size_t count, size_t size), (count, size))
WRAPPED(void *, realloc, (void *memory, size_t size), (memory, size))
WRAPPED(char *, strdup, (const char *text), (text))

/* ---------------------------------------------------------------- values */

static const uint64_t ODD[] = {0,
                               1,
                               3,
                               7,
                               4095,
                               4097,
                               CHUNK - 1,
                               CHUNK + 1,
                               63 * MiB,
                               256 * MiB,
                               256 * MiB - CHUNK,
                               1ull << 31,
                               UINT32_MAX,
                               1ull << 32,
                               1ull << 63,
                               UINT64_MAX,
                               -CHUNK,
                               -4096ull,
                               65535,
                               65536};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static uint64_t value(fuzz_input *in, const uint64_t *usual, size_t count)
{
  uint8_t pick = fuzz_byte(in);
  if (pick < 224)
    return usual[pick % count];
  if (pick < 246)
    return ODD[pick % COUNT(ODD)];
  return pick < 252 ? fuzz_word(in, 2) : fuzz_word(in, 8);
}

#define VALUE(in, ...) value(in, (const uint64_t[]){__VA_ARGS__}, COUNT(((const uint64_t[]){__VA_ARGS__})))

static uint32_t an_id(fuzz_input *in)
{
  uint32_t id = (uint32_t)VALUE(in, 0, 1, 2, 3);
  return id == PROBE ? 0 : id;
}

static uint32_t a_region(fuzz_input *in)
{
  uint32_t region_number = (uint32_t)VALUE(in, 0, 0, 0, 0, 1, 2);
  return region_number == PROBE ? 0 : region_number;
}

static uint64_t an_address(fuzz_input *in)
{
  uint8_t pick = fuzz_byte(in);
  if (pick >= 250) /* of a module's variable, perhaps */
    return (uint64_t)(uintptr_t)variables[pick % COUNT(variables)] + fuzz_byte(in);
  uint64_t at =
      pick < 128 ? (pick & 3) * CHUNK + (uint64_t)(pick >> 2) * 64 : (pick & 15) * CHUNK - (pick >> 4 & 7) * 8;
  return welcome.window_base + at + (pick & 1 ? VALUE(in, 0, 1, 2, 4, 8, 4096) : 0);
}

static uint64_t a_chunk(fuzz_input *in)
{
  return welcome.window_base + VALUE(in, 0, CHUNK, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK, 127 * CHUNK, 128 * CHUNK, -CHUNK);
}

static uint64_t a_length(fuzz_input *in)
{
  return VALUE(in, 0, 1, 2, 8, 15, 16, 64, 100, 1000, 4096, 65536, MiB, CHUNK, CHUNK + 64);
}

/* ---------------------------------------------------------------- posting */

static gpud_endpoint *endpoint(void) { return gpud_connection_endpoint(client); }

static int post(uint8_t op, uint32_t stream, const void *body, size_t size)
{
  int64_t sequence = gpud_connection_post(client, op, stream, body, (uint32_t)size, 0);
  if (sequence > 0 && !raw)
    posted_ops[sequence] = op;
  return sequence > 0;
}

/* The right descriptor for a region of `size` bytes, or a wrong one. None only where nobody waits for it. */
static void offer(fuzz_input *in, uint64_t size)
{
  uint8_t pick = fuzz_byte(in);
  int pair[2], fd;
  switch (pick < 200 ? 0 : pick % 8) {
  case 1: /* not sealed */
  case 2: /* of another size */
    fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, 4096 * (pick % 8)) == 0);
    if (pick % 8 == 2)
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    break;
  case 3:
    fd = eventfd(0, EFD_CLOEXEC);
    break;
  case 4: /* one that may hold up whoever closes it */
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    fd = pair[0];
    close(pair[1]);
    break;
  case 5:
    fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    break;
  case 6:
    fd = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    break;
  case 7:
    if (ending == END_HANG_UP)
      return;
    /* fall through */
  default:
    fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0);
    if (size <= 4 * MiB)
      CHECK_EQUAL(ftruncate(fd, (off_t)size), 0);
    fcntl(fd, F_ADD_SEALS,
          F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (pick >= 190 && pick < 200 ? F_SEAL_FUTURE_WRITE : 0));
  }
  CHECK(fd >= 0);
  CHECK_EQUAL(endpoint()->ops->region_offer(endpoint(), &(gpud_region_offer){.fd = fd}, in_good_time()), 0);
  close(fd);
}

static int post_region_add(fuzz_input *in, uint32_t stream)
{
  gpud_msg_region_add m = {.region = an_id(in), .access = (uint32_t)VALUE(in, 0, 1, 2, 3, 3, 3)};
  m.size = VALUE(in, 4096, 8192, 65536, MiB, 4 * MiB);
  m.address = VALUE(in, 0, 0, 0, 16 * CHUNK, 16 * CHUNK + 4096, 17 * CHUNK, 4096, CHUNK);
  m.address += m.address ? welcome.window_base : 0;
  offer(in, m.size);
  return post(GPUD_OP_REGION_ADD, stream, &m, sizeof m);
}

static int post_launch(fuzz_input *in, uint32_t stream)
{
  struct {
    gpud_msg_launch head;
    unsigned char params[GPUD_MAX_PARAMS];
  } m = {.head = {.grid = {1, 1, 1}, .block = {1, 1, 1}}};
  m.head.module = (uint32_t)VALUE(in, 1, 1, 1, 0, 2);
  m.head.kernel = (uint16_t)VALUE(in, 0, 0, 0, 1, 1, 1, 1, 2, 3);
  m.head.params_size = (uint16_t)VALUE(in, 0, 16, 16, 8, GPUD_MAX_PARAMS);
  m.head.shared = (uint32_t)VALUE(in, 0, 0, 0, 16, 4096, 163 << 10, (163 << 10) - 64);
  uint8_t shape = fuzz_byte(in); /* a bit for each dimension that is not 1 */
  for (int i = 0; i < 6; i++)
    if (shape >> i & 1 && i < 3)
      m.head.grid[i] = (uint32_t)VALUE(in, 2, 7, 300, 20000, 65535, 0x7fffffff);
    else if (shape >> i & 1)
      m.head.block[i - 3] = (uint16_t)VALUE(in, 2, 7, 32, 64, 256, 1024);
  size_t size = m.head.params_size <= GPUD_MAX_PARAMS ? m.head.params_size : GPUD_MAX_PARAMS;
  memset(m.params, 0x5a, size);
  return post(GPUD_OP_LAUNCH, stream, &m, sizeof m.head + size);
}

static int post_module_load(fuzz_input *in, uint32_t stream)
{
  struct {
    gpud_msg_module_load head;
    char options[GPUD_MAX_OPTIONS + 8];
  } m = {.head = {.module = an_id(in), .region = a_region(in)}};
  m.head.offset = VALUE(in, 6, 6, 0, 1, 2, 3, 4, 5, 6, 7, MiB - 1);
  m.head.size = VALUE(in, 1, 100, 4096, 4097, MiB, 0);
  size_t size = VALUE(in, 0, 0, 2, 100, GPUD_MAX_OPTIONS) % sizeof m.options;
  memset(m.options, 'x', size);
  if (size)
    m.options[size - 1] = fuzz_byte(in) == 255;
  return post(GPUD_OP_MODULE_LOAD, stream, &m, sizeof m.head + size);
}

/* A message of any op and any bytes; but none that waits for a descriptor, which would not come. */
static int post_raw(fuzz_input *in, uint8_t how)
{
  unsigned char body[512];
  void *message;
  uint8_t op = fuzz_byte(in);
  size_t size = fuzz_bytes(in, body, VALUE(in, 0, 8, 16, 24, 32, 100, 500) % sizeof body);
  uint32_t all = (uint32_t)(sizeof(gpud_message_head) + size);
  uint32_t route[2] = {0, (uint32_t)gpud_connection_posted(client) + 1};
  if (op == GPUD_OP_REGION_ADD)
    op = GPUD_OP_REGION_DROP;
  raw = 1;
  if (how == DO_RAW) {
    raw = 0;
    return post(op, fuzz_byte(in) & 1, body, size);
  }
  if (how == DO_RAW_SEQUENCE)
    route[1] += fuzz_byte(in) | 1u;
  CHECK_EQUAL(endpoint()->ops->reserve(endpoint(), all, &message), 0);
  memcpy((char *)message + 8, route, sizeof route);
  if (size)
    memcpy((char *)message + sizeof(gpud_message_head), body, size);
  endpoint()->ops->commit(endpoint(), op, all);
  if (how == DO_RAW_WORD) { /* the word that was stored last, spoilt but for its tag: size, op, flags */
    uint64_t word;
    memcpy(&word, message, sizeof word);
    word ^= fuzz_word(in, 1) << (32 + 8 * (fuzz_byte(in) % 4));
    if ((word >> 48 & 0xff) == GPUD_OP_REGION_ADD)
      word ^= 1ull << 48;
    memcpy(message, &word, sizeof word);
    uint32_t said = (uint32_t)(word >> 32 & 0xffff);
    if (said >= sizeof(gpud_message_head) && said <= GPUD_MAX_MESSAGE && GPUD_SLOTS(said) != GPUD_SLOTS(all))
      ending = END_HANG_UP; /* what follows is not where the engine looks, so nothing else would end the session */
  }
  return 0;
}

/* One command. Whether more may follow. */
static int post_next(fuzz_input *in)
{
  uint8_t op = OPS[fuzz_byte(in) % sizeof OPS];
  uint8_t odd_stream = op < DO_POKE ? fuzz_byte(in) : 0;
  uint32_t stream = odd_stream < 200 ? 0 : odd_stream < 250 ? odd_stream % 4 : ~0u - odd_stream;
  switch (op) {
  case GPUD_OP_REGION_ADD:
    return post_region_add(in, stream);
  case GPUD_OP_MAP:
  case GPUD_OP_UNMAP: {
    gpud_msg_map m = {a_chunk(in), VALUE(in, CHUNK, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK, 0)};
    return post(op, stream, &m, sizeof m);
  }
  case GPUD_OP_COPY_IN:
  case GPUD_OP_COPY_OUT: {
    gpud_msg_copy_host m = {an_address(in), VALUE(in, 0, 1, 8, 100, 4096, MiB - 64), a_length(in), a_region(in), 0};
    return post(op, stream, &m, sizeof m);
  }
  case GPUD_OP_COPY: {
    gpud_msg_copy m = {an_address(in), an_address(in), a_length(in)};
    return post(op, stream, &m, sizeof m);
  }
  case GPUD_OP_FILL: {
    gpud_msg_fill m = {an_address(in), a_length(in), VALUE(in, 0, 0xff, 0x1234, 0x0102030405060708),
                       (uint32_t)VALUE(in, 1, 2, 4, 8), 0};
    return post(op, stream, &m, sizeof m);
  }
  case GPUD_OP_WRITE: {
    unsigned char m[8 + 1024];
    uint64_t address = an_address(in);
    size_t size = VALUE(in, 0, 1, 8, 40, 100, 1024) % (sizeof m - 8 + 1);
    memset(m, 0xc5, sizeof m);
    memcpy(m, &address, sizeof address);
    return post(op, stream, m, 8 + size);
  }
  case GPUD_OP_MODULE_LOAD:
    return post_module_load(in, stream);
  case GPUD_OP_LAUNCH:
    return post_launch(in, stream);
  case GPUD_OP_REGION_DROP:
  case GPUD_OP_MODULE_UNLOAD:
  case GPUD_OP_EVENT_RECORD:
  case GPUD_OP_EVENT_WAIT:
  case GPUD_OP_EVENT_QUERY:
  case GPUD_OP_EVENT_DESTROY: {
    gpud_msg_event_ref m = {an_id(in), 0};
    return post(op, stream, &m, sizeof m);
  }
  case GPUD_OP_STREAM_CREATE:
  case GPUD_OP_STREAM_DESTROY:
    return post(op, an_id(in), NULL, 0);
  case DO_POKE: {
    uint64_t at = VALUE(in, 0, 1, 100, 4096) % MiB;
    fuzz_bytes(in, (char *)gpud_region_pointer(region) + at, MiB - at < 16 ? MiB - at : 16);
    return 1;
  }
  case DO_RAW:
  case DO_RAW_SEQUENCE:
  case DO_RAW_WORD:
    return post_raw(in, op);
  default:
    return post(op, stream, NULL, 0);
  }
}

/* ---------------------------------------------------------------- the stand-in for Python */

/* Uses all that it was promised: parameters, aligned; shared and working memory. */
static void kernel_tidy(const void *params, gpud_kernel_context *c, uint64_t first, uint64_t count)
{
  CHECK(((uintptr_t)params & 15) == 0 && ((uintptr_t)c->scratch & 63) == 0 && ((uintptr_t)c->shared & 15) == 0);
  CHECK(((const unsigned char *)params)[15] == 0x5a && count > 0 && c->thread_slot < c->thread_count);
  memset(c->shared, (int)first, 64 + c->dynamic_shared);
  memset(c->scratch, (int)count, 64 + 32 * (size_t)block_threads(c));
}

static const rig_kernel kernels[] = {
  KERNEL(empty, 0, 0, 0, 1024),
  KERNEL(tidy, 16, 64, 32, 256),
  KERNEL(trap, 8, 0, 0, 1024),
};

static void fail(uint32_t status, const char *text)
{
  int rc = gpud_engine_module_fail(engine, status, text);
  CHECK(rc == 0 || rc == -EPIPE);
}

/* One that cannot be described or had is given up, as the worker does. */
static void commit(int rc)
{
  if (rc == 0)
    rc = gpud_engine_module_commit(engine);
  if (rc == -EDQUOT || rc == -ENOMEM) {
    fail(GPUD_STATUS_OUT_OF_MEMORY, rc == -EDQUOT ? "its variables are over the limit" : "no memory left");
    return;
  }
  CHECK(rc == 0 || rc == -EPIPE);
  committed++;
}

static int add_kernels(size_t count)
{
  int rc = 0;
  for (const rig_kernel *k = kernels; k < kernels + count && rc == 0; k++) {
    gpud_param param = {.offset = 0, .size = 8};
    rc = gpud_engine_module_kernel(engine, k->name, k->entry, &param, 1, k->params_size, k->static_shared, 64,
                                   k->scratch_per_thread, k->max_threads);
  }
  return rc;
}

static int add_variable(const char *name, uint64_t address, uint64_t size)
{
  return gpud_engine_module_global(engine, name, address, size);
}

/* What becomes of an image, its first byte says. */
static void compile(void)
{
  static char long_text[GPUD_MAX_TEXT + 100];
  gpud_image image;
  CHECK_EQUAL(gpud_engine_run(engine), -EINPROGRESS);
  CHECK_EQUAL(gpud_engine_image(engine, &image), 0);
  const unsigned char *bytes = image.bytes;
  CHECK(image.size > 0 && image.size <= GPUD_MAX_IMAGE && bytes[image.size] == 0);
  CHECK(image.options_size <= GPUD_MAX_OPTIONS &&
        (image.options_size == 0 || image.options[image.options_size - 1] == 0));
  if (ending == END_HANG_UP_COMPILING && client) {
    gpud_connection_free(client);
    client = NULL;
  }
  if (ending == END_INTERRUPT)
    gpud_engine_interrupt(engine);
  uint64_t at = (uint64_t)(uintptr_t)variables[image.module % COUNT(variables)];
  memset(long_text, 0, sizeof long_text);
  switch (bytes[0] % 8) {
  case 0:
    fail(GPUD_STATUS_COMPILE, "line 1: this is bad");
    return;
  case 1:
    for (size_t i = 0; i + 3 < sizeof long_text; i += 3)
      memcpy(long_text + i, "\xe2\x82\xac", 3);
    fail(GPUD_STATUS_COMPILE, long_text + bytes[0] / 8 % 2);
    return;
  case 2:
    memset(long_text, 'n', sizeof long_text - 1);
    CHECK_EQUAL(gpud_engine_module_kernel(engine, long_text, 1, NULL, 0, 0, 0, 0, 0, 1), -EMSGSIZE);
    CHECK_EQUAL(gpud_engine_module_global(engine, long_text, 1, 1), -EMSGSIZE);
    fail(GPUD_STATUS_UNSUPPORTED, "its names are too long");
    return;
  case 3: { /* over the limit */
    int rc = add_kernels(1);
    commit(rc ? rc : add_variable("big", 4096, MEMORY + 1));
    return;
  }
  case 4: { /* variables of two names, of none, and of no bytes */
    int rc = add_variable("v", at, sizeof variables[0]);
    rc = rc ? rc : add_variable("", at, sizeof variables[0]);
    commit(rc ? rc : add_variable("w", at, 0));
    return;
  }
  default: {
    int rc = add_variable("v", at, sizeof variables[0]);
    rc = rc ? rc : add_kernels(COUNT(kernels));
    trap_compiled = 1;
    commit(rc);
  }
  }
}

/* ---------------------------------------------------------------- a session */

static gpud_region *region_of(uint32_t number, uint64_t size)
{
  gpud_region *made;
  uint32_t access = GPUD_ACCESS_READ | GPUD_ACCESS_WRITE;
  CHECK_EQUAL(gpud_region_create(client, number, size, access, 0, 0, in_good_time(), &made), 0);
  posted_ops[gpud_connection_posted(client)] = GPUD_OP_REGION_ADD;
  return made;
}

static void begin(void)
{
  gpud_endpoint *ours, *theirs;
  if (!engine)
    CHECK_EQUAL(gpud_engine_new(1, 256 * MiB, &engine), 0);
  CHECK_EQUAL(gpud_endpoint_loop(SLOTS, SLOTS, &ours, &theirs), 0);
  CHECK_EQUAL(gpud_engine_attach_endpoint(engine, theirs, 7, MEMORY, 8 * MiB, &welcome), 0);
  client = gpud_connection_new(ours, 1);
  CHECK(client);
  committed = unloaded = 0;
  trap_compiled = raw = 0;
  region = region_of(0, MiB);
  probe = region_of(PROBE, 65536);
  for (unsigned i = 0; i < 256; i++)
    ((unsigned char *)gpud_region_pointer(region))[i] = (unsigned char)i;
  memset(variables, 0, sizeof variables);
}

/* Fresh device memory is read last: what an earlier session left in it would show. */
static void look_at_fresh_memory(void)
{
  gpud_msg_map map = {welcome.window_base + PROBE_AT, CHUNK};
  gpud_msg_copy_host out = {welcome.window_base + PROBE_AT, 0, 65536, PROBE, 0};
  post(GPUD_OP_MAP, 0, &map, sizeof map);
  post(GPUD_OP_COPY_OUT, 0, &out, sizeof out);
}

/* What is mapped: sorted, apart from one another, in the window or a variable, and counted right. */
static void check_memory(void)
{
  const gpud_memory *memory = &engine->memory;
  uint64_t mapped = 0, end = 0;
  for (uint32_t i = 0; i < memory->count; i++) {
    const gpud_extent *extent = &memory->extents[i];
    CHECK(extent->size > 0 && (i == 0 || extent->address >= end));
    end = extent->address + extent->size;
    int inside = extent->address >= welcome.window_base && end <= welcome.window_base + welcome.window_size;
    CHECK_EQUAL(inside, extent->kind != GPUD_EXTENT_VARIABLE);
    mapped += extent->kind == GPUD_EXTENT_CHUNK ? extent->size : 0;
  }
  CHECK_EQUAL(mapped, memory->mapped);
  CHECK(mapped <= MEMORY);
}

static void check_fault(const gpud_msg_fault *m, uint64_t posted)
{
  CHECK(m->sequence > 0 && m->sequence <= posted + (raw != 0));
  CHECK(raw || m->op == posted_ops[m->sequence]);
  switch (m->status) {
  case GPUD_STATUS_DEVICE_FAULT: /* only by the kernel that traps: all else was judged before it was touched */
    CHECK(m->op == GPUD_OP_LAUNCH && trap_compiled);
    break;
  case GPUD_STATUS_OUT_OF_MEMORY:
  case GPUD_STATUS_INVALID:
  case GPUD_STATUS_NOT_FOUND:
  case GPUD_STATUS_UNSUPPORTED:
    break;
  default:
    fprintf(stderr, "a fault of status %s\n", gpud_status_name(m->status));
    CHECK(0);
  }
}

static void check_replies(int reason)
{
  unsigned char message[GPUD_MAX_MESSAGE + 1];
  uint32_t counts[256] = {0};
  int faulted, size;
  uint64_t posted = gpud_connection_posted(client), completed = endpoint()->ops->completed(endpoint(), &faulted);
  CHECK(completed <= posted + (raw != 0));
  while ((size = gpud_connection_receive(client, message, 0)) > 0) { /* which judges their form */
    gpud_message_head head;
    gpud_msg_fault fault;
    memcpy(&head, message, sizeof head);
    counts[head.op]++;
    memcpy(&fault, message + sizeof head, sizeof fault < sizeof message - sizeof head ? sizeof fault : 0);
    if (head.op == GPUD_OP_FAULT)
      check_fault(&fault, posted);
  }
  CHECK_EQUAL(size, -EAGAIN);
  CHECK(counts[GPUD_OP_FAULT] <= 1 && counts[GPUD_OP_BYE] <= 1);
  CHECK_EQUAL(counts[GPUD_OP_FAULT], engine->stats.faults);
  CHECK_EQUAL(counts[GPUD_OP_BYE], reason == GPUD_RUN_PROTOCOL);
  CHECK(!faulted || counts[GPUD_OP_FAULT]);
  if (reason == GPUD_RUN_CLOSED)
    CHECK_EQUAL(faulted, counts[GPUD_OP_FAULT]);
  if (raw)
    return;
  uint32_t loads = 0, queries = 0, closes = 0;
  for (uint64_t i = 1; i <= completed; i++) {
    loads += posted_ops[i] == GPUD_OP_MODULE_LOAD;
    queries += posted_ops[i] == GPUD_OP_EVENT_QUERY;
    closes += posted_ops[i] == GPUD_OP_CLOSE;
  }
  CHECK_EQUAL(counts[GPUD_OP_MODULE_STATUS], loads);
  CHECK_EQUAL(counts[GPUD_OP_EVENT_TIME], queries);
  CHECK_EQUAL(closes, reason == GPUD_RUN_CLOSED);
  CHECK(!closes || posted_ops[completed] == GPUD_OP_CLOSE);
}

static void take_unloaded(void)
{
  while (gpud_engine_next_unloaded(engine) >= 0)
    unloaded++;
}

static int run_session(uint8_t allocations)
{
  int rc;
  scarce = allocations;
  while ((rc = gpud_engine_run(engine)) == GPUD_RUN_COMPILE) {
    take_unloaded();
    compile();
  }
  scarce = 0;
  CHECK(rc >= GPUD_RUN_CLOSED && rc <= GPUD_RUN_INTERRUPTED);
  return rc;
}

static void finish(int reason)
{
  gpud_engine_stats stats;
  check_memory();
  if (client) {
    check_replies(reason);
    const unsigned char *fresh = gpud_region_pointer(probe);
    for (uint32_t i = 0; i < 65536 && !raw; i++)
      CHECK_EQUAL(fresh[i], 0);
    gpud_connection_free(client);
  }
  gpud_region_free(region);
  gpud_region_free(probe);
  int rc = gpud_engine_detach(engine, GPUD_STATUS_SHUTDOWN, "the test is over");
  CHECK(rc == 0 || (rc == -EBUSY && trap_compiled));
  take_unloaded();
  CHECK_EQUAL(unloaded, committed);
  gpud_engine_get_stats(engine, &stats);
  CHECK(stats.memory == 0 && stats.host_memory == 0 && stats.modules == 0);
  CHECK(engine->events.count == 0 && engine->streams.count == 0 && engine->memory.count == 0);
  if (rc) {
    gpud_engine_free(engine);
    engine = NULL;
  }
}

/* What a session usually begins with, so that what follows gets past the first checks. */
static void post_beginning(void)
{
  gpud_msg_map map = {welcome.window_base, 2 * CHUNK};
  gpud_msg_module_load load = {.module = 1, .region = 0, .offset = 6, .size = 100};
  post(GPUD_OP_MAP, 0, &map, sizeof map);
  post(GPUD_OP_MODULE_LOAD, 0, &load, sizeof load);
  post(GPUD_OP_STREAM_CREATE, 1, NULL, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  fuzz_input in = {data, data + size};
  uint8_t first = fuzz_byte(&in), allocations = fuzz_byte(&in);
  ending = first % ENDINGS;
  int before = engine ? fuzz_open_descriptors() : -1; /* the engine's own are open */
  begin();
  if (first & BEGUN)
    post_beginning();
  int more = 1;
  for (unsigned i = 0; more && i < COMMANDS && fuzz_left(&in); i++) {
    if (ending == END_CLOSE_EARLY && i == 2)
      post(GPUD_OP_CLOSE, 0, NULL, 0);
    more = post_next(&in);
  }
  if (more)
    look_at_fresh_memory();
  CHECK(post(GPUD_OP_CLOSE, 0, NULL, 0));
  if (ending == END_HANG_UP) {
    gpud_connection_free(client);
    client = NULL;
  }
  finish(run_session(allocations < 200 ? 0 : allocations - 199));
  if (engine && before >= 0)
    CHECK_EQUAL(fuzz_open_descriptors(), before);
  return 0;
}
