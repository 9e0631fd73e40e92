/*
 * Invariant: whatever the bytes, the codec answers 0 (or a length within them) or -EPROTO, looks at no byte beyond them and
 * changes none; what it accepts it accepts whatever tag, stream and sequence say (of a message between endpoints: when they are zero), in one direction,
 * at that length only; and what it decodes it encodes to the same bytes.
 *
 * An input: kind, and how many bytes to add to the rest (u16), so that the limits of texts are near; then the bytes of a message or frame.
 * With FITTING in kind the head's sizes, and a frame's magic, are set right first: what is judged then is the body.
 */
#include <errno.h>

#include "check.h"
#include "fuzz.h"
#include "wire.h"

#define FITTING 8u
#define ENCODE 128u
#define MOST (GPUD_MAX_MESSAGE + 64u)

/* A copy that ends where its memory ends. */
static char *exact(const char *bytes, size_t size)
{
  char *copy = malloc(size + !size);
  CHECK(copy);
  if (size)
    memcpy(copy, bytes, size);
  return copy;
}

typedef int (*checker)(const void *message, size_t size, int from_client);

static int check(checker by, const char *bytes, size_t size, int from_client)
{
  char *copy = exact(bytes, size);
  int rc = by(copy, size, from_client);
  CHECK(rc == 0 || rc == -EPROTO);
  CHECK(size == 0 || memcmp(copy, bytes, size) == 0);
  free(copy);
  return rc;
}

/* `by` judges messages of the ring or of the link; `other` those of the other kind. */
static void message(checker by, checker other, char *bytes, size_t size, int fitting)
{
  gpud_message_head head;
  if (fitting && size >= sizeof head) {
    memcpy(&head, bytes, sizeof head);
    head.size = (uint16_t)size;
    memcpy(bytes, &head, sizeof head);
  }
  int link = by == gpud_link_check;
  int accepted[2] = {check(by, bytes, size, 0) == 0, check(by, bytes, size, 1) == 0};
  if (!accepted[0] && !accepted[1])
    return;
  memcpy(&head, bytes, sizeof head);
  CHECK(head.size == size && head.flags == 0);
  CHECK(strcmp(gpud_op_name(head.op), "?") != 0);
  CHECK_EQUAL(accepted[0] && accepted[1], head.op == GPUD_OP_DATA || head.op == GPUD_OP_CREDIT);
  CHECK_EQUAL(head.op >= GPUD_OP_COMPLETED, link);
  CHECK(check(other, bytes, size, 0) != 0 && check(other, bytes, size, 1) != 0);
  int carries = head.op == GPUD_OP_COPY_IN || head.op == GPUD_OP_MODULE_LOAD || head.op == GPUD_OP_BYTES;
  CHECK(carries || gpud_message_payload(bytes) == 0);
  /* Who looks at a copy later finds in it what was judged. */
  int direction = accepted[1];
  head.tag = ~head.tag;
  head.stream = ~head.stream;
  head.sequence = ~head.sequence;
  memcpy(bytes, &head, sizeof head);
  CHECK_EQUAL(check(by, bytes, size, direction), link ? -EPROTO : 0);
  memset(bytes + offsetof(gpud_message_head, stream), 0, 8);
  memset(bytes, 0, sizeof head.tag);
  CHECK_EQUAL(check(by, bytes, size, direction), 0);
  CHECK_EQUAL(check(by, bytes, size - 1, direction), -EPROTO);
  CHECK_EQUAL(check(by, bytes, size + 1, direction), -EPROTO);
  for (unsigned bit = 0; bit < 8; bit++) {
    bytes[offsetof(gpud_message_head, flags)] = (char)(1u << bit);
    CHECK_EQUAL(check(by, bytes, size, direction), -EPROTO);
  }
}

#define LAST_FRAME GPUD_FRAME_QUEUE_PAIR
#define LINK (LAST_FRAME + 1) /* as a kind: a link message */

static size_t fixed_of(uint16_t type)
{
  static const size_t fixed[] = {
    [GPUD_FRAME_HELLO] = sizeof(gpud_hello),     [GPUD_FRAME_WELCOME] = sizeof(gpud_welcome),
    [GPUD_FRAME_REFUSED] = sizeof(gpud_refused), [GPUD_FRAME_ASK] = sizeof(gpud_ask),
    [GPUD_FRAME_WAYS] = sizeof(gpud_ways),       [GPUD_FRAME_QUEUE_PAIR] = sizeof(gpud_queue_pair),
  };
  return fixed[type];
}

static void frame(char *bytes, size_t size, uint16_t type, int fitting)
{
  gpud_frame_head head;
  const char *text = NULL;
  if (fitting && size >= sizeof head) {
    memcpy(&head, bytes, sizeof head);
    head = (gpud_frame_head){.magic = GPUD_MAGIC, .type = type, .reserved = head.reserved, .size = (uint32_t)size};
    head.text = (uint32_t)(size - sizeof head - fixed_of(type));
    memcpy(bytes, &head, sizeof head);
  }
  char *copy = exact(bytes, size);
  char *body = malloc(fixed_of(type));
  CHECK(body);
  int whole = gpud_frame_size(copy, size);
  CHECK(whole == -EPROTO || (whole == 0 && size < sizeof head) ||
        (whole >= (int)sizeof head && whole <= GPUD_MAX_FRAME));
  int rc = gpud_frame_decode(copy, size, type, body, &text);
  CHECK(rc == -EPROTO || (rc >= 0 && (size_t)whole == size));
  if (rc >= 0) {
    CHECK(text >= copy && text + rc == copy + size && (rc == 0 || !memchr(text, 0, (size_t)rc)));
    char *again = malloc(size);
    CHECK(again);
    CHECK_EQUAL(gpud_frame_size(copy, sizeof head), size); /* the head alone tells */
    CHECK_EQUAL(gpud_frame_encode(again, size, type, body, text, (size_t)rc), size);
    CHECK(memcmp(again, bytes, size) == 0);
    CHECK_EQUAL(gpud_frame_encode(again, size - 1, type, body, text, (size_t)rc), -ENOSPC);
    for (uint16_t other = GPUD_FRAME_HELLO; other <= LAST_FRAME; other++)
      if (other != type)
        CHECK_EQUAL(gpud_frame_decode(copy, size, other, again, &text), -EPROTO);
    free(again);
  }
  free(body);
  free(copy);
}

/* Any text, any room for it: what is encoded decodes to the same. */
static void encode(const char *text, size_t size, uint16_t type, size_t capacity)
{
  unsigned char body[sizeof(gpud_welcome)], got[sizeof(gpud_welcome)];
  const char *begin;
  memset(body, (int)size, sizeof body);
  char *copy = exact(text, size), *out = malloc(capacity + !capacity);
  CHECK(out);
  int rc = gpud_frame_encode(out, capacity, type, body, copy, size);
  int known = type >= GPUD_FRAME_HELLO && type <= LAST_FRAME;
  size_t whole = sizeof(gpud_frame_head) + (known ? fixed_of(type) : 0) + size;
  int fits = known && whole <= GPUD_MAX_FRAME && (size == 0 || !memchr(text, 0, size));
  CHECK_EQUAL(rc, !fits ? -EINVAL : whole > capacity ? -ENOSPC : (int)whole);
  if (rc > 0) {
    CHECK_EQUAL(gpud_frame_decode(out, (size_t)rc, type, got, &begin), size);
    CHECK(memcmp(got, body, fixed_of(type)) == 0 && (size == 0 || memcmp(begin, text, size) == 0));
  }
  free(out);
  free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static char bytes[MOST + 1];
  fuzz_input in = {data, data + size};
  uint8_t kind = fuzz_byte(&in);
  size_t more = fuzz_word(&in, 2);
  size_t count = fuzz_bytes(&in, bytes, MOST);
  if (more > MOST - count)
    more = MOST - count;
  memset(bytes + count, 'x', more);
  size_t all = count + more;
  uint16_t type = kind % 8;
  if (kind & ENCODE)
    encode(bytes, all, type, (size_t)(kind >> 3 & 15) * 300);
  else if (type == 0)
    message(gpud_message_check, gpud_link_check, bytes, all, kind & FITTING);
  else if (type == LINK)
    message(gpud_link_check, gpud_message_check, bytes, all, kind & FITTING);
  else
    frame(bytes, all, type, kind & FITTING);
  return 0;
}
