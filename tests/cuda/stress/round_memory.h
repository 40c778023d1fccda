// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda/device_memory.h"
#include "flexep/tensor.h"

namespace flexep::stress {

constexpr int kNumStreams = 2;
using Streams = std::array<cudaStream_t, kNumStreams>;

/// Pinned memory of one round for what kernels read from the host, and the tensors that live until the round
/// is over. Used again for a later round: nothing is allocated while operations run.
class RoundMemory {
 public:
  static constexpr std::size_t kNumBytes = std::size_t{2} << 20;

  RoundMemory() {
    testing::require(cudaMallocHost(reinterpret_cast<void**>(&data_), kNumBytes), "cudaMallocHost");
    for (cudaEvent_t& event : ends_)
      testing::require(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~RoundMemory() {
    for (cudaEvent_t event : ends_) cudaEventDestroy(event);
    cudaFreeHost(data_);
  }
  RoundMemory(const RoundMemory&) = delete;
  RoundMemory& operator=(const RoundMemory&) = delete;

  /// Waits for the round that used it before.
  void begin() {
    for (cudaEvent_t event : ends_) testing::require(cudaEventSynchronize(event), "a round");
    kept_.clear();
    used_ = 0;
  }
  /// All that the round does on these streams has been enqueued.
  void end(const Streams& streams) {
    for (std::size_t i = 0; i < streams.size(); ++i)
      testing::require(cudaEventRecord(ends_[i], streams[i]), "cudaEventRecord");
  }
  /// Until the round is over.
  void keep(std::vector<Tensor> tensors) { kept_ = std::move(tensors); }

  template <typename T>
  const T* copy(const std::vector<T>& values) {
    constexpr std::size_t kAlignment = 16;
    std::byte* const place = data_ + used_;
    used_ += (values.size() * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    if (used_ > kNumBytes) throw std::runtime_error("a round's pinned memory is too small");
    if (!values.empty()) std::memcpy(place, values.data(), values.size() * sizeof(T));
    return reinterpret_cast<const T*>(place);
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t used_ = 0;
  std::array<cudaEvent_t, kNumStreams> ends_{};
  std::vector<Tensor> kept_;
};

}  // namespace flexep::stress
