#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "endpoint_ring.h"
#include "order.h"
#include "wait.h"

/* The memory both ends use: freed by whoever closes last. */
typedef struct loop_memory {
  size_t size;
  uint64_t ends;
} loop_memory;

static void loop_free_memory(void *memory, void *owner)
{
  loop_memory *shared = owner;
  if (gpud_fetch_add_u64(&shared->ends, UINT64_MAX) != 1)
    return;
  munmap(memory, shared->size);
  free(shared);
}

int gpud_endpoint_loop(uint32_t command_slots, uint32_t reply_slots, gpud_endpoint **client, gpud_endpoint **worker)
{
  gpud_ring_setup setup = {
    .name = "loop",
    .command_slots = command_slots ? command_slots : GPUD_COMMAND_SLOTS,
    .reply_slots = reply_slots ? reply_slots : GPUD_REPLY_SLOTS,
    .features = GPUD_FEATURE_HOST_MAP | GPUD_FEATURE_OUTPUT | GPUD_FEATURE_COOPERATIVE |
                (gpud_membarrier_available() ? GPUD_FEATURE_MEMBARRIER : 0),
    .pidfd = -1,
    .free_memory = loop_free_memory,
  };
  if (!gpud_ring_memory_valid(setup.command_slots, setup.reply_slots))
    return -EINVAL;
  int rc = 0;
  int sockets[2] = {-1, -1};
  loop_memory *shared = malloc(sizeof *shared);
  if (!shared)
    return -ENOMEM;
  *shared = (loop_memory){.size = gpud_ring_memory_size(setup.command_slots, setup.reply_slots), .ends = 2};
  void *memory = mmap(NULL, shared->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    rc = -errno;
    goto failed;
  }
  setup.memory = memory;
  setup.owner = shared;
  setup.client = 1;
  setup.socket = sockets[0];
  rc = gpud_ring_endpoint_new(&setup, client);
  if (rc != 0)
    goto failed;
  setup.client = 0;
  setup.socket = sockets[1];
  rc = gpud_ring_endpoint_new(&setup, worker);
  if (rc == 0)
    return 0;
  (*client)->ops->close(*client); /* the first of two ends: the memory is still ours */
  sockets[0] = -1;
failed:
  for (int i = 0; i < 2; i++)
    if (sockets[i] >= 0)
      close(sockets[i]);
  if (memory != MAP_FAILED)
    munmap(memory, shared->size);
  free(shared);
  return rc;
}
