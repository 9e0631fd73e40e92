/*
 * A slow link in front of a TCP server: `proxy HOST PORT DELAY_NS BYTES_PER_S BUFFER` listens on a port of the loopback,
 * prints it, and carries each connection's bytes to HOST:PORT and back, unchanged and in order: DELAY_NS later, and no
 * faster than BYTES_PER_S (0: as fast as it can) each way. At most BUFFER bytes are under way each way; whoever sends
 * more waits. An end of stream travels as the bytes do; an error ends both sides at once. Ends with its standard input.
 *
 * Each connection is a thread that sleeps, except just before something is due and just after something came: waking
 * takes tens of microseconds, which would be part of the delay.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000u
#define AWAKE_NS 100000u /* this long before something is due and after something came, a thread does not sleep */
#define LONGEST 65536u   /* bytes of one piece: what one timestamp is for */
#define PIECES 4096u

typedef struct link {
  struct sockaddr_in target;
  uint64_t delay_ns;
  uint64_t bytes_per_s;
  uint64_t buffer;
} link_shape;

typedef struct piece {
  uint64_t due;
  uint64_t end; /* position in the stream of the byte after its last */
} piece;

/* One direction. Positions count bytes since the beginning; a byte's place in the buffer is its position modulo its size. */
typedef struct direction {
  int from, to;
  char *bytes;
  piece pieces[PIECES];
  uint64_t first, last; /* pieces: [first, last) are under way */
  uint64_t read, written;
  uint64_t line_free; /* when the last byte that was read has left the sender's side */
  bool ended;         /* nothing more comes */
  bool told;          /* and the other side knows */
} direction;

typedef struct connection {
  const link_shape *shape;
  int client, server;
  direction there, back;
} connection;

static uint64_t now_ns(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

static bool has_room(const link_shape *shape, const direction *d)
{
  return !d->ended && d->read - d->written < shape->buffer && d->last - d->first < PIECES;
}

/* Takes in what has come. 1: something; 0: nothing there; -1: the connection is broken. */
static int take(const link_shape *shape, direction *d)
{
  if (!has_room(shape, d))
    return 0;
  uint64_t at = d->read % shape->buffer;
  uint64_t room = smaller(shape->buffer - (d->read - d->written), shape->buffer - at);
  ssize_t n = recv(d->from, d->bytes + at, smaller(room, LONGEST), MSG_DONTWAIT);
  if (n < 0)
    return errno == EAGAIN || errno == EINTR ? 0 : -1;
  uint64_t now = now_ns();
  if (n == 0)
    d->ended = true;
  d->read += (uint64_t)n;
  if (d->line_free < now)
    d->line_free = now;
  if (shape->bytes_per_s != 0)
    d->line_free += (uint64_t)n * SECOND_NS / shape->bytes_per_s;
  d->pieces[d->last++ % PIECES] = (piece){.due = d->line_free + shape->delay_ns, .end = d->read};
  return 1;
}

/* Passes on what is due. 1: something; 0: nothing due, or the receiver is full (then *full); -1: broken. */
static int give(const link_shape *shape, direction *d, bool *full)
{
  if (d->first == d->last)
    return 0;
  const piece *p = &d->pieces[d->first % PIECES];
  if (now_ns() < p->due)
    return 0;
  if (p->end == d->written) { /* the end of the stream: a piece of no bytes */
    d->told = true;
    d->first++;
    return shutdown(d->to, SHUT_WR) == 0 ? 1 : -1;
  }
  uint64_t at = d->written % shape->buffer;
  uint64_t size = smaller(p->end - d->written, shape->buffer - at);
  ssize_t n = send(d->to, d->bytes + at, size, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n < 0) {
    *full = errno == EAGAIN;
    return *full || errno == EINTR ? 0 : -1;
  }
  d->written += (uint64_t)n;
  if (d->written == p->end)
    d->first++;
  return 1;
}

static uint64_t next_due(const direction *d, bool full)
{
  return full || d->first == d->last ? UINT64_MAX : d->pieces[d->first % PIECES].due;
}

/* Sleeps until something may be done: news on a socket, or shortly before the next piece is due. */
static void await(const connection *c, bool there_full, bool back_full)
{
  uint64_t due = smaller(next_due(&c->there, there_full), next_due(&c->back, back_full));
  uint64_t now = now_ns();
  if (due != UINT64_MAX && due < now + AWAKE_NS)
    return;
  struct pollfd polled[2] = {{.fd = c->client}, {.fd = c->server}};
  polled[0].events = (short)((has_room(c->shape, &c->there) ? POLLIN : 0) | (back_full ? POLLOUT : 0));
  polled[1].events = (short)((has_room(c->shape, &c->back) ? POLLIN : 0) | (there_full ? POLLOUT : 0));
  for (int i = 0; i < 2; i++)
    if (polled[i].events == 0)
      polled[i].fd = -1; /* a hang-up would be reported again and again */
  uint64_t left = due == UINT64_MAX ? SECOND_NS : due - now - AWAKE_NS;
  const struct timespec time = {.tv_sec = (time_t)(left / SECOND_NS), .tv_nsec = (long)(left % SECOND_NS)};
  ppoll(polled, 2, &time, NULL);
}

static void carry(connection *c)
{
  uint64_t active = 0;
  while (!(c->there.told && c->back.told)) {
    bool there_full = false, back_full = false;
    int done[4] = {take(c->shape, &c->there), take(c->shape, &c->back), give(c->shape, &c->there, &there_full),
                   give(c->shape, &c->back, &back_full)};
    int moved = 0;
    for (int i = 0; i < 4; i++) {
      if (done[i] < 0)
        return;
      moved |= done[i];
    }
    if (moved)
      active = now_ns();
    else if (now_ns() - active > AWAKE_NS)
      await(c, there_full, back_full);
  }
}

static void *run(void *argument)
{
  connection *c = argument;
  prctl(PR_SET_TIMERSLACK, 1);
  int one = 1;
  c->server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  c->there.bytes = malloc(c->shape->buffer);
  c->back.bytes = malloc(c->shape->buffer);
  if (c->server >= 0 && c->there.bytes != NULL && c->back.bytes != NULL &&
      connect(c->server, (const struct sockaddr *)&c->shape->target, sizeof c->shape->target) == 0) {
    setsockopt(c->client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->there.from = c->back.to = c->client;
    c->there.to = c->back.from = c->server;
    carry(c);
  }
  /* Whatever ended it: nobody is left waiting, and one who still sends is told (by a reset). */
  close(c->client);
  if (c->server >= 0)
    close(c->server);
  free(c->there.bytes);
  free(c->back.bytes);
  free(c);
  return NULL;
}

static int start(const link_shape *shape, int client)
{
  connection *c = calloc(1, sizeof *c);
  if (c == NULL)
    return -1;
  c->shape = shape;
  c->client = client;
  pthread_t thread;
  if (pthread_create(&thread, NULL, run, c) != 0) {
    free(c);
    return -1;
  }
  pthread_detach(thread);
  return 0;
}

static int listen_on_loopback(uint16_t *port)
{
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) != 0 || listen(fd, 64) != 0 ||
      getsockname(fd, (struct sockaddr *)&address, &size) != 0)
    return -1;
  *port = ntohs(address.sin_port);
  return fd;
}

int main(int count, char **arguments)
{
  if (count != 6) {
    fprintf(stderr, "usage: %s HOST PORT DELAY_NS BYTES_PER_S BUFFER\n", arguments[0]);
    return 2;
  }
  link_shape shape = {.target.sin_family = AF_INET,
                      .target.sin_port = htons((uint16_t)strtoul(arguments[2], NULL, 10)),
                      .delay_ns = strtoull(arguments[3], NULL, 10),
                      .bytes_per_s = strtoull(arguments[4], NULL, 10),
                      .buffer = strtoull(arguments[5], NULL, 10)};
  if (inet_pton(AF_INET, arguments[1], &shape.target.sin_addr) != 1 || shape.buffer == 0) {
    fprintf(stderr, "%s: HOST is an IPv4 address, BUFFER at least 1\n", arguments[0]);
    return 2;
  }
  uint16_t port = 0;
  int listener = listen_on_loopback(&port);
  if (listener < 0) {
    perror("proxy: listen");
    return 1;
  }
  printf("%u\n", port);
  fflush(stdout);
  struct pollfd polled[2] = {{.fd = listener, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
  for (;;) {
    if (poll(polled, 2, -1) < 0 && errno != EINTR)
      return 1;
    if (polled[1].revents != 0)
      return 0;
    int client = polled[0].revents != 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
    if (client >= 0 && start(&shape, client) != 0)
      close(client);
  }
}
