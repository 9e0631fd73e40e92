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

/* ---------------------------------------------------------------- checked code */

#define GPUD_CHECK_GLOBAL 0u
#define GPUD_CHECK_SHARED 1u
#define GPUD_CHECK_LOCAL 2u
#define GPUD_CHECK_CONST 3u
#define GPUD_CHECK_PARAM 4u
#define GPUD_CHECK_GENERIC 5u
#define GPUD_CHECK_READ 0u
#define GPUD_CHECK_WRITE 1u
#define GPUD_CHECK_ATOMIC 2u
#define GPUD_CHECK_CALL 3u                  /* through a pointer that is no function's: never fine */
#define GPUD_CHECK_SHARED_MOST (163u << 10) /* bytes: what lies so near a block's shared memory was meant for it */

/* An access in the program: what and where it is. Texts are ASCII. */
typedef struct gpud_check_site {
  uint32_t space;
  uint32_t kind;
  uint32_t alignment;
  uint32_t ptx_line;
  uint32_t line;         /* of the source; 0: not known */
  uint32_t inlined_line; /* where that is inlined, in the given source; 0: nowhere */
  const char *file;      /* NULL: the source that was given */
  const char *text;      /* the instruction */
} gpud_check_site;
_Static_assert(sizeof(gpud_check_site) == 40, "compiled code has constants of it");

/* The .local variables of a function that runs, and those of its callers; of the outermost, the kernel, its static shared memory. */
typedef struct gpud_check_frame {
  const struct gpud_check_frame *outer;
  uint64_t shared;
  uint64_t count;
  struct {
    uint64_t address;
    uint64_t size;
  } ranges[];
} gpud_check_frame;

typedef struct gpud_kernel_context gpud_kernel_context;

/* Comes back if the access is fine. `thread`: its linear index in the block. */
typedef void (*gpud_kernel_check)(gpud_kernel_context *context, uint64_t address, uint64_t size, uint32_t thread,
                                  const gpud_check_site *site, const gpud_check_frame *frame);

/* ---------------------------------------------------------------- all code */

/*
 * CUDA's vprintf, called by the thread that runs the block: `arguments` is the packed buffer that nvcc makes. Returns the
 * number of arguments, or -1. What it is given is the program's: it may fault, as any access of a kernel may.
 */
typedef int32_t (*gpud_kernel_print)(gpud_kernel_context *context, const char *format, const void *arguments);

/* Memory of the session's heap, 16-aligned, or NULL. */
typedef void *(*gpud_kernel_take)(gpud_kernel_context *context, uint64_t size);
/*
 * Gives it back; NULL is nothing. `thread`: its linear index in the block; `site`: where in the program, or NULL. Does not come back
 * from a pointer that is no such memory.
 */
typedef void (*gpud_kernel_give)(gpud_kernel_context *context, void *pointer, uint32_t thread,
                                 const gpud_check_site *site);
/*
 * The code waits in a loop for what others write: now is the time to let them run. Comes back, perhaps on another thread of the
 * host's; does not where the launch has been stopped.
 */
typedef void (*gpud_kernel_pause)(gpud_kernel_context *context);

/* What blocks of a cooperative launch meet at: CUDA's cooperative_groups find it by %envreg1 and 2. Zero at first. */
typedef struct gpud_kernel_workspace {
  uint32_t size;
  uint32_t barrier;
} gpud_kernel_workspace;

struct gpud_kernel_context {
  uint32_t grid[3];           /*  0: %nctaid, blocks in the grid */
  uint32_t block[3];          /* 12: %ntid, threads in a block */
  uint32_t dynamic_shared;    /* 24: %dynamic_smem_size, bytes */
  uint32_t thread_slot;       /* 28: %smid, index of the pool thread running this range */
  uint32_t thread_count;      /* 32: %nsmid, threads in the pool */
  uint32_t grid_id;           /* 36: %gridid, low bits of the launch's sequence number */
  void *shared;               /* 40: this thread's shared memory: static part, then (16-aligned) dynamic part */
  void *scratch;              /* 48: this thread's working memory, 64-aligned; see kernel.scratch_* */
  uint32_t current_block[3];  /* 56: %ctaid, written by compiled code before each block, read when it faults */
  uint32_t current_thread;    /* 68: linear thread index last resumed, ~0u where the code does not track it */
  gpud_kernel_print print;    /* 72: printf; NULL where nobody wants to read */
  const char *failed;         /* 80: a failed assertion: compiled code says which one before it traps; else NULL */
  const char *file;           /* 88: its file and function: the program's pointers, good or bad */
  const char *function;       /* 96 */
  uint32_t line;              /* 104: its line, or that of a trap in the PTX; 0: no line is known */
  uint32_t unused;            /* 108 */
  gpud_kernel_check check;    /* 112: asked before each access by code compiled for it; else NULL */
  struct gpud_check *checked; /* 120: begins with the frame of the caller that calls */
  gpud_kernel_workspace *workspace; /* 128: the grid's; NULL where the launch is not cooperative */
  gpud_kernel_pause pause;          /* 136: called in loops that wait for other threads' writes, and by nanosleep */
  gpud_kernel_take take;            /* 144: malloc */
  gpud_kernel_give give;            /* 152: free */
  const gpud_check_site
      *site;            /* 160: where a trap is, of kind 1 in a kernel that synchronises its grid; NULL: not known */
  uint64_t reserved[3]; /* 168 */
};

_Static_assert(offsetof(gpud_kernel_context, shared) == 40, "compiled code reads shared at 40");
_Static_assert(offsetof(gpud_kernel_context, scratch) == 48, "compiled code reads scratch at 48");
_Static_assert(offsetof(gpud_kernel_context, current_block) == 56, "compiled code writes ctaid at 56");
_Static_assert(offsetof(gpud_kernel_context, print) == 72, "compiled code calls print at 72");
_Static_assert(offsetof(gpud_kernel_context, failed) == 80, "compiled code writes failed at 80");
_Static_assert(offsetof(gpud_kernel_context, line) == 104, "compiled code writes line at 104");
_Static_assert(offsetof(gpud_kernel_context, check) == 112, "compiled code calls check at 112");
_Static_assert(offsetof(gpud_kernel_context, checked) == 120, "compiled code reads checked at 120");
_Static_assert(offsetof(gpud_kernel_context, workspace) == 128, "compiled code reads workspace at 128");
_Static_assert(offsetof(gpud_kernel_context, pause) == 136, "compiled code calls pause at 136");
_Static_assert(offsetof(gpud_kernel_context, take) == 144, "compiled code calls take at 144");
_Static_assert(offsetof(gpud_kernel_context, give) == 152, "compiled code calls give at 152");
_Static_assert(offsetof(gpud_kernel_context, site) == 160, "compiled code writes site at 160");
_Static_assert(sizeof(gpud_kernel_context) == 192, "three cache lines");

/*
 * Runs blocks [first_block, first_block + block_count) in linear order (x fastest). `params` is the packed
 * parameter buffer, laid out as the PTX .param space of the entry, 16-aligned, readable only.
 * Returns nothing: a fault is a signal (SIGSEGV/SIGBUS for a wild access, SIGILL for trap, SIGFPE), caught by the device.
 */
typedef void (*gpud_kernel_function)(const void *params, gpud_kernel_context *context, uint64_t first_block,
                                     uint64_t block_count);

#endif
