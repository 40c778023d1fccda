// SPDX-License-Identifier: Apache-2.0
#include "core/staging.h"

#include <cstdint>

#include "common/math.h"
#include "transport/shared_memory/mapped_memory.h"

namespace flexep {
namespace {

constexpr std::size_t kLargePageBytes = std::size_t{2} << 20;

std::byte* align_to_large_page(std::byte* memory) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  return memory + (align_up(address, kLargePageBytes) - address);
}

}  // namespace

std::byte* Staging::reserve(std::size_t num_bytes) {
  if (num_bytes > num_bytes_) {
    memory_ = nullptr;  // first: what it holds may be needed for the new one
    num_bytes_ = 0;
    const std::size_t whole_pages = align_up(num_bytes, kLargePageBytes);
    memory_ = map_anonymous(whole_pages + kLargePageBytes);
    num_bytes_ = whole_pages;
  }
  return memory_ == nullptr ? nullptr : align_to_large_page(memory_.get());
}

}  // namespace flexep
