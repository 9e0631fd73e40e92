/*
 * Invariant: whatever the other process writes into the segment, onto the socket and into its regions, and whenever, an honest side's
 * calls end, as their headers say and by their deadlines; a worker is then as good as new for its next client. Nothing crashes,
 * hangs, leaks memory or descriptors, or looks beyond what is its own.
 *
 * The hostile side is a process: so what it writes is seen by no sanitizer as a race, and the honest side's own threads can be watched by the
 * thread sanitizer. (In one process that could not be: whoever reads the segment races with whoever scribbles in it, by design. A
 * message is copied out with plain loads, and only the copy is judged and used.)
 * It knows the protocol from docs/protocol.md and uses no code of the library's; most of what it says is right, so that what is not
 * comes late.
 *
 * usage: hostile_session ROLE SESSIONS SEED      ROLE: worker or client, the honest side
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bootstrap.h"
#include "engine_kernels.h"

#define SLOTS 256u
#define STEPS 600u
#define REGION_BYTES 65536u
#define EVERY 6u /* so manieth session is an honest one */

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
  return "handle_segv=0:handle_sigbus=0:handle_sigill=0:handle_sigfpe=0:detect_stack_use_after_return=0";
}

static uint64_t state;

static uint64_t any(uint64_t limit) { return random_next(&state) % limit; }
static int one_in(uint64_t n) { return any(n) == 0; }

/* ---------------------------------------------------------------- the hostile side */

typedef struct hostile {
  int socket;
  int is_client;
  unsigned char *memory;
  size_t size;
  uint32_t out_slots, in_slots; /* of the ring it writes, and of the other */
  size_t out_at;                /* where that lies */
  uint64_t position;
  uint32_t sequence;
  uint64_t window;
  int region; /* a memfd, -1: none yet */
  unsigned char *region_memory;
  unsigned rage; /* one step in so many scribbles; 0: none */
} hostile;

static void put_u32(hostile *h, size_t at, uint32_t value)
{
  if (at + 4 <= h->size)
    __atomic_store_n((uint32_t *)(void *)(h->memory + at), value, __ATOMIC_RELEASE);
}

static void put_u64(hostile *h, size_t at, uint64_t value)
{
  if (at + 8 <= h->size)
    __atomic_store_n((uint64_t *)(void *)(h->memory + at), value, __ATOMIC_RELEASE);
}

static uint64_t get_u64(const hostile *h, size_t at)
{
  return __atomic_load_n((const uint64_t *)(const void *)(h->memory + at), __ATOMIC_ACQUIRE);
}

/* A message as the protocol has it, where the honest side looks next; not at all where it has not read so far. */
static int say(hostile *h, uint8_t op, uint32_t stream, const void *body, uint32_t size)
{
  uint32_t all = 16 + size, slots = (all + 63) / 64;
  uint32_t to_end = h->out_slots - (uint32_t)(h->position % h->out_slots);
  uint64_t credit = get_u64(h, h->is_client ? 0 : 128);
  if (h->position + slots + (slots > to_end ? to_end : 0) - credit > h->out_slots)
    return 0;
  if (slots > to_end) {
    uint64_t tag = h->position / h->out_slots + 1;
    put_u64(h, h->out_at + h->position % h->out_slots * 64, tag | (uint64_t)(to_end * 64) << 32);
    h->position += to_end;
  }
  size_t at = h->out_at + h->position % h->out_slots * 64;
  uint32_t route[2] = {stream, ++h->sequence};
  memcpy(h->memory + at + 8, route, sizeof route);
  if (size)
    memcpy(h->memory + at + 16, body, size);
  put_u64(h, at, (h->position / h->out_slots + 1) | (uint64_t)all << 32 | (uint64_t)op << 48);
  h->position += slots;
  size_t sleeping = h->is_client ? 384 : 256;
  if (get_u64(h, sleeping) && !one_in(16)) /* else it forgets to wake */
    gpud_futex_wake((uint32_t *)(void *)(h->memory + sleeping));
  return 1;
}

/* `count` descriptors beside one byte. */
static void send_descriptors(const hostile *h, const int *fds, unsigned count)
{
  union {
    char bytes[CMSG_SPACE(8 * sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  struct iovec part = {.iov_base = (char[]){0}, .iov_len = 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (count) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
  }
  sendmsg(h->socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int memory_file(uint64_t size, int seals)
{
  int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
  CHECK_EQUAL(fcntl(fd, F_ADD_SEALS, seals), 0);
  return fd;
}

/* A region that is as it must be, whose bytes change all the time, or something else in its place. */
static void announce(hostile *h)
{
  gpud_msg_region_add add = {.region = (uint32_t)any(4), .access = (uint32_t)any(4), .size = REGION_BYTES};
  int fds[3], count = 1;
  if (one_in(3))
    add.address = h->window + (32 + any(4)) * CHUNK;
  if (h->region < 0) {
    h->region = memory_file(REGION_BYTES, F_SEAL_SHRINK | F_SEAL_GROW);
    h->region_memory = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, h->region, 0);
    CHECK(h->region_memory != MAP_FAILED);
    add.region = 0;
    add.access = 3;
    add.address = 0;
  }
  fds[0] = dup(h->region);
  if (one_in(6)) {
    close(fds[0]);
    fds[0] = one_in(2) ? memory_file(REGION_BYTES, 0) : memory_file(4096, F_SEAL_SHRINK | F_SEAL_GROW);
  }
  if (one_in(12)) /* several at once: one counts, none stays open */
    for (count = 1; count < 3; count++)
      fds[count] = open(one_in(2) ? "/dev/null" : "/", O_RDONLY | O_CLOEXEC);
  if (!one_in(40))
    send_descriptors(h, fds, one_in(40) ? 0 : (unsigned)count);
  for (int i = 0; i < count; i++)
    close(fds[i]);
  say(h, GPUD_OP_REGION_ADD, 0, &add, sizeof add);
}

static void command(hostile *h)
{
  uint64_t device = h->window + any(4) * CHUNK + any(64) * 8;
  gpud_msg_map map = {h->window + any(3) * CHUNK, (1 + any(2)) * CHUNK};
  gpud_msg_copy_host copy_host = {device, any(REGION_BYTES), any(4096), (uint32_t)any(2), 0};
  gpud_msg_copy copy = {device, h->window + any(2) * CHUNK, any(4096)};
  gpud_msg_fill fill = {device, any(512), any(256), 1u << any(4), 0};
  gpud_msg_module_load load = {(uint32_t)any(3), 0, any(64), 1 + any(5000)};
  gpud_msg_event_ref event = {(uint32_t)any(3), 0};
  gpud_msg_launch launch = {.module = (uint32_t)any(3), .grid = {1 + (uint32_t)any(9), 1, 1}, .block = {1, 1, 1}};
  unsigned char write[8 + 200] = {0};
  memcpy(write, &device, sizeof device);
  switch (any(16)) {
  case 0:
    announce(h);
    return;
  case 1:
    say(h, one_in(4) ? GPUD_OP_UNMAP : GPUD_OP_MAP, 0, &map, sizeof map);
    return;
  case 2:
    say(h, GPUD_OP_COPY_IN, 0, &copy_host, sizeof copy_host);
    return;
  case 3:
    say(h, GPUD_OP_COPY_OUT, 0, &copy_host, sizeof copy_host);
    return;
  case 4:
    say(h, GPUD_OP_COPY, 0, &copy, sizeof copy);
    return;
  case 5:
    say(h, GPUD_OP_FILL, 0, &fill, sizeof fill);
    return;
  case 6:
    say(h, GPUD_OP_WRITE, 0, write, 8 + (uint32_t)any(sizeof write - 8));
    return;
  case 7:
    say(h, GPUD_OP_MODULE_LOAD, 0, &load, sizeof load);
    return;
  case 8:
    say(h, GPUD_OP_LAUNCH, 0, &launch, sizeof launch);
    return;
  case 9:
    say(h, GPUD_OP_MODULE_UNLOAD, 0, &event, sizeof event);
    return;
  default:
    say(h, (uint8_t)(GPUD_OP_EVENT_RECORD + any(4)), 0, &event, sizeof event);
  }
}

static void reply(hostile *h)
{
  gpud_msg_event_time time = {1, 0, any(1000)};
  gpud_msg_fault fault = {.sequence = any(20), .status = (uint32_t)any(20), .op = 34};
  char data[900];
  memset(data, 'd', sizeof data);
  switch (any(6)) {
  case 0:
    say(h, GPUD_OP_EVENT_TIME, 0, &time, sizeof time);
    return;
  case 1:
    say(h, GPUD_OP_FAULT, 0, &fault, sizeof fault);
    return;
  default:
    say(h, GPUD_OP_DATA, 0, data, (uint32_t)any(sizeof data));
    put_u64(h, 512, one_in(4) ? any(64) : get_u64(h, 512) + 1);
  }
}

/* One word of the segment, any or one that matters, becomes anything or something that looks right. */
static void scribble(hostile *h)
{
  uint64_t value = one_in(2) ? random_next(&state) : any(3000);
  uint64_t word =
      (h->position / h->out_slots + any(2)) | any(300) << 32 | any(60) << 48 | (one_in(9) ? any(256) << 56 : 0);
  switch (any(8)) {
  case 0:
    put_u64(h, any(h->size / 8) * 8, value);
    return;
  case 1: /* credits, sleeping words, completed, faulted */
    put_u64(h, any(5) * 128, value);
    return;
  case 2:
    put_u32(h, 520, (uint32_t)value);
    return;
  case 3: /* sleeping words, set and cleared under a sleeper */
    put_u32(h, 256 + any(2) * 128, one_in(2) ? 0 : (uint32_t)value);
    return;
  case 4: /* the slot the honest side looks at now, or near it */
    put_u64(h, h->out_at + (h->position + any(4)) % h->out_slots * 64, word);
    return;
  case 5: /* a message that is there already, and may be being read */
    put_u64(h, h->out_at + (h->position - any(4)) % h->out_slots * 64 + any(8) * 8, one_in(2) ? word : value);
    return;
  case 6: /* its second word: stream and sequence number */
    put_u64(h, h->out_at + (h->position - any(3)) % h->out_slots * 64 + 8, (uint64_t)(h->sequence + any(3)) << 32);
    return;
  default: /* a whole slot */
    for (size_t i = 0, at = h->out_at + any(h->out_slots) * 64; i < 64; i += 8)
      put_u64(h, at + i, random_next(&state));
  }
}

/* ---------------------------------------------------------------- sizes that change between two looks */

static unsigned char *flipped; /* the memory */
static uint64_t flip_right;    /* the word as it should be */
static uint64_t flip_at;       /* its offset, 0: none */
static uint32_t flip_ends;

/* Most of the time the word is right, so that it is taken; then for a moment it says a size beyond all bounds. */
static void *flip(void *unused)
{
  while (!gpud_load_acquire_u32(&flip_ends)) {
    uint64_t at = gpud_load_acquire_u64(&flip_at);
    uint64_t *word = (uint64_t *)(void *)(flipped + at);
    uint64_t right = gpud_load_relaxed_u64(&flip_right);
    for (int i = 0; i < 20 && at; i++)
      gpud_store_release_u64(word, right);
    if (at)
      gpud_store_release_u64(word, right | 0xffffull << 32);
  }
  return unused;
}

/* Messages of several slots, each flipped from the moment it is there until it has been taken: who looks at a size twice finds two. */
static void flip_sizes(hostile *h)
{
  pthread_t flipper;
  flipped = h->memory;
  flip_at = 0;
  flip_ends = 0;
  CHECK_EQUAL(pthread_create(&flipper, NULL, flip, NULL), 0);
  for (unsigned i = 0; i < STEPS; i++) {
    uint32_t slots = 2 + (uint32_t)any(6);
    size_t at = h->out_at + h->position % h->out_slots * 64;
    if (h->position % h->out_slots + slots > h->out_slots) {
      say(h, GPUD_OP_DATA, 0, (char[200]){0}, 200); /* by way of padding */
      continue;
    }
    if (h->position + slots - get_u64(h, h->is_client ? 0 : 128) > h->out_slots)
      continue;
    put_u64(h, at + 8, (uint64_t)++h->sequence << 32);
    put_u32(h, at + 64, UINT32_MAX); /* zeroed by whoever has taken the message */
    gpud_store_relaxed_u64(&flip_right, (h->position / h->out_slots + 1) | (uint64_t)slots * 64 << 32 | 1ull << 48);
    gpud_store_release_u64(&flip_at, at);
    unsigned looks = 0;
    while ((uint32_t)get_u64(h, at + 64) != 0 && looks++ < 20000)
      gpud_relax();
    gpud_store_release_u64(&flip_at, 0);
    h->position += slots;
    if (looks > 20000)
      break; /* it has seen the wrong size, and looks no more */
  }
  gpud_store_release_u32(&flip_ends, 1);
  pthread_join(flipper, NULL);
}

/* ---------------------------------------------------------------- a session of the hostile side */

static void attack(hostile *h)
{
  if (one_in(4)) {
    flip_sizes(h);
    return;
  }
  for (unsigned i = 0; i < STEPS; i++) {
    if (h->rage && one_in(h->rage))
      scribble(h);
    if (h->region_memory)
      for (unsigned k = 0; k < 32; k++)
        h->region_memory[any(REGION_BYTES)] = (unsigned char)any(256);
    if (h->region >= 0 && one_in(50))
      fallocate(h->region, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)any(16) * 4096, 4096);
    if (h->is_client)
      command(h);
    else
      reply(h);
    if (one_in(4))
      put_u64(h, h->is_client ? 128 : 0, any(8) ? get_u64(h, h->is_client ? 128 : 0) + any(3) : any(100));
    if (one_in(200)) /* long enough for the other to fall asleep */
      usleep(2000);
  }
  if (h->is_client && one_in(3))
    say(h, GPUD_OP_CLOSE, 0, NULL, 0);
}

static void leave(hostile *h)
{
  if (h->memory)
    munmap(h->memory, h->size);
  if (h->region_memory)
    munmap(h->region_memory, REGION_BYTES);
  if (h->region >= 0)
    close(h->region);
  close(h->socket);
}

static size_t segment_size(uint32_t command_slots, uint32_t reply_slots)
{
  return (640 + ((size_t)command_slots + reply_slots) * 64 + 4095) / 4096 * 4096;
}

static void enter(hostile *h, int fd, const gpud_welcome *welcome)
{
  h->size = segment_size(welcome->command_slots, welcome->reply_slots);
  h->out_slots = h->is_client ? welcome->command_slots : welcome->reply_slots;
  h->in_slots = h->is_client ? welcome->reply_slots : welcome->command_slots;
  h->out_at = 640 + (h->is_client ? 0 : (size_t)welcome->command_slots * 64);
  h->window = welcome->window_base;
  h->rage = one_in(4) ? 0 : 1u << any(7);
  h->memory = mmap(NULL, h->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(h->memory != MAP_FAILED);
}

static const gpud_hello HELLO = {
  .version_min = GPUD_VERSION,
  .version_max = GPUD_VERSION,
  .features = GPUD_FEATURE_HOST_MAP | GPUD_FEATURE_DEVICE | GPUD_FEATURE_MEMBARRIER,
};

static void hostile_client(int socket)
{
  hostile h = {.socket = socket, .is_client = 1, .region = -1};
  char frame[GPUD_MAX_FRAME];
  gpud_welcome welcome;
  const char *text;
  int fd;
  int size = gpud_frame_encode(frame, sizeof frame, GPUD_FRAME_HELLO, &HELLO, "", 0);
  CHECK_EQUAL(gpud_bootstrap_send(socket, frame, (size_t)size, -1, in_good_time()), 0);
  size = gpud_bootstrap_receive(socket, frame, &fd, in_good_time());
  CHECK(size > 0 && fd >= 0);
  CHECK(gpud_frame_decode(frame, (size_t)size, GPUD_FRAME_WELCOME, &welcome, &text) >= 0);
  enter(&h, fd, &welcome);
  close(fd);
  attack(&h);
  leave(&h);
}

/* A WELCOME that is right, mostly, and then a worker that is not. */
static void hostile_worker(int socket)
{
  hostile h = {.socket = socket, .region = -1};
  char frame[GPUD_MAX_FRAME];
  gpud_welcome welcome = {.version = GPUD_VERSION, .command_slots = SLOTS, .reply_slots = SLOTS};
  int fd, size = gpud_bootstrap_receive(socket, frame, &fd, in_good_time());
  CHECK(size > 0 && fd < 0);
  fd = memory_file(segment_size(SLOTS, SLOTS), one_in(20) ? F_SEAL_SHRINK : F_SEAL_SHRINK | F_SEAL_GROW);
  enter(&h, fd, &welcome);
  size = gpud_frame_encode(frame, sizeof frame, GPUD_FRAME_WELCOME, &welcome, "a device", 8);
  if (one_in(5))
    frame[any((uint64_t)size)] ^= (char)(1u << any(8));
  gpud_bootstrap_send(socket, frame, (size_t)size, one_in(20) ? -1 : fd, in_good_time());
  close(fd);
  attack(&h);
  leave(&h);
}

/* ---------------------------------------------------------------- the honest side */

static gpud_connection *connect_honestly(int socket, int *rc)
{
  gpud_welcome welcome;
  gpud_refused refused;
  static char text[GPUD_MAX_TEXT + 1];
  gpud_endpoint *ep;
  *rc = gpud_endpoint_connect(socket, &HELLO, "honest", &welcome, &refused, text, gpud_now() + 10000000000ull, &ep);
  if (*rc) {
    close(socket);
    return NULL;
  }
  gpud_connection *c = gpud_connection_new(ep, 1);
  CHECK(c);
  state ^= welcome.window_base; /* nothing to do with it but to have read it */
  return c;
}

/* What any session is for: bytes go in and come out. The worker that served the hostile ones serves it. */
static void honest_client(int socket)
{
  gpud_welcome welcome;
  gpud_refused refused;
  static char text[GPUD_MAX_TEXT + 1];
  gpud_endpoint *ep;
  gpud_region *region;
  CHECK_EQUAL(gpud_endpoint_connect(socket, &HELLO, "honest", &welcome, &refused, text, in_good_time(), &ep), 0);
  gpud_connection *c = gpud_connection_new(ep, 1);
  CHECK(c);
  CHECK_EQUAL(gpud_region_create(c, 0, REGION_BYTES, 3, 0, 0, in_good_time(), &region), 0);
  unsigned char *bytes = gpud_region_pointer(region);
  fill_bytes(bytes, 4096, 7);
  memset(bytes + 8192, 0xee, 4096);
  gpud_msg_map map = {welcome.window_base, CHUNK};
  gpud_msg_copy_host in = {welcome.window_base, 0, 4096, 0, 0}, out = {welcome.window_base, 4096, 4096, 0, 0};
  gpud_msg_copy_host fresh = {welcome.window_base + 4096, 8192, 4096, 0, 0};
  CHECK(gpud_connection_post(c, GPUD_OP_MAP, 0, &map, sizeof map, in_good_time()) > 0);
  CHECK(gpud_connection_post(c, GPUD_OP_COPY_IN, 0, &in, sizeof in, in_good_time()) > 0);
  CHECK(gpud_connection_post(c, GPUD_OP_COPY_OUT, 0, &out, sizeof out, in_good_time()) > 0);
  CHECK(gpud_connection_post(c, GPUD_OP_COPY_OUT, 0, &fresh, sizeof fresh, in_good_time()) > 0);
  int64_t last = gpud_connection_post(c, GPUD_OP_CLOSE, 0, NULL, 0, in_good_time());
  CHECK_EQUAL(gpud_connection_wait(c, (uint64_t)last, in_good_time()), 0);
  CHECK(bytes_are(bytes + 4096, 4096, 7));
  for (unsigned i = 0; i < 4096; i++)
    CHECK_EQUAL(bytes[8192 + i], 0); /* nothing of another's is in fresh memory */
  gpud_region_free(region);
  gpud_connection_free(c);
}

static int is_one_of(int64_t rc, const int *errors)
{
  for (; *errors; errors++)
    if (rc == -*errors)
      return 1;
  return rc >= 0;
}

/* An honest client of whoever is there, until it hears that all is over; with waits long enough to fall asleep in. */
static uint64_t suffering_client(int socket)
{
  static const int connect_errors[] = {EPROTO, EPIPE, EPERM, 0};
  static const int post_errors[] = {ETIMEDOUT, EPROTO, EPIPE, 0};
  static const int receive_errors[] = {EAGAIN, ETIMEDOUT, EPROTO, EPIPE, 0};
  static const int wait_errors[] = {ETIMEDOUT, EPROTO, EIO, EPIPE, 0};
  char message[GPUD_MAX_MESSAGE] = {0};
  int rc, last = 0;
  gpud_connection *c = connect_honestly(socket, &rc);
  CHECK(is_one_of(rc, connect_errors));
  if (!c)
    return 0;
  uint64_t heard = 0, end = in_good_time();
  while (last != -EPIPE) { /* until it is gone: nothing of what it wrote before can put that off */
    uint64_t deadline = gpud_now() + any(3000000);
    CHECK(gpud_now() < end);
    CHECK(is_one_of(gpud_connection_post(c, GPUD_OP_DATA, 0, message, (uint32_t)any(200), deadline), post_errors));
    if (one_in(20)) {
      gpud_region *region = NULL;
      rc = gpud_region_create(c, (uint32_t)any(9), 4096, 3, 0, 0, deadline, &region);
      CHECK(is_one_of(rc, post_errors));
      gpud_region_free(region);
    }
    int got = gpud_connection_receive(c, message, one_in(2) ? 0 : deadline);
    CHECK(is_one_of(got, receive_errors));
    heard += got > 0;
    if (got > 0)
      CHECK_EQUAL(gpud_message_check(message, (size_t)got, 0), 0);
    last = gpud_connection_wait(c, gpud_connection_posted(c) + 1, one_in(2) ? 0 : deadline);
    CHECK(is_one_of(last, wait_errors));
    CHECK(gpud_connection_completed(c) <= gpud_connection_posted(c));
    if (last == -EIO || last == -EPROTO || last == 0)
      last = gpud_connection_alive(c) ? last : -EPIPE;
  }
  gpud_connection_free(c);
  return heard;
}

static const rig_kernel harmless[] = {KERNEL(empty, 0, 0, 0, 1024), {0}};

/* One session of the engine, whoever is at the other end. How it ended, and in *commands how much it did. */
static int serve(rig *r, int socket, uint64_t *commands)
{
  char frame[GPUD_MAX_FRAME];
  const char *text;
  gpud_hello hello;
  gpud_engine_stats stats;
  int fd, size = gpud_bootstrap_receive(socket, frame, &fd, in_good_time());
  CHECK(size > 0);
  CHECK(gpud_frame_decode(frame, (size_t)size, GPUD_FRAME_HELLO, &hello, &text) >= 0);
  CHECK_EQUAL(gpud_engine_attach(r->engine, socket, &hello, 7, 8 * MiB, 8 * MiB, in_good_time()), 0);
  int reason = rig_run(r);
  CHECK(reason == GPUD_RUN_CLOSED || reason == GPUD_RUN_GONE || reason == GPUD_RUN_PROTOCOL);
  gpud_engine_get_stats(r->engine, &stats);
  *commands += stats.commands;
  CHECK_EQUAL(gpud_engine_detach(r->engine, GPUD_STATUS_OK, NULL), 0);
  while (gpud_engine_next_unloaded(r->engine) >= 0)
    continue;
  gpud_engine_get_stats(r->engine, &stats);
  CHECK(stats.memory == 0 && stats.host_memory == 0 && stats.modules == 0);
  return reason;
}

/* ---------------------------------------------------------------- the two together */

static int listener(struct sockaddr_un *address, socklen_t *size)
{
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  *size = sizeof *address;
  CHECK(fd >= 0);
  CHECK_EQUAL(bind(fd, (struct sockaddr *)address, sizeof(sa_family_t)), 0);
  CHECK_EQUAL(listen(fd, 8), 0);
  CHECK_EQUAL(getsockname(fd, (struct sockaddr *)address, size), 0);
  const struct timeval patience = {.tv_sec = 60};
  CHECK_EQUAL(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
  return fd;
}

static int take(int listening)
{
  int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
  CHECK(fd >= 0); /* else the other side has ended: its own report says why */
  return fd;
}

static int dial(const struct sockaddr_un *address, socklen_t size)
{
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0);
  CHECK_EQUAL(connect(fd, (const struct sockaddr *)address, size), 0);
  return fd;
}

int main(int count, char **arguments)
{
  struct sockaddr_un address;
  socklen_t size;
  CHECK_EQUAL(count, 4);
  int worker_is_honest = strcmp(arguments[1], "worker") == 0;
  uint64_t sessions = strtoull(arguments[2], NULL, 10), seed = strtoull(arguments[3], NULL, 10);
  int listening = listener(&address, &size);
  pid_t other = fork(); /* before there are threads */
  CHECK(other >= 0);
  if (other == 0) {
    state = random_of(seed);
    for (uint64_t i = 1; i <= sessions; i++) {
      if (!worker_is_honest)
        hostile_worker(take(listening));
      else if (i % EVERY == 0 || i == sessions)
        honest_client(dial(&address, size));
      else
        hostile_client(dial(&address, size));
    }
    exit(0);
  }
  state = random_of(seed + 1);
  uint64_t heard = 0, reasons[8] = {0};
  int before = 0;
  rig r;
  if (worker_is_honest)
    rig_open(&r, 2, harmless);
  for (uint64_t i = 1; i <= sessions; i++) {
    if (worker_is_honest) {
      int reason = serve(&r, take(listening), &heard);
      reasons[reason]++;
      CHECK((i % EVERY != 0 && i != sessions) || reason == GPUD_RUN_CLOSED);
    } else {
      heard += suffering_client(dial(&address, size));
    }
    int now = open_descriptors();
    CHECK(before == 0 || now == before);
    before = now;
  }
  if (worker_is_honest) {
    rig_shut(&r);
    CHECK(reasons[GPUD_RUN_PROTOCOL] > 0 && reasons[GPUD_RUN_GONE] > 0);
  }
  CHECK(heard > sessions); /* it looked behind the first check */
  int status;
  CHECK_EQUAL(waitpid(other, &status, 0), other);
  CHECK_EQUAL(status, 0);
  printf("%llu messages\n", (unsigned long long)heard);
  close(listening);
  return 0;
}
