#include "fiber.h"

#include <pthread.h>
#include <stdint.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

/* What the sanitizers must know of a switch when it is done. */
static void arrived(void *fake)
{
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
  (void)fake;
}

/* The first that runs on a new fiber. */
static void enter(void *argument)
{
  gpud_fiber *fiber = argument;
  arrived(NULL);
  fiber->run(fiber->argument);
}

#ifdef __x86_64__

/* Saves what a call must keep, and its stack in *save; takes up the stack `to`, which was left the same way. */
void gpud_fiber_jump(void **save, void *to);
/* Where a new fiber begins: its function is in r13, the argument in r12. */
void gpud_fiber_begin(void);

__asm__(".text\n"
        ".globl gpud_fiber_jump\n"
        ".hidden gpud_fiber_jump\n"
        ".type gpud_fiber_jump, @function\n"
        "gpud_fiber_jump:\n"
        "  pushq %rbp\n"
        "  pushq %rbx\n"
        "  pushq %r12\n"
        "  pushq %r13\n"
        "  pushq %r14\n"
        "  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n"
        "  popq %r14\n"
        "  popq %r13\n"
        "  popq %r12\n"
        "  popq %rbx\n"
        "  popq %rbp\n"
        "  ret\n"
        ".size gpud_fiber_jump, .-gpud_fiber_jump\n"
        ".globl gpud_fiber_begin\n"
        ".hidden gpud_fiber_begin\n"
        ".type gpud_fiber_begin, @function\n"
        "gpud_fiber_begin:\n"
        "  .cfi_startproc\n"
        "  .cfi_undefined rip\n"
        "  movq %r12, %rdi\n"
        "  callq *%r13\n"
        "  ud2\n"
        "  .cfi_endproc\n"
        ".size gpud_fiber_begin, .-gpud_fiber_begin\n");

static void make(gpud_fiber *fiber, void *stack, size_t size)
{
  /* As gpud_fiber_jump leaves it: r15, r14, r13, r12, rbx, rbp, and where it goes on, 16-aligned behind that. */
  uintptr_t end = ((uintptr_t)stack + size) & ~(uintptr_t)15;
  uint64_t *top = (uint64_t *)(end - 9 * sizeof(uint64_t));
  for (int i = 0; i < 9; i++)
    top[i] = 0;
  top[2] = (uint64_t)(uintptr_t)enter;
  top[3] = (uint64_t)(uintptr_t)fiber;
  top[6] = (uint64_t)(uintptr_t)gpud_fiber_begin;
  fiber->top = top;
}

static void jump(gpud_fiber *from, gpud_fiber *to) { gpud_fiber_jump(&from->top, to->top); }

#else

static void begin(unsigned high, unsigned low) { enter((void *)(uintptr_t)((uint64_t)high << 32 | low)); }

static void make(gpud_fiber *fiber, void *stack, size_t size)
{
  uint64_t self = (uint64_t)(uintptr_t)fiber;
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = stack;
  fiber->context.uc_stack.ss_size = size;
  fiber->context.uc_link = NULL;
  makecontext(&fiber->context, (void (*)(void))begin, 2, (unsigned)(self >> 32), (unsigned)self);
}

static void jump(gpud_fiber *from, gpud_fiber *to) { swapcontext(&from->context, &to->context); }

#endif

void gpud_fiber_here(gpud_fiber *fiber)
{
  *fiber = (gpud_fiber){0};
#ifdef __SANITIZE_ADDRESS__
  pthread_attr_t attributes;
  void *stack;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    pthread_attr_getstack(&attributes, &stack, &fiber->size);
    fiber->stack = stack;
    pthread_attr_destroy(&attributes);
  }
#endif
#ifdef __SANITIZE_THREAD__
  fiber->shadow = __tsan_get_current_fiber();
#endif
}

void gpud_fiber_make(gpud_fiber *fiber, void *stack, size_t size, void (*run)(void *), void *argument)
{
  *fiber = (gpud_fiber){.run = run, .argument = argument, .stack = stack, .size = size};
  make(fiber, stack, size);
#ifdef __SANITIZE_THREAD__
  fiber->shadow = __tsan_create_fiber(0);
#endif
}

/* `fake`: where the address sanitizer keeps what it needs when this comes back; NULL: it never does. */
static void leave(gpud_fiber *to, void **fake)
{
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fake, to->stack, to->size);
#endif
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(to->shadow, 0);
#endif
  (void)to;
  (void)fake;
}

void gpud_fiber_switch(gpud_fiber *from, gpud_fiber *to)
{
  void *fake = NULL;
  leave(to, &fake);
  jump(from, to);
  arrived(fake);
}

void gpud_fiber_end(gpud_fiber *from, gpud_fiber *to)
{
  leave(to, NULL);
  jump(from, to);
  __builtin_unreachable();
}

void gpud_fiber_free(gpud_fiber *fiber)
{
#ifdef __SANITIZE_THREAD__
  if (fiber->shadow)
    __tsan_destroy_fiber(fiber->shadow);
#endif
  fiber->shadow = NULL;
}
