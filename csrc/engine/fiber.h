/*
 * Stacks that a thread switches between: how the blocks of a cooperative launch wait for one another without a thread each.
 * A fiber runs on whichever thread switches to it, on one at a time, and may go on on another.
 */
#ifndef GPUD_FIBER_H
#define GPUD_FIBER_H

#include <stddef.h>

#ifndef __x86_64__
#include <ucontext.h>
#endif

typedef struct gpud_fiber {
#ifdef __x86_64__
  void *top; /* of what is on its stack while it waits */
#else
  ucontext_t context;
#endif
  void (*run)(void *argument);
  void *argument;
  /* What the sanitizers want to know of it. */
  const void *stack;
  size_t size;
  void *shadow;
} gpud_fiber;

/* What the calling thread runs on: to switch back to, by this thread only. */
void gpud_fiber_here(gpud_fiber *fiber);
/* A fiber that begins in run(argument), which must not return: gpud_fiber_end never comes back. */
void gpud_fiber_make(gpud_fiber *fiber, void *stack, size_t size, void (*run)(void *argument), void *argument);
/* Leaves `from`, on which this runs, for `to`. Comes back when somebody switches to `from`. */
void gpud_fiber_switch(gpud_fiber *from, gpud_fiber *to);
/* The same, for good. */
void gpud_fiber_end(gpud_fiber *from, gpud_fiber *to) __attribute__((noreturn));
/* Once it has run for the last time. The stack is the caller's. */
void gpud_fiber_free(gpud_fiber *fiber);

#endif
