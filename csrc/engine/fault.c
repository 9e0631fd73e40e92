#include "fault.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "order.h"

#define HANDLER_STACK 65536u

static const int caught_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
#define SIGNALS (sizeof caught_signals / sizeof caught_signals[0])

static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t installs;
static struct sigaction original[SIGNALS]; /* whose they were before the first install */
static struct sigaction previous[SIGNALS]; /* whom a refresh took them from, at last; else the original */
static pthread_once_t stack_once = PTHREAD_ONCE_INIT;
static pthread_key_t stack_key;
static int stack_key_error;

/* initial-exec: the handler must not be the one that makes the loader allocate this thread's copy. */
static _Thread_local gpud_fault_net *current /* NULL: no call is guarded */ __attribute__((tls_model("initial-exec")));
static _Thread_local bool stack_ready __attribute__((tls_model("initial-exec")));
static _Thread_local uint32_t passing __attribute__((tls_model("initial-exec")));

static void pass_on(int signal, siginfo_t *info, void *ucontext)
{
  size_t i = 0;
  while (i < SIGNALS - 1 && caught_signals[i] != signal)
    i++;
  /* A crash reporter that came after us knows us as its predecessor, and raises again: then it is the first owner's turn. */
  const struct sigaction *old = passing ? &original[i] : &previous[i];
  if ((old->sa_flags & SA_SIGINFO) || (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)) {
    passing++;
    if (old->sa_flags & SA_SIGINFO)
      old->sa_sigaction(signal, info, ucontext);
    else
      old->sa_handler(signal);
    passing--;
    return;
  }
  /* Back to the default; an instruction that faulted faults again on return, a signal that was sent is sent again. */
  sigaction(signal, old, NULL);
  if (info->si_code <= 0)
    raise(signal);
}

static void on_signal(int signal, siginfo_t *info, void *ucontext)
{
  gpud_fault_net *net = current;
  /* si_code <= 0: somebody sent it; it says nothing about the code that runs here. */
  if (!net || info->si_code <= 0) {
    pass_on(signal, info, ucontext);
    return;
  }
  current = NULL;
  net->signal = signal;
  net->code = info->si_code;
  net->address = (uint64_t)(uintptr_t)info->si_addr;
  siglongjmp(net->escape, 1);
}

static void take(size_t i)
{
  /* SA_NODEFER: the handler is left by a jump that restores no mask, so the signal must never be in it. */
  struct sigaction ours = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  struct sigaction old;
  sigemptyset(&ours.sa_mask);
  if (sigaction(caught_signals[i], NULL, &old) == 0 && (old.sa_flags & SA_SIGINFO) && old.sa_sigaction == on_signal)
    return;
  previous[i] = old;
  if (installs == 0)
    original[i] = old;
  sigaction(caught_signals[i], &ours, NULL);
}

int gpud_fault_install(void)
{
  pthread_mutex_lock(&install_lock);
  for (size_t i = 0; installs == 0 && i < SIGNALS; i++)
    take(i);
  installs++;
  pthread_mutex_unlock(&install_lock);
  return 0;
}

void gpud_fault_refresh(void)
{
  pthread_mutex_lock(&install_lock);
  for (size_t i = 0; installs > 0 && i < SIGNALS; i++)
    take(i);
  pthread_mutex_unlock(&install_lock);
}

void gpud_fault_uninstall(void)
{
  pthread_mutex_lock(&install_lock);
  installs--;
  for (size_t i = 0; installs == 0 && i < SIGNALS; i++) {
    struct sigaction now;
    /* Whoever came after us keeps the signal. */
    if (sigaction(caught_signals[i], NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_signal)
      sigaction(caught_signals[i], &previous[i], NULL);
  }
  pthread_mutex_unlock(&install_lock);
}

static void free_stack(void *stack)
{
  stack_t off = {.ss_flags = SS_DISABLE};
  sigaltstack(&off, NULL);
  munmap(stack, HANDLER_STACK);
}

static void make_stack_key(void) { stack_key_error = pthread_key_create(&stack_key, free_stack); }

/* A kernel may fault because its thread's stack is used up: the handler needs another. It lives as long as the thread. */
static int ready_stack(void)
{
  stack_t now;
  if (sigaltstack(NULL, &now) == 0 && !(now.ss_flags & SS_DISABLE)) {
    stack_ready = true;
    return 0;
  }
  pthread_once(&stack_once, make_stack_key);
  if (stack_key_error)
    return -ENOMEM;
  void *stack = mmap(NULL, HANDLER_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED)
    return -ENOMEM;
  stack_t ours = {.ss_sp = stack, .ss_size = HANDLER_STACK};
  if (sigaltstack(&ours, NULL) || pthread_setspecific(stack_key, stack)) {
    free_stack(stack);
    return -ENOMEM;
  }
  stack_ready = true;
  return 0;
}

int gpud_fault_ready(void) { return stack_ready ? 0 : ready_stack(); }

/* Not inlined: the call may have come to another thread, whose variable is elsewhere. */
static __attribute__((noinline)) void set_current(gpud_fault_net *net) { current = net; }

int gpud_fault_guard(gpud_fault_net *net, void (*call)(void *), void *argument)
{
  if (gpud_fault_ready())
    return -ENOMEM;
  if (sigsetjmp(net->escape, 0))
    return -EFAULT;
  current = net;
  gpud_compiler_fence(); /* the handler, on this thread, sees the net before anything of the call */
  call(argument);
  gpud_compiler_fence();
  set_current(NULL); /* the net may be gone when the next signal comes */
  return 0;
}

void gpud_fault_leave(void)
{
  gpud_fault_net *net = current;
  if (!net)
    return;
  current = NULL;
  net->signal = 0;
  siglongjmp(net->escape, 1);
}

gpud_fault_net *gpud_fault_suspend(void)
{
  gpud_fault_net *net = current;
  current = NULL;
  return net;
}

void gpud_fault_resume(gpud_fault_net *net)
{
  current = net;
  gpud_compiler_fence();
}

void gpud_fault_describe(const gpud_fault_net *net, char *text, size_t size)
{
  switch (net->signal) {
  case SIGILL:
    snprintf(text, size, "trap");
    return;
  case SIGFPE:
    snprintf(text, size, "arithmetic fault (integer division)");
    return;
  default:
    break;
  }
  /* The processor does not say which address where it is no address at all (x86: bits 47 to 63 differ). */
  if (net->signal == SIGSEGV && net->code == SI_KERNEL)
    snprintf(text, size, "invalid access to an address outside the address space");
  else
    snprintf(text, size, "invalid access to 0x%llx", (unsigned long long)net->address);
}
