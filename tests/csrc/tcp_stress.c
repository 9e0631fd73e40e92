/* connection_stress over a pair of TCP sockets: the same scenarios, the same words. */
#include "order.h"
#include "tcp_link.h"

/* A hang-up takes its time over TCP, on a busy machine also on loopback: alive is what still is so a while later. */
static int alive_for_a_while(gpud_connection *c)
{
  uint64_t until = gpud_now() + 200000000ull;
  while (gpud_connection_alive(c) && gpud_now() < until)
    gpud_relax();
  return gpud_connection_alive(c);
}

/* What the program is made of. */
#define gpud_endpoint_loop tcp_pair
#define gpud_connection_alive alive_for_a_while
#include "connection_stress.c"
