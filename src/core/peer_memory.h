// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>

#include "core/arena.h"
#include "transport/transport.h"

namespace flexep {

/// The arenas of all ranks as this rank addresses them. Chunks are mapped when first named and stay mapped.
class PeerMemory {
 public:
  explicit PeerMemory(Transport& transport)
      : transport_(transport), chunks_(static_cast<std::size_t>(transport.num_ranks())) {}

  /// @throws TransportError, OutOfMemory.
  std::byte* resolve(int rank, const ArenaAddress& address) {
    auto& chunk = chunks_[static_cast<std::size_t>(rank)][address.segment];
    if (!chunk) chunk = transport_.map_segment(rank, address.segment);
    return chunk.get() + address.offset;
  }

 private:
  Transport& transport_;
  std::vector<std::map<SegmentId, std::shared_ptr<std::byte>>> chunks_;
};

}  // namespace flexep
