/* What the TCP test programs share: connected loopback sockets, and both ends of a connection over them. */
#ifndef GPUD_TEST_TCP_LINK_H
#define GPUD_TEST_TCP_LINK_H

#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bootstrap.h"
#include "check.h"
#include "connection.h"
#include "endpoint.h"

static inline void tcp_sockets(int pair[2])
{
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(listener >= 0);
  CHECK_EQUAL(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
  CHECK_EQUAL(listen(listener, 1), 0);
  CHECK_EQUAL(getsockname(listener, (struct sockaddr *)&address, &size), 0);
  pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(pair[0] >= 0);
  CHECK_EQUAL(connect(pair[0], (struct sockaddr *)&address, sizeof address), 0);
  pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  CHECK(pair[1] >= 0);
  close(listener);
}

static inline void tcp_hello(int socket, gpud_hello *hello)
{
  char frame[GPUD_MAX_FRAME];
  const char *text;
  int fd;
  int size = gpud_bootstrap_receive(socket, frame, &fd, in_good_time());
  CHECK(size > 0);
  CHECK_EQUAL(fd, -1);
  CHECK(gpud_frame_decode(frame, (size_t)size, GPUD_FRAME_HELLO, hello, &text) >= 0);
}

typedef struct tcp_connecting {
  int socket;
  gpud_endpoint *ep;
  gpud_welcome welcome;
  int rc;
} tcp_connecting;

static inline void *tcp_connect_client(void *argument)
{
  tcp_connecting *c = argument;
  const gpud_hello hello = {.version_min = 1, .version_max = 1, .features = GPUD_FEATURE_DEVICE};
  gpud_refused refused;
  char text[GPUD_MAX_TEXT + 1];
  c->rc = gpud_endpoint_connect(c->socket, &hello, "test", &c->welcome, &refused, text, in_good_time(), &c->ep);
  return NULL;
}

/* Both ends, as gpud_endpoint_loop makes them. */
static inline int tcp_pair(uint32_t command_slots, uint32_t reply_slots, gpud_endpoint **client, gpud_endpoint **worker)
{
  int sockets[2];
  gpud_hello hello;
  gpud_welcome welcome = {.command_slots = command_slots, .reply_slots = reply_slots};
  pthread_t thread;
  tcp_sockets(sockets);
  tcp_connecting connecting = {.socket = sockets[0]};
  CHECK_EQUAL(pthread_create(&thread, NULL, tcp_connect_client, &connecting), 0);
  tcp_hello(sockets[1], &hello);
  int rc = gpud_endpoint_accept(sockets[1], &hello, &welcome, "peer", in_good_time(), worker);
  CHECK_EQUAL(rc, 0);
  pthread_join(thread, NULL);
  CHECK_EQUAL(connecting.rc, 0);
  *client = connecting.ep;
  return 0;
}

#endif
