/*
 * A net under code that may touch memory it must not: compiled kernels, and copies between client regions and the device.
 * Inside the net SIGSEGV, SIGBUS, SIGILL and SIGFPE end the guarded call and nothing else; outside it they go where they went before.
 *
 * The handlers are the process's, so this is the one place of the engine with global state: counted, chained, given back.
 */
#ifndef GPUD_FAULT_H
#define GPUD_FAULT_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

/* One per thread that guards calls. */
typedef struct gpud_fault_net {
  sigjmp_buf escape;
  int signal; /* what was caught last */
  int code;   /* its si_code */
  uint64_t address;
} gpud_fault_net;

/* Counted. 0 or -errno. */
int gpud_fault_install(void);
void gpud_fault_uninstall(void);
/* Takes the signals back from whoever (a crash reporter) took them since; they come after us then. */
void gpud_fault_refresh(void);

/*
 * Runs call(argument) on the calling thread. 0, -EFAULT with *net saying what was caught, -ENOMEM (no stack for a handler).
 * A call that faulted has not unwound: it must hold no lock and own nothing.
 */
int gpud_fault_guard(gpud_fault_net *net, void (*call)(void *), void *argument);
/* Ends the guarded call of this thread as a fault does, with signal 0. Comes back only where no call is guarded. */
void gpud_fault_leave(void);
/*
 * For calls that go from thread to thread (fiber.h): what guards the call that runs here, taken off the thread, and put on the one
 * where it goes on. NULL: nothing does, or has yet.
 */
gpud_fault_net *gpud_fault_suspend(void);
void gpud_fault_resume(gpud_fault_net *net);
/* Before such a call comes to a thread: 0, or -ENOMEM: no stack for a handler. */
int gpud_fault_ready(void);
/* "invalid access to 0x10", "trap", ... */
void gpud_fault_describe(const gpud_fault_net *net, char *text, size_t size);

#endif
