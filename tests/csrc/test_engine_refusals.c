/*
 * Every command that no session may give, each in a session of its own: it fails with its status and nothing else
 * happens, its session still completes and closes, and the engine is as new.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bootstrap.h"
#include "engine_kernels.h"

#define R GPUD_ACCESS_READ
#define W GPUD_ACCESS_WRITE

static uint64_t base_of(const rig *r) { return r->welcome.window_base; }

/* ---------------------------------------------------------------- memory: 64 MiB granted of a window of 256 MiB; the first chunk is mapped */

static void map_unaligned_address(rig *r) { rig_map(r, 4 * MiB + 4096, CHUNK); }
static void map_unaligned_size(rig *r) { rig_map(r, 4 * MiB, CHUNK + 4096); }
static void map_nothing(rig *r) { rig_map(r, 4 * MiB, 0); }
static void map_below_the_window(rig *r) { rig_map(r, -CHUNK, CHUNK); }
static void map_beyond_the_window(rig *r) { rig_map(r, 256 * MiB, CHUNK); }
static void map_across_the_end(rig *r) { rig_map(r, 254 * MiB, 2 * CHUNK); }
static void map_everything(rig *r) { POST(r, GPUD_OP_MAP, gpud_msg_map, 0, -CHUNK); }
static void map_twice(rig *r) { rig_map(r, 0, CHUNK); }
static void map_over_another(rig *r)
{
  rig_map(r, 8 * MiB, CHUNK);
  rig_map(r, 6 * MiB, 4 * CHUNK);
}
static void map_over_the_limit(rig *r) { rig_map(r, 64 * MiB, 64 * MiB); }
static void map_over_the_limit_little_by_little(rig *r)
{
  for (uint64_t offset = CHUNK; offset <= 64 * MiB; offset += CHUNK)
    rig_map(r, offset, CHUNK);
}
static void map_over_a_region(rig *r)
{
  gpud_region *placed;
  CHECK_EQUAL(gpud_region_create(r->client, 1, 4096, R | W, base_of(r) + 9 * MiB, 0, in_good_time(), &placed), 0);
  gpud_region_free(placed);
  rig_map(r, 8 * MiB, CHUNK);
}
static void unmap_what_is_not_there(rig *r) { POST(r, GPUD_OP_UNMAP, gpud_msg_map, base_of(r) + CHUNK, CHUNK); }
static void unmap_half_a_chunk(rig *r)
{
  rig_map(r, 8 * MiB, 2 * CHUNK);
  POST(r, GPUD_OP_UNMAP, gpud_msg_map, base_of(r) + 8 * MiB, CHUNK);
}
static void unmap_the_upper_half(rig *r)
{
  rig_map(r, 8 * MiB, 2 * CHUNK);
  POST(r, GPUD_OP_UNMAP, gpud_msg_map, base_of(r) + 8 * MiB + CHUNK, CHUNK);
}
static void unmap_nothing(rig *r) { POST(r, GPUD_OP_UNMAP, gpud_msg_map, base_of(r), 0); }
static void unmap_a_region(rig *r)
{
  gpud_region *placed;
  CHECK_EQUAL(gpud_region_create(r->client, 1, CHUNK, R | W, base_of(r) + 8 * MiB, 0, in_good_time(), &placed), 0);
  gpud_region_free(placed);
  POST(r, GPUD_OP_UNMAP, gpud_msg_map, base_of(r) + 8 * MiB, CHUNK);
}

/* ---------------------------------------------------------------- copies */

static void copy_host(rig *r, uint8_t op, uint64_t address, uint32_t region, uint64_t offset, uint64_t size)
{
  POST(r, op, gpud_msg_copy_host, .address = address, .offset = offset, .size = size, .region = region);
}
static void copy_in_to_unmapped(rig *r) { copy_host(r, GPUD_OP_COPY_IN, base_of(r) + CHUNK, 0, 0, 8); }
static void copy_in_past_the_chunk(rig *r) { copy_host(r, GPUD_OP_COPY_IN, base_of(r) + CHUNK - 4, 0, 0, 8); }
static void copy_in_to_null(rig *r) { copy_host(r, GPUD_OP_COPY_IN, 0, 0, 0, 8); }
static void copy_in_that_wraps(rig *r) { copy_host(r, GPUD_OP_COPY_IN, base_of(r), 0, 0, UINT64_MAX); }
static void copy_in_from_no_region(rig *r) { copy_host(r, GPUD_OP_COPY_IN, base_of(r), 3, 0, 8); }
static void copy_in_from_a_number_no_region_has(rig *r) { copy_host(r, GPUD_OP_COPY_IN, base_of(r), ~0u, 0, 8); }
static void copy_in_past_the_region(rig *r) { copy_host(r, GPUD_OP_COPY_IN, base_of(r), 0, MiB - 4, 8); }
static void copy_in_offset_that_wraps(rig *r) { copy_host(r, GPUD_OP_COPY_IN, base_of(r), 0, UINT64_MAX - 3, 8); }
static void copy_out_of_unmapped(rig *r) { copy_host(r, GPUD_OP_COPY_OUT, base_of(r) + CHUNK, 0, 0, 8); }
static void copy_out_of_our_heap(rig *r)
{
  static char secret[64];
  copy_host(r, GPUD_OP_COPY_OUT, (uint64_t)(uintptr_t)secret, 0, 0, 8);
}
static void copy_with_access(rig *r, uint8_t op, uint32_t access)
{
  gpud_region *region;
  CHECK_EQUAL(gpud_region_create(r->client, 1, 4096, access, 0, 0, in_good_time(), &region), 0);
  gpud_region_free(region);
  copy_host(r, op, base_of(r), 1, 0, 8);
}
static void copy_out_to_a_read_only_region(rig *r) { copy_with_access(r, GPUD_OP_COPY_OUT, R); }
static void copy_in_from_a_write_only_region(rig *r) { copy_with_access(r, GPUD_OP_COPY_IN, W); }
static void copy_from_unmapped(rig *r) { POST(r, GPUD_OP_COPY, gpud_msg_copy, base_of(r), base_of(r) + CHUNK, 8); }
static void copy_to_unmapped(rig *r) { POST(r, GPUD_OP_COPY, gpud_msg_copy, base_of(r) + CHUNK, base_of(r), 8); }
static void copy_to_a_read_only_region(rig *r)
{
  gpud_region *placed;
  CHECK_EQUAL(gpud_region_create(r->client, 1, 4096, R, base_of(r) + 8 * MiB, 0, in_good_time(), &placed), 0);
  gpud_region_free(placed);
  POST(r, GPUD_OP_COPY, gpud_msg_copy, base_of(r), base_of(r) + 8 * MiB, 8);
  POST(r, GPUD_OP_COPY, gpud_msg_copy, base_of(r) + 8 * MiB, base_of(r), 8);
}
static void fill_unmapped(rig *r) { POST(r, GPUD_OP_FILL, gpud_msg_fill, base_of(r) + CHUNK, 1, 0, 1, 0); }
static void fill_past_the_chunk(rig *r) { POST(r, GPUD_OP_FILL, gpud_msg_fill, base_of(r), CHUNK / 8 + 1, 0, 8, 0); }
static void fill_that_wraps(rig *r) { POST(r, GPUD_OP_FILL, gpud_msg_fill, base_of(r), 1ull << 61, 0, 8, 0); }
static void fill_unaligned(rig *r) { POST(r, GPUD_OP_FILL, gpud_msg_fill, base_of(r) + 2, 1, 0, 4, 0); }
static void write_to_unmapped(rig *r)
{
  struct {
    gpud_msg_write head;
    char byte[8];
  } m = {{base_of(r) + CHUNK - 4}, "1234567"};
  rig_post(r, GPUD_OP_WRITE, 0, &m, sizeof m);
}

/* ---------------------------------------------------------------- regions: 16 MiB of host memory, 1 of it in use */

static void region_with(rig *r, uint32_t number, uint64_t size, uint64_t address)
{
  gpud_region *region;
  CHECK_EQUAL(gpud_region_create(r->client, number, size, R | W, address, 0, in_good_time(), &region), 0);
  gpud_region_free(region);
}
static void region_twice(rig *r) { region_with(r, 0, 4096, 0); }
static void region_twice_placed(rig *r)
{
  region_with(r, 1, 4096, base_of(r) + 8 * MiB);
  region_with(r, 1, 4096, base_of(r) + 16 * MiB);
}
static void region_over_the_limit(rig *r) { region_with(r, 1, 16 * MiB, 0); }
static void region_outside_the_window(rig *r) { region_with(r, 1, 4096, base_of(r) - 4096); }
static void region_across_the_end(rig *r) { region_with(r, 1, 8192, base_of(r) + 256 * MiB - 4096); }
static void region_unaligned(rig *r) { region_with(r, 1, 4096, base_of(r) + 8 * MiB + 8); }
static void region_over_a_chunk(rig *r) { region_with(r, 1, 4096, base_of(r) + 4096); }
static void region_over_a_region(rig *r)
{
  region_with(r, 1, 8192, base_of(r) + 8 * MiB);
  region_with(r, 2, 8192, base_of(r) + 8 * MiB + 4096);
}
/* One that the client's own library would not post. */
static void region_raw(rig *r, int fd, uint32_t number, uint64_t size)
{
  const gpud_region_offer offer = {.number = number, .access = R, .size = size, .fd = fd};
  CHECK_EQUAL(gpud_connection_announce(r->client, &offer, 0, in_good_time()), 0);
  close(fd);
}
static int memory_file(uint64_t size, int seals)
{
  int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
  if (seals)
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
  return fd;
}
static void region_of_too_high_a_number(rig *r) { region_raw(r, memory_file(4096, 1), GPUD_MAX_REGIONS, 4096); }
static void region_of_no_bytes(rig *r) { region_raw(r, memory_file(4096, 1), 1, 0); }
static void region_of_half_a_page(rig *r) { region_raw(r, memory_file(4096, 1), 1, 100); }
static void region_of_all_bytes(rig *r) { region_raw(r, memory_file(4096, 1), 1, UINT64_MAX - 4095); }
static void region_larger_than_its_file(rig *r) { region_raw(r, memory_file(4096, 1), 1, 8192); }
static void region_not_sealed(rig *r) { region_raw(r, memory_file(4096, 0), 1, 4096); }
static void region_that_is_no_memory(rig *r) { region_raw(r, open("/dev/null", O_RDONLY | O_CLOEXEC), 1, 4096); }
static void region_on_no_stream(rig *r)
{
  gpud_msg_region_add m = {.region = 1, .access = R, .size = 4096};
  int fd = memory_file(4096, 1);
  gpud_endpoint *ep = gpud_connection_endpoint(r->client);
  CHECK_EQUAL(ep->ops->region_offer(ep, &(gpud_region_offer){.fd = fd}, in_good_time()), 0);
  close(fd);
  rig_post(r, GPUD_OP_REGION_ADD, 5, &m, sizeof m);
}
static void drop_no_region(rig *r) { POST(r, GPUD_OP_REGION_DROP, gpud_msg_region_drop, .region = 1); }
static void drop_a_number_no_region_has(rig *r) { POST(r, GPUD_OP_REGION_DROP, gpud_msg_region_drop, .region = ~0u); }
static void use_a_dropped_region(rig *r)
{
  region_with(r, 1, 4096, base_of(r) + 8 * MiB);
  POST(r, GPUD_OP_COPY, gpud_msg_copy, base_of(r), base_of(r) + 8 * MiB, 8);
  POST(r, GPUD_OP_REGION_DROP, gpud_msg_region_drop, .region = 1);
  POST(r, GPUD_OP_COPY, gpud_msg_copy, base_of(r), base_of(r) + 8 * MiB, 8);
}

/* ---------------------------------------------------------------- modules and launches */

static void load(rig *r, uint32_t module, uint32_t region, uint64_t offset, uint64_t size)
{
  POST(r, GPUD_OP_MODULE_LOAD, gpud_msg_module_load, module, region, offset, size);
}
static void load_from_no_region(rig *r) { load(r, 1, 9, 0, 8); }
static void load_past_the_region(rig *r) { load(r, 1, 0, MiB - 4, 8); }
static void load_nothing(rig *r) { load(r, 1, 0, 0, 0); }
static void load_too_much(rig *r) { load(r, 1, 0, 0, (uint64_t)GPUD_MAX_IMAGE + 1); }
static void load_all_bytes(rig *r) { load(r, 1, 0, 0, UINT64_MAX); }
static void load_twice(rig *r)
{
  load(r, 1, 0, 0, 8);
  load(r, 1, 0, 0, 8);
}
static void unload_no_module(rig *r) { POST(r, GPUD_OP_MODULE_UNLOAD, gpud_msg_module_ref, .module = 1); }
static void launch_no_module(rig *r) { rig_launch(r, 1, "empty", 1, 1, NULL, 0); }

/* A launch of `empty` that is right but for what the caller changes. */
static gpud_msg_launch right(rig *r)
{
  load(r, 1, 0, 0, 8);
  return (gpud_msg_launch){.module = 1, .grid = {1, 1, 1}, .block = {1, 1, 1}};
}
#define LAUNCH_WITH(change)                                                                                            \
  gpud_msg_launch m = right(r);                                                                                        \
  change;                                                                                                              \
  rig_post(r, GPUD_OP_LAUNCH, 0, &m, sizeof m)
static void launch_no_kernel(rig *r) { LAUNCH_WITH(m.kernel = 100); }
static void launch_an_unloaded_module(rig *r)
{
  LAUNCH_WITH(POST(r, GPUD_OP_MODULE_UNLOAD, gpud_msg_module_ref, .module = 1));
}
static void launch_a_module_that_did_not_compile(rig *r)
{
  strcpy(gpud_region_pointer(r->region), "bad");
  LAUNCH_WITH((void)0);
}
static void launch_no_blocks(rig *r) { LAUNCH_WITH(m.grid[1] = 0); }
static void launch_no_threads(rig *r) { LAUNCH_WITH(m.block[2] = 0); }
static void launch_too_wide(rig *r) { LAUNCH_WITH(m.grid[0] = 0x80000000u); }
static void launch_too_high(rig *r) { LAUNCH_WITH(m.grid[1] = 65536); }
static void launch_too_deep(rig *r) { LAUNCH_WITH(m.grid[2] = 65536); }
static void launch_too_wide_a_block(rig *r) { LAUNCH_WITH(m.block[0] = 1025); }
static void launch_too_deep_a_block(rig *r) { LAUNCH_WITH(m.block[2] = 65); }
static void launch_too_many_threads(rig *r) { LAUNCH_WITH(m.block[0] = m.block[1] = 64); }
static void launch_too_much_shared(rig *r) { LAUNCH_WITH(m.shared = 163 * 1024 + 1); }
static void launch_all_shared(rig *r) { LAUNCH_WITH(m.shared = UINT32_MAX); }
static void launch_more_blocks_than_can_meet(rig *r)
{
  LAUNCH_WITH(m.flags = GPUD_LAUNCH_COOPERATIVE; m.grid[0] = GPUD_MAX_COOPERATIVE_BLOCKS + 1);
}
static void launch_far_more_blocks_than_can_meet(rig *r)
{
  LAUNCH_WITH(m.flags = GPUD_LAUNCH_COOPERATIVE; m.grid[0] = 0x7fffffff; m.grid[1] = m.grid[2] = 65535);
}
static void launch_on_no_stream(rig *r)
{
  gpud_msg_launch m = right(r);
  rig_post(r, GPUD_OP_LAUNCH, 8, &m, sizeof m);
}
static void launch_with_too_few_parameters(rig *r)
{
  load(r, 1, 0, 0, 8);
  rig_launch(r, 1, "count", 1, 1, "1234", 4);
}
static void launch_with_too_many_parameters(rig *r)
{
  load(r, 1, 0, 0, 8);
  rig_launch(r, 1, "empty", 1, 1, "1234", 4);
}
static void launch_more_threads_than_the_kernel_may(rig *r)
{
  load(r, 1, 0, 0, 8);
  rig_launch(r, 1, "divide", 1, 257, "12345678", 8);
}

/* ---------------------------------------------------------------- streams, events, the rest */

static void stream_zero(rig *r) { rig_post(r, GPUD_OP_STREAM_CREATE, 0, NULL, 0); }
static void stream_twice(rig *r)
{
  rig_post(r, GPUD_OP_STREAM_CREATE, 4, NULL, 0);
  rig_post(r, GPUD_OP_STREAM_CREATE, 4, NULL, 0);
}
static void destroy_no_stream(rig *r) { rig_post(r, GPUD_OP_STREAM_DESTROY, 4, NULL, 0); }
static void destroy_stream_zero(rig *r) { rig_post(r, GPUD_OP_STREAM_DESTROY, 0, NULL, 0); }
static void use_no_stream(rig *r) { rig_post(r, GPUD_OP_SYNCHRONIZE, 4, NULL, 0); }
static void data(rig *r) { rig_post(r, GPUD_OP_DATA, 0, "hello", 5); }

typedef struct refusal {
  const char *name;
  void (*give)(rig *r); /* its last command is the one refused */
  uint32_t status;
} refusal;

#define REFUSED(name, status) {#name, name, GPUD_STATUS_##status}

static const refusal refusals[] = {
  REFUSED(map_unaligned_address, INVALID),
  REFUSED(map_unaligned_size, INVALID),
  REFUSED(map_nothing, INVALID),
  REFUSED(map_below_the_window, INVALID),
  REFUSED(map_beyond_the_window, INVALID),
  REFUSED(map_across_the_end, INVALID),
  REFUSED(map_everything, INVALID),
  REFUSED(map_twice, INVALID),
  REFUSED(map_over_another, INVALID),
  REFUSED(map_over_the_limit, OUT_OF_MEMORY),
  REFUSED(map_over_the_limit_little_by_little, OUT_OF_MEMORY),
  REFUSED(map_over_a_region, INVALID),
  REFUSED(unmap_what_is_not_there, INVALID),
  REFUSED(unmap_half_a_chunk, INVALID),
  REFUSED(unmap_the_upper_half, INVALID),
  REFUSED(unmap_nothing, INVALID),
  REFUSED(unmap_a_region, INVALID),
  REFUSED(copy_in_to_unmapped, INVALID),
  REFUSED(copy_in_past_the_chunk, INVALID),
  REFUSED(copy_in_to_null, INVALID),
  REFUSED(copy_in_that_wraps, INVALID),
  REFUSED(copy_in_from_no_region, NOT_FOUND),
  REFUSED(copy_in_from_a_number_no_region_has, NOT_FOUND),
  REFUSED(copy_in_past_the_region, INVALID),
  REFUSED(copy_in_offset_that_wraps, INVALID),
  REFUSED(copy_out_of_unmapped, INVALID),
  REFUSED(copy_out_of_our_heap, INVALID),
  REFUSED(copy_out_to_a_read_only_region, INVALID),
  REFUSED(copy_in_from_a_write_only_region, INVALID),
  REFUSED(copy_from_unmapped, INVALID),
  REFUSED(copy_to_unmapped, INVALID),
  REFUSED(copy_to_a_read_only_region, INVALID),
  REFUSED(fill_unmapped, INVALID),
  REFUSED(fill_past_the_chunk, INVALID),
  REFUSED(fill_that_wraps, INVALID),
  REFUSED(fill_unaligned, INVALID),
  REFUSED(write_to_unmapped, INVALID),
  REFUSED(region_twice, INVALID),
  REFUSED(region_twice_placed, INVALID),
  REFUSED(region_over_the_limit, OUT_OF_MEMORY),
  REFUSED(region_outside_the_window, INVALID),
  REFUSED(region_across_the_end, INVALID),
  REFUSED(region_unaligned, INVALID),
  REFUSED(region_over_a_chunk, INVALID),
  REFUSED(region_over_a_region, INVALID),
  REFUSED(region_of_too_high_a_number, INVALID),
  REFUSED(region_of_no_bytes, INVALID),
  REFUSED(region_of_half_a_page, INVALID),
  REFUSED(region_of_all_bytes, OUT_OF_MEMORY),
  REFUSED(region_larger_than_its_file, INVALID),
  REFUSED(region_not_sealed, INVALID),
  REFUSED(region_that_is_no_memory, INVALID),
  REFUSED(region_on_no_stream, NOT_FOUND),
  REFUSED(drop_no_region, NOT_FOUND),
  REFUSED(drop_a_number_no_region_has, NOT_FOUND),
  REFUSED(use_a_dropped_region, INVALID),
  REFUSED(load_from_no_region, NOT_FOUND),
  REFUSED(load_past_the_region, INVALID),
  REFUSED(load_nothing, INVALID),
  REFUSED(load_too_much, INVALID),
  REFUSED(load_all_bytes, INVALID),
  REFUSED(load_twice, INVALID),
  REFUSED(unload_no_module, NOT_FOUND),
  REFUSED(launch_no_module, NOT_FOUND),
  REFUSED(launch_no_kernel, NOT_FOUND),
  REFUSED(launch_an_unloaded_module, NOT_FOUND),
  REFUSED(launch_a_module_that_did_not_compile, NOT_FOUND),
  REFUSED(launch_no_blocks, INVALID),
  REFUSED(launch_no_threads, INVALID),
  REFUSED(launch_too_wide, INVALID),
  REFUSED(launch_too_high, INVALID),
  REFUSED(launch_too_deep, INVALID),
  REFUSED(launch_too_wide_a_block, INVALID),
  REFUSED(launch_too_deep_a_block, INVALID),
  REFUSED(launch_too_many_threads, INVALID),
  REFUSED(launch_too_much_shared, INVALID),
  REFUSED(launch_all_shared, INVALID),
  REFUSED(launch_more_blocks_than_can_meet, INVALID),
  REFUSED(launch_far_more_blocks_than_can_meet, INVALID),
  REFUSED(launch_on_no_stream, NOT_FOUND),
  REFUSED(launch_with_too_few_parameters, INVALID),
  REFUSED(launch_with_too_many_parameters, INVALID),
  REFUSED(launch_more_threads_than_the_kernel_may, INVALID),
  REFUSED(stream_zero, INVALID),
  REFUSED(stream_twice, INVALID),
  REFUSED(destroy_no_stream, NOT_FOUND),
  REFUSED(destroy_stream_zero, NOT_FOUND),
  REFUSED(use_no_stream, NOT_FOUND),
  REFUSED(data, UNSUPPORTED),
};

static void test_refusal(rig *r, const refusal *refusal)
{
  rig_begin(r);
  rig_map(r, 0, CHUNK);
  refusal->give(r);
  uint64_t refused = gpud_connection_posted(r->client);
  rig_close(r);
  CHECK_EQUAL(gpud_connection_completed(r->client), refused + 1);
  rig_reply reply;
  do {
    reply.size = gpud_connection_receive(r->client, reply.bytes, 0);
    CHECK(reply.size > 0);
    memset(reply.bytes + reply.size, 0, 8);
  } while (reply.head.op != GPUD_OP_FAULT);
  const gpud_msg_fault *fault = BODY_OF(&reply, gpud_msg_fault);
  CHECK(strlen(TEXT_OF(&reply, gpud_msg_fault)) > 5);
  CHECK_EQUAL(fault->sequence, refused);
  CHECK_EQUAL(fault->status, refusal->status);
  CHECK_EQUAL(rig_end(r), 0);
}

/* ---------------------------------------------------------------- how many there may be */

/* Lets the engine take what was posted, and sees that nothing of it failed. */
static void settle(rig *r)
{
  rig_reply reply;
  rig_load(r, 1, "bad");
  CHECK_EQUAL(gpud_engine_run(r->engine), GPUD_RUN_COMPILE);
  rig_compile(r);
  rig_reply_of(r, GPUD_OP_MODULE_STATUS, &reply);
}

static void create(rig *r, uint8_t op, uint32_t id)
{
  if (op == GPUD_OP_STREAM_CREATE)
    rig_post(r, op, id, NULL, 0);
  else
    POST(r, op, gpud_msg_event_ref, .event = id);
}

static void test_limit(rig *r, uint8_t op, uint32_t limit)
{
  rig_begin(r);
  for (uint32_t i = 1; i <= limit; i++) {
    create(r, op, i * 65537); /* ids are the client's choice, and need not be small */
    if (i % 256 == 0)
      settle(r);
  }
  settle(r);
  create(r, op, 3);
  rig_close(r);
  rig_reply reply;
  rig_reply_of(r, GPUD_OP_FAULT, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_fault)->status, GPUD_STATUS_OUT_OF_MEMORY);
  CHECK_EQUAL(rig_end(r), 0);
}

static void test_limit_of_modules(rig *r)
{
  rig none = *r;
  none.kernels = NULL;
  rig_begin(&none);
  rig_reply reply;
  for (uint32_t i = 1; i <= 4097; i++) {
    rig_load(&none, i, "good");
    if (i == 4097)
      break;
    CHECK_EQUAL(gpud_engine_run(none.engine), GPUD_RUN_COMPILE);
    rig_compile(&none);
    rig_reply_of(&none, GPUD_OP_MODULE_STATUS, &reply);
  }
  rig_close(&none);
  rig_reply_of(&none, GPUD_OP_FAULT, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_fault)->status, GPUD_STATUS_OUT_OF_MEMORY);
  CHECK_EQUAL(rig_end(&none), 0);
}

int main(int argc, char **argv)
{
  rig r;
  rig_open(&r, 1, all_kernels);
  for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
    if (argc > 1 && strcmp(argv[1], refusals[i].name))
      continue;
    fprintf(stderr, "%s\n", refusals[i].name);
    test_refusal(&r, &refusals[i]);
  }
  test_limit(&r, GPUD_OP_STREAM_CREATE, 4096);
  test_limit(&r, GPUD_OP_EVENT_RECORD, 65536);
  test_limit_of_modules(&r);
  rig_shut(&r);
  return 0;
}
