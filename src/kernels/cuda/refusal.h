// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/exchange_header.h"
#include "kernels/cuda/operation_result.h"
#include "kernels/cuda/peers.h"

namespace flexep::cuda {

/// What a rank whose own arguments are bad launches in place of its operation: it takes part in the exchange,
/// with the reason, so that the others end with Verdict::kRefused instead of waiting.
struct RefusalLaunch {
  Peers peers;
  Reports reports;
  /// Zero-terminated; what is beyond kMaxTextBytes - 1 bytes is cut off.
  alignas(16) char text[MailboxLayout::kMaxTextBytes] = {};
};

/// Enqueues the refusal. The result's verdict is kRefused, its culprit the first rank that refused.
cudaError_t launch_refusal(const RefusalLaunch& launch, cudaStream_t stream);

}  // namespace flexep::cuda
