#include "wire.h"

#include <errno.h>
#include <string.h>

#define HEAD sizeof(gpud_message_head)

/* ---------------------------------------------------------------- frames */

/* Bytes of a frame's fixed part after the head, 0 where there is no such type. */
static size_t frame_fixed(uint16_t type)
{
  switch (type) {
  case GPUD_FRAME_HELLO:
    return sizeof(gpud_hello);
  case GPUD_FRAME_WELCOME:
    return sizeof(gpud_welcome);
  case GPUD_FRAME_REFUSED:
    return sizeof(gpud_refused);
  case GPUD_FRAME_ASK:
    return sizeof(gpud_ask);
  case GPUD_FRAME_WAYS:
    return sizeof(gpud_ways);
  case GPUD_FRAME_QUEUE_PAIR:
    return sizeof(gpud_queue_pair);
  default:
    return 0;
  }
}

static int has_nul(const void *text, size_t size) { return size != 0 && memchr(text, 0, size) != NULL; }

int gpud_frame_encode(void *out, size_t capacity, uint16_t type, const void *body, const void *text, size_t text_size)
{
  size_t fixed = frame_fixed(type);
  if (fixed == 0 || text_size > GPUD_MAX_FRAME - sizeof(gpud_frame_head) - fixed || has_nul(text, text_size))
    return -EINVAL;
  gpud_frame_head head = {.magic = GPUD_MAGIC, .type = type, .text = (uint32_t)text_size};
  head.size = (uint32_t)(sizeof head + fixed + text_size);
  if (head.size > capacity)
    return -ENOSPC;
  memcpy(out, &head, sizeof head);
  memcpy((char *)out + sizeof head, body, fixed);
  if (text_size != 0)
    memcpy((char *)out + sizeof head + fixed, text, text_size);
  return (int)head.size;
}

int gpud_frame_size(const void *bytes, size_t size)
{
  gpud_frame_head head;
  if (size < sizeof head)
    return 0;
  memcpy(&head, bytes, sizeof head);
  size_t fixed = frame_fixed(head.type);
  if (head.magic != GPUD_MAGIC || fixed == 0 || head.reserved != 0 || head.size > GPUD_MAX_FRAME ||
      head.size < sizeof head + fixed || head.text != head.size - sizeof head - fixed)
    return -EPROTO;
  return (int)head.size;
}

int gpud_frame_decode(const void *bytes, size_t size, uint16_t type, void *body, const char **text)
{
  gpud_frame_head head;
  int whole = gpud_frame_size(bytes, size);
  if (whole <= 0 || (size_t)whole != size)
    return -EPROTO;
  memcpy(&head, bytes, sizeof head);
  const char *begin = (const char *)bytes + sizeof head + frame_fixed(head.type);
  if (head.type != type || has_nul(begin, head.text))
    return -EPROTO;
  memcpy(body, (const char *)bytes + sizeof head, frame_fixed(type));
  *text = begin;
  return (int)head.text;
}

/* ---------------------------------------------------------------- messages */

/*
 * What else must hold of an op's message, once its size is within the table's bounds. `body` is what follows the head:
 * a copy of its fixed part may be taken, `rest` bytes follow that.
 */
typedef int (*check_fn)(const char *body, size_t rest);

#define BODY(type, name)                                                                                               \
  type name;                                                                                                           \
  memcpy(&name, body, sizeof name)
#define REST(type) (body + sizeof(type))

static int check_region_add(const char *body, size_t rest)
{
  (void)rest;
  BODY(gpud_msg_region_add, m);
  return (m.access & ~(uint32_t)(GPUD_ACCESS_READ | GPUD_ACCESS_WRITE)) == 0;
}

/* REGION_DROP, MODULE_UNLOAD, EVENT_*: an id, then four zero bytes. */
static int check_id(const char *body, size_t rest)
{
  (void)rest;
  BODY(gpud_msg_region_drop, m);
  return m.reserved == 0;
}
_Static_assert(sizeof(gpud_msg_region_drop) == sizeof(gpud_msg_module_ref) &&
                   sizeof(gpud_msg_region_drop) == sizeof(gpud_msg_event_ref) &&
                   offsetof(gpud_msg_region_drop, reserved) == offsetof(gpud_msg_module_ref, reserved) &&
                   offsetof(gpud_msg_region_drop, reserved) == offsetof(gpud_msg_event_ref, reserved),
               "one check for the three");

static int check_copy_host(const char *body, size_t rest)
{
  (void)rest;
  BODY(gpud_msg_copy_host, m);
  return m.reserved == 0;
}

static int check_fill(const char *body, size_t rest)
{
  (void)rest;
  BODY(gpud_msg_fill, m);
  return m.reserved == 0 && (m.width == 1 || m.width == 2 || m.width == 4 || m.width == 8);
}

static int check_array_add(const char *body, size_t rest) { return !has_nul(REST(gpud_msg_array_add), rest); }

static int check_module_load(const char *body, size_t rest)
{
  return rest == 0 || REST(gpud_msg_module_load)[rest - 1] == 0;
}

static int check_launch(const char *body, size_t rest)
{
  BODY(gpud_msg_launch, m);
  return (m.flags & ~GPUD_LAUNCH_COOPERATIVE) == 0 && m.params_size == rest;
}

static int check_kernel_info(const char *body, size_t rest)
{
  BODY(gpud_msg_kernel_info, m);
  size_t params = m.param_count * sizeof(gpud_param);
  if (params > rest || m.name_size != rest - params || m.name_size > GPUD_MAX_TEXT)
    return 0;
  for (size_t at = 0; at < params; at += sizeof(gpud_param)) {
    gpud_param param;
    memcpy(&param, REST(gpud_msg_kernel_info) + at, sizeof param);
    if (param.reserved != 0 || param.kind > GPUD_PARAM_BLOB)
      return 0;
  }
  return !has_nul(REST(gpud_msg_kernel_info) + params, m.name_size);
}

static int check_global_info(const char *body, size_t rest)
{
  BODY(gpud_msg_global_info, m);
  return m.reserved == 0 && !has_nul(REST(gpud_msg_global_info), rest);
}

static int check_module_status(const char *body, size_t rest) { return !has_nul(REST(gpud_msg_module_status), rest); }

static int check_fault(const char *body, size_t rest) { return !has_nul(REST(gpud_msg_fault), rest); }

/* BYE and DIRECT: a number, zero, text. */
static int check_bye(const char *body, size_t rest)
{
  BODY(gpud_msg_bye, m);
  return m.reserved == 0 && !has_nul(REST(gpud_msg_bye), rest);
}

static int check_completed(const char *body, size_t rest)
{
  (void)rest;
  BODY(gpud_msg_completed, m);
  return m.reserved == 0 && m.faulted <= 1;
}

static int check_credit(const char *body, size_t rest)
{
  (void)rest;
  BODY(gpud_msg_credit, m);
  return m.reserved == 0 && m.messages != 0;
}

static int check_nothing(const char *body, size_t rest)
{
  (void)body;
  (void)rest;
  return 1;
}

#define FROM_CLIENT 1u
#define FROM_WORKER 2u
#define LINK_CLIENT 4u /* link messages */
#define LINK_WORKER 8u

typedef struct message_rule {
  const char *name; /* NULL: no such op */
  check_fn check;
  uint16_t fixed; /* bytes of the body's fixed part */
  uint16_t extra; /* how many may follow it */
  uint8_t from;
} message_rule;

#define REMAINING(fixed) (GPUD_MAX_MESSAGE - HEAD - (fixed))

static const message_rule RULES[256] = {
  [GPUD_OP_DATA] = {"DATA", check_nothing, 0, REMAINING(0), FROM_CLIENT | FROM_WORKER},
  [GPUD_OP_REGION_ADD] = {"REGION_ADD", check_region_add, sizeof(gpud_msg_region_add), 0, FROM_CLIENT},
  [GPUD_OP_REGION_DROP] = {"REGION_DROP", check_id, sizeof(gpud_msg_region_drop), 0, FROM_CLIENT},
  [GPUD_OP_MAP] = {"MAP", check_nothing, sizeof(gpud_msg_map), 0, FROM_CLIENT},
  [GPUD_OP_UNMAP] = {"UNMAP", check_nothing, sizeof(gpud_msg_map), 0, FROM_CLIENT},
  [GPUD_OP_COPY_IN] = {"COPY_IN", check_copy_host, sizeof(gpud_msg_copy_host), 0, FROM_CLIENT},
  [GPUD_OP_COPY_OUT] = {"COPY_OUT", check_copy_host, sizeof(gpud_msg_copy_host), 0, FROM_CLIENT},
  [GPUD_OP_COPY] = {"COPY", check_nothing, sizeof(gpud_msg_copy), 0, FROM_CLIENT},
  [GPUD_OP_FILL] = {"FILL", check_fill, sizeof(gpud_msg_fill), 0, FROM_CLIENT},
  [GPUD_OP_WRITE] = {"WRITE", check_nothing, sizeof(gpud_msg_write), REMAINING(sizeof(gpud_msg_write)), FROM_CLIENT},
  [GPUD_OP_ARRAY_ADD] = {"ARRAY_ADD", check_array_add, sizeof(gpud_msg_array_add), GPUD_MAX_LABEL, FROM_CLIENT},
  [GPUD_OP_ARRAY_DROP] = {"ARRAY_DROP", check_nothing, sizeof(gpud_msg_array_drop), 0, FROM_CLIENT},
  [GPUD_OP_MODULE_LOAD] = {"MODULE_LOAD", check_module_load, sizeof(gpud_msg_module_load), GPUD_MAX_OPTIONS,
                           FROM_CLIENT},
  [GPUD_OP_MODULE_UNLOAD] = {"MODULE_UNLOAD", check_id, sizeof(gpud_msg_module_ref), 0, FROM_CLIENT},
  [GPUD_OP_LAUNCH] = {"LAUNCH", check_launch, sizeof(gpud_msg_launch), GPUD_MAX_PARAMS, FROM_CLIENT},
  [GPUD_OP_STREAM_CREATE] = {"STREAM_CREATE", check_nothing, 0, 0, FROM_CLIENT},
  [GPUD_OP_STREAM_DESTROY] = {"STREAM_DESTROY", check_nothing, 0, 0, FROM_CLIENT},
  [GPUD_OP_EVENT_RECORD] = {"EVENT_RECORD", check_id, sizeof(gpud_msg_event_ref), 0, FROM_CLIENT},
  [GPUD_OP_EVENT_WAIT] = {"EVENT_WAIT", check_id, sizeof(gpud_msg_event_ref), 0, FROM_CLIENT},
  [GPUD_OP_EVENT_QUERY] = {"EVENT_QUERY", check_id, sizeof(gpud_msg_event_ref), 0, FROM_CLIENT},
  [GPUD_OP_EVENT_DESTROY] = {"EVENT_DESTROY", check_id, sizeof(gpud_msg_event_ref), 0, FROM_CLIENT},
  [GPUD_OP_SYNCHRONIZE] = {"SYNCHRONIZE", check_nothing, 0, 0, FROM_CLIENT},
  [GPUD_OP_CLOSE] = {"CLOSE", check_nothing, 0, 0, FROM_CLIENT},
  [GPUD_OP_KERNEL_INFO] = {"KERNEL_INFO", check_kernel_info, sizeof(gpud_msg_kernel_info),
                           REMAINING(sizeof(gpud_msg_kernel_info)), FROM_WORKER},
  [GPUD_OP_GLOBAL_INFO] = {"GLOBAL_INFO", check_global_info, sizeof(gpud_msg_global_info), GPUD_MAX_TEXT, FROM_WORKER},
  [GPUD_OP_MODULE_STATUS] = {"MODULE_STATUS", check_module_status, sizeof(gpud_msg_module_status), GPUD_MAX_TEXT,
                             FROM_WORKER},
  [GPUD_OP_EVENT_TIME] = {"EVENT_TIME", check_nothing, sizeof(gpud_msg_event_time), 0, FROM_WORKER},
  [GPUD_OP_FAULT] = {"FAULT", check_fault, sizeof(gpud_msg_fault), GPUD_MAX_TEXT, FROM_WORKER},
  [GPUD_OP_BYE] = {"BYE", check_bye, sizeof(gpud_msg_bye), GPUD_MAX_TEXT, FROM_WORKER},
  [GPUD_OP_OUTPUT] = {"OUTPUT", check_nothing, 0, GPUD_MAX_TEXT, FROM_WORKER},
  [GPUD_OP_DIRECT] = {"DIRECT", check_bye, sizeof(gpud_msg_direct), GPUD_MAX_TEXT, FROM_WORKER},
  [GPUD_OP_COMPLETED] = {"COMPLETED", check_completed, sizeof(gpud_msg_completed), 0, LINK_WORKER},
  [GPUD_OP_BYTES] = {"BYTES", check_nothing, sizeof(gpud_msg_bytes), 0, LINK_WORKER},
  [GPUD_OP_REGION_KEY] = {"REGION_KEY", check_nothing, sizeof(gpud_msg_region_key), 0, LINK_CLIENT},
  [GPUD_OP_CREDIT] = {"CREDIT", check_credit, sizeof(gpud_msg_credit), 0, LINK_CLIENT | LINK_WORKER},
};

/* By the table: `from` is who may send it. */
static int check(const void *message, size_t size, uint8_t from)
{
  gpud_message_head head;
  if (size < HEAD || size > GPUD_MAX_MESSAGE)
    return -EPROTO;
  memcpy(&head, message, sizeof head);
  const message_rule *rule = &RULES[head.op];
  if (head.size != size || head.flags != 0 || (rule->from & from) == 0)
    return -EPROTO;
  size_t body = size - HEAD;
  if (body < rule->fixed || body - rule->fixed > rule->extra)
    return -EPROTO;
  return rule->check((const char *)message + HEAD, body - rule->fixed) ? 0 : -EPROTO;
}

int gpud_message_check(const void *message, size_t size, int from_client)
{
  return check(message, size, from_client ? FROM_CLIENT : FROM_WORKER);
}

int gpud_link_check(const void *message, size_t size, int from_client)
{
  gpud_message_head head;
  if (check(message, size, from_client ? LINK_CLIENT : LINK_WORKER) != 0)
    return -EPROTO;
  memcpy(&head, message, sizeof head);
  return head.tag == 0 && head.stream == 0 && head.sequence == 0 ? 0 : -EPROTO;
}

uint64_t gpud_message_payload(const void *message)
{
  const char *body = (const char *)message + HEAD;
  gpud_message_head head;
  memcpy(&head, message, sizeof head);
  if (head.op == GPUD_OP_COPY_IN) {
    BODY(gpud_msg_copy_host, m);
    return m.size;
  }
  if (head.op == GPUD_OP_MODULE_LOAD) {
    BODY(gpud_msg_module_load, m);
    return m.size;
  }
  if (head.op == GPUD_OP_BYTES) {
    BODY(gpud_msg_bytes, m);
    return m.size;
  }
  return 0;
}

const char *gpud_op_name(uint32_t op) { return op < 256 && RULES[op].name ? RULES[op].name : "?"; }

const char *gpud_status_name(uint32_t status)
{
  static const char *const names[] = {
    [GPUD_STATUS_OK] = "OK",
    [GPUD_STATUS_PROTOCOL] = "PROTOCOL",
    [GPUD_STATUS_VERSION] = "VERSION",
    [GPUD_STATUS_DENIED] = "DENIED",
    [GPUD_STATUS_BUSY] = "BUSY",
    [GPUD_STATUS_OUT_OF_MEMORY] = "OUT_OF_MEMORY",
    [GPUD_STATUS_INVALID] = "INVALID",
    [GPUD_STATUS_NOT_FOUND] = "NOT_FOUND",
    [GPUD_STATUS_COMPILE] = "COMPILE",
    [GPUD_STATUS_DEVICE_FAULT] = "DEVICE_FAULT",
    [GPUD_STATUS_UNSUPPORTED] = "UNSUPPORTED",
    [GPUD_STATUS_INTERNAL] = "INTERNAL",
    [GPUD_STATUS_SHUTDOWN] = "SHUTDOWN",
    [GPUD_STATUS_DEADLINE] = "DEADLINE",
  };
  return status < sizeof names / sizeof names[0] ? names[status] : "?";
}
