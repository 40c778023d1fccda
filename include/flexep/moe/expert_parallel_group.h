// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "flexep/communicator.h"
#include "flexep/elastic_buffer.h"
#include "flexep/row_collectives.h"

namespace flexep::moe {

class ComputeDevice;

/// What the ranks of a layer exchange rows with when the dispatcher is alltoall or allgather.
struct RankCollectives {
  RowCollectives all;              ///< every rank, by member index
  RowCollectives expert_parallel;  ///< the ranks with this rank's tp_idx, by ep_idx
  RowCollectives tensor_parallel;  ///< the ranks with this rank's ep_idx, by tp_idx
};

/// What flex backends remember of a group from one microbatch to the next.
struct FlexState {
  /// (token, expert) pairs that this rank had no room for, over all dispatches of hybridep and ncclep.
  std::int64_t num_dropped_pairs = 0;
  /// hybridep: whether a dispatch since the last reset_over_budget() dropped any of them.
  bool over_budget = false;
  /// ncclep: the largest number of tokens that it has made room for, equal on all ranks.
  std::int64_t num_max_tokens = 0;
};

/// The ranks that share a layer's experts, and what moves tokens between them. Made once, shared by every MoE
/// layer.
///
/// Member index = ep_idx * expert_tensor_parallel_size + tp_idx. Used by one thread at a time. There is one
/// buffer for as long as the group lives: its memory follows what arrives, and what ranks have to agree on
/// they agree on in each exchange, so that token counts may differ between ranks, change and grow as they
/// like.
class ExpertParallelGroup {
 public:
  /// Collective over `comm`. @param device  where the rows and weights of the group's layers are. On a GPU
  /// layers use cuBLAS, which is looked up here: libcublas.so.13 or .12; but kernels of the library's own
  /// where several ranks are threads of one process and share a GPU.
  /// @throws what ElasticBuffer throws; InvalidArgument for ranks that are threads and share a GPU unless
  /// CUDA_MODULE_LOADING=EAGER was set before CUDA was used; CudaError when there is no cuBLAS.
  explicit ExpertParallelGroup(const Communicator& comm, Device device = Device::host());

  Communicator& comm() { return comm_; }
  Device device() const { return device_; }
  /// The library's own: who computes there.
  const ComputeDevice& compute() const { return *compute_; }
  ElasticBuffer& buffer() { return buffer_; }
  /// Collective when it is asked for a tensor parallel size for the first time, local afterwards.
  RankCollectives& collectives(int expert_tensor_parallel_size);

  FlexState& flex_state() { return flex_state_; }
  /// Lowers the flag that TokenDispatcher::check_over_budget returns. Local.
  void reset_over_budget() { flex_state_.over_budget = false; }

 private:
  Communicator comm_;
  Device device_;
  ElasticBuffer buffer_;
  std::shared_ptr<const ComputeDevice> compute_;
  std::map<int, RankCollectives> collectives_;  // by tensor parallel size
  FlexState flex_state_;
};

}  // namespace flexep::moe
