#include <errno.h>
#include <string.h>

#include "connection.h"
#include "wait.h"

#define ROUND_NS 10000000000ull /* how long a round may take */
#define ROUNDS_PER_DEADLINE 1024
#define HEAD_SIZE ((uint32_t)sizeof(gpud_message_head))

/* A clock that costs nothing beside a round trip; scaled afterwards by gpud_now's. */
static inline uint64_t ticks(void)
{
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#else
  return gpud_now();
#endif
}

/* The deadline of round `i`: looking at the clock costs something beside a round, so several have one. */
static inline uint64_t renewed(uint64_t deadline, uint64_t i)
{
  return i % ROUNDS_PER_DEADLINE == 0 ? gpud_now() + ROUND_NS : deadline;
}

/* A region that wants no address: there is no window here, and what the client names may be our own memory. */
static int add_region(gpud_connection *c, const void *message, uint64_t deadline)
{
  gpud_msg_region_add add;
  memcpy(&add, (const char *)message + HEAD_SIZE, sizeof add);
  return add.address == 0 ? gpud_connection_region_add(c, message, deadline) : -EPROTO;
}

static int64_t send_back(gpud_connection *c, const char *message, uint32_t size, uint64_t deadline)
{
  const gpud_message_head *head = (const gpud_message_head *)(const void *)message;
  return gpud_connection_post(c, GPUD_OP_DATA, head->stream, message + HEAD_SIZE, size - HEAD_SIZE, deadline);
}

int gpud_connection_echo(gpud_connection *c, uint64_t deadline)
{
  _Alignas(GPUD_SLOT_SIZE) char message[GPUD_MAX_MESSAGE];
  for (;;) {
    int size = gpud_connection_receive(c, message, deadline);
    if (size < 0)
      return size;
    const gpud_message_head *head = (const gpud_message_head *)(const void *)message;
    int64_t rc;
    switch (head->op) {
    case GPUD_OP_DATA:
      rc = send_back(c, message, (uint32_t)size, deadline);
      break;
    case GPUD_OP_REGION_ADD:
      rc = add_region(c, message, deadline);
      break;
    case GPUD_OP_REGION_DROP:
      rc = gpud_connection_region_drop(c, message);
      break;
    case GPUD_OP_CLOSE:
      return 0;
    default:
      return -EPROTO;
    }
    if (rc < 0)
      return (int)rc;
  }
}

int gpud_connection_answer(gpud_connection *c, uint64_t count)
{
  _Alignas(GPUD_SLOT_SIZE) char message[GPUD_MAX_MESSAGE];
  uint64_t deadline = 0;
  for (uint64_t i = 0; i < count; i++) {
    deadline = renewed(deadline, i);
    int got = gpud_connection_receive(c, message, deadline);
    if (got < 0)
      return got;
    if (message[offsetof(gpud_message_head, op)] != GPUD_OP_DATA)
      return -EPROTO;
    int64_t posted = send_back(c, message, (uint32_t)got, deadline);
    if (posted < 0)
      return (int)posted;
  }
  return 0;
}

int gpud_connection_pingpong(gpud_connection *c, uint32_t size, uint32_t rounds, uint64_t *nanoseconds)
{
  _Alignas(GPUD_SLOT_SIZE) char message[GPUD_MAX_MESSAGE] = {0};
  char body[GPUD_MAX_MESSAGE] = {0};
  if (size < HEAD_SIZE || size > GPUD_MAX_MESSAGE)
    return -EMSGSIZE;
  uint64_t start = gpud_now();
  uint64_t start_ticks = ticks();
  uint64_t deadline = 0;
  for (uint32_t i = 0; i < rounds; i++) {
    deadline = renewed(deadline, i);
    uint64_t begin = ticks();
    int64_t posted = gpud_connection_post(c, GPUD_OP_DATA, 0, body, size - HEAD_SIZE, deadline);
    int got = posted < 0 ? (int)posted : gpud_connection_receive(c, message, deadline);
    nanoseconds[i] = ticks() - begin;
    if (got < 0)
      return got;
    if ((uint32_t)got != size || message[offsetof(gpud_message_head, op)] != GPUD_OP_DATA)
      return -EPROTO;
  }
  double scale = (double)(gpud_now() - start) / (double)(ticks() - start_ticks);
  for (uint32_t i = 0; i < rounds; i++)
    nanoseconds[i] = (uint64_t)((double)nanoseconds[i] * scale);
  return 0;
}

/* What a flood's message or a sink's answer says after its head. */
static uint64_t first_word(const char *message)
{
  uint64_t word;
  memcpy(&word, message + HEAD_SIZE, sizeof word);
  return word;
}

int gpud_connection_flood(gpud_connection *c, uint32_t size, uint64_t count)
{
  _Alignas(GPUD_SLOT_SIZE) char message[GPUD_MAX_MESSAGE];
  char body[GPUD_MAX_MESSAGE] = {0};
  if (size < HEAD_SIZE + sizeof(uint64_t) || size > GPUD_MAX_MESSAGE)
    return -EMSGSIZE;
  uint64_t deadline = 0;
  for (uint64_t i = 0; i < count; i++) {
    deadline = renewed(deadline, i);
    memcpy(body, &i, sizeof i);
    int64_t posted = gpud_connection_post(c, GPUD_OP_DATA, 0, body, size - HEAD_SIZE, deadline);
    if (posted < 0)
      return (int)posted;
  }
  int got = gpud_connection_receive(c, message, gpud_now() + ROUND_NS);
  if (got < 0)
    return got;
  return (uint32_t)got == HEAD_SIZE + sizeof count && first_word(message) == count ? 0 : -EPROTO;
}

int gpud_connection_sink(gpud_connection *c, uint64_t count)
{
  _Alignas(GPUD_SLOT_SIZE) char message[GPUD_MAX_MESSAGE];
  uint64_t deadline = 0;
  for (uint64_t i = 0; i < count; i++) {
    deadline = renewed(deadline, i);
    int got = gpud_connection_receive(c, message, deadline);
    if (got < 0)
      return got;
    if ((uint32_t)got < HEAD_SIZE + sizeof i || first_word(message) != i)
      return -EPROTO;
  }
  int64_t posted = gpud_connection_post(c, GPUD_OP_DATA, 0, &count, sizeof count, gpud_now() + ROUND_NS);
  return posted < 0 ? (int)posted : 0;
}
