/*
 * Invariant: whatever the bytes, the codec answers 0 (or a length within them) or -EPROTO, and reads none beyond them.
 * Each case comes as kind (u32), size (u32) and the bytes, which are put at the end of an allocation of exactly their size.
 *   0 reply, 1 command: gpud_message_check     2: gpud_frame_size     3, 4, 5: gpud_frame_decode of type kind - 2
 * The answer is an i32; a text that does not lie within the bytes ends the program.
 */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "wire.h"

static int32_t decode(const char *bytes, uint32_t size, uint16_t type)
{
  static const size_t fixed[] = {[GPUD_FRAME_HELLO] = sizeof(gpud_hello),
                                 [GPUD_FRAME_WELCOME] = sizeof(gpud_welcome),
                                 [GPUD_FRAME_REFUSED] = sizeof(gpud_refused)};
  const char *text = NULL;
  void *body = malloc(fixed[type]);
  CHECK(body);
  int rc = gpud_frame_decode(bytes, size, type, body, &text);
  if (rc >= 0) {
    CHECK(text >= bytes && text + rc == bytes + size);
    /* What decodes encodes to the same bytes. */
    char *again = malloc(size);
    CHECK(again);
    CHECK_EQUAL(gpud_frame_encode(again, size, type, body, text, (size_t)rc), size);
    CHECK(memcmp(again, bytes, size) == 0);
    CHECK_EQUAL(gpud_frame_encode(again, size - 1, type, body, text, (size_t)rc), -ENOSPC);
    free(again);
  }
  free(body);
  return rc;
}

int main(void)
{
  uint32_t head[2];
  while (fread(head, sizeof head, 1, stdin) == 1) {
    char *bytes = malloc(head[1]);
    CHECK(bytes);
    CHECK_EQUAL(fread(bytes, 1, head[1], stdin), head[1]);
    int32_t answer = head[0] <= 1   ? gpud_message_check(bytes, head[1], (int)head[0])
                     : head[0] == 2 ? gpud_frame_size(bytes, head[1])
                                    : decode(bytes, head[1], (uint16_t)(head[0] - 2));
    free(bytes);
    fwrite(&answer, sizeof answer, 1, stdout);
    fflush(stdout);
  }
  return 0;
}
