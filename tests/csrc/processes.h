/*
 * What tests with a client in another process share, whatever the transport.
 */
#ifndef GPUD_TEST_PROCESSES_H
#define GPUD_TEST_PROCESSES_H

#include <sys/socket.h>
#include <sys/wait.h>

#include "bootstrap.h"
#include "check.h"
#include "connection.h"

/* The worker's end of the next client, which calls itself by four letters. */
static gpud_connection *accept_from(int listening)
{
  char frame[GPUD_MAX_FRAME];
  const char *text;
  gpud_hello hello;
  gpud_welcome welcome = {.session = 42};
  gpud_endpoint *ep;
  int fd, socket = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
  CHECK(socket >= 0);
  int size = gpud_bootstrap_receive(socket, frame, &fd, in_good_time());
  CHECK(size > 0);
  CHECK_EQUAL(gpud_frame_decode(frame, (size_t)size, GPUD_FRAME_HELLO, &hello, &text), 4);
  CHECK_EQUAL(gpud_endpoint_accept(socket, &hello, &welcome, "a device", in_good_time(), &ep), 0);
  return gpud_connection_new(ep, 0);
}

static void wait_for(pid_t child, int status)
{
  int got;
  CHECK_EQUAL(waitpid(child, &got, 0), child);
  CHECK_EQUAL(got, status);
}

#endif
