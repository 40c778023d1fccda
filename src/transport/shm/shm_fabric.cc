// SPDX-License-Identifier: Apache-2.0
#include "transport/shm/shm_fabric.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>

#include "flexep/error.h"
#include "transport/shared_memory/mapped_memory.h"
#include "transport/shm/rendezvous.h"

namespace flexep {
namespace {

/// Announces a segment; the descriptor travels with it.
struct SegmentNotice {
  SegmentId id = 0;
  std::uint64_t num_bytes = 0;
};

constexpr std::chrono::seconds kLinkTimeout{30};

// Takes the pages now: a machine that has too few says so here, instead of with a SIGBUS at a store later.
FileDescriptor make_memory(std::size_t num_bytes) {
  FileDescriptor fd(memfd_create("flexep", MFD_CLOEXEC));
  if (!fd) throw TransportError(fmt::format("cannot make shared memory: {}", std::strerror(errno)));
  const int error = posix_fallocate(fd.get(), 0, static_cast<off_t>(num_bytes));
  if (error != 0) {
    throw OutOfMemory(
        fmt::format("cannot have {} bytes of shared memory: {}", num_bytes, std::strerror(error)));
  }
  return fd;
}

class ShmFabric final : public Fabric {
 public:
  ShmFabric(const ShmJob& job, std::vector<FileDescriptor> links)
      : rank_(job.rank), links_(std::move(links)), notices_(links_.size()) {}

  std::string_view name() const override { return "shm"; }
  int rank() const override { return rank_; }
  int num_ranks() const override { return static_cast<int>(links_.size()); }

  Segment create_segment(std::size_t num_bytes) override {
    const FileDescriptor fd = make_memory(num_bytes);
    const std::lock_guard lock(mutex_);
    const SegmentNotice notice{.id = next_id_++, .num_bytes = num_bytes};
    for (int rank = 0; rank < num_ranks(); ++rank) {
      if (rank == rank_) continue;
      // Whoever cannot be told is dead, and the next wait for him says so.
      send_message(link(rank), bytes_of(notice), fd.get(), Deadline(kLinkTimeout));
      collect_notices(rank);
    }
    return {notice.id, map_shared(fd.get(), num_bytes), num_bytes};
  }

  void discard(const Segment& segment) override { discard_shared(segment.memory.get(), segment.num_bytes); }

  std::shared_ptr<std::byte> map_segment(int rank, SegmentId id) override {
    const std::lock_guard lock(mutex_);
    auto& notices = notices_[static_cast<std::size_t>(rank)];
    const auto is_known = [&] {
      collect_notices(rank);
      return notices.contains(id);
    };
    const bool known = wait_until(Deadline(kLinkTimeout), 1, is_known, [&](std::chrono::nanoseconds) {
      if (is_hung_up(link(rank))) {
        throw TransportError(fmt::format("rank {} is gone ({})", rank, *cause_of_death(rank)), {rank});
      }
      usleep(kPollMicroseconds);
    });
    if (!known)
      throw TransportError(fmt::format("rank {} did not pass its memory segment {}", rank, id), {rank});
    const auto entry = notices.extract(id);
    return map_shared(entry.mapped().fd.get(), entry.mapped().num_bytes);
  }

  std::optional<std::string> cause_of_death(int rank) override {
    if (rank == rank_ || !is_hung_up(link(rank))) return std::nullopt;
    return fmt::format("its process {} ended", peer_pid(link(rank)));
  }

 private:
  struct Notice {
    std::size_t num_bytes;
    FileDescriptor fd;
  };
  static constexpr useconds_t kPollMicroseconds = 200;

  const FileDescriptor& link(int rank) const { return links_[static_cast<std::size_t>(rank)]; }

  // Takes what the rank has sent, so that its sends never block.
  void collect_notices(int rank) {
    SegmentNotice notice;
    const auto buffer = std::as_writable_bytes(std::span(&notice, 1));
    while (auto message = receive_message(link(rank), buffer, Deadline(std::chrono::nanoseconds(0)))) {
      notices_[static_cast<std::size_t>(rank)].insert_or_assign(
          notice.id, Notice{static_cast<std::size_t>(notice.num_bytes), std::move(message->fd)});
    }
  }

  int rank_;
  std::vector<FileDescriptor> links_;
  std::mutex mutex_;
  std::vector<std::map<SegmentId, Notice>> notices_;
  SegmentId next_id_ = 0;
};

}  // namespace

std::shared_ptr<Fabric> open_shm_fabric(const ShmJob& job, const Deadline& deadline) {
  return std::make_shared<ShmFabric>(job, meet_all(job, deadline));
}

}  // namespace flexep
