// SPDX-License-Identifier: Apache-2.0
#include "transport/in_process/in_process_fabric.h"

#include <fmt/format.h>

#include <map>
#include <mutex>
#include <utility>

#include "flexep/error.h"
#include "transport/shared_memory/mapped_memory.h"
#include "transport/shm/socket.h"

namespace flexep {

/// Segments by (rank, id). Weak: a segment lives as long as somebody uses it.
struct InProcessWorld::Directory {
  std::mutex mutex;
  std::map<std::pair<int, SegmentId>, std::weak_ptr<std::byte>> segments;
};

namespace {

class InProcessFabric final : public Fabric {
 public:
  InProcessFabric(std::shared_ptr<InProcessWorld> world, int rank) : world_(std::move(world)), rank_(rank) {}

  std::string_view name() const override { return "in_process"; }
  int rank() const override { return rank_; }
  int num_ranks() const override { return world_->num_ranks(); }

  Segment create_segment(std::size_t num_bytes, std::span<const int>) override {
    return enter(map_anonymous(num_bytes), num_bytes);
  }

  Segment adopt_segment(std::byte* memory, std::size_t num_bytes, std::span<const int>) override {
    return enter({memory, [](std::byte*) {}}, num_bytes);
  }

  SegmentId pass_file(const FileDescriptor&, std::size_t, std::span<const int>) override {
    throw TransportError("ranks of one process share their open files already");
  }
  FileDescriptor take_file(int, SegmentId) override {
    throw TransportError("ranks of one process share their open files already");
  }

  void discard(const Segment& segment) override {
    discard_anonymous(segment.memory.get(), segment.num_bytes);
  }

  std::shared_ptr<std::byte> map_segment(int rank, SegmentId id) override {
    auto& directory = world_->directory();
    const std::lock_guard lock(directory.mutex);
    const auto found = directory.segments.find({rank, id});
    auto memory = found == directory.segments.end() ? nullptr : found->second.lock();
    if (!memory) throw TransportError(fmt::format("segment {} of rank {} is gone", id, rank), {rank});
    return memory;
  }

  std::optional<std::string> cause_of_death(int rank) override {
    if (!world_->has_ended(rank)) return std::nullopt;
    return "its thread ended";
  }

 private:
  Segment enter(std::shared_ptr<std::byte> memory, std::size_t num_bytes) {
    auto& directory = world_->directory();
    const std::lock_guard lock(directory.mutex);
    std::erase_if(directory.segments, [](const auto& entry) { return entry.second.expired(); });
    Segment segment{next_id_++, std::move(memory), num_bytes};
    directory.segments[{rank_, segment.id}] = segment.memory;
    return segment;
  }

  std::shared_ptr<InProcessWorld> world_;
  int rank_;
  SegmentId next_id_ = 0;
};

}  // namespace

InProcessWorld::InProcessWorld(int num_ranks)
    : has_ended_(static_cast<std::size_t>(num_ranks)), directory_(std::make_unique<Directory>()) {}

InProcessWorld::~InProcessWorld() = default;

std::shared_ptr<Fabric> InProcessWorld::fabric(const std::shared_ptr<InProcessWorld>& world, int rank) {
  return std::make_shared<InProcessFabric>(world, rank);
}

}  // namespace flexep
