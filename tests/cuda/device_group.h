// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/device_memory.h"
#include "kernels/cuda/operation_result.h"
#include "kernels/cuda/peers.h"

namespace flexep::testing {

/// Ranks that share one GPU, a stream each: what kernels need to reach each other, without anything of the
/// library above them. Segment 0 of a rank is memory that the others see.
class DeviceGroup {
 public:
  struct Sizes {
    std::size_t shared_bytes = std::size_t{64} << 20;   ///< of a rank, seen by the others
    std::size_t private_bytes = std::size_t{64} << 20;  ///< of a rank
    int max_experts = 1024;
    std::uint64_t timeout_ns = 20'000'000'000;
    /// So many neighbours are told that they share one memory, and that all others are across a link; 0 = all
    /// share one.
    int ranks_per_memory = 0;
  };

  DeviceGroup(int num_ranks, const Sizes& sizes);
  ~DeviceGroup();
  DeviceGroup(const DeviceGroup&) = delete;
  DeviceGroup& operator=(const DeviceGroup&) = delete;

  /// Whether there is a GPU, of sm_90 or later.
  static bool is_possible();

  int num_ranks() const { return num_ranks_; }
  /// The most blocks with which all ranks' kernels run at once.
  int max_sms_per_rank() const { return num_device_sms_ / num_ranks_; }
  cudaStream_t stream(int rank) const { return of(rank).stream; }
  DeviceMemory& shared(int rank) const { return *of(rank).shared; }
  DeviceMemory& private_memory(int rank) const { return *of(rank).private_memory; }
  cuda::HeaderAddress address(int rank, const std::byte* data) const {
    return {.segment = 0, .offset = static_cast<std::uint64_t>(data - shared(rank).data())};
  }

  cuda::Peers peers(int rank) const;
  /// Where rank's next operation reports; cleared.
  cuda::Reports reports(int rank, int num_local_experts) const;
  const cuda::OperationResult& result(int rank) const { return *of(rank).result; }
  template <typename T>
  const T* result_array(int rank, std::size_t offset) const {
    return reinterpret_cast<const T*>(reinterpret_cast<const std::byte*>(of(rank).result) + offset);
  }

  /// A copy from pageable memory may go on after it has returned, and our streams do not wait for it.
  static void finish_uploads() { require(cudaDeviceSynchronize(), "uploads"); }
  /// Until the rank's stream is idle.
  void synchronize(int rank) const { require(cudaStreamSynchronize(stream(rank)), "an operation"); }
  void synchronize() const {
    for (int rank = 0; rank < num_ranks_; ++rank) synchronize(rank);
  }

 private:
  struct Rank {
    cudaStream_t stream = nullptr;
    std::unique_ptr<DeviceMemory> mailbox;
    std::unique_ptr<DeviceMemory> shared;
    std::unique_ptr<DeviceMemory> private_memory;
    cuda::OperationResult* result = nullptr;
  };
  const Rank& of(int rank) const { return ranks_[static_cast<std::size_t>(rank)]; }

  int num_ranks_;
  int num_device_sms_ = 0;
  int ranks_per_memory_;
  std::uint64_t timeout_ns_;
  cuda::MailboxLayout mailbox_;
  std::size_t result_bytes_ = 0;
  std::vector<Rank> ranks_;
  std::unique_ptr<DeviceMemory> tables_;  ///< [R] mailboxes, [R] segments, [R] states, [R, R] links
};

}  // namespace flexep::testing
