/*
 * What the scenarios of verbs_processes.c share: both ends of a connection, each in its process, and the count of what is left.
 */
#ifndef VERBS_RIG_H
#define VERBS_RIG_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bootstrap.h"
#include "check.h"
#include "connection.h"
#include "handshake.h"
#include "order.h"
#include "processes.h"
#include "segment.h"
#include "verbs_endpoint.h"

static const gpud_hello HELLO = {
  .version_min = GPUD_VERSION, .version_max = GPUD_VERSION, .features = GPUD_FEATURE_VERBS};
static const char *here;

static int listener(struct sockaddr_in *address)
{
  socklen_t size = sizeof *address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  *address = (struct sockaddr_in){.sin_family = AF_INET};
  CHECK_EQUAL(inet_pton(AF_INET, here, &address->sin_addr), 1);
  CHECK_EQUAL(bind(fd, (struct sockaddr *)address, sizeof *address), 0);
  CHECK_EQUAL(listen(fd, 8), 0);
  CHECK_EQUAL(getsockname(fd, (struct sockaddr *)address, &size), 0);
  return fd;
}

static int dial(const struct sockaddr_in *address)
{
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK_EQUAL(connect(fd, (const struct sockaddr *)address, sizeof *address), 0);
  return fd;
}

static gpud_connection *connect_to(const struct sockaddr_in *address)
{
  gpud_welcome welcome;
  gpud_refused refused;
  char text[GPUD_MAX_TEXT + 1];
  gpud_endpoint *ep;
  CHECK_EQUAL(gpud_endpoint_connect(dial(address), &HELLO, "test", &welcome, &refused, text, in_good_time(), &ep), 0);
  CHECK_EQUAL(welcome.session, 42);
  gpud_connection *c = gpud_connection_new(ep, 1);
  CHECK(strcmp(gpud_connection_transport(c), "verbs") == 0);
  return c;
}

static void nothing_is_left(void)
{
  gpud_verbs_objects left;
  gpud_verbs_census(&left);
  CHECK_EQUAL(left.queue_pairs, 0);
  CHECK_EQUAL(left.memory_regions, 0);
  CHECK_EQUAL(left.registered, 0);
  CHECK_EQUAL(left.completion_queues, 0);
  CHECK_EQUAL(left.channels, 0);
  CHECK_EQUAL(left.domains, 0);
  CHECK_EQUAL(left.contexts, 0);
}

static void end(gpud_connection *c)
{
  gpud_connection_free(c);
  nothing_is_left();
}

/* ---------------------------------------------------------------- two processes */

typedef void role(gpud_connection *c);

/* Memory that both processes see: how many have come to each meeting. */
static uint32_t *meetings;
static uint32_t met;

/* Returns once the other process is here, too. */
static void meet(void)
{
  uint64_t deadline = in_good_time();
  gpud_fetch_add_u32(&meetings[met], 1);
  while (gpud_load_acquire_u32(&meetings[met]) < 2) {
    CHECK(gpud_now() < deadline);
    usleep(500);
  }
  met++;
}

/* A child that is the worker, or at `address` the client, of this process. */
static pid_t beside(role *run, int listening, const struct sockaddr_in *address)
{
  pid_t child = fork();
  if (child != 0)
    return child;
  gpud_connection *c = address ? connect_to(address) : accept_from(listening);
  run(c);
  end(c);
  close(listening);
  exit(0);
}

/* Both ends of a connection, each in its process. */
static void between(role *client, role *worker)
{
  struct sockaddr_in address;
  int listening = listener(&address);
  pid_t child = beside(worker, listening, NULL);
  gpud_connection *c = connect_to(&address);
  client(c);
  end(c);
  wait_for(child, 0);
  close(listening);
}

static gpud_verbs_endpoint *inside(gpud_connection *c) { return gpud_verbs_endpoint_of(gpud_connection_endpoint(c)); }

static const char *reason(gpud_connection *c)
{
  gpud_endpoint *ep = gpud_connection_endpoint(c);
  return ep->ops->reason(ep);
}

static void tell(gpud_connection *c, const char *text)
{
  CHECK(gpud_connection_post(c, GPUD_OP_DATA, 0, text, (uint32_t)strlen(text), in_good_time()) > 0);
}

/* Receives a DATA message of this text. */
static void hear(gpud_connection *c, const char *text)
{
  char message[GPUD_MAX_MESSAGE];
  int size = gpud_connection_receive(c, message, in_good_time());
  CHECK_EQUAL(size, sizeof(gpud_message_head) + strlen(text));
  CHECK(memcmp(message + sizeof(gpud_message_head), text, strlen(text)) == 0);
}

static void receive_ends(gpud_connection *c, int how)
{
  char message[GPUD_MAX_MESSAGE];
  int rc;
  while ((rc = gpud_connection_receive(c, message, in_good_time())) > 0)
    continue;
  if (rc != how)
    fprintf(stderr, "it says: %s\n", reason(c));
  CHECK_EQUAL(rc, how);
}

static void echoes(gpud_connection *c) { CHECK_EQUAL(gpud_connection_echo(c, in_good_time()), 0); }

#define REGION (3u << 20)

static void take_region(gpud_connection *c, int wanted)
{
  char message[GPUD_MAX_MESSAGE];
  CHECK(gpud_connection_receive(c, message, in_good_time()) > 0);
  CHECK_EQUAL(gpud_connection_region_add(c, message, in_good_time()), wanted);
}

static void *interrupt_soon(void *c)
{
  usleep(100000);
  gpud_connection_interrupt(c);
  return NULL;
}

#endif
