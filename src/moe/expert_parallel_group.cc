// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/expert_parallel_group.h"

#include <utility>

#include "flexep/error.h"
#include "moe/compute_device.h"

namespace flexep::moe {
namespace {

Device supported(const Communicator& comm, Device device) {
  // What the driver does at first uses of cuBLAS may wait for kernels of other ranks: on one of several runs
  // ranks as threads hung, or had wrong rows.
  if (!device.is_host() && comm.num_ranks() > 1 && comm.transport_name() == "in_process") {
    throw InvalidArgument("device",
                          "not supported on cuda yet: MoE layers whose ranks are threads of one process; let "
                          "each rank be a process");
  }
  return device;
}

}  // namespace

ExpertParallelGroup::ExpertParallelGroup(const Communicator& comm, Device device)
    : comm_(comm.duplicate()),
      device_(supported(comm, device)),
      buffer_(comm, {.device = device}),
      compute_(make_compute_device(device)) {
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
