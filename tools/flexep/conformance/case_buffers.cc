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

CaseBuffers::CaseBuffers(const Communicator& comm, Device device) {
  for (const bool do_cpu_sync : {false, true}) {
    for (const bool allow_multiple_reduction : {false, true}) {
      buffers_[do_cpu_sync ? 1 : 0][allow_multiple_reduction ? 1 : 0] = std::make_unique<RegisteringBuffer>(
          comm, ElasticBufferConfig{.device = device,
                                    .num_max_tokens_per_rank = do_cpu_sync ? 0 : kNoSyncMaxTokens,
                                    .allow_multiple_reduction = allow_multiple_reduction});
    }
  }
}

}  // namespace flexep::conformance
