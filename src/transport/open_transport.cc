// SPDX-License-Identifier: Apache-2.0
#include "transport/open_transport.h"

#include "transport/in_process/in_process_fabric.h"
#include "transport/shared_memory/channel.h"
#include "transport/shm/shm_fabric.h"

namespace flexep {

std::vector<std::shared_ptr<Transport>> open_in_process_group(const std::shared_ptr<InProcessWorld>& world,
                                                              std::chrono::milliseconds timeout) {
  std::vector<std::shared_ptr<Fabric>> fabrics;
  std::vector<Segment> controls;
  for (int rank = 0; rank < world->num_ranks(); ++rank) {
    fabrics.push_back(InProcessWorld::fabric(world, rank));
    controls.push_back(Channel::create_world_control_block(*fabrics.back()));
  }
  std::vector<std::shared_ptr<Transport>> group;
  for (std::size_t rank = 0; rank < fabrics.size(); ++rank) {
    group.push_back(Channel::open_world(fabrics[rank], controls[rank], timeout));
  }
  return group;
}

std::shared_ptr<Transport> open_shm_group(const ShmJob& job, std::chrono::milliseconds timeout) {
  auto fabric = open_shm_fabric(job, timeout);
  const Segment control = Channel::create_world_control_block(*fabric);
  return Channel::open_world(std::move(fabric), control, timeout);
}

}  // namespace flexep
