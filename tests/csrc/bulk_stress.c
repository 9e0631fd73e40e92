/*
 * Bulk transfers of several threads through one small stage to a worker thread that has a flat device memory.
 * usage: bulk_stress ROUNDS
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "bulk.h"
#include "check.h"
#include "connection.h"

#define CHUNKS 3u
#define CHUNK_SIZE 8192u
#define THREADS 3u
#define SHARE 200000u /* bytes of device memory of each thread */
#define REGION 5u

static gpud_connection *client, *worker;
static gpud_stage *stage;
static unsigned char memory[THREADS * SHARE];
static uint64_t rounds;

static int execute(const char *message, int size)
{
  gpud_message_head head;
  gpud_msg_copy_host copy;
  gpud_msg_write write;
  memcpy(&head, message, sizeof head);
  memcpy(&copy, message + sizeof head, sizeof copy);
  memcpy(&write, message + sizeof head, sizeof write);
  switch (head.op) {
  case GPUD_OP_REGION_ADD:
    return gpud_connection_region_add(worker, message, in_good_time());
  case GPUD_OP_REGION_DROP:
    return gpud_connection_region_drop(worker, message);
  case GPUD_OP_COPY_IN:
    return gpud_connection_rma_read(worker, copy.region, copy.offset, memory + copy.address, copy.size);
  case GPUD_OP_COPY_OUT:
    return gpud_connection_rma_write(worker, copy.region, copy.offset, memory + copy.address, copy.size);
  case GPUD_OP_WRITE:
    memcpy(memory + write.address, message + sizeof head + sizeof write, (size_t)size - sizeof head - sizeof write);
    return 0;
  default:
    return -EPROTO;
  }
}

static void *serve(void *unused)
{
  char message[GPUD_MAX_MESSAGE];
  for (;;) {
    int size = gpud_connection_receive(worker, message, in_good_time());
    CHECK(size > 0);
    if (message[offsetof(gpud_message_head, op)] == GPUD_OP_CLOSE)
      return unused;
    CHECK_EQUAL(execute(message, size), 0);
    gpud_connection_publish(worker, gpud_connection_received(worker), 0);
  }
}

static void *transfer(void *argument)
{
  const uint64_t base = *(const uint64_t *)argument;
  unsigned char *out = malloc(SHARE), *in = malloc(SHARE);
  uint64_t state = random_of(base);
  CHECK(out && in);
  for (uint64_t round = 0; round < rounds; round++) {
    uint64_t most = random_next(&state) % 3 ? 3 * CHUNK_SIZE : SHARE;
    uint64_t size = random_next(&state) % most;
    uint64_t offset = random_next(&state) % (SHARE - size);
    fill_bytes(out, (uint32_t)size, round);
    int64_t put = gpud_bulk_put(stage, base + offset, out, size, 0, in_good_time());
    CHECK(put > 0);
    memset(out, 0, SHARE); /* ours again as soon as put returned */
    int64_t got = gpud_bulk_get(stage, in, base + offset, size, 0, in_good_time());
    CHECK(got >= put);
    CHECK(bytes_are(in, (uint32_t)size, round));
  }
  free(out);
  free(in);
  return NULL;
}

int main(int count, char **arguments)
{
  gpud_endpoint *ends[2];
  pthread_t server, threads[THREADS];
  uint64_t bases[THREADS];
  gpud_connection_stats stats;
  CHECK_EQUAL(count, 2);
  rounds = strtoull(arguments[1], NULL, 10);
  int descriptors = open_descriptors();
  CHECK_EQUAL(gpud_endpoint_loop(0, 0, &ends[0], &ends[1]), 0);
  client = gpud_connection_new(ends[0], 1);
  worker = gpud_connection_new(ends[1], 0);
  CHECK(client && worker);
  CHECK_EQUAL(pthread_create(&server, NULL, serve, NULL), 0);
  CHECK_EQUAL(gpud_stage_create(client, REGION, CHUNKS, CHUNK_SIZE, in_good_time(), &stage), 0);
  for (uint32_t i = 0; i < THREADS; i++) {
    bases[i] = (uint64_t)i * SHARE;
    CHECK_EQUAL(pthread_create(&threads[i], NULL, transfer, &bases[i]), 0);
  }
  for (uint32_t i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  CHECK_EQUAL(gpud_bulk_put(stage, UINT64_MAX, "ab", 2, 0, in_good_time()), -EINVAL);
  CHECK_EQUAL(gpud_bulk_put(stage, 0, "", 0, 0, 0), gpud_connection_posted(client));
  gpud_connection_get_stats(client, &stats);
  CHECK(stats.bytes_copied_in > 0 && stats.bytes_copied_out > 0);
  gpud_stage *outlives;
  CHECK_EQUAL(gpud_stage_create(client, REGION + 1, CHUNKS, CHUNK_SIZE, in_good_time(), &outlives), 0);
  gpud_stage_free(stage);
  CHECK(gpud_connection_post(client, GPUD_OP_CLOSE, 0, NULL, 0, in_good_time()) > 0);
  pthread_join(server, NULL);
  gpud_connection_free(client);
  CHECK_EQUAL(gpud_connection_alive(worker), 0); /* hung up, although a stage holds the memory */
  CHECK_EQUAL(gpud_bulk_put(outlives, 0, memory, SHARE, 0, in_good_time()), -ESHUTDOWN);
  gpud_stage_free(outlives);
  gpud_connection_free(worker);
  CHECK_EQUAL(open_descriptors(), descriptors);
  return 0;
}
