// SPDX-License-Identifier: Apache-2.0
#include "conformance/case_buffers.h"

#include <sys/mman.h>

#include <new>

namespace flexep::conformance {
namespace {

constexpr std::size_t kRegisteredBytes = 1 << 18;

std::shared_ptr<std::byte> map_pages() {
  void* pages = mmap(nullptr, kRegisteredBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  return {static_cast<std::byte*>(pages), [](std::byte* memory) { munmap(memory, kRegisteredBytes); }};
}

}  // namespace

RegisteringBuffer::RegisteringBuffer(const Communicator& comm, const ElasticBufferConfig& config)
    : buffer_(comm, config), pages_(config.device.is_host() ? map_pages() : nullptr) {
  if (pages_) registration_ = buffer_.register_memory(pages_.get(), kRegisteredBytes);
}

Tensor RegisteringBuffer::registered(const Shape& shape, DType dtype) const {
  const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
  return pages_ && num_bytes <= kRegisteredBytes ? Tensor::from_memory(pages_.get(), shape, dtype, pages_)
                                                 : Tensor();
}

RegisteringBuffer& CaseBuffers::of(const CaseSpec& spec) {
  const ElasticBufferConfig defaults;
  // Room for waves of a few tokens of a short row.
  constexpr std::int64_t kLittleStaging = 32 << 10;
  const std::int64_t max_staging_bytes =
      spec.has_little_staging ? kLittleStaging : defaults.max_staging_bytes;
  auto& buffer =
      buffers_[{spec.do_cpu_sync, spec.allow_multiple_reduction, spec.allow_hybrid_mode, max_staging_bytes}];
  if (!buffer) {
    buffer = std::make_unique<RegisteringBuffer>(
        comm_, ElasticBufferConfig{.device = device_,
                                   .num_max_tokens_per_rank = spec.do_cpu_sync ? 0 : kNoSyncMaxTokens,
                                   .allow_multiple_reduction = spec.allow_multiple_reduction,
                                   .max_staging_bytes = max_staging_bytes,
                                   .network = {.allow_hybrid_mode = spec.allow_hybrid_mode}});
  }
  return *buffer;
}

}  // namespace flexep::conformance
