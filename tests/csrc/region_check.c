/*
 * Memory regions and bulk transfers over a loop endpoint, and what comes over the socket beside it.
 * usage: region_check SCENARIO
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bootstrap.h"
#include "bulk.h"
#include "check.h"
#include "connection.h"
#include "segment.h"

#define PAGE 4096u
#define BOTH (GPUD_ACCESS_READ | GPUD_ACCESS_WRITE)

static gpud_connection *client, *worker;

static void open_both(void)
{
  gpud_endpoint *ends[2];
  CHECK_EQUAL(gpud_endpoint_loop(0, 0, &ends[0], &ends[1]), 0);
  client = gpud_connection_new(ends[0], 1);
  worker = gpud_connection_new(ends[1], 0);
  CHECK(client && worker);
}

static int take(void)
{
  char message[GPUD_MAX_MESSAGE];
  CHECK(gpud_connection_receive(worker, message, in_good_time()) > 0);
  return message[offsetof(gpud_message_head, op)] == GPUD_OP_REGION_ADD
             ? gpud_connection_region_add(worker, message, in_good_time())
             : gpud_connection_region_drop(worker, message);
}

static gpud_region *create(uint32_t number, uint64_t size, uint32_t access, uint64_t address, int wanted)
{
  gpud_region *region = NULL;
  CHECK_EQUAL(gpud_region_create(client, number, size, access, address, 0, in_good_time(), &region), 0);
  CHECK_EQUAL(take(), wanted);
  return region;
}

/* ---------------------------------------------------------------- regions */

static void both_sides_see_the_same_bytes(void)
{
  char got[100];
  gpud_region_view view;
  gpud_region *region = create(3, 10000, BOTH, 0, 0);
  CHECK_EQUAL(gpud_region_size(region), 3 * PAGE);
  fill_bytes(gpud_region_pointer(region), 3 * PAGE, 1);
  CHECK_EQUAL(gpud_connection_rma_read(worker, 3, 0, got, sizeof got), 0);
  CHECK(bytes_are(got, sizeof got, 1));
  CHECK_EQUAL(gpud_connection_rma_write(worker, 3, 3 * PAGE - 5, "hello", 5), 0);
  CHECK(memcmp((char *)gpud_region_pointer(region) + 3 * PAGE - 5, "hello", 5) == 0);
  gpud_endpoint *ep = gpud_connection_endpoint(worker);
  CHECK_EQUAL(ep->ops->region_view(ep, 3, &view), 0);
  CHECK(view.size == 3 * PAGE && view.access == BOTH && view.address == 0);
  CHECK(memcmp((char *)view.pointer + 3 * PAGE - 5, "hello", 5) == 0);

  CHECK_EQUAL(gpud_connection_rma_read(worker, 3, 3 * PAGE - 5, got, 6), -ERANGE);
  CHECK_EQUAL(gpud_connection_rma_read(worker, 3, UINT64_MAX, got, 1), -ERANGE);
  CHECK_EQUAL(gpud_connection_rma_read(worker, 3, 1, got, UINT64_MAX), -ERANGE);
  CHECK_EQUAL(gpud_connection_rma_read(worker, 4, 0, got, 1), -ENOENT);
  CHECK_EQUAL(gpud_connection_rma_read(worker, GPUD_MAX_REGIONS, 0, got, 1), -ENOENT);
  CHECK_EQUAL(gpud_connection_rma_read(worker, UINT32_MAX, 0, got, 1), -ENOENT);
  CHECK_EQUAL(gpud_connection_rma_read(client, 3, 0, got, 1), -ENOENT); /* a client has no regions of the worker's */

  CHECK_EQUAL(gpud_region_drop(client, region, in_good_time()), 0);
  CHECK_EQUAL(take(), 0);
  CHECK_EQUAL(gpud_connection_rma_read(worker, 3, 0, got, 1), -ENOENT);
  CHECK(bytes_are(gpud_region_pointer(region), 100, 1)); /* here it stays until it is freed */
  gpud_region_free(region);
}

static void access_is_kept_to(void)
{
  char byte = 1;
  gpud_region *reads = create(0, PAGE, GPUD_ACCESS_READ, 0, 0);
  gpud_region *writes = create(GPUD_MAX_REGIONS - 1, PAGE, GPUD_ACCESS_WRITE, 0, 0);
  CHECK_EQUAL(gpud_connection_rma_read(worker, 0, 0, &byte, 1), 0);
  CHECK_EQUAL(gpud_connection_rma_write(worker, 0, 0, &byte, 1), -EACCES);
  CHECK_EQUAL(gpud_connection_rma_write(worker, GPUD_MAX_REGIONS - 1, 0, &byte, 1), 0);
  CHECK_EQUAL(gpud_connection_rma_read(worker, GPUD_MAX_REGIONS - 1, 0, &byte, 1), -EACCES);
  gpud_region_free(reads);
  gpud_region_free(writes);
}

static void a_number_in_use_is_refused_and_the_next_region_is_the_next(void)
{
  char got;
  gpud_region *first = create(7, PAGE, BOTH, 0, 0);
  gpud_region *again = create(7, PAGE, BOTH, 0, -EEXIST);
  gpud_region *next = create(8, PAGE, BOTH, 0, 0);
  gpud_region *crooked = create(9, PAGE, BOTH, PAGE + 1, -EPERM);
  memset(gpud_region_pointer(first), 'f', PAGE);
  memset(gpud_region_pointer(again), 'a', PAGE);
  memset(gpud_region_pointer(next), 'n', PAGE);
  CHECK_EQUAL(gpud_connection_rma_read(worker, 7, 0, &got, 1), 0);
  CHECK_EQUAL(got, 'f');
  CHECK_EQUAL(gpud_connection_rma_read(worker, 8, 0, &got, 1), 0);
  CHECK_EQUAL(got, 'n');
  gpud_region *none;
  CHECK_EQUAL(gpud_region_create(client, GPUD_MAX_REGIONS, PAGE, BOTH, 0, 0, in_good_time(), &none), -EINVAL);
  CHECK_EQUAL(gpud_region_create(client, 1, 0, BOTH, 0, 0, in_good_time(), &none), -EINVAL);
  gpud_region_free(first);
  gpud_region_free(again);
  gpud_region_free(next);
  gpud_region_free(crooked);
}

static int mapped(const char *page)
{
  unsigned char in_core;
  return mincore((void *)(uintptr_t)page, PAGE, &in_core) == 0;
}

static void a_region_at_an_address_leaves_the_reservation_whole(void)
{
  char *window = mmap(NULL, 16 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(window != MAP_FAILED);
  gpud_region *region = create(2, 2 * PAGE, BOTH, (uint64_t)(uintptr_t)window + 4 * PAGE, 0);
  ((char *)gpud_region_pointer(region))[PAGE] = 'x';
  CHECK_EQUAL(window[5 * PAGE], 'x');
  CHECK_EQUAL(gpud_region_drop(client, region, in_good_time()), 0);
  CHECK_EQUAL(take(), 0);
  for (int i = 0; i < 16; i++)
    CHECK(mapped(window + i * PAGE));
  /* And again, ended by the connection's end. */
  gpud_region_free(region);
  region = create(2, 2 * PAGE, BOTH, (uint64_t)(uintptr_t)window + 4 * PAGE, 0);
  gpud_connection_free(worker);
  for (int i = 0; i < 16; i++)
    CHECK(mapped(window + i * PAGE));
  int null = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  CHECK(null >= 0);
  CHECK(read(null, window + 4 * PAGE, 1) < 0 && errno == EFAULT); /* inaccessible again */
  close(null);
  gpud_region_free(region);
  gpud_connection_free(client);
  munmap(window, 16 * PAGE);
  open_both();
}

/* A server that has no window must not map anything where its client says: that may be its own memory. */
static void an_echo_maps_nothing_at_an_address(void)
{
  char *ours = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(ours != MAP_FAILED);
  *ours = 'o';
  gpud_region *region;
  CHECK_EQUAL(gpud_region_create(client, 1, PAGE, BOTH, 0, 0, in_good_time(), &region), 0);
  gpud_region *placed;
  uint64_t address = (uint64_t)(uintptr_t)ours;
  CHECK_EQUAL(gpud_region_create(client, 2, PAGE, BOTH, address, 0, in_good_time(), &placed), 0);
  CHECK(gpud_connection_post(client, GPUD_OP_CLOSE, 0, NULL, 0, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_echo(worker, in_good_time()), -EPROTO);
  CHECK_EQUAL(*ours, 'o');
  CHECK_EQUAL(gpud_connection_received(worker), 2);
  gpud_region_free(region);
  gpud_region_free(placed);
  munmap(ours, PAGE);
}

/* ---------------------------------------------------------------- descriptors of a hostile peer */

static int memory_file(unsigned int flags, uint64_t size, int seals)
{
  int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
  CHECK(fd >= 0);
  CHECK_EQUAL(ftruncate(fd, (off_t)size), 0);
  CHECK_EQUAL(fcntl(fd, F_ADD_SEALS, seals), 0);
  return fd;
}

static void only_a_sealed_file_of_the_right_size_is_mapped(void)
{
  const int sealed = F_SEAL_GROW | F_SEAL_SHRINK;
  gpud_segment segment;
  CHECK_EQUAL(gpud_segment_open(&segment, memory_file(0, PAGE, sealed), PAGE, NULL, 1), 0);
  gpud_segment_close(&segment, 0);
  CHECK_EQUAL(gpud_segment_open(&segment, memory_file(0, PAGE, F_SEAL_GROW), PAGE, NULL, 1), -EPERM);
  CHECK_EQUAL(gpud_segment_open(&segment, memory_file(0, PAGE, F_SEAL_SHRINK), PAGE, NULL, 1), -EPERM);
  CHECK_EQUAL(gpud_segment_open(&segment, memory_file(0, PAGE, sealed), 2 * PAGE, NULL, 1), -EPERM);
  CHECK_EQUAL(gpud_segment_open(&segment, memory_file(0, 2 * PAGE, sealed), PAGE, NULL, 1), -EPERM);
  CHECK_EQUAL(gpud_segment_open(&segment, memory_file(0, PAGE, sealed | F_SEAL_WRITE), PAGE, NULL, 1), -EPERM);
  int fds[2];
  CHECK_EQUAL(pipe2(fds, O_CLOEXEC), 0);
  close(fds[1]);
  CHECK_EQUAL(gpud_segment_open(&segment, fds[0], PAGE, NULL, 1), -EPERM);
  CHECK_EQUAL(gpud_segment_open(&segment, open("/dev/zero", O_RDWR | O_CLOEXEC), PAGE, NULL, 1), -EPERM);
  int huge = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
  if (huge >= 0) { /* where the kernel has them: pages that may not be there when they are touched */
    CHECK_EQUAL(ftruncate(huge, 2 << 20), 0);
    CHECK_EQUAL(fcntl(huge, F_ADD_SEALS, sealed), 0);
    CHECK_EQUAL(gpud_segment_open(&segment, huge, 2 << 20, NULL, 1), -EPERM);
  }
}

/* Sends bytes with `count` copies of a descriptor beside them. */
static void send_many(int socket, const void *bytes, size_t size, int fd, int count)
{
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {0};
  struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
  struct msghdr message = {
    .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE((size_t)count * sizeof fd)};
  struct cmsghdr *c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN((size_t)count * sizeof fd);
  for (int i = 0; i < count; i++)
    memcpy(CMSG_DATA(c) + (size_t)i * sizeof fd, &fd, sizeof fd);
  CHECK_EQUAL(sendmsg(socket, &message, MSG_NOSIGNAL), size);
}

static void descriptors_nobody_asked_for_are_closed(void)
{
  char frame[GPUD_MAX_FRAME], got[GPUD_MAX_FRAME];
  gpud_refused refused = {.status = GPUD_STATUS_BUSY};
  int pair[2], fd, extra = memory_file(0, PAGE, 0);
  CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  int size = gpud_frame_encode(frame, sizeof frame, GPUD_FRAME_REFUSED, &refused, "busy", 4);
  int before = open_descriptors();
  for (int count = 1; count <= 16; count++) { /* as many as come, all but one are closed */
    send_many(pair[0], frame, (size_t)size, extra, count);
    CHECK_EQUAL(gpud_bootstrap_receive(pair[1], got, &fd, in_good_time()), size);
    CHECK(fd >= 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
    close(fd);
    CHECK_EQUAL(open_descriptors(), before);
    send_many(pair[0], frame, 10, extra, count); /* a broken one */
    CHECK_EQUAL(send(pair[0], "more of the same", 16, 0), 16);
    CHECK_EQUAL(gpud_bootstrap_receive(pair[1], got, &fd, in_good_time()), -EPROTO);
    CHECK_EQUAL(fd, -1);
    CHECK_EQUAL(open_descriptors(), before);
    CHECK_EQUAL(recv(pair[1], got, sizeof got, 0), 10); /* nothing beyond the head was read */
  }
  CHECK_EQUAL(send(pair[0], "x", 1, 0), 1);
  CHECK_EQUAL(gpud_bootstrap_receive_fd(pair[1], &fd, in_good_time()), -EPROTO); /* a byte without one */
  CHECK_EQUAL(gpud_bootstrap_receive(pair[1], got, &fd, gpud_now() + 1000000), -ETIMEDOUT);
  CHECK_EQUAL(gpud_bootstrap_alive(pair[1]), 1);
  close(pair[0]);
  CHECK_EQUAL(gpud_bootstrap_alive(pair[1]), 0);
  CHECK_EQUAL(gpud_bootstrap_receive(pair[1], got, &fd, in_good_time()), -EPIPE);
  CHECK_EQUAL(gpud_bootstrap_send(pair[1], frame, (size_t)size, -1, in_good_time()), -EPIPE);
  close(pair[1]);
  close(extra);
}

/* A socket that, closed last, waits 20 s for the bytes that nobody takes from it. */
static int lingering_socket(int *reader)
{
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  const struct linger linger = {.l_onoff = 1, .l_linger = 20};
  char bytes[65536] = {0};
  int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(listening >= 0 && fd >= 0);
  CHECK_EQUAL(bind(listening, (struct sockaddr *)&address, size), 0);
  CHECK_EQUAL(listen(listening, 1), 0);
  CHECK_EQUAL(getsockname(listening, (struct sockaddr *)&address, &size), 0);
  CHECK_EQUAL(connect(fd, (struct sockaddr *)&address, size), 0);
  *reader = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
  CHECK(*reader >= 0);
  close(listening);
  while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
    continue;
  CHECK_EQUAL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
  return fd;
}

static void a_descriptor_that_is_refused_makes_nobody_wait(void)
{
  gpud_msg_region_add add = {.region = GPUD_MAX_REGIONS, .size = PAGE};
  unsigned char message[sizeof(gpud_message_head) + sizeof add] = {0};
  for (int way = 0; way < 5; way++) {
    char frame[GPUD_MAX_FRAME];
    gpud_segment segment;
    int pair[2], reader, fd = -1, lingering = lingering_socket(&reader);
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    uint64_t begin = gpud_now();
    switch (way) {
    case 0: /* no memory */
      CHECK_EQUAL(gpud_segment_open(&segment, lingering, PAGE, NULL, 1), -EPERM);
      break;
    case 1: /* beside no frame */
      send_many(pair[0], "these are sixteen", 16, lingering, 1);
      close(lingering);
      CHECK_EQUAL(gpud_bootstrap_receive(pair[1], frame, &fd, in_good_time()), -EPROTO);
      break;
    case 2: /* one more than was wanted */
      send_many(pair[0], "x", 1, pair[0], 1);
      CHECK_EQUAL(gpud_bootstrap_receive_fd(pair[1], &fd, in_good_time()), 0);
      send_many(pair[0], "these are sixteen", 16, lingering, 2);
      close(lingering);
      CHECK_EQUAL(gpud_bootstrap_receive(pair[1], frame, &(int){-1}, in_good_time()), -EPROTO);
      break;
    case 3: /* that nobody took, at the end */
      CHECK_EQUAL(gpud_connection_endpoint(client)->ops->region_offer(
                      gpud_connection_endpoint(client), &(gpud_region_offer){.fd = lingering}, in_good_time()),
                  0);
      close(lingering);
      gpud_connection_free(worker);
      gpud_connection_free(client);
      open_both();
      break;
    default: /* of a region whose number is none */
      memcpy(message + sizeof(gpud_message_head), &add, sizeof add);
      gpud_endpoint *ep = gpud_connection_endpoint(client);
      CHECK_EQUAL(ep->ops->region_offer(ep, &(gpud_region_offer){.fd = lingering}, in_good_time()), 0);
      close(lingering);
      CHECK_EQUAL(gpud_connection_region_add(worker, message, in_good_time()), -EINVAL);
    }
    CHECK(gpud_now() - begin < 10000000000ull);
    if (fd >= 0)
      close(fd);
    close(pair[0]);
    close(pair[1]);
    close(reader);
  }
}

int main(int count, char **arguments)
{
  static const struct {
    const char *name;
    void (*run)(void);
  } scenarios[] = {
    {"both_sides_see_the_same_bytes", both_sides_see_the_same_bytes},
    {"access_is_kept_to", access_is_kept_to},
    {"a_number_in_use_is_refused_and_the_next_region_is_the_next",
     a_number_in_use_is_refused_and_the_next_region_is_the_next},
    {"a_region_at_an_address_leaves_the_reservation_whole", a_region_at_an_address_leaves_the_reservation_whole},
    {"an_echo_maps_nothing_at_an_address", an_echo_maps_nothing_at_an_address},
    {"only_a_sealed_file_of_the_right_size_is_mapped", only_a_sealed_file_of_the_right_size_is_mapped},
    {"descriptors_nobody_asked_for_are_closed", descriptors_nobody_asked_for_are_closed},
    {"a_descriptor_that_is_refused_makes_nobody_wait", a_descriptor_that_is_refused_makes_nobody_wait},
  };
  CHECK_EQUAL(count, 2);
  for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
    if (strcmp(scenarios[i].name, arguments[1]) != 0)
      continue;
    int descriptors = open_descriptors();
    open_both();
    scenarios[i].run();
    gpud_connection_free(client);
    gpud_connection_free(worker);
    CHECK_EQUAL(open_descriptors(), descriptors);
    return 0;
  }
  return 2;
}
