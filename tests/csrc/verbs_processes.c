/*
 * The verbs endpoint between two processes, on a machine that has an RDMA device: handshake, messages, credit, transfers, the
 * end of either side. Each scenario leaves no object of libibverbs behind.
 * usage: verbs_processes ADDRESS SCENARIO; ADDRESS: an IPv4 address of the device's
 */
#include "verbs_ends.h"
#include "verbs_hostile.h"
#include "verbs_messages.h"
#include "verbs_transfers.h"

int main(int count, char **arguments)
{
  static const struct {
    const char *name;
    void (*run)(void);
  } scenarios[] = {
    {"messages_of_every_size_come_back", messages_of_every_size_come_back},
    {"a_flood_arrives_whole_and_in_order", a_flood_arrives_whole_and_in_order},
    {"with_both_ways_full_commands_complete_and_credit_comes_back",
     with_both_ways_full_commands_complete_and_credit_comes_back},
    {"who_sees_the_fault_has_its_message", who_sees_the_fault_has_its_message},
    {"what_was_sent_before_close_arrives", what_was_sent_before_close_arrives},
    {"an_interrupt_ends_a_wait", an_interrupt_ends_a_wait},
    {"several_threads_wait_at_once", several_threads_wait_at_once},
    {"several_threads_use_one_end", several_threads_use_one_end},
    {"regions_are_read_and_written_wherever_the_bytes_go", regions_are_read_and_written_wherever_the_bytes_go},
    {"an_interrupt_ends_a_transfer", an_interrupt_ends_a_transfer},
    {"a_number_is_used_again_before_the_worker_has_dropped_it",
     a_number_is_used_again_before_the_worker_has_dropped_it},
    {"the_clients_adapter_refuses_what_it_did_not_register", the_clients_adapter_refuses_what_it_did_not_register},
    {"many_regions_at_once", many_regions_at_once},
    {"device_memory_that_the_adapter_cannot_reach_is_refused", device_memory_that_the_adapter_cannot_reach_is_refused},
    {"a_killed_client_is_noticed", a_killed_client_is_noticed},
    {"a_killed_worker_is_noticed_in_every_wait", a_killed_worker_is_noticed_in_every_wait},
    {"a_forked_child_forgets_and_its_parent_goes_on", a_forked_child_forgets_and_its_parent_goes_on},
    {"close_in_every_state_leaves_nothing", close_in_every_state_leaves_nothing},
    {"a_broken_protocol_ends_the_connection", a_broken_protocol_ends_the_connection},
    {"a_region_without_its_key_is_refused", a_region_without_its_key_is_refused},
    {"a_queue_pair_is_judged", a_queue_pair_is_judged},
    {"whatever_a_clients_adapter_does_the_worker_ends_it_by_name",
     whatever_a_clients_adapter_does_the_worker_ends_it_by_name},
    {"nonsense_ends_the_connection_and_no_more", nonsense_ends_the_connection_and_no_more},
    {"receives_that_are_promised_and_not_posted_end_the_connection",
     receives_that_are_promised_and_not_posted_end_the_connection},
    {"a_client_that_leaves_the_handshake_at_any_byte_leaves_nothing",
     a_client_that_leaves_the_handshake_at_any_byte_leaves_nothing},
    {"a_server_that_leaves_the_handshake_at_any_byte_leaves_nothing",
     a_server_that_leaves_the_handshake_at_any_byte_leaves_nothing},
    {"a_transfer_that_cannot_be_stopped_is_ended_with_its_queue_pair",
     a_transfer_that_cannot_be_stopped_is_ended_with_its_queue_pair},
    {"the_probe_names_the_device", the_probe_names_the_device},
  };
  CHECK_EQUAL(count, 3);
  here = arguments[1];
  for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
    if (strcmp(scenarios[i].name, arguments[2]) != 0)
      continue;
    int descriptors = open_descriptors();
    meetings = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(meetings != MAP_FAILED);
    scenarios[i].run();
    nothing_is_left();
    CHECK_EQUAL(open_descriptors(), descriptors);
    return 0;
  }
  return 2;
}
