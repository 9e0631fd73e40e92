#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

#define TRUNCATED "… [truncated]"

int gpud_refuse(gpud_engine *e, uint32_t status, uint64_t address, const char *format, ...)
{
  e->fault = (gpud_failure){.status = status, .address = address, .thread = ~0u};
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(e->fault.text, sizeof e->fault.text, format, arguments);
  va_end(arguments);
  return GPUD_FAILED;
}

int gpud_reply(gpud_engine *e, uint8_t op, const void *head, uint32_t head_size, const void *body, uint32_t body_size)
{
  gpud_connection *c = e->connection;
  int64_t rc = gpud_connection_post_parts(c, op, 0, head, head_size, body, body_size, gpud_in_ms(GPUD_REPLY_MS));
  return rc < 0 ? (int)rc : 0;
}

/* How much of `text` a message may carry; `cut` gets the text where it must be cut. UTF-8 is cut between characters. */
static const char *fit_text(const char *text, char cut[GPUD_MAX_TEXT], uint32_t *size)
{
  size_t length = strlen(text);
  *size = (uint32_t)length;
  if (length <= GPUD_MAX_TEXT)
    return text;
  size_t keep = GPUD_MAX_TEXT - strlen(TRUNCATED);
  while (keep > 0 && ((unsigned char)text[keep] & 0xc0) == 0x80)
    keep--;
  memcpy(cut, text, keep);
  memcpy(cut + keep, TRUNCATED, strlen(TRUNCATED));
  *size = (uint32_t)(keep + strlen(TRUNCATED));
  return cut;
}

int gpud_reply_fault(gpud_engine *e, uint64_t sequence, uint8_t op)
{
  const gpud_failure *fault = &e->fault;
  gpud_msg_fault m = {
    .sequence = sequence,
    .status = fault->status,
    .op = op,
    .address = fault->address,
    .module = fault->module,
    .kernel = fault->kernel,
    .thread = fault->thread,
  };
  memcpy(m.block, fault->block, sizeof m.block);
  return gpud_reply(e, GPUD_OP_FAULT, &m, sizeof m, fault->text, (uint32_t)strlen(fault->text));
}

int gpud_reply_module_status(gpud_engine *e, const gpud_msg_module_status *status, const char *text)
{
  char cut[GPUD_MAX_TEXT];
  uint32_t size;
  const char *fitting = fit_text(text, cut, &size);
  return gpud_reply(e, GPUD_OP_MODULE_STATUS, status, sizeof *status, fitting, size);
}

int gpud_reply_event_time(gpud_engine *e, uint32_t event, uint32_t status, uint64_t nanoseconds)
{
  gpud_msg_event_time m = {.event = event, .status = status, .nanoseconds = nanoseconds};
  return gpud_reply(e, GPUD_OP_EVENT_TIME, &m, sizeof m, NULL, 0);
}

int gpud_reply_output(gpud_engine *e)
{
  while (e->output_wanted && e->output_ahead < GPUD_OUTPUT_AHEAD) {
    const char *text;
    uint32_t size = e->device->ops->output(e->device, &text, GPUD_OUTPUT_PIECE);
    if (size == 0)
      return 0;
    e->output_ahead += size;
    int rc = gpud_reply(e, GPUD_OP_OUTPUT, text, size, NULL, 0);
    if (rc)
      return rc;
  }
  return 0;
}

int gpud_reply_direct(gpud_engine *e)
{
  char text[GPUD_MAX_TEXT / 4];
  gpud_msg_direct m = {.way = (uint32_t)gpud_engine_direct(e, text, sizeof text)};
  return m.way ? gpud_reply(e, GPUD_OP_DIRECT, &m, sizeof m, text, (uint32_t)strlen(text)) : 0;
}

void gpud_reply_bye(gpud_engine *e, uint32_t status, const char *text)
{
  if (e->bye_sent)
    return;
  e->bye_sent = true;
  char cut[GPUD_MAX_TEXT];
  uint32_t size;
  const char *fitting = fit_text(text ? text : "", cut, &size);
  gpud_msg_bye m = {.status = status};
  gpud_connection_post_parts(e->connection, GPUD_OP_BYE, 0, &m, sizeof m, fitting, size, 0);
}
