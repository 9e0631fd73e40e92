/*
 * The other side of target_stream.c: makes a stream of an input's bytes, sends it part by part when the end that is tested would
 * sleep for want of it, and reads it plainly, as that end should.
 */
#ifndef GPUD_FUZZ_STREAM_PEER_H
#define GPUD_FUZZ_STREAM_PEER_H

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>

#include "fuzz.h"
#include "tcp_link.h"

#define MOST 196608u /* bytes of a stream */
#define CUTS 128u    /* parts of it */
#define ROOM 131072u /* of a region, and the most that is read of a payload at once */
#define REGIONS 4u   /* of the client's; the last is not offered */
#define HEAD_SIZE ((uint32_t)sizeof(gpud_message_head))

static uint8_t stream[MOST]; /* what the peer sends */
static size_t stream_size;
static size_t cuts[CUTS]; /* where it pauses */
static unsigned cut_count, cut;
static size_t sent;
static bool hung_up;
static int peer = -1;
static uint8_t taken[1 << 21]; /* what it was sent */
static size_t taken_size;
static _Thread_local bool driving; /* this thread is inside the end that is tested */

/* ---------------------------------------------------------------- the peer */

int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __real_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask);

static void take_answers(void)
{
  ssize_t n;
  while ((n = recv(peer, taken + taken_size, sizeof taken - taken_size, MSG_DONTWAIT)) > 0)
    taken_size += (size_t)n;
}

/* Sends up to the next cut; after the last it hangs up. */
static void feed(void)
{
  take_answers();
  size_t to = cut < cut_count ? cuts[cut] : stream_size;
  ssize_t n = sent < to ? send(peer, stream + sent, to - sent, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
  sent += n > 0 ? (size_t)n : 0;
  if (sent < to && n < 0 && errno != EAGAIN)
    sent = to; /* it has heard enough */
  if (sent < to)
    return;
  if (cut < cut_count) {
    cut++;
  } else if (!hung_up) {
    hung_up = true;
    shutdown(peer, SHUT_WR);
  }
}

static void feed_who_sleeps(bool sleeps)
{
  if (!driving || !sleeps)
    return;
  driving = false;
  feed();
  driving = true;
}

int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
  feed_who_sleeps(timeout != 0);
  return __real_poll(fds, count, timeout);
}

int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
  feed_who_sleeps(true);
  return __real_ppoll(fds, count, timeout, mask);
}

static struct sockaddr_in address = {.sin_family = AF_INET};
static int listener = -1; /* for all runs */

static void open_listener(void)
{
  socklen_t size = sizeof address;
  if (listener >= 0)
    return;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(listener >= 0);
  CHECK_EQUAL(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
  CHECK_EQUAL(listen(listener, 8), 0);
  CHECK_EQUAL(getsockname(listener, (struct sockaddr *)&address, &size), 0);
}

static void connect_sockets(int pair[2])
{
  pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(pair[0] >= 0);
  CHECK_EQUAL(connect(pair[0], (struct sockaddr *)&address, sizeof address), 0);
  pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  CHECK(pair[1] >= 0);
}

/* With a reset, so that no port of this run is kept from a later one. */
static void reset_peer(void)
{
  const struct linger none = {.l_onoff = 1};
  CHECK_EQUAL(setsockopt(peer, SOL_SOCKET, SO_LINGER, &none, sizeof none), 0);
  close(peer);
  peer = -1;
}

static void begin_stream(void)
{
  const int now = 1; /* what is cut in two arrives as two */
  CHECK_EQUAL(setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &now, sizeof now), 0);
  stream_size = sent = taken_size = 0;
  cut_count = cut = 0;
  hung_up = false;
}

/* ---------------------------------------------------------------- making a stream */

static uint8_t filler(size_t at) { return (uint8_t)((at * 0x9e3779b1u) >> 13); }

static void append(const void *bytes, size_t size)
{
  if (size > MOST - stream_size)
    size = MOST - stream_size;
  if (size)
    memcpy(stream + stream_size, bytes, size);
  stream_size += size;
}

static void append_filler(uint64_t size)
{
  for (uint64_t i = 0; i < size && stream_size < MOST; i++, stream_size++)
    stream[stream_size] = filler(stream_size);
}

static void append_message(uint8_t op, uint32_t sequence, const void *body, size_t size)
{
  const gpud_message_head head = {.size = (uint16_t)(HEAD_SIZE + size), .op = op, .sequence = sequence};
  append(&head, sizeof head);
  append(body, size);
}

/* A cut `back` bytes before the end of what there is, 0: none. */
static void append_cut(size_t back)
{
  size_t last = cut_count ? cuts[cut_count - 1] : 0;
  size_t at = stream_size - (back < stream_size ? back : stream_size);
  if (back && cut_count < CUTS && at > last)
    cuts[cut_count++] = at;
}

/* A number: small ones as a byte, squares up to 64 K, and then a few that are near the limits, or any. */
static uint64_t number(fuzz_input *in)
{
  static const uint64_t odd[] = {0xffff, ROOM, ROOM + 1, 1ull << 32, 1ull << 63, ~0ull};
  uint8_t byte = fuzz_byte(in);
  if (byte < 128)
    return byte;
  if (byte < 240)
    return (uint64_t)(byte - 127) * (uint64_t)(byte - 127) * 10;
  return byte < 246 ? odd[byte - 240] : fuzz_word(in, 8);
}

static uint32_t region_number(fuzz_input *in)
{
  static const uint32_t numbers[] = {0, 1, 2, REGIONS - 1, GPUD_REGION_STREAM, GPUD_REGION_STREAM, 1023, 1024};
  return numbers[fuzz_byte(in) % 8];
}

static void append_raw(fuzz_input *in)
{
  uint8_t bytes[256];
  size_t count = fuzz_byte(in);
  count = fuzz_bytes(in, bytes, count);
  append(bytes, count);
}

static void append_command(fuzz_input *in, uint8_t kind, uint32_t *sequence)
{
  uint8_t body[256];
  int8_t off;
  switch (kind % 8) {
  case 0: {
    gpud_msg_region_add m = {.region = region_number(in), .access = fuzz_byte(in), .size = number(in) * 4096};
    m.address = kind & 8 ? number(in) : 0;
    append_message(GPUD_OP_REGION_ADD, ++*sequence, &m, sizeof m);
    break;
  }
  case 1:
    append_message(GPUD_OP_REGION_DROP, ++*sequence, &(gpud_msg_region_drop){.region = region_number(in)},
                   sizeof(gpud_msg_region_drop));
    break;
  case 2:
  case 3: {
    gpud_msg_copy_host m = {.region = region_number(in), .size = number(in)};
    m.offset = kind & 8 ? number(in) : 0;
    off = kind & 16 ? (int8_t)fuzz_byte(in) : 0;
    append_message(GPUD_OP_COPY_IN, ++*sequence, &m, sizeof m);
    append_cut(kind & 32 ? 1 + fuzz_byte(in) % 48 : 0);
    append_filler(m.size > MOST ? MOST : off < 0 && m.size < (uint64_t)-off ? 0 : m.size + (uint64_t)(int64_t)off);
    break;
  }
  case 4: {
    gpud_msg_copy_host m = {.region = region_number(in), .size = number(in)};
    m.offset = kind & 8 ? number(in) : 0;
    append_message(GPUD_OP_COPY_OUT, ++*sequence, &m, sizeof m);
    break;
  }
  case 5: {
    gpud_msg_module_load m = {.module = 1, .region = region_number(in), .size = number(in)};
    m.offset = kind & 8 ? number(in) : 0;
    append_message(GPUD_OP_MODULE_LOAD, ++*sequence, &m, sizeof m);
    append_filler(m.size > MOST ? MOST : m.size);
    break;
  }
  case 6: {
    size_t size = fuzz_bytes(in, body, fuzz_byte(in) % 64);
    append_message(kind & 8 ? fuzz_byte(in) : GPUD_OP_DATA, ++*sequence, body, size);
    break;
  }
  default:
    append_raw(in);
  }
}

static void append_reply(fuzz_input *in, uint8_t kind, uint32_t *sequence)
{
  uint8_t body[256];
  switch (kind % 8) {
  case 0:
  case 1:
  case 2: {
    gpud_msg_bytes m = {.size = number(in)};
    int8_t off = kind & 16 ? (int8_t)fuzz_byte(in) : 0;
    append_message(GPUD_OP_BYTES, 0, &m, sizeof m);
    append_cut(kind & 32 ? 1 + fuzz_byte(in) % 24 : 0);
    append_filler(m.size > MOST ? MOST : off < 0 && m.size < (uint64_t)-off ? 0 : m.size + (uint64_t)(int64_t)off);
    break;
  }
  case 3:
  case 4: {
    gpud_msg_completed m = {.sequence = number(in), .faulted = kind & 16 ? fuzz_byte(in) : 0};
    append_message(GPUD_OP_COMPLETED, 0, &m, sizeof m);
    break;
  }
  case 5: {
    gpud_msg_fault m = {.sequence = number(in), .status = GPUD_STATUS_INVALID};
    append_message(GPUD_OP_FAULT, ++*sequence, &m, sizeof m);
    break;
  }
  case 6: {
    unsigned many = kind & 16 ? fuzz_byte(in) % 64 : 1; /* more than its queue holds, perhaps */
    size_t size = kind & 8 ? 1000 : fuzz_bytes(in, body, fuzz_byte(in) % 64);
    uint8_t op = kind & 32 ? fuzz_byte(in) : GPUD_OP_DATA;
    for (; many > 0; many--) {
      static const uint8_t long_body[1000];
      append_message(op, ++*sequence, kind & 8 ? long_body : body, size);
    }
    break;
  }
  default:
    append_raw(in);
  }
}

static void make_stream(fuzz_input *in, bool commands)
{
  uint32_t sequence = 0;
  while (fuzz_left(in) && stream_size < MOST) {
    uint8_t kind = fuzz_byte(in);
    if (commands)
      append_command(in, kind, &sequence);
    else
      append_reply(in, kind, &sequence);
    append_cut(kind & 64 ? 1 + number(in) : 0);
    if (kind & 128)
      sequence++; /* one is left out */
  }
}

/* ---------------------------------------------------------------- reading it plainly */

/* The message that is at `at`: its size; -EPIPE: not all of it; -EPROTO: none begins so. */
static int plain_message(size_t at)
{
  gpud_message_head head;
  if (stream_size - at < sizeof head)
    return -EPIPE;
  memcpy(&head, stream + at, sizeof head);
  if (head.size < HEAD_SIZE || head.size > GPUD_MAX_MESSAGE || head.tag != 0)
    return -EPROTO;
  return stream_size - at < head.size ? -EPIPE : head.size;
}

static int plain_checked(size_t at, uint32_t sequence, int from_client)
{
  gpud_message_head head;
  int size = plain_message(at);
  if (size < 0)
    return size;
  memcpy(&head, stream + at, sizeof head);
  return head.sequence == sequence && gpud_message_check(stream + at, (size_t)size, from_client) == 0 ? size : -EPROTO;
}

#endif
