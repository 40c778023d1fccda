// SPDX-License-Identifier: Apache-2.0
#include "conformance/case_buffers.h"

#include "conformance/placement.h"

namespace flexep::conformance {
namespace {

constexpr std::size_t kRegisteredBytes = 1 << 18;

}  // namespace

RegisteringBuffer::RegisteringBuffer(const Communicator& comm, const ElasticBufferConfig& config)
    : device_(config.device),
      memory_(Placement(device_).pages(kRegisteredBytes).memory),
      buffer_(comm, config),
      registration_(buffer_.register_memory(memory_.get(), kRegisteredBytes)) {}

Tensor RegisteringBuffer::registered(const Shape& shape, DType dtype) const {
  const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
  if (num_bytes > kRegisteredBytes) return {};
  return Tensor::from_memory(memory_.get(), shape, dtype, memory_, device_);
}

RegisteringBuffer& CaseBuffers::of(const CaseSpec& spec) {
  // Room for waves of a few tokens of a short row.
  constexpr std::int64_t kLittleStaging = 32 << 10;
  const std::int64_t max_staging_bytes = spec.has_little_staging ? kLittleStaging : config_.max_staging_bytes;
  auto& buffer =
      buffers_[{spec.do_cpu_sync, spec.allow_multiple_reduction, spec.allow_hybrid_mode, max_staging_bytes}];
  if (!buffer) {
    ElasticBufferConfig config = config_;
    config.num_max_tokens_per_rank = spec.do_cpu_sync ? 0 : kNoSyncMaxTokens;
    config.allow_multiple_reduction = spec.allow_multiple_reduction;
    config.max_staging_bytes = max_staging_bytes;
    config.network.allow_hybrid_mode = spec.allow_hybrid_mode;
    buffer = std::make_unique<RegisteringBuffer>(comm_, config);
  }
  return *buffer;
}

}  // namespace flexep::conformance
