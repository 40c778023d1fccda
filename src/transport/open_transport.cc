// SPDX-License-Identifier: Apache-2.0
#include "transport/open_transport.h"

#include "transport/in_process/in_process_fabric.h"
#include "transport/in_process/in_process_messages.h"
#include "transport/multi_domain/multi_domain.h"
#include "transport/shared_memory/channel.h"
#include "transport/shm/shm_fabric.h"

namespace flexep {

std::vector<std::shared_ptr<Transport>> open_in_process_group(const std::shared_ptr<InProcessWorld>& world,
                                                              const Topology& topology,
                                                              std::chrono::milliseconds timeout) {
  std::vector<std::shared_ptr<Fabric>> fabrics;
  std::vector<Segment> controls;
  for (int rank = 0; rank < world->num_ranks(); ++rank) {
    fabrics.push_back(InProcessWorld::fabric(world, rank));
    controls.push_back(Channel::create_world_control_block(*fabrics.back()));
  }
  std::vector<std::shared_ptr<Transport>> group;
  const bool is_one_domain = topology.num_scaleout_ranks == 1;
  for (std::size_t rank = 0; rank < fabrics.size(); ++rank) {
    const int domain = topology.domain_of(static_cast<int>(rank));
    const int first = topology.rank_of(domain, 0);
    auto channel = Channel::open(
        fabrics[rank], controls[rank], is_one_domain ? timeout : MultiDomain::channel_timeout(timeout),
        {.first = first, .num_ranks = topology.num_scaleup_ranks, .first_name = first});
    if (is_one_domain) {
      group.push_back(std::move(channel));
      continue;
    }
    group.push_back(std::make_shared<MultiDomain>(
        MultiDomain::Parts{.name = "in_process",
                           .topology = topology,
                           .domain = domain,
                           .channel = std::move(channel),
                           .messages = open_in_process_messages(world, static_cast<int>(rank)),
                           .num_local_ranks = world->num_ranks(),
                           .timeout = timeout}));
  }
  return group;
}

std::shared_ptr<Transport> open_shm_group(const ShmJob& job, std::chrono::milliseconds timeout) {
  auto fabric = open_shm_fabric(job, timeout);
  const Segment control = Channel::create_world_control_block(*fabric);
  return Channel::open_world(std::move(fabric), control, timeout);
}

}  // namespace flexep
