// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/expert_parallel_group.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "moe/compute_device.h"

namespace flexep::moe {
namespace {

// Collective where ranks are threads.
bool threads_share(Communicator& comm, Device device) {
  if (comm.num_ranks() == 1 || comm.transport_name() != "in_process") return false;
  const std::vector<int> indices = comm.all_gather(device.is_host() ? -1 : device.index);
  return !device.is_host() && std::ranges::count(indices, device.index) > 1;
}

}  // namespace

ExpertParallelGroup::ExpertParallelGroup(const Communicator& comm, Device device)
    : comm_(comm.duplicate()),
      device_(device),
      buffer_(comm, {.device = device}),
      compute_(make_compute_device(device, threads_share(comm_, device))) {
  // A GPU's allocates, which could wait for another rank's operation: none starts before all are made.
  if (!device.is_host()) comm_.barrier();
}

RankCollectives& ExpertParallelGroup::collectives(int expert_tensor_parallel_size) {
  const auto found = collectives_.find(expert_tensor_parallel_size);
  if (found != collectives_.end()) return found->second;
  const int tp_idx = comm_.rank() % expert_tensor_parallel_size;
  const int ep_idx = comm_.rank() / expert_tensor_parallel_size;
  RankCollectives made{.all = RowCollectives(comm_),
                       .expert_parallel = RowCollectives(comm_.split(tp_idx, ep_idx)),
                       .tensor_parallel = RowCollectives(comm_.split(ep_idx, tp_idx))};
  return collectives_.emplace(expert_tensor_parallel_size, std::move(made)).first->second;
}

}  // namespace flexep::moe
