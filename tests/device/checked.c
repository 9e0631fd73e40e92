/* What tests/device/checked.py needs of the engine: the check itself, and a net to run a kernel in. */
#include <errno.h>

#include "memcheck.h"

typedef struct call {
  gpud_kernel_function function;
  const void *params;
  gpud_kernel_context *context;
  uint64_t first;
  uint64_t count;
} call;

static void run(void *argument)
{
  const call *c = argument;
  c->function(c->params, c->context, c->first, c->count);
}

/* NULL: the blocks ran; else the bad access that ended them. */
const gpud_check_fault *checked_run(gpud_check *check, gpud_kernel_function function, const void *params,
                                    gpud_kernel_context *context, uint64_t first, uint64_t count);
const gpud_check_fault *checked_run(gpud_check *check, gpud_kernel_function function, const void *params,
                                    gpud_kernel_context *context, uint64_t first, uint64_t count)
{
  call c = {function, params, context, first, count};
  gpud_fault_net net;
  context->check = gpud_check_access;
  context->checked = check;
  return gpud_fault_guard(&net, run, &c) ? gpud_check_found(check) : NULL;
}
