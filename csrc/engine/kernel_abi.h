/*
 * What compiled code and the engine agree on: the only contract between the PTX compiler
 * (gpudisagg/device/cpu, which emits code that reads these fields by offset) and the cpu device
 * (device_cpu.c, which fills them in). Change one side and the static asserts below stop the other.
 *
 * A kernel is compiled to one function that runs a contiguous range of blocks on the calling thread.
 * The pool gives every thread a context of its own, so nothing here is shared between threads except
 * what the pointers lead to. Device pointers are host addresses.
 */
#ifndef GPUD_KERNEL_ABI_H
#define GPUD_KERNEL_ABI_H

#include <stddef.h>
#include <stdint.h>

#define GPUD_MAX_BLOCK_THREADS 1024u

typedef struct gpud_kernel_context gpud_kernel_context;

/*
 * CUDA's vprintf, called by the thread that runs the block: `arguments` is the packed buffer that nvcc makes. Returns the
 * number of arguments, or -1. What it is given is the program's: it may fault, as any access of a kernel may.
 */
typedef int32_t (*gpud_kernel_print)(gpud_kernel_context *context, const char *format, const void *arguments);

struct gpud_kernel_context {
  uint32_t grid[3];          /*  0: %nctaid, blocks in the grid */
  uint32_t block[3];         /* 12: %ntid, threads in a block */
  uint32_t dynamic_shared;   /* 24: %dynamic_smem_size, bytes */
  uint32_t thread_slot;      /* 28: %smid, index of the pool thread running this range */
  uint32_t thread_count;     /* 32: %nsmid, threads in the pool */
  uint32_t grid_id;          /* 36: %gridid, low bits of the launch's sequence number */
  void *shared;              /* 40: this thread's shared memory: static part, then (16-aligned) dynamic part */
  void *scratch;             /* 48: this thread's working memory, 64-aligned; see kernel.scratch_* */
  uint32_t current_block[3]; /* 56: %ctaid, written by compiled code before each block, read when it faults */
  uint32_t current_thread;   /* 68: linear thread index last resumed, ~0u where the code does not track it */
  gpud_kernel_print print;   /* 72: printf; NULL where nobody wants to read */
  const char *failed;        /* 80: a failed assertion: compiled code says which one before it traps; else NULL */
  const char *file;          /* 88: its file and function: the program's pointers, good or bad */
  const char *function;      /* 96 */
  uint32_t line;             /* 104: its line, or that of a trap in the PTX; 0: no line is known */
  uint32_t unused;           /* 108 */
  uint64_t reserved[2];      /* 112 */
};

_Static_assert(offsetof(gpud_kernel_context, shared) == 40, "compiled code reads shared at 40");
_Static_assert(offsetof(gpud_kernel_context, scratch) == 48, "compiled code reads scratch at 48");
_Static_assert(offsetof(gpud_kernel_context, current_block) == 56, "compiled code writes ctaid at 56");
_Static_assert(offsetof(gpud_kernel_context, print) == 72, "compiled code calls print at 72");
_Static_assert(offsetof(gpud_kernel_context, failed) == 80, "compiled code writes failed at 80");
_Static_assert(offsetof(gpud_kernel_context, line) == 104, "compiled code writes line at 104");
_Static_assert(sizeof(gpud_kernel_context) == 128, "two cache lines");

/*
 * Runs blocks [first_block, first_block + block_count) in linear order (x fastest). `params` is the packed
 * parameter buffer, laid out as the PTX .param space of the entry, 16-aligned, readable only.
 * Returns nothing: a fault is a signal (SIGSEGV/SIGBUS for a wild access, SIGILL for trap, SIGFPE), caught by the device.
 */
typedef void (*gpud_kernel_function)(const void *params, gpud_kernel_context *context, uint64_t first_block,
                                     uint64_t block_count);

#endif
