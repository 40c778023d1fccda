// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/segment_mappings.h"

#include <cuda_runtime_api.h>

#include "backend/cuda/check_cuda.h"
#include "flexep/error.h"

namespace flexep::cuda {

bool SegmentMappings::follow(int rank, const MemoryNews& news, const FileDescriptor& memory) {
  try {
    switch (news.kind) {
      case MemoryNews::Kind::kSegment:
        open(rank, news);
        return true;
      case MemoryNews::Kind::kPiece:
        add_piece(rank, news, memory);
        return true;
      case MemoryNews::Kind::kEnd:
        table_->set(rank, news.slot, nullptr);
        end({rank, news.slot});
        return true;
      case MemoryNews::Kind::kGrowth:
      case MemoryNews::Kind::kShrink:
        break;
    }
  } catch (const Error&) {
  }
  return false;
}

void SegmentMappings::open(int rank, const MemoryNews& news) {
  void* allocation = nullptr;
  check(cudaIpcOpenMemHandle(&allocation, news.handle, cudaIpcMemLazyEnablePeerAccess),
        "map memory of another process");
  auto* const begin = static_cast<std::byte*>(allocation);
  allocations_[{rank, news.slot}] = {begin, [](std::byte* mapped) { cudaIpcCloseMemHandle(mapped); }};
  table_->set(rank, news.slot, begin + news.offset);
}

void SegmentMappings::end(const Name& name) {
  ranges_.erase(name);
  if (auto allocation = allocations_.extract(name)) {
    const std::lock_guard lock(mutex_);
    ended_.push_back(std::move(allocation.mapped()));
  }
}

void SegmentMappings::let_go() {
  std::vector<std::shared_ptr<std::byte>> ended;  // let go of without the lock
  {
    const std::lock_guard lock(mutex_);
    ended.swap(ended_);
  }
}

// The table tells of the segment when it is complete.
void SegmentMappings::add_piece(int rank, const MemoryNews& news, const FileDescriptor& memory) {
  DeviceRange& range =
      ranges_.try_emplace({rank, news.slot}, device_, static_cast<std::size_t>(news.total_bytes))
          .first->second;
  range.grow_with(memory, news.num_bytes);
  if (range.backed_bytes() == news.total_bytes) table_->set(rank, news.slot, range.begin() + news.offset);
}

}  // namespace flexep::cuda
