/*
 * What the kernels of a checked session may touch, to the byte: the client's arrays, as it tells of them (ARRAY_ADD,
 * ARRAY_DROP), and the variables of its modules. Compiled code asks before each access (kernel_abi.h); the first bad one ends
 * the kernel and is described here.
 *
 * Belongs to the engine's thread, which is also the one that runs all blocks of a checked launch.
 */
#ifndef GPUD_MEMCHECK_H
#define GPUD_MEMCHECK_H

#include <stddef.h>
#include <stdint.h>

#include "fault.h"
#include "kernel_abi.h"
#include "wire.h"

typedef struct gpud_check gpud_check;

gpud_check *gpud_check_new(void);
void gpud_check_free(gpud_check *check); /* NULL is fine */

/*
 * An array of `size` bytes in memory of `room` bytes; `label` says to people which one it is. `owner`: 0 for the client's own, else
 * the module whose variable it is. 0, -EINVAL (empty, wraps, no room), -EEXIST (overlaps another), -ENOMEM, -EMFILE (too many).
 */
int gpud_check_add(gpud_check *check, uint64_t address, uint64_t size, uint64_t room, uint32_t owner, const char *label,
                   uint32_t label_size);
/* The array that begins there is gone: 0 or -ENOENT. Accesses to it are known for what they are for a while. */
int gpud_check_drop(gpud_check *check, uint64_t address);
void gpud_check_drop_owned(gpud_check *check, uint32_t owner);

/* Before a launch: where in shared memory its dynamic part begins, and how large that is; its parameters. */
void gpud_check_begin(gpud_check *check, uint64_t dynamic, uint64_t dynamic_size, const void *params,
                      uint64_t params_size);
/* What compiled code calls (gpud_kernel_check). */
void gpud_check_access(gpud_kernel_context *context, uint64_t address, uint64_t size, uint32_t thread,
                       const gpud_check_site *site, const gpud_check_frame *frame);

/* "line 17, st.u32 at line 530 of the PTX". */
void gpud_check_place(const gpud_check_site *site, char *text, size_t most);

typedef struct gpud_check_fault {
  uint64_t address;
  uint32_t thread;
  char text[768];
} gpud_check_fault;
/* After a launch: the bad access that ended it, or NULL. */
const gpud_check_fault *gpud_check_found(const gpud_check *check);

#endif
