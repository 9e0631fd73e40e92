/*
 * Prints what gpud_verbs_probe returns and says, and how many contexts it left open; with `accept`, the same of a worker that is
 * asked for verbs, and how many bytes it sent.
 * usage: verbs_probe [accept]
 */
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "endpoint.h"
#include "verbs.h"

/* A connected pair of TCP sockets. */
static void connected(int pair[2])
{
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK_EQUAL(bind(listening, (struct sockaddr *)&address, size), 0);
  CHECK_EQUAL(listen(listening, 1), 0);
  CHECK_EQUAL(getsockname(listening, (struct sockaddr *)&address, &size), 0);
  CHECK_EQUAL(connect(pair[0], (struct sockaddr *)&address, size), 0);
  pair[1] = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
  CHECK(pair[1] >= 0);
  close(listening);
}

static int accept_verbs(char *text, size_t size, int *sent)
{
  const gpud_hello hello = {.version_min = GPUD_VERSION, .version_max = GPUD_VERSION, .features = GPUD_FEATURE_VERBS};
  gpud_welcome welcome = {.session = 1};
  gpud_endpoint *ep;
  int pair[2];
  connected(pair);
  int rc = gpud_endpoint_accept(pair[1], &hello, &welcome, "device", in_good_time(), &ep);
  gpud_verbs_why(text, size);
  CHECK_EQUAL(close(pair[1]), 0); /* still the caller's */
  CHECK_EQUAL(ioctl(pair[0], FIONREAD, sent), 0);
  close(pair[0]);
  return rc;
}

int main(int count, char **arguments)
{
  char text[512] = "";
  gpud_verbs_objects left;
  int sent = 0;
  int descriptors = open_descriptors();
  bool accepts = count > 1 && strcmp(arguments[1], "accept") == 0;
  int rc = accepts ? accept_verbs(text, sizeof text, &sent) : gpud_verbs_probe(text, sizeof text);
  CHECK_EQUAL(open_descriptors(), descriptors);
  gpud_verbs_census(&left);
  printf("%d %llu %d %s\n", rc, (unsigned long long)left.contexts, sent, text);
  return 0;
}
