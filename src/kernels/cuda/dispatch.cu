// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/cuda/agree_phase.cuh"
#include "kernels/cuda/fan_out.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/move_phase.cuh"

namespace flexep::cuda {
namespace {

/// One block's part of a dispatch.
template <bool kBulk>
class Dispatch {
 public:
  __device__ Dispatch(const DispatchLaunch& launch, DispatchMemory& memory, std::byte* dynamic)
      : dispatch_(launch, memory, dynamic) {}

  __device__ void run() {
    if (dispatch_.operation.is_poisoned()) {
      if (is_speaker()) report_poisoned(dispatch_.operation);
      return;
    }
    dispatch_.operation.pass(Phase::kStarted);
    take_header(dispatch_.memory.exchange, dispatch_.launch.header);
    const bool goes = dispatch_.launch.is_cached() ? agree_on_handle(dispatch_) : count_and_agree(dispatch_);
    dispatch_.operation.pass(Phase::kAgreed);
    if (goes) move<kBulk>(dispatch_);
    dispatch_.operation.pass(Phase::kMoved);
    const bool has_all_rows = goes && fans_out(dispatch_) && await_rows();
    if (has_all_rows) fan_out<kBulk>(dispatch_);
    dispatch_.operation.finish([&](bool is_intact) { return complete(goes, is_intact, has_all_rows); });
  }

 private:
  /// Every block waits for everybody's rows, to go on with them.
  __device__ bool await_rows() {
    dispatch_.operation.arrive();
    if (!dispatch_.operation.wait_for_all_blocks()) return false;
    dispatch_.operation.pass(Phase::kAllMoved);
    if (is_speaker()) publish_done(dispatch_.operation);
    if (await_done(dispatch_.operation, dispatch_.memory.exchange.missing)) return true;
    dispatch_.operation.poison();
    return false;
  }

  __device__ bool complete(bool goes, bool is_intact, bool has_all_rows) {
    if (!goes) return is_intact;
    if (!fans_out(dispatch_)) {
      dispatch_.operation.pass(Phase::kAllMoved);
      has_all_rows = is_intact && exchange_done(dispatch_.operation, dispatch_.memory.exchange.missing);
    }
    if (is_intact && has_all_rows) {
      dispatch_.operation.pass(Phase::kDone);
      return true;
    }
    report_timeout(dispatch_.operation, dispatch_.memory.exchange.missing, 1, Verdict::kGo);
    return false;
  }

  DispatchBlock dispatch_;
};

template <bool kBulk>
__global__ void __launch_bounds__(kNumThreads, 1)
    dispatch_kernel(const __grid_constant__ DispatchLaunch launch) {
  extern __shared__ __align__(128) std::byte dynamic[];
  __shared__ DispatchMemory memory;
  if (launch.peers.state == nullptr) return;  // load()
  Dispatch<kBulk>(launch, memory, dynamic).run();
}

/// Fewer blocks for few tokens: the barriers between them cost more than they bring.
int blocks_for(const DispatchLaunch& launch) {
  constexpr int kTokensPerBlock = 2;
  if (launch.do_zero_padding) return launch.num_sms;
  const int num_tokens =
      launch.device_num_tokens == nullptr ? launch.num_tokens : launch.plan_layout.max_tokens;
  return std::clamp(ceil_div(num_tokens, kTokensPerBlock), 1, launch.num_sms);
}

}  // namespace

std::size_t dispatch_workspace_bytes(int num_sms, int num_ranks, int num_experts) {
  const Workspace workspace(nullptr, num_sms, num_ranks + num_experts);
  return reinterpret_cast<std::size_t>(workspace.scratch) +
         static_cast<std::size_t>(num_sms) * ReceivePlan::num_bytes(num_ranks, num_experts);
}

cudaError_t load_dispatch() {
  const cudaError_t error = load(dispatch_kernel<true>, kDispatchMemory);
  return error != cudaSuccess ? error : load(dispatch_kernel<false>, kDispatchMemory);
}

cudaError_t launch_dispatch(const DispatchLaunch& launch, cudaStream_t stream) {
  const bool has_bulk_copies = launch.allow_bulk_copies && current_device_has_bulk_copies();
  return enqueue(has_bulk_copies ? dispatch_kernel<true> : dispatch_kernel<false>, launch, blocks_for(launch),
                 kDispatchMemory, stream);
}

}  // namespace flexep::cuda
