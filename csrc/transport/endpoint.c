#include "endpoint.h"

#include <errno.h>

int gpud_endpoint_local_here(gpud_endpoint *ep, const gpud_local *local)
{
  (void)ep;
  return local->device ? -ENOTSUP : 0;
}

const char *gpud_endpoint_no_reason(gpud_endpoint *ep)
{
  (void)ep;
  return "";
}
