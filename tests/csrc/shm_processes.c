/*
 * The shm endpoint between processes: the handshake and what is refused in it, a peer that is killed, a fork.
 * usage: shm_processes SCENARIO
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bootstrap.h"
#include "check.h"
#include "connection.h"
#include "endpoint_ring.h"
#include "processes.h"
#include "segment.h"

static const gpud_hello HELLO = {.version_min = GPUD_VERSION, .version_max = GPUD_VERSION};

/* Listens on an abstract address of its own: the kernel picks the name. */
static int listener(struct sockaddr_un *address, socklen_t *size)
{
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  *size = sizeof *address;
  CHECK(fd >= 0);
  CHECK_EQUAL(bind(fd, (struct sockaddr *)address, sizeof(sa_family_t)), 0);
  CHECK_EQUAL(listen(fd, 8), 0);
  CHECK_EQUAL(getsockname(fd, (struct sockaddr *)address, size), 0);
  return fd;
}

static int dial(const struct sockaddr_un *address, socklen_t size)
{
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0);
  CHECK_EQUAL(connect(fd, (const struct sockaddr *)address, size), 0);
  return fd;
}

static gpud_connection *connect_to(const struct sockaddr_un *address, socklen_t size)
{
  gpud_welcome welcome;
  gpud_refused refused;
  char text[GPUD_MAX_TEXT];
  gpud_endpoint *ep;
  CHECK_EQUAL(gpud_endpoint_connect(dial(address, size), &HELLO, "test", &welcome, &refused, text, in_good_time(), &ep),
              0);
  CHECK(strcmp(text, "a device") == 0);
  CHECK_EQUAL(welcome.session, 42);
  return gpud_connection_new(ep, 1);
}

/* ---------------------------------------------------------------- messages, and a client that leaves in order */

static void messages_and_memory_reach_the_other_process(void)
{
  struct sockaddr_un address;
  socklen_t size;
  int listening = listener(&address, &size);
  pid_t child = fork();
  if (child == 0) {
    gpud_connection *c = connect_to(&address, size);
    gpud_region *region;
    char message[GPUD_MAX_MESSAGE];
    CHECK_EQUAL(gpud_region_create(c, 1, 4096, GPUD_ACCESS_READ, 0, 1, in_good_time(), &region), 0);
    strcpy(gpud_region_pointer(region), "from the client");
    CHECK(gpud_connection_post(c, GPUD_OP_DATA, 0, "go", 2, in_good_time()) > 0);
    CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), 18);
    gpud_region_free(region);
    gpud_connection_free(c);
    close(listening);
    exit(0);
  }
  gpud_connection *c = accept_from(listening);
  char message[GPUD_MAX_MESSAGE], got[16];
  CHECK(gpud_connection_receive(c, message, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_region_add(c, message, in_good_time()), 0);
  CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), 18);
  CHECK_EQUAL(gpud_connection_rma_read(c, 1, 0, got, sizeof got), 0);
  CHECK(strcmp(got, "from the client") == 0);
  CHECK(gpud_connection_post(c, GPUD_OP_DATA, 0, "ok", 2, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), -EPIPE);
  gpud_connection_free(c);
  close(listening);
  wait_for(child, 0);
}

/* A region at an address is mapped over what is there: where no window was granted that is the worker's own memory. */
static void without_a_window_nothing_is_mapped_at_an_address(void)
{
  struct sockaddr_un address;
  socklen_t size;
  int listening = listener(&address, &size);
  char *ours = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(ours != MAP_FAILED);
  *ours = 'o';
  pid_t child = fork();
  if (child == 0) {
    gpud_connection *c = connect_to(&address, size);
    gpud_region *regions[2];
    const uint64_t at[] = {(uint64_t)(uintptr_t)ours, 0};
    for (uint32_t i = 0; i < 2; i++) {
      CHECK_EQUAL(gpud_region_create(c, i, 4096, 3, at[i], 0, in_good_time(), &regions[i]), 0);
      gpud_region_free(regions[i]);
    }
    gpud_connection_free(c);
    close(listening);
    exit(0);
  }
  gpud_connection *c = accept_from(listening);
  char message[GPUD_MAX_MESSAGE];
  int descriptors = open_descriptors();
  CHECK(gpud_connection_receive(c, message, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_region_add(c, message, in_good_time()), -ENOTSUP);
  CHECK_EQUAL(*ours, 'o');
  CHECK_EQUAL(open_descriptors(), descriptors);
  CHECK(gpud_connection_receive(c, message, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_region_add(c, message, in_good_time()), 0); /* its descriptor is the next one */
  gpud_connection_free(c);
  munmap(ours, 4096);
  close(listening);
  wait_for(child, 0);
}

/* ---------------------------------------------------------------- death */

static void a_killed_client_is_noticed_although_its_child_holds_the_socket(void)
{
  struct sockaddr_un address;
  socklen_t size;
  int listening = listener(&address, &size), hold[2];
  char message[GPUD_MAX_MESSAGE];
  CHECK_EQUAL(pipe(hold), 0);
  pid_t child = fork();
  if (child == 0) {
    gpud_connection *c = connect_to(&address, size);
    if (fork() == 0) { /* has all that its parent had, and outlives it */
      close(hold[1]);
      _exit(read(hold[0], message, 1) != 0);
    }
    CHECK(gpud_connection_post(c, GPUD_OP_DATA, 0, "ready", 5, in_good_time()) > 0);
    gpud_connection_receive(c, message, in_good_time());
    _exit(1);
  }
  close(hold[0]);
  gpud_connection *c = accept_from(listening);
  CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), 21);
  CHECK_EQUAL(gpud_connection_alive(c), 1);
  kill(child, SIGKILL);
  wait_for(child, SIGKILL);
  CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), -EPIPE);
  CHECK_EQUAL(gpud_connection_alive(c), 0);
  gpud_connection_free(c);
  close(hold[1]);
  close(listening);
}

static void a_client_that_closes_is_noticed_although_its_child_holds_the_socket(void)
{
  struct sockaddr_un address;
  socklen_t size;
  int listening = listener(&address, &size), hold[2];
  char message[GPUD_MAX_MESSAGE];
  CHECK_EQUAL(pipe(hold), 0);
  pid_t child = fork();
  if (child == 0) {
    gpud_connection *c = connect_to(&address, size);
    close(hold[1]);
    if (fork() == 0)
      _exit(read(hold[0], message, 1) != 0);
    gpud_connection_free(c);
    _exit(read(hold[0], message, 1) != 0); /* the process itself lives on */
  }
  close(hold[0]);
  gpud_connection *c = accept_from(listening);
  CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), -EPIPE);
  gpud_connection_free(c);
  close(hold[1]);
  wait_for(child, 0);
  close(listening);
}

static void a_killed_worker_is_noticed_in_every_wait(void)
{
  struct sockaddr_un address;
  socklen_t size;
  char message[GPUD_MAX_MESSAGE];
  for (int kind = 0; kind < 3; kind++) {
    int listening = listener(&address, &size);
    pid_t child = fork();
    if (child == 0) {
      gpud_connection *c = accept_from(listening);
      CHECK(gpud_connection_post(c, GPUD_OP_DATA, 0, "last words", 10, in_good_time()) > 0);
      kill(getpid(), SIGKILL);
    }
    gpud_connection *c = connect_to(&address, size);
    int64_t rc;
    switch (kind) {
    case 0:
      while ((rc = gpud_connection_post(c, GPUD_OP_DATA, 0, "", 1, in_good_time())) > 0)
        continue;
      break;
    case 1:
      CHECK(gpud_connection_post(c, GPUD_OP_SYNCHRONIZE, 0, NULL, 0, 0) > 0);
      rc = gpud_connection_wait(c, 1, in_good_time());
      break;
    default:
      CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), 26);
      rc = gpud_connection_receive(c, message, in_good_time());
    }
    CHECK_EQUAL(rc, -EPIPE);
    if (kind < 2)
      CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), 26);
    wait_for(child, SIGKILL);
    gpud_connection_free(c);
    close(listening);
  }
}

static void a_forked_child_forgets_and_its_parent_goes_on(void)
{
  struct sockaddr_un address;
  socklen_t size;
  char message[GPUD_MAX_MESSAGE];
  int listening = listener(&address, &size);
  pid_t worker = fork();
  if (worker == 0) {
    gpud_connection *c = accept_from(listening);
    CHECK_EQUAL(gpud_connection_echo(c, in_good_time()), 0);
    gpud_connection_free(c);
    close(listening);
    exit(0);
  }
  gpud_connection *c = connect_to(&address, size);
  pid_t child = fork();
  if (child == 0) {
    gpud_connection_forget(c);
    CHECK_EQUAL(gpud_connection_post(c, GPUD_OP_DATA, 0, "", 1, in_good_time()), -ESHUTDOWN);
    CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), -ESHUTDOWN);
    CHECK_EQUAL(gpud_connection_wait(c, 0, in_good_time()), -ESHUTDOWN);
    CHECK_EQUAL(gpud_connection_alive(c), 0);
    gpud_connection_free(c);
    close(listening);
    exit(0);
  }
  wait_for(child, 0);
  CHECK_EQUAL(gpud_connection_alive(c), 1);
  CHECK_EQUAL(gpud_connection_post(c, GPUD_OP_DATA, 9, "still", 5, in_good_time()), 1);
  CHECK_EQUAL(gpud_connection_receive(c, message, in_good_time()), 21);
  uint64_t times[100];
  CHECK_EQUAL(gpud_connection_pingpong(c, 64, 100, times), 0);
  CHECK_EQUAL(gpud_connection_pingpong(c, GPUD_MAX_MESSAGE, 100, times), 0);
  for (int i = 0; i < 100; i++)
    CHECK(times[i] > 0);
  CHECK(gpud_connection_post(c, GPUD_OP_CLOSE, 0, NULL, 0, in_good_time()) > 0);
  wait_for(worker, 0);
  gpud_connection_free(c);
  close(listening);
}

/* ---------------------------------------------------------------- a worker that lies in the handshake */

/* What a client makes of `welcome` with a segment of `segment_size` bytes (0: no descriptor). */
static int answer_to(const gpud_welcome *welcome, size_t segment_size, uint16_t type)
{
  int pair[2];
  char frame[GPUD_MAX_FRAME], text[GPUD_MAX_TEXT];
  gpud_segment segment = {.fd = -1};
  gpud_welcome got;
  gpud_refused refused = {0};
  gpud_endpoint *ep;
  CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  if (segment_size)
    CHECK_EQUAL(gpud_segment_create(&segment, "test", segment_size, 0), 0);
  int size = gpud_frame_encode(frame, sizeof frame, type, welcome, "why", 3);
  CHECK(size > 0);
  CHECK_EQUAL(gpud_bootstrap_send(pair[1], frame, (size_t)size, segment.fd, in_good_time()), 0);
  int rc = gpud_endpoint_connect(pair[0], &HELLO, "test", &got, &refused, text, in_good_time(), &ep);
  if (rc == 0)
    ep->ops->close(ep);
  else
    close(pair[0]);
  if (rc == -ECONNREFUSED) {
    CHECK(strcmp(text, "why") == 0);
    CHECK(memcmp(&refused, welcome, sizeof refused) == 0);
  }
  gpud_segment_close(&segment, 0);
  close(pair[1]);
  return rc;
}

static void what_welcome_says_is_checked(void)
{
  const size_t size = gpud_ring_memory_size(1024, 512);
  const gpud_welcome good = {.version = GPUD_VERSION, .command_slots = 1024, .reply_slots = 512};
  const gpud_refused refused = {.status = GPUD_STATUS_BUSY, .retry_ms = 5};
  gpud_welcome bad = good;
  memcpy(&bad, &refused, sizeof refused);
  CHECK_EQUAL(answer_to(&bad, 0, GPUD_FRAME_REFUSED), -ECONNREFUSED);
  CHECK_EQUAL(answer_to(&bad, size, GPUD_FRAME_REFUSED), -ECONNREFUSED); /* and the descriptor is closed */
  CHECK_EQUAL(answer_to(&good, size, GPUD_FRAME_WELCOME), 0);
  CHECK_EQUAL(answer_to(&good, size, GPUD_FRAME_HELLO), -EPROTO);
  CHECK_EQUAL(answer_to(&good, 0, GPUD_FRAME_WELCOME), -EPROTO);
  CHECK_EQUAL(answer_to(&good, size - 4096, GPUD_FRAME_WELCOME), -EPERM);
  CHECK_EQUAL(answer_to(&good, size + 4096, GPUD_FRAME_WELCOME), -EPERM);
  const uint32_t counts[] = {0, 1, 128, 257, 1000, 131072, 0x80000000u, UINT32_MAX};
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
    bad = good;
    bad.command_slots = counts[i];
    CHECK_EQUAL(answer_to(&bad, size, GPUD_FRAME_WELCOME), -EPROTO);
    bad = good;
    bad.reply_slots = counts[i];
    CHECK_EQUAL(answer_to(&bad, size, GPUD_FRAME_WELCOME), -EPROTO);
  }
  bad = good;
  bad.version = GPUD_VERSION + 1;
  CHECK_EQUAL(answer_to(&bad, size, GPUD_FRAME_WELCOME), -EPROTO);
  bad = good;
  bad.features = 1ull << 63; /* what nobody offered */
  CHECK_EQUAL(answer_to(&bad, size, GPUD_FRAME_WELCOME), -EPROTO);
  bad = good;
  bad.window_base = 1ull << 63;
  bad.window_size = 1ull << 63 | 1;
  bad.granularity = 4096;
  CHECK_EQUAL(answer_to(&bad, size, GPUD_FRAME_WELCOME), -EPROTO);
  bad.window_size = 1ull << 62;
  CHECK_EQUAL(answer_to(&bad, size, GPUD_FRAME_WELCOME), 0);
  bad.granularity = 0; /* clients divide by it */
  CHECK_EQUAL(answer_to(&bad, size, GPUD_FRAME_WELCOME), -EPROTO);
}

int main(int count, char **arguments)
{
  static const struct {
    const char *name;
    void (*run)(void);
  } scenarios[] = {
    {"messages_and_memory_reach_the_other_process", messages_and_memory_reach_the_other_process},
    {"without_a_window_nothing_is_mapped_at_an_address", without_a_window_nothing_is_mapped_at_an_address},
    {"a_killed_client_is_noticed_although_its_child_holds_the_socket",
     a_killed_client_is_noticed_although_its_child_holds_the_socket},
    {"a_client_that_closes_is_noticed_although_its_child_holds_the_socket",
     a_client_that_closes_is_noticed_although_its_child_holds_the_socket},
    {"a_killed_worker_is_noticed_in_every_wait", a_killed_worker_is_noticed_in_every_wait},
    {"a_forked_child_forgets_and_its_parent_goes_on", a_forked_child_forgets_and_its_parent_goes_on},
    {"what_welcome_says_is_checked", what_welcome_says_is_checked},
  };
  CHECK_EQUAL(count, 2);
  for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
    if (strcmp(scenarios[i].name, arguments[1]) != 0)
      continue;
    int descriptors = open_descriptors();
    scenarios[i].run();
    CHECK_EQUAL(open_descriptors(), descriptors);
    return 0;
  }
  return 2;
}
