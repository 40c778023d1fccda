// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "flexep/tensor.h"

namespace flexep::testing {

inline std::size_t page_bytes() {
  return static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

/// Whole pages from the heap, as another library would allocate its outputs.
class Pages {
 public:
  explicit Pages(std::size_t num_pages)
      : num_bytes_(num_pages * page_bytes()),
        memory_(std::aligned_alloc(page_bytes(), num_bytes_), std::free) {
    std::memset(memory_.get(), 0, num_bytes_);
  }

  std::byte* data() const { return static_cast<std::byte*>(memory_.get()); }
  std::size_t num_bytes() const { return num_bytes_; }

  /// A copy of `tensor` at `offset`. Does not keep the pages.
  Tensor hold(const Tensor& tensor, std::size_t offset = 0) const {
    if (tensor.num_bytes() > 0) std::memcpy(data() + offset, tensor.data(), tensor.num_bytes());
    return Tensor::from_memory(data() + offset, tensor.shape(), tensor.dtype());
  }

 private:
  std::size_t num_bytes_;
  std::unique_ptr<void, void (*)(void*)> memory_;
};

}  // namespace flexep::testing
