// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

namespace flexep {

/// A buffer's room for rows on their way between domains, kept from one operation to the next. No other rank
/// maps it, so that it is private memory, of which the system has large pages more often than of shared
/// memory: with them MPI copies between processes of one machine a fifth faster.
class Staging {
 public:
  /// Room for `num_bytes`, whose contents mean nothing, until the next call. @throws OutOfMemory.
  std::byte* reserve(std::size_t num_bytes);

 private:
  std::shared_ptr<std::byte> memory_;
  std::size_t num_bytes_ = 0;
};

}  // namespace flexep
