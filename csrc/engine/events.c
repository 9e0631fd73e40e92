#include <string.h>

#include "internal.h"

static uint32_t stream_of(const gpud_engine *e)
{
  gpud_message_head head;
  memcpy(&head, e->message, sizeof head);
  return head.stream;
}

static uint32_t event_of(const gpud_engine *e)
{
  gpud_msg_event_ref m;
  memcpy(&m, gpud_body(e), sizeof m);
  return m.event;
}

/* What a map of ids answered, in words. */
static int refused_id(gpud_engine *e, int rc, const char *what, uint32_t id, uint32_t limit)
{
  switch (rc) {
  case -EEXIST:
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "%s %u exists: destroy it first", what, id);
  case -ENOSPC:
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, 0, "a session may have %u %ss: destroy some", limit, what);
  default:
    return gpud_refuse(e, GPUD_STATUS_OUT_OF_MEMORY, 0, "the worker has no memory left for %s %u", what, id);
  }
}

int gpud_stream_create(gpud_engine *e)
{
  uint32_t stream = stream_of(e);
  if (stream == 0)
    return gpud_refuse(e, GPUD_STATUS_INVALID, 0, "STREAM_CREATE: stream 0 is always there");
  int rc = gpud_idmap_add(&e->streams, stream, 0);
  return rc ? refused_id(e, rc, "stream", stream, GPUD_MAX_STREAMS) : 0;
}

int gpud_stream_destroy(gpud_engine *e)
{
  uint32_t stream = stream_of(e);
  if (gpud_idmap_remove(&e->streams, stream))
    return 0;
  return gpud_refuse(e, GPUD_STATUS_NOT_FOUND, 0, "STREAM_DESTROY: there is no stream %u to destroy", stream);
}

int gpud_event_record(gpud_engine *e)
{
  uint64_t now;
  int rc = e->device->ops->timestamp(e->device, stream_of(e), &now);
  if (rc)
    return gpud_refuse(e, GPUD_STATUS_INTERNAL, 0, "EVENT_RECORD: %s", strerror(-rc));
  uint32_t event = event_of(e);
  uint64_t *recorded = gpud_idmap_find(&e->events, event);
  if (recorded) {
    *recorded = now;
    return 0;
  }
  rc = gpud_idmap_add(&e->events, event, now);
  return rc ? refused_id(e, rc, "event", event, GPUD_MAX_EVENTS) : 0;
}

int gpud_event_wait(gpud_engine *e)
{
  /*
   * What was recorded before has happened before, since commands run in order; and an event never recorded is not
   * there: waiting for it is no wait, as with CUDA.
   */
  (void)e;
  return 0;
}

int gpud_event_query(gpud_engine *e)
{
  uint32_t event = event_of(e);
  const uint64_t *recorded = gpud_idmap_find(&e->events, event);
  if (!recorded)
    return gpud_reply_event_time(e, event, GPUD_STATUS_NOT_FOUND, 0);
  return gpud_reply_event_time(e, event, GPUD_STATUS_OK, *recorded);
}

int gpud_event_destroy(gpud_engine *e)
{
  /* One that was never recorded does not exist here, and need not. */
  gpud_idmap_remove(&e->events, event_of(e));
  return 0;
}
