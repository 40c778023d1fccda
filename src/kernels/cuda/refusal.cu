// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/refusal.h"
#include "kernels/cuda/report.cuh"

namespace flexep::cuda {
namespace {

__global__ void __launch_bounds__(kNumThreads, 1)
    refusal_kernel(const __grid_constant__ RefusalLaunch launch) {
  __shared__ ExchangeMemory memory;
  if (launch.peers.state == nullptr) return;  // load()
  Operation operation(launch.peers, launch.reports);
  if (operation.is_poisoned()) return report_poisoned(operation);

  ExchangeHeader refusal;
  refusal.refusal = Refusal::kText;
  take_header(memory, refusal);
  const auto* text = reinterpret_cast<const std::int32_t*>(launch.text);
  send_message(operation, memory.header(), MailboxLayout::kMaxTextBytes / sizeof(std::int32_t),
               [&](int i) { return text[i]; });

  memory.judgement.reset();
  const bool has_heard = await_messages(operation, memory, 0);
  if (has_heard) {
    const Messages messages(operation, memory, 0);
    compare_headers(launch.peers, messages, memory.judgement);
    memory.judgement.settle();
    report_failed_verdict(operation, messages, memory.judgement);
  } else {
    report_timeout(operation, memory.missing, 0, Verdict::kTimedOut);
  }
  operation.finish([&](bool) { return has_heard; });
}

}  // namespace

cudaError_t load_refusal() {
  return load(refusal_kernel, 0);
}

cudaError_t launch_nothing(cudaStream_t stream) {
  return enqueue(refusal_kernel, RefusalLaunch{}, 1, 0, stream);
}

cudaError_t launch_refusal(const RefusalLaunch& launch, cudaStream_t stream) {
  RefusalLaunch terminated = launch;
  terminated.text[MailboxLayout::kMaxTextBytes - 1] = '\0';
  return enqueue(refusal_kernel, terminated, 1, 0, stream);
}

}  // namespace flexep::cuda
