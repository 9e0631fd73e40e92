#include "floor.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#define MESSAGE 64
#define READ_AT_ONCE                                                                                                   \
  65536 /* bytes: a drain takes what there is, as anyone would who reads a stream of small messages */

static bool try_again(bool spin, floor_patience *patience)
{
  if (errno == EINTR)
    return true;
  /* A blocking call that says EAGAIN has waited for the socket's timeout. */
  return spin && errno == EAGAIN && floor_poll_again(patience) == 0;
}

static int send_all(int fd, const void *bytes, uint64_t size, bool spin)
{
  floor_patience patience = {0};
  for (uint64_t done = 0; done < size;) {
    ssize_t n = send(fd, (const char *)bytes + done, size - done, MSG_NOSIGNAL | (spin ? MSG_DONTWAIT : 0));
    if (n > 0)
      done += (uint64_t)n;
    else if (!try_again(spin, &patience))
      return -1;
  }
  return 0;
}

static int receive_all(int fd, void *bytes, uint64_t size, bool spin)
{
  floor_patience patience = {0};
  for (uint64_t done = 0; done < size;) {
    ssize_t n = recv(fd, (char *)bytes + done, size - done, spin ? MSG_DONTWAIT : 0);
    if (n > 0)
      done += (uint64_t)n;
    else if (n == 0 || !try_again(spin, &patience))
      return -1;
  }
  return 0;
}

int floor_socket_serve(int fd, uint64_t rounds, int spin)
{
  char message[MESSAGE];
  for (uint64_t i = 0; i < rounds; i++)
    if (receive_all(fd, message, sizeof message, spin != 0) != 0 ||
        send_all(fd, message, sizeof message, spin != 0) != 0)
      return -1;
  return 0;
}

int floor_socket_pingpong(int fd, uint64_t rounds, int spin, uint64_t *ns)
{
  char message[MESSAGE] = {0}, reply[MESSAGE];
  for (uint64_t i = 0; i < rounds; i++) {
    memcpy(message, &i, sizeof i);
    uint64_t begin = floor_now();
    if (send_all(fd, message, sizeof message, spin != 0) != 0 || receive_all(fd, reply, sizeof reply, spin != 0) != 0)
      return -1;
    ns[i] = floor_now() - begin;
    if (memcmp(message, reply, sizeof message) != 0)
      return -1;
  }
  return 0;
}

int floor_socket_flood(int fd, uint64_t count)
{
  char message[MESSAGE] = {0};
  for (uint64_t i = 0; i < count; i++) {
    memcpy(message, &i, sizeof i);
    if (send_all(fd, message, sizeof message, false) != 0)
      return -1;
  }
  return receive_all(fd, message, 1, false);
}

int floor_socket_drain(int fd, uint64_t count, uint64_t *sum)
{
  static _Thread_local char bytes[READ_AT_ONCE];
  uint64_t left = count * MESSAGE, held = 0;
  while (left > 0) {
    ssize_t n = recv(fd, bytes + held, left < sizeof bytes - held ? left : sizeof bytes - held, 0);
    if (n <= 0) {
      if (n < 0 && errno == EINTR)
        continue;
      return -1;
    }
    left -= (uint64_t)n;
    held += (uint64_t)n;
    uint64_t whole = held / MESSAGE * MESSAGE;
    for (uint64_t at = 0; at < whole; at += MESSAGE) {
      uint64_t first;
      memcpy(&first, bytes + at, sizeof first);
      *sum += first;
    }
    memmove(bytes, bytes + whole, held - whole);
    held -= whole;
  }
  return send_all(fd, "k", 1, false);
}

int floor_socket_put(int fd, const void *source, uint64_t size, int spin)
{
  char done;
  return send_all(fd, source, size, spin != 0) == 0 ? receive_all(fd, &done, 1, spin != 0) : -1;
}

int floor_socket_take(int fd, void *destination, uint64_t size, int spin)
{
  return receive_all(fd, destination, size, spin != 0) == 0 ? send_all(fd, "k", 1, spin != 0) : -1;
}
