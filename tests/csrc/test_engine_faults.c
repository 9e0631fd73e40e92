/*
 * Kernels that misbehave, and clients that die while one runs. Every session here is the last of its engine, as a faulted
 * process must be replaced: so each case is a child process, and its exit status is part of what is tested.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bootstrap.h"
#include "engine_kernels.h"

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
  return "handle_segv=0:handle_sigbus=0:handle_sigill=0:handle_sigfpe=0:detect_stack_use_after_return=0";
}

/* Runs `body` in a child; its wait status. */
static int in_child(void (*body)(void *), void *argument)
{
  fflush(NULL);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    body(argument);
    exit(0);
  }
  int status;
  CHECK_EQUAL(waitpid(child, &status, 0), child);
  return status;
}

static void passes(void (*body)(void *), void *argument)
{
  int status = in_child(body, argument);
  CHECK_EQUAL(status, 0);
}

/* ---------------------------------------------------------------- faults */

typedef struct fault_case {
  const char *kernel;
  uint64_t parameters[2];
  uint32_t params_size;
  uint32_t blocks;
  uint64_t address; /* ~0: none to be expected */
  uint32_t block;   /* ~0: not looked at */
  uint32_t thread;
  const char *text;
} fault_case;

static void expect_fault(rig *r, int64_t sequence, const fault_case *f, rig_reply *reply)
{
  do {
    reply->size = gpud_connection_receive(r->client, reply->bytes, 0);
    CHECK(reply->size > 0);
    memset(reply->bytes + reply->size, 0, 8);
  } while (reply->head.op != GPUD_OP_FAULT);
  const gpud_msg_fault *fault = BODY_OF(reply, gpud_msg_fault);
  CHECK_EQUAL(fault->sequence, sequence);
  CHECK_EQUAL(fault->status, GPUD_STATUS_DEVICE_FAULT);
  CHECK_EQUAL(fault->op, GPUD_OP_LAUNCH);
  CHECK_EQUAL(fault->module, 1);
  if (f->address != ~0ull)
    CHECK_EQUAL(fault->address, f->address);
  if (f->block != ~0u)
    CHECK_EQUAL(fault->block[0], f->block);
  CHECK_EQUAL(fault->thread, f->thread);
  const char *text = TEXT_OF(reply, gpud_msg_fault);
  if (!strstr(text, f->text) || !strstr(text, f->kernel))
    fprintf(stderr, "the text is: %s\n", text);
  CHECK(strstr(text, f->text) && strstr(text, f->kernel));
}

static void faulting_session(void *argument)
{
  const fault_case *f = argument;
  rig r;
  rig_open(&r, 4, all_kernels);
  rig_begin(&r);
  rig_load(&r, 1, "good");
  int64_t sequence = rig_launch(&r, 1, f->kernel, f->blocks, 64, f->parameters, f->params_size);
  rig_map(&r, 0, CHUNK); /* is not executed */
  rig_close(&r);
  rig_reply reply;
  expect_fault(&r, sequence, f, &reply);
  gpud_engine_stats stats;
  gpud_engine_get_stats(r.engine, &stats);
  CHECK_EQUAL(stats.memory, 0);
  CHECK_EQUAL(stats.faults, 1);
  CHECK_EQUAL(rig_end(&r), -EBUSY);
  gpud_endpoint *client;
  gpud_endpoint *worker;
  CHECK_EQUAL(gpud_endpoint_loop(0, 0, &client, &worker), 0);
  CHECK_EQUAL(gpud_engine_attach_endpoint(r.engine, worker, 1, MiB, MiB, &r.welcome), -EBUSY);
  client->ops->close(client);
  rig_shut(&r);
}

static const unsigned char read_only[64] __attribute__((aligned(64)));

static void test_faults(void)
{
  const uint64_t constant = (uint64_t)(uintptr_t)read_only;
  const uint64_t noncanonical = 0x8000000000000000ull;
  fault_case cases[] = {
    {"wild", {0, 0}, 16, 1, 0, 0, 5, "invalid access to 0x0"},
    {"wild", {0x1234500, 0}, 16, 1, 0x1234500, 0, 5, "invalid access to 0x1234500"},
    {"wild", {constant, 2}, 16, 3, constant, 2, 5, "invalid access to 0x"},
    {"wild", {noncanonical, 0}, 16, 1, ~0ull, 0, 5, "outside the address space"},
    /* Somewhere in the grid, on whichever thread of the pool gets there. */
    {"wild", {0x1000, 999}, 16, 1000, 0x1000, 999, 5, "invalid access to 0x1000"},
    {"wild", {0x1000, 0}, 16, 1000, 0x1000, 0, 5, "invalid access to 0x1000"},
    {"trap", {0, 0}, 0, 1, 0, 0, ~0u, "trap"},
    {"trap", {0, 0}, 0, 5000, 0, ~0u, ~0u, "trap"}, /* all threads at once */
    {"assert",
     {(uint64_t)(uintptr_t)"x < y", (uint64_t)(uintptr_t)"file.cu"},
     16,
     1,
     0,
     0,
     7,
     "assertion `x < y` failed at file.cu:42 in inner"},
    {"assert", {(uint64_t)(uintptr_t)"x < y", 0x1000}, 16, 1, 0, 0, 7, "a failed assertion at line 42"},
    {"divide", {0, 0}, 8, 1, 0, ~0u, ~0u, "arithmetic fault"},
    {"recurse", {0, 0}, 0, 1, ~0ull, ~0u, ~0u, "invalid access to 0x"},
    {"recurse", {0, 0}, 0, 5000, ~0ull, ~0u, ~0u, "invalid access to 0x"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    fprintf(stderr, "%s %llx\n", cases[i].kernel, (unsigned long long)cases[i].parameters[0]);
    passes(faulting_session, &cases[i]);
  }
}

/* Memory of the window that is not mapped, and a region that is only to be read, are as wild as any address. */
static void window_session(void *argument)
{
  uint64_t offset = *(uint64_t *)argument;
  rig r;
  rig_open(&r, 2, all_kernels);
  rig_begin(&r);
  rig_map(&r, 0, CHUNK);
  gpud_region *region;
  uint64_t placed = r.welcome.window_base + 8 * MiB;
  CHECK_EQUAL(gpud_region_create(r.client, 1, 4096, GPUD_ACCESS_READ, placed, 0, in_good_time(), &region), 0);
  rig_load(&r, 1, "good");
  uint64_t address = r.welcome.window_base + offset;
  fault_case f = {"wild", {address, 0}, 16, 1, address, 0, 5, "invalid access to 0x"};
  int64_t sequence = rig_launch(&r, 1, f.kernel, f.blocks, 1, f.parameters, f.params_size);
  rig_close(&r);
  rig_reply reply;
  expect_fault(&r, sequence, &f, &reply);
  gpud_region_free(region);
  CHECK_EQUAL(rig_end(&r), -EBUSY);
  rig_shut(&r);
}

static void test_faults_in_the_window(void)
{
  uint64_t unmapped = CHUNK;
  uint64_t read_only_region = 8 * MiB;
  passes(window_session, &unmapped);
  passes(window_session, &read_only_region);
}

/* A copy whose memory is not there, whatever the tables say, ends as a kernel's access would. */
static void copy_session(void *argument)
{
  (void)argument;
  rig r;
  rig_open(&r, 2, all_kernels);
  rig_begin(&r);
  void *nothing = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  rig_load(&r, 1, "good");
  CHECK_EQUAL(gpud_engine_run(r.engine), GPUD_RUN_COMPILE);
  uint64_t address = (uint64_t)(uintptr_t)nothing;
  CHECK_EQUAL(gpud_engine_module_global(r.engine, "variable", address, 4096), 0);
  CHECK_EQUAL(gpud_engine_module_commit(r.engine), 0);
  int64_t sequence = POST(&r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = address, .size = 4096);
  rig_close(&r);
  rig_reply reply;
  rig_reply_of(&r, GPUD_OP_GLOBAL_INFO, &reply);
  rig_reply_of(&r, GPUD_OP_MODULE_STATUS, &reply);
  rig_reply_of(&r, GPUD_OP_FAULT, &reply);
  const gpud_msg_fault *fault = BODY_OF(&reply, gpud_msg_fault);
  CHECK_EQUAL(fault->sequence, sequence);
  CHECK_EQUAL(fault->status, GPUD_STATUS_DEVICE_FAULT);
  CHECK_EQUAL(fault->address, address);
  CHECK_EQUAL(rig_end(&r), -EBUSY);
  rig_shut(&r);
}

/* ---------------------------------------------------------------- everyone else's faults */

static void crash_outside(void *argument)
{
  rig r;
  (void)argument;
  rig_open(&r, 2, all_kernels);
  rig_begin(&r);
  rig_load(&r, 1, "good");
  rig_launch(&r, 1, "empty", 1, 1, NULL, 0);
  rig_close(&r);
  uint64_t wild[2] = {8, 0};
  gpud_kernel_context c = {.grid = {1, 1, 1}};
  kernel_wild(wild, &c, 0, 1);
}

static void sent_signal(void *argument)
{
  (void)argument;
  rig r;
  rig_open(&r, 2, all_kernels);
  raise(SIGFPE);
}

static void exit_42(int signal)
{
  (void)signal;
  _exit(42);
}

static void chained(void *argument)
{
  signal(SIGSEGV, exit_42);
  crash_outside(argument);
}

/* A crash reporter that comes after us, and hands on to whom it found. */
static struct sigaction found;
static void report_and_hand_on(int signal)
{
  if (write(2, "reported\n", 9) < 0)
    _exit(1);
  sigaction(signal, &found, NULL);
  raise(signal);
}

static void reporter_after_us(void *argument)
{
  const char *kernel = argument;
  rig r;
  rig_open(&r, 2, all_kernels);
  struct sigaction reporter = {.sa_handler = report_and_hand_on, .sa_flags = SA_NODEFER};
  sigaction(SIGSEGV, &reporter, &found);
  rig_begin(&r);
  rig_map(&r, 0, CHUNK);
  rig_load(&r, 1, "good");
  uint64_t wild[2] = {8, 0};
  fault_case f = {"wild", {8, 0}, 16, 1, 8, 0, 5, "invalid access to 0x8"};
  int64_t sequence = rig_launch(&r, 1, "wild", 1, 1, wild, sizeof wild);
  rig_close(&r);
  rig_reply reply;
  expect_fault(&r, sequence, &f, &reply); /* a kernel's fault is ours all the same */
  if (kernel) {
    CHECK_EQUAL(rig_end(&r), -EBUSY);
    rig_shut(&r);
    exit(0);
  }
  gpud_kernel_context c = {.grid = {1, 1, 1}};
  kernel_wild(wild, &c, 0, 1);
}

/* The net of an engine that is closed is gone, and the handlers are still there for the other. */
static void crash_after_another_engine(void *argument)
{
  (void)argument;
  rig r;
  rig other;
  rig_open(&r, 2, all_kernels);
  rig_open(&other, 2, all_kernels);
  rig_begin(&other);
  rig_load(&other, 1, "good");
  rig_launch(&other, 1, "empty", 1, 1, NULL, 0);
  rig_close(&other);
  CHECK_EQUAL(rig_end(&other), 0);
  rig_shut(&other);
  uint64_t wild[2] = {8, 0};
  gpud_kernel_context c = {.grid = {1, 1, 1}};
  kernel_wild(wild, &c, 0, 1);
}

static void given_back(void *argument)
{
  (void)argument;
  signal(SIGSEGV, exit_42);
  rig r;
  rig second;
  rig_open(&r, 2, all_kernels);
  rig_open(&second, 2, all_kernels);
  rig_shut(&r);
  rig_shut(&second);
  struct sigaction now;
  sigaction(SIGSEGV, NULL, &now);
  CHECK(now.sa_handler == exit_42);
}

static void test_other_faults_go_where_they_went_before(void)
{
  int status = in_child(crash_outside, NULL);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
  status = in_child(crash_after_another_engine, NULL);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
  status = in_child(sent_signal, NULL);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGFPE);
  status = in_child(chained, NULL);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
  passes(reporter_after_us, "wild");
  status = in_child(reporter_after_us, NULL);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
  passes(given_back, NULL);
}

/* ---------------------------------------------------------------- a client that dies */

/* One end of a session over shared memory, whose client is another process. */
typedef struct orphan_case {
  const char *kernel;
  uint32_t blocks;
  int sockets[2];
  uint64_t *word; /* both processes map it */
  int run;        /* how the loop ends */
} orphan_case;

static void worker_process(void *argument)
{
  orphan_case *o = argument;
  close(o->sockets[0]);
  rig r;
  rig_open(&r, 2, all_kernels);
  /* The daemon's part. */
  char frame[GPUD_MAX_FRAME];
  int fd;
  gpud_hello hello;
  const char *name;
  int size = gpud_bootstrap_receive(o->sockets[1], frame, &fd, in_good_time());
  CHECK_EQUAL(gpud_frame_decode(frame, (size_t)size, GPUD_FRAME_HELLO, &hello, &name), 6);
  CHECK_EQUAL(gpud_engine_attach(r.engine, o->sockets[1], &hello, 1, 64 * MiB, 64 * MiB, in_good_time()), 0);
  CHECK_EQUAL(rig_run(&r), o->run);
  CHECK_EQUAL(gpud_engine_detach(r.engine, GPUD_STATUS_OK, NULL), 0);
  rig_shut(&r);
}

static int orphaned(orphan_case *o)
{
  void *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED);
  o->word = shared;
  CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, o->sockets), 0);
  fflush(NULL);
  pid_t worker = fork();
  if (worker == 0) {
    worker_process(o);
    exit(0);
  }
  close(o->sockets[1]);
  pid_t client = fork();
  if (client == 0) {
    rig r = {.kernels = all_kernels};
    gpud_endpoint *ep;
    gpud_refused refused;
    char text[GPUD_MAX_TEXT];
    gpud_hello hello = {.version_min = GPUD_VERSION, .version_max = GPUD_VERSION};
    CHECK_EQUAL(gpud_endpoint_connect(o->sockets[0], &hello, "orphan", &r.welcome, &refused, text, in_good_time(), &ep),
                0);
    r.client = gpud_connection_new(ep, 1);
    CHECK_EQUAL(gpud_region_create(r.client, 0, MiB, GPUD_ACCESS_READ, 0, 0, in_good_time(), &r.region), 0);
    rig_load(&r, 1, "good");
    rig_launch(&r, 1, o->kernel, o->blocks, 1, &o->word, 8);
    for (;;)
      pause();
  }
  close(o->sockets[0]);
  for (uint64_t deadline = in_good_time(); gpud_load_acquire_u64(o->word) == 0; gpud_relax())
    CHECK(gpud_now() < deadline && waitpid(worker, NULL, WNOHANG) == 0); /* until the kernel is under way */
  kill(client, SIGKILL);
  CHECK_EQUAL(waitpid(client, NULL, 0), client);
  int status;
  CHECK_EQUAL(waitpid(worker, &status, 0), worker);
  CHECK(WIFEXITED(status));
  return WEXITSTATUS(status);
}

static void test_a_dead_clients_kernel_does_not_outlive_it_for_long(void)
{
  orphan_case never_ends = {.kernel = "spin", .blocks = 1};
  CHECK_EQUAL(orphaned(&never_ends), GPUD_EXIT_ORPHAN);
  /* One that could be stopped between two blocks: the worker lives, and is as new. */
  orphan_case stoppable = {.kernel = "slow", .blocks = 100000, .run = GPUD_RUN_GONE};
  CHECK_EQUAL(orphaned(&stoppable), 0);
  CHECK(*stoppable.word < 100000);
}

int main(void)
{
  test_faults();
  test_faults_in_the_window();
  passes(copy_session, NULL);
  test_other_faults_go_where_they_went_before();
  test_a_dead_clients_kernel_does_not_outlive_it_for_long();
  return 0;
}
