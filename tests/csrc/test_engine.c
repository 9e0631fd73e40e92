/* A session, command by command, over a loop endpoint: what works, what is refused, and what a failure leaves behind. */
#include "engine_kernels.h"

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
  return "handle_segv=0:handle_sigbus=0:handle_sigill=0:handle_sigfpe=0:detect_stack_use_after_return=0";
}

/* ---------------------------------------------------------------- what works */

static void test_memory_goes_there_and_back(rig *r)
{
  rig_begin(r);
  uint64_t base = r->welcome.window_base;
  unsigned char *host = gpud_region_pointer(r->region);
  for (int i = 0; i < 1000; i++)
    host[i] = (unsigned char)i;
  rig_map(r, 0, CHUNK);
  rig_map(r, CHUNK, CHUNK);
  /* Across the border of two chunks, which is none for a copy. */
  uint64_t at = base + CHUNK - 500;
  POST(r, GPUD_OP_COPY_IN, gpud_msg_copy_host, .address = at, .offset = 0, .size = 1000);
  POST(r, GPUD_OP_COPY, gpud_msg_copy, .destination = at + 10, .source = at, .size = 990);
  POST(r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = at, .offset = 4096, .size = 1000);
  struct {
    gpud_msg_write head;
    char bytes[11];
  } write = {{base}, "0123456789"};
  rig_post(r, GPUD_OP_WRITE, 0, &write, sizeof write.head + sizeof write.bytes);
  POST(r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = base, .offset = 8192, .size = 12);
  rig_close(r);
  for (int i = 0; i < 10; i++)
    CHECK_EQUAL(host[4096 + i], (unsigned char)i);
  for (int i = 10; i < 1000; i++)
    CHECK_EQUAL(host[4096 + i], (unsigned char)(i - 10));
  CHECK(strcmp((char *)host + 8192, "0123456789") == 0);
  CHECK_EQUAL(gpud_connection_completed(r->client), gpud_connection_posted(r->client));
  rig_no_reply(r);
  gpud_engine_stats stats;
  gpud_engine_get_stats(r->engine, &stats);
  CHECK_EQUAL(stats.session, 7);
  CHECK_EQUAL(stats.bytes_in, 1011);
  CHECK_EQUAL(stats.bytes_out, 1012);
  CHECK_EQUAL(stats.memory, 2 * CHUNK);
  CHECK_EQUAL(stats.host_memory, MiB);
  CHECK_EQUAL(rig_end(r), 0);
  gpud_engine_get_stats(r->engine, &stats);
  CHECK_EQUAL(stats.memory, 0);
  CHECK_EQUAL(stats.memory_peak, 2 * CHUNK);
}

static void test_mapped_memory_is_zero_even_where_a_session_wrote_before(rig *r)
{
  for (int turn = 0; turn < 2; turn++) {
    rig_begin(r);
    rig_map(r, 0, CHUNK);
    memset(gpud_region_pointer(r->region), 1, 64);
    POST(r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = r->welcome.window_base, .size = 64);
    POST(r, GPUD_OP_FILL, gpud_msg_fill, .address = r->welcome.window_base, .count = CHUNK, .pattern = 9, .width = 1);
    POST(r, GPUD_OP_UNMAP, gpud_msg_map, r->welcome.window_base, CHUNK);
    rig_map(r, 0, CHUNK);
    POST(r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = r->welcome.window_base, .offset = 64, .size = 64);
    rig_close(r);
    for (int i = 0; i < 128; i++)
      CHECK_EQUAL(((char *)gpud_region_pointer(r->region))[i], 0);
    CHECK_EQUAL(rig_end(r), 0);
  }
}

static void test_fills_of_every_width_and_alignment(rig *r)
{
  const uint64_t pattern = 0x8877665544332211ull;
  for (uint32_t width = 1; width <= 8; width *= 2) {
    for (uint64_t elements = 0; elements < 3; elements++) {
      rig_begin(r);
      rig_map(r, 0, 8 * MiB);
      uint64_t at = r->welcome.window_base + 8 + elements * width;
      uint64_t bytes = (elements == 2 ? 6 * MiB : 120) + elements * width;
      POST(r, GPUD_OP_FILL, gpud_msg_fill, .address = at, .count = bytes / width, .pattern = pattern, .width = width);
      POST(r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = at - 8, .offset = 0, .size = 128);
      POST(r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = at + bytes - 64, .offset = 4096, .size = 72);
      rig_close(r);
      const unsigned char *host = gpud_region_pointer(r->region);
      const unsigned char *element = (const unsigned char *)&pattern;
      for (int i = 0; i < 8; i++)
        CHECK_EQUAL(host[i], 0);
      for (uint32_t i = 0; i < 120; i++)
        CHECK_EQUAL(host[8 + i], element[i % width]);
      for (uint32_t i = 0; i < 64; i++)
        CHECK_EQUAL(host[4096 + i], element[(bytes - 64 + i) % width]);
      for (int i = 0; i < 8; i++)
        CHECK_EQUAL(host[4096 + 64 + i], 0);
      CHECK_EQUAL(rig_end(r), 0);
    }
  }
}

static void test_commands_of_no_bytes_do_nothing(rig *r)
{
  rig_begin(r);
  for (uint64_t at = 0; at <= 8; at += 8) { /* wherever that may be */
    POST(r, GPUD_OP_FILL, gpud_msg_fill, .address = at, .pattern = 1, .width = 1);
    POST(r, GPUD_OP_FILL, gpud_msg_fill, .address = at, .pattern = 1, .width = 8);
    POST(r, GPUD_OP_COPY, gpud_msg_copy, .destination = at);
    POST(r, GPUD_OP_COPY_IN, gpud_msg_copy_host, .address = at, .offset = MiB);
    POST(r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = at, .offset = MiB);
    POST(r, GPUD_OP_WRITE, gpud_msg_write, .address = at);
  }
  rig_close(r);
  rig_no_reply(r);
  CHECK_EQUAL(rig_end(r), 0);
}

static void test_a_kernel_runs_on_device_and_host_memory(rig *r)
{
  rig_begin(r);
  enum { N = 100000 };
  gpud_region *placed;
  uint64_t x = r->welcome.window_base;
  uint64_t y = x + 16 * MiB;
  uint32_t access = GPUD_ACCESS_READ | GPUD_ACCESS_WRITE;
  CHECK_EQUAL(gpud_region_create(r->client, 5, MiB, access, y, 0, in_good_time(), &placed), 0);
  float *host = gpud_region_pointer(placed);
  for (int i = 0; i < N; i++)
    host[i] = (float)i;
  rig_map(r, 0, CHUNK);
  float one = 1;
  uint32_t bits;
  memcpy(&bits, &one, sizeof bits);
  POST(r, GPUD_OP_FILL, gpud_msg_fill, .address = x, .count = N, .pattern = bits, .width = 4);
  rig_load(r, 3, "good");
  saxpy_params p = {.n = N, .x = x, .y = y, .a = 2};
  rig_launch(r, 3, "saxpy", (N + 255) / 256, 256, &p, sizeof p);
  /* A region in the window takes part in copies within the device, too. */
  POST(r, GPUD_OP_COPY, gpud_msg_copy, .destination = x, .source = y, .size = 4 * N);
  POST(r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = x, .region = 0, .size = 4 * N);
  rig_close(r);
  rig_reply reply;
  for (uint32_t i = 0; all_kernels[i].name; i++) {
    rig_reply_of(r, GPUD_OP_KERNEL_INFO, &reply);
    const gpud_msg_kernel_info *info = BODY_OF(&reply, gpud_msg_kernel_info);
    CHECK_EQUAL(info->module, 3);
    CHECK_EQUAL(info->kernel, i);
    CHECK_EQUAL(info->params_size, all_kernels[i].params_size);
    CHECK(strcmp(TEXT_OF(&reply, gpud_msg_kernel_info) + sizeof(gpud_param), all_kernels[i].name) == 0);
  }
  rig_reply_of(r, GPUD_OP_MODULE_STATUS, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_module_status)->status, GPUD_STATUS_OK);
  rig_no_reply(r);
  for (int i = 0; i < N; i++)
    CHECK(host[i] == (float)i + 2 && ((float *)gpud_region_pointer(r->region))[i] == host[i]);
  gpud_region_free(placed);
  CHECK_EQUAL(rig_end(r), 0);
}

static void test_a_module_that_does_not_compile_says_so_and_poisons_nothing(rig *r)
{
  rig_begin(r);
  rig_load(r, 1, "bad source");
  POST(r, GPUD_OP_EVENT_RECORD, gpud_msg_event_ref, .event = 1);
  POST(r, GPUD_OP_EVENT_QUERY, gpud_msg_event_ref, .event = 1);
  rig_close(r);
  rig_reply reply;
  rig_reply_of(r, GPUD_OP_MODULE_STATUS, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_module_status)->status, GPUD_STATUS_COMPILE);
  CHECK(strcmp(TEXT_OF(&reply, gpud_msg_module_status), "line 1: this is bad") == 0);
  rig_reply_of(r, GPUD_OP_EVENT_TIME, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_event_time)->status, GPUD_STATUS_OK);
  CHECK_EQUAL(rig_end(r), 0);
}

static void test_a_long_compile_log_is_cut_between_characters(rig *r)
{
  static char log[3 * GPUD_MAX_TEXT];
  for (size_t i = 0; i + 2 < sizeof log; i += 2)
    memcpy(log + i, "é", 2);
  rig_begin(r);
  rig_load(r, 1, "long");
  CHECK_EQUAL(gpud_engine_run(r->engine), GPUD_RUN_COMPILE);
  CHECK_EQUAL(gpud_engine_run(r->engine), -EINPROGRESS);
  CHECK_EQUAL(gpud_engine_module_fail(r->engine, GPUD_STATUS_COMPILE, log), 0);
  rig_reply reply;
  rig_reply_of(r, GPUD_OP_MODULE_STATUS, &reply);
  const char *text = TEXT_OF(&reply, gpud_msg_module_status);
  const char *end = "é… [truncated]";
  CHECK(strlen(text) <= GPUD_MAX_TEXT && strcmp(text + strlen(text) - strlen(end), end) == 0);
  rig_close(r);
  CHECK_EQUAL(rig_end(r), 0);
}

static void test_unloaded_modules_are_told_in_order_also_after_the_session(rig *r)
{
  rig_begin(r);
  for (uint32_t module = 1; module <= 3; module++) {
    rig_load(r, module, "good");
    CHECK_EQUAL(gpud_engine_run(r->engine), GPUD_RUN_COMPILE);
    rig_compile(r);
  }
  POST(r, GPUD_OP_MODULE_UNLOAD, gpud_msg_module_ref, .module = 2);
  rig_load(r, 2, "again");
  CHECK_EQUAL(gpud_engine_run(r->engine), GPUD_RUN_COMPILE);
  CHECK_EQUAL(gpud_engine_next_unloaded(r->engine), 2);
  CHECK_EQUAL(gpud_engine_next_unloaded(r->engine), -ENOENT);
  rig_compile(r);
  gpud_engine_stats stats;
  gpud_engine_get_stats(r->engine, &stats);
  CHECK_EQUAL(stats.modules, 3);
  rig_close(r);
  CHECK_EQUAL(gpud_engine_detach(r->engine, GPUD_STATUS_OK, NULL), 0);
  int64_t sum = 0;
  for (int64_t id; (id = gpud_engine_next_unloaded(r->engine)) >= 0;)
    sum += id;
  CHECK_EQUAL(sum, 6);
  gpud_region_free(r->region);
  gpud_connection_free(r->client);
}

static void test_a_modules_variables_can_be_copied_until_it_is_unloaded(rig *r)
{
  static uint64_t variable = 42;
  rig_begin(r);
  rig_load(r, 1, "good");
  CHECK_EQUAL(gpud_engine_run(r->engine), GPUD_RUN_COMPILE);
  uint64_t address = (uint64_t)(uintptr_t)&variable;
  CHECK_EQUAL(gpud_engine_module_global(r->engine, "variable", address, sizeof variable), 0);
  CHECK_EQUAL(gpud_engine_module_global(r->engine, "_ZL8variable", address, sizeof variable), 0);
  CHECK_EQUAL(gpud_engine_module_commit(r->engine), 0);
  POST(r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = address, .size = 8);
  POST(r, GPUD_OP_FILL, gpud_msg_fill, .address = address, .count = 1, .pattern = 43, .width = 8);
  POST(r, GPUD_OP_MODULE_UNLOAD, gpud_msg_module_ref, .module = 1);
  int64_t sequence = POST(r, GPUD_OP_FILL, gpud_msg_fill, .address = address, .count = 1, .pattern = 44, .width = 8);
  rig_close(r);
  CHECK_EQUAL(*(uint64_t *)gpud_region_pointer(r->region), 42);
  CHECK_EQUAL(variable, 43);
  rig_reply reply;
  rig_reply_of(r, GPUD_OP_GLOBAL_INFO, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_global_info)->address, address);
  rig_reply_of(r, GPUD_OP_GLOBAL_INFO, &reply);
  rig_reply_of(r, GPUD_OP_MODULE_STATUS, &reply);
  rig_reply_of(r, GPUD_OP_FAULT, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_fault)->sequence, sequence);
  CHECK_EQUAL(rig_end(r), 0);
}

static void test_variables_are_limited_as_memory_is(rig *r)
{
  const uint64_t limit = 2 * CHUNK;
  unsigned char *variables = malloc(limit + 8);
  uint64_t address = (uint64_t)(uintptr_t)variables;
  CHECK(variables != NULL);
  rig_attach(r, limit, 16 * MiB);
  CHECK_EQUAL(gpud_region_create(r->client, 0, MiB, GPUD_ACCESS_READ, 0, 0, in_good_time(), &r->region), 0);
  for (uint32_t module = 1; module <= 4; module++) {
    /* The first fills the limit, the second has 8 bytes more; once the first is gone the fourth may have what it had. */
    uint64_t at = module == 2 ? address + limit : address;
    uint64_t size = module == 2 ? 8 : limit;
    if (module == 3)
      POST(r, GPUD_OP_MODULE_UNLOAD, gpud_msg_module_ref, .module = 1);
    rig_load(r, module, "good");
    CHECK_EQUAL(gpud_engine_run(r->engine), GPUD_RUN_COMPILE);
    CHECK_EQUAL(gpud_engine_module_global(r->engine, "v", at, module == 3 ? limit + 1 : size), 0);
    int over = module == 2 || module == 3;
    CHECK_EQUAL(gpud_engine_module_commit(r->engine), over ? -EDQUOT : 0);
    if (over)
      CHECK_EQUAL(gpud_engine_module_fail(r->engine, GPUD_STATUS_OUT_OF_MEMORY, "too large"), 0);
  }
  rig_map(r, 0, limit); /* and take none of it away from arrays */
  rig_close(r);
  gpud_engine_stats stats;
  gpud_engine_get_stats(r->engine, &stats);
  CHECK_EQUAL(stats.faults, 0);
  CHECK_EQUAL(stats.memory, limit);
  CHECK_EQUAL(stats.modules, 1);
  CHECK_EQUAL(rig_end(r), 0);
  free(variables);
}

static void test_events_have_the_time_of_their_last_record(rig *r)
{
  rig_begin(r);
  rig_post(r, GPUD_OP_STREAM_CREATE, 9, NULL, 0);
  rig_post(r, GPUD_OP_EVENT_RECORD, 9, &(gpud_msg_event_ref){.event = 1}, sizeof(gpud_msg_event_ref));
  rig_post(r, GPUD_OP_EVENT_WAIT, 9, &(gpud_msg_event_ref){.event = 1}, sizeof(gpud_msg_event_ref));
  POST(r, GPUD_OP_EVENT_WAIT, gpud_msg_event_ref, .event = 77); /* never recorded: no wait */
  POST(r, GPUD_OP_EVENT_RECORD, gpud_msg_event_ref, .event = 2);
  for (uint32_t event = 1; event <= 3; event++)
    POST(r, GPUD_OP_EVENT_QUERY, gpud_msg_event_ref, .event = event);
  POST(r, GPUD_OP_EVENT_DESTROY, gpud_msg_event_ref, .event = 1);
  POST(r, GPUD_OP_EVENT_QUERY, gpud_msg_event_ref, .event = 1);
  rig_post(r, GPUD_OP_STREAM_DESTROY, 9, NULL, 0);
  rig_post(r, GPUD_OP_SYNCHRONIZE, 0, NULL, 0);
  rig_close(r);
  uint64_t last = 0;
  for (uint32_t event = 1; event <= 2; event++) {
    rig_reply reply;
    rig_reply_of(r, GPUD_OP_EVENT_TIME, &reply);
    const gpud_msg_event_time *time = BODY_OF(&reply, gpud_msg_event_time);
    CHECK_EQUAL(time->event, event);
    CHECK_EQUAL(time->status, GPUD_STATUS_OK);
    CHECK(time->nanoseconds >= last);
    last = time->nanoseconds;
  }
  for (int i = 0; i < 2; i++) {
    rig_reply reply;
    rig_reply_of(r, GPUD_OP_EVENT_TIME, &reply);
    CHECK_EQUAL(BODY_OF(&reply, gpud_msg_event_time)->status, GPUD_STATUS_NOT_FOUND);
  }
  rig_no_reply(r);
  CHECK_EQUAL(rig_end(r), 0);
}

static void test_launches_see_their_shared_and_working_memory(rig *r)
{
  rig_begin(r);
  rig_map(r, 0, CHUNK);
  rig_load(r, 1, "good");
  uint64_t counter = r->welcome.window_base;
  rig_launch(r, 1, "count", 300, 1024, &counter, 8);
  rig_launch(r, 1, "memory", 100, 256, &counter, 8);
  rig_launch(r, 1, "memory", 1, 1024, &counter, 8);
  POST(r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = counter, .size = 8);
  rig_close(r);
  CHECK_EQUAL(*(uint64_t *)gpud_region_pointer(r->region), 300 * 1024 + 101);
  CHECK_EQUAL(rig_end(r), 0);
}

/* Takes what was printed, whole lines of 101 bytes, until there is no more to take; how many. Others than OUTPUT must not come. */
static uint64_t take_lines(rig *r, uint64_t expected)
{
  static char text[GPUD_MAX_MESSAGE];
  unsigned char message[GPUD_MAX_MESSAGE];
  uint64_t lines = 0;
  for (;;) {
    int size = gpud_connection_receive(r->client, message, 0);
    if (size < 0)
      return lines;
    CHECK_EQUAL(message[offsetof(gpud_message_head, op)], GPUD_OP_OUTPUT);
    size -= (int)sizeof(gpud_message_head);
    CHECK(size % 101 == 0); /* cut after lines */
    memcpy(text, message + sizeof(gpud_message_head), (size_t)size);
    for (int at = 0; at < size; at += 101, lines++) {
      int number;
      double half;
      char word[32];
      text[at + 100] = 0;
      CHECK_EQUAL(sscanf(text + at, "%d %lf %31[a-z ]", &number, &half, word), 3);
      CHECK_EQUAL(number, (int)(expected + lines));
      CHECK(half == number / 2.0);
    }
  }
}

static void test_what_is_printed_comes_in_order_and_no_faster_than_it_is_taken(rig *r)
{
  rig_begin(r);
  rig_load(r, 1, "good");
  int64_t first = rig_launch(r, 1, "print", 1, 1, NULL, 0);
  for (int i = 1; i < 200; i++)
    rig_launch(r, 1, "print", 1, 1, NULL, 0);
  rig_close(r);
  rig_reply reply;
  do {
    reply.size = gpud_connection_receive(r->client, reply.bytes, 0);
    CHECK(reply.size > 0);
  } while (reply.head.op != GPUD_OP_MODULE_STATUS);
  /* A message for each launch, up to 6144 bytes; the rest is kept. */
  CHECK_EQUAL(take_lines(r, (uint64_t)first), 6144 / 101 + 1);
  CHECK_EQUAL(rig_end(r), 0);
  /* And forgotten with the session. A SYNCHRONIZE asks for more, in larger pieces. */
  rig_begin(r);
  rig_load(r, 1, "good");
  first = rig_launch(r, 1, "print", 1, 1, NULL, 0);
  for (int i = 1; i < 200; i++)
    rig_launch(r, 1, "print", 1, 1, NULL, 0);
  rig_post(r, GPUD_OP_SYNCHRONIZE, 0, NULL, 0);
  rig_close(r);
  do {
    reply.size = gpud_connection_receive(r->client, reply.bytes, 0);
    CHECK(reply.size > 0);
  } while (reply.head.op != GPUD_OP_MODULE_STATUS);
  CHECK_EQUAL(take_lines(r, (uint64_t)first), 6144 / 101 + 1 + 4 * (2048 / 101));
  CHECK_EQUAL(rig_end(r), 0);
}

/* ---------------------------------------------------------------- poison */

static void test_after_a_failure_nothing_runs_and_everything_completes(rig *r)
{
  rig_begin(r);
  rig_map(r, 0, CHUNK);
  int64_t bad = rig_map(r, 0, CHUNK);
  POST(r, GPUD_OP_FILL, gpud_msg_fill, .address = r->welcome.window_base, .count = 8, .pattern = 1, .width = 1);
  POST(r, GPUD_OP_COPY_OUT, gpud_msg_copy_host, .address = r->welcome.window_base, .size = 8);
  gpud_region *late;
  CHECK_EQUAL(gpud_region_create(r->client, 1, 4096, 1, 0, 0, in_good_time(), &late), 0);
  memset(gpud_region_pointer(r->region), 7, 8);
  POST(r, GPUD_OP_MODULE_LOAD, gpud_msg_module_load, .module = 4, .region = 0, .size = 8);
  POST(r, GPUD_OP_EVENT_QUERY, gpud_msg_event_ref, .event = 6);
  rig_map(r, 0, CHUNK); /* a second failure, of which nobody hears */
  rig_close(r);
  CHECK_EQUAL(*(unsigned char *)gpud_region_pointer(r->region), 7);
  CHECK_EQUAL(gpud_connection_completed(r->client), gpud_connection_posted(r->client));
  CHECK_EQUAL(gpud_connection_wait(r->client, 1, in_good_time()), -EIO);
  rig_reply reply;
  rig_reply_of(r, GPUD_OP_FAULT, &reply);
  const gpud_msg_fault *fault = BODY_OF(&reply, gpud_msg_fault);
  CHECK_EQUAL(fault->sequence, bad);
  CHECK_EQUAL(fault->op, GPUD_OP_MAP);
  CHECK_EQUAL(fault->status, GPUD_STATUS_INVALID);
  CHECK_EQUAL(fault->address, r->welcome.window_base);
  CHECK_EQUAL(fault->thread, ~0u);
  rig_reply_of(r, GPUD_OP_MODULE_STATUS, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_module_status)->module, 4);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_module_status)->status, GPUD_STATUS_INVALID);
  rig_reply_of(r, GPUD_OP_EVENT_TIME, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_event_time)->event, 6);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_event_time)->status, GPUD_STATUS_INVALID);
  rig_no_reply(r);
  gpud_engine_stats stats;
  gpud_engine_get_stats(r->engine, &stats);
  CHECK_EQUAL(stats.faults, 1);
  CHECK_EQUAL(stats.host_memory, MiB);
  gpud_region_free(late);
  CHECK_EQUAL(rig_end(r), 0);
}

/* ---------------------------------------------------------------- ends */

static void test_a_broken_message_ends_the_session_with_bye(rig *r)
{
  rig_begin(r);
  POST(r, GPUD_OP_FILL, gpud_msg_fill, .width = 3);
  CHECK_EQUAL(rig_run(r), GPUD_RUN_PROTOCOL);
  rig_reply reply;
  rig_reply_of(r, GPUD_OP_BYE, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_bye)->status, GPUD_STATUS_PROTOCOL);
  CHECK_EQUAL(rig_end(r), 0);
}

static void test_detach_says_why(rig *r)
{
  rig_begin(r);
  CHECK_EQUAL(gpud_engine_detach(r->engine, GPUD_STATUS_SHUTDOWN, "the server restarts"), 0);
  rig_reply reply;
  rig_reply_of(r, GPUD_OP_BYE, &reply);
  CHECK_EQUAL(BODY_OF(&reply, gpud_msg_bye)->status, GPUD_STATUS_SHUTDOWN);
  CHECK(strcmp(TEXT_OF(&reply, gpud_msg_bye), "the server restarts") == 0);
  CHECK_EQUAL(gpud_engine_detach(r->engine, GPUD_STATUS_OK, NULL), -ENOTCONN);
  CHECK_EQUAL(gpud_engine_run(r->engine), -ENOTCONN);
  gpud_region_free(r->region);
  gpud_connection_free(r->client);
}

static void test_a_client_that_hangs_up_is_gone_and_one_that_closed_is_closed(rig *r)
{
  for (int closes = 0; closes < 2; closes++) {
    rig_begin(r);
    rig_map(r, 0, CHUNK);
    if (closes)
      rig_post(r, GPUD_OP_CLOSE, 0, NULL, 0);
    gpud_connection_free(r->client);
    CHECK_EQUAL(rig_run(r), closes ? GPUD_RUN_CLOSED : GPUD_RUN_GONE);
    gpud_region_free(r->region);
    CHECK_EQUAL(gpud_engine_detach(r->engine, GPUD_STATUS_OK, NULL), 0);
  }
}

static void test_an_interrupt_ends_the_loop(rig *r)
{
  rig_begin(r);
  gpud_engine_interrupt(r->engine);
  CHECK_EQUAL(rig_run(r), GPUD_RUN_INTERRUPTED);
  CHECK_EQUAL(rig_run(r), GPUD_RUN_INTERRUPTED);
  CHECK_EQUAL(rig_end(r), 0);
  rig_begin(r); /* and is forgotten with its session */
  rig_close(r);
  CHECK_EQUAL(rig_end(r), 0);
}

static void test_a_thousand_sessions_leave_nothing_behind(rig *r)
{
  int before = open_descriptors();
  for (int i = 0; i < 1000; i++) {
    rig_begin(r);
    rig_map(r, 0, CHUNK);
    rig_load(r, 1, "good");
    rig_post(r, GPUD_OP_STREAM_CREATE, 1, NULL, 0);
    POST(r, GPUD_OP_EVENT_RECORD, gpud_msg_event_ref, .event = 1);
    gpud_region *placed;
    uint64_t address = r->welcome.window_base + 4 * MiB;
    CHECK_EQUAL(gpud_region_create(r->client, 1, 4096, 3, address, 0, in_good_time(), &placed), 0);
    if (i % 2) {
      rig_close(r);
    } else {
      CHECK_EQUAL(gpud_engine_run(r->engine), GPUD_RUN_COMPILE); /* and never answered */
    }
    gpud_region_free(placed);
    CHECK_EQUAL(rig_end(r), 0);
  }
  CHECK_EQUAL(open_descriptors(), before);
}

int main(void)
{
  rig r;
  rig_open(&r, 2, all_kernels);
  test_memory_goes_there_and_back(&r);
  test_mapped_memory_is_zero_even_where_a_session_wrote_before(&r);
  test_fills_of_every_width_and_alignment(&r);
  test_commands_of_no_bytes_do_nothing(&r);
  test_a_kernel_runs_on_device_and_host_memory(&r);
  test_a_module_that_does_not_compile_says_so_and_poisons_nothing(&r);
  test_a_long_compile_log_is_cut_between_characters(&r);
  test_unloaded_modules_are_told_in_order_also_after_the_session(&r);
  test_a_modules_variables_can_be_copied_until_it_is_unloaded(&r);
  test_variables_are_limited_as_memory_is(&r);
  test_events_have_the_time_of_their_last_record(&r);
  test_launches_see_their_shared_and_working_memory(&r);
  test_what_is_printed_comes_in_order_and_no_faster_than_it_is_taken(&r);
  test_after_a_failure_nothing_runs_and_everything_completes(&r);
  test_a_broken_message_ends_the_session_with_bye(&r);
  test_detach_says_why(&r);
  test_a_client_that_hangs_up_is_gone_and_one_that_closed_is_closed(&r);
  test_an_interrupt_ends_the_loop(&r);
  test_a_thousand_sessions_leave_nothing_behind(&r);
  rig_shut(&r);
  return 0;
}
