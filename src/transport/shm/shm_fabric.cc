// SPDX-License-Identifier: Apache-2.0
#include "transport/shm/shm_fabric.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "common/deadline.h"
#include "flexep/error.h"
#include "transport/shared_memory/mapped_memory.h"
#include "transport/shm/adopted_pages.h"
#include "transport/shm/rendezvous.h"

namespace flexep {
namespace {

/// Announces a segment, whose descriptor travels with it, or, with 0 bytes, takes the announcement back.
struct SegmentNotice {
  SegmentId id = 0;
  std::uint64_t num_bytes = 0;
};

// In pieces: a signal undoes the one that it interrupts, and a timer may be faster than a large one.
int allocate_pages(const FileDescriptor& fd, std::size_t num_bytes) {
  constexpr std::size_t kSmallestPiece = std::size_t{64} << 10;
  std::size_t piece = std::size_t{64} << 20;
  for (std::size_t offset = 0; offset < num_bytes;) {
    const std::size_t length = std::min(piece, num_bytes - offset);
    const int error = posix_fallocate(fd.get(), static_cast<off_t>(offset), static_cast<off_t>(length));
    if (error == EINTR) {
      piece = std::max(piece / 2, kSmallestPiece);
    } else if (error != 0) {
      return error;
    } else {
      offset += length;
    }
  }
  return 0;
}

// Takes the pages now: a machine that has too few says so here, instead of with a SIGBUS at a store later.
FileDescriptor make_memory(std::size_t num_bytes) {
  FileDescriptor fd(memfd_create("flexep", MFD_CLOEXEC));
  if (!fd) throw TransportError(fmt::format("cannot make shared memory: {}", std::strerror(errno)));
  const int error = allocate_pages(fd, num_bytes);
  if (error != 0) {
    throw OutOfMemory(
        fmt::format("cannot have {} bytes of shared memory: {}", num_bytes, std::strerror(error)));
  }
  return fd;
}

class ShmFabric final : public Fabric, public std::enable_shared_from_this<ShmFabric> {
 public:
  ShmFabric(const ShmJob& job, std::vector<FileDescriptor> links, std::chrono::milliseconds timeout)
      : name_(job.transport_name), rank_(job.rank), timeout_(timeout), links_(std::move(links)), notices_(links_.size()) {
    for (const auto& link : links_)
      processes_.push_back(link ? open_process(peer_pid(link)) : FileDescriptor());
  }

  std::string_view name() const override { return name_; }
  int rank() const override { return rank_; }
  int num_ranks() const override { return static_cast<int>(links_.size()); }

  Segment create_segment(std::size_t num_bytes, std::span<const int> audience) override {
    const FileDescriptor fd = make_memory(num_bytes);
    const SegmentNotice notice{.id = next_id_++, .num_bytes = num_bytes};
    auto memory = retract_at_end(map_shared(fd.get(), num_bytes), notice.id, audience);
    announce_to_all(audience, notice, fd);
    return {notice.id, std::move(memory), num_bytes};
  }

  Segment adopt_segment(std::byte* memory, std::size_t num_bytes, std::span<const int> audience) override {
    auto pages = std::make_shared<AdoptedPages>(make_memory(num_bytes), memory, num_bytes);
    const FileDescriptor& fd = pages->fd();
    const SegmentNotice notice{.id = next_id_++, .num_bytes = num_bytes};
    auto adopted = retract_at_end({std::move(pages), memory}, notice.id, audience);
    announce_to_all(audience, notice, fd);
    return {notice.id, std::move(adopted), num_bytes};
  }

  void discard(const Segment& segment) override { discard_shared(segment.memory.get(), segment.num_bytes); }

  std::shared_ptr<std::byte> map_segment(int rank, SegmentId id) override {
    const Notice notice = await_notice(rank, id);
    return map_shared(notice.fd.get(), notice.num_bytes);
  }

  SegmentId pass_file(const FileDescriptor& file, std::size_t num_bytes,
                      std::span<const int> audience) override {
    const SegmentNotice notice{.id = next_id_++, .num_bytes = num_bytes};
    announce_to_all(audience, notice, file);
    return notice.id;
  }

  FileDescriptor take_file(int rank, SegmentId id) override { return std::move(await_notice(rank, id).fd); }

  std::optional<std::string> cause_of_death(int rank) override {
    if (rank == rank_) return std::nullopt;
    // A rank that waits for another one receives from him, so that he is not kept from coming.
    collect_notices(rank);
    if (!is_gone(rank)) return std::nullopt;
    return fmt::format("its process {} ended", peer_pid(link(rank)));
  }

 private:
  struct Notice {
    std::size_t num_bytes;
    FileDescriptor fd;
  };
  static constexpr useconds_t kPollMicroseconds = 200;

  const FileDescriptor& link(int rank) const { return links_[static_cast<std::size_t>(rank)]; }
  bool is_gone(int rank) const {
    return is_hung_up(link(rank)) || has_ended(processes_[static_cast<std::size_t>(rank)]);
  }

  Notice await_notice(int rank, SegmentId id) {
    std::optional<Notice> notice;
    const auto is_known = [&] { return (notice = take_notice(rank, id)).has_value(); };
    const bool known = wait_until(Deadline(timeout_), 1, is_known, [&](std::chrono::nanoseconds) {
      if (const auto cause = cause_of_death(rank)) {
        throw TransportError(fmt::format("rank {} is gone ({})", rank, *cause), {rank});
      }
      usleep(kPollMicroseconds);
    });
    if (!known) {
      throw TransportError(fmt::format("rank {} did not pass its memory segment {}", rank, id), {rank});
    }
    if (!notice->fd) {
      throw TransportError(fmt::format(
          "cannot receive memory segment {} of rank {}: this process has too many open files", id, rank));
    }
    return std::move(*notice);
  }

  void announce_to_all(std::span<const int> audience, const SegmentNotice& notice, const FileDescriptor& fd) {
    for (const int rank : audience) {
      if (rank != rank_) announce(rank, notice, fd);
    }
  }

  void announce(int rank, const SegmentNotice& notice, const FileDescriptor& fd) {
    // Whoever is dead need not be told: the next wait for him says so.
    const auto is_told = [&] {
      const SendResult result = send_message(link(rank), bytes_of(notice), fd.get());
      if (result == SendResult::kSent || is_gone(rank)) return true;
      if (result == SendResult::kQueueFull) return false;
      throw TransportError(fmt::format("cannot pass memory to rank {}: {}", rank, std::strerror(errno)));
    };
    const bool told = wait_until(Deadline(timeout_), 1, is_told, [&](std::chrono::nanoseconds) {
      // Ranks that announce to each other must receive too, or nobody gets room.
      for (int other = 0; other < num_ranks(); ++other) {
        if (other != rank_) collect_notices(other);
      }
      usleep(kPollMicroseconds);
    });
    if (!told) throw TransportError(fmt::format("rank {} does not take notice of new memory", rank), {rank});
  }

  // `memory`, which takes its announcement back when its last reference goes, while the fabric lives.
  std::shared_ptr<std::byte> retract_at_end(std::shared_ptr<std::byte> memory, SegmentId id,
                                            std::span<const int> audience) {
    std::byte* const address = memory.get();
    return {address, [memory = std::move(memory), id, fabric = weak_from_this(),
                      ranks = std::vector<int>(audience.begin(), audience.end())](std::byte*) mutable {
              memory.reset();
              if (const auto alive = fabric.lock()) alive->retract(id, ranks);
            }};
  }

  // Only a courtesy, which saves the others a descriptor: whoever has no room for it is not waited for.
  void retract(SegmentId id, std::span<const int> audience) const {
    if (getpid() != owner_) return;  // a copy in a process that was forked off
    for (const int rank : audience) {
      if (rank != rank_) send_message(link(rank), bytes_of(SegmentNotice{.id = id}), -1);
    }
  }

  std::optional<Notice> take_notice(int rank, SegmentId id) {
    collect_notices(rank);
    const std::lock_guard lock(mutex_);
    auto entry = notices_[static_cast<std::size_t>(rank)].extract(id);
    if (entry.empty()) return std::nullopt;
    return std::move(entry.mapped());
  }

  // Takes what the rank has sent.
  void collect_notices(int rank) {
    const std::lock_guard lock(mutex_);
    auto& notices = notices_[static_cast<std::size_t>(rank)];
    SegmentNotice notice;
    const auto buffer = std::as_writable_bytes(std::span(&notice, 1));
    while (auto message = receive_message(link(rank), buffer, Deadline(std::chrono::nanoseconds(0)))) {
      if (notice.num_bytes == 0) {
        notices.erase(notice.id);
      } else {
        notices.insert_or_assign(notice.id,
                                 Notice{static_cast<std::size_t>(notice.num_bytes), std::move(message->fd)});
      }
    }
  }

  const std::string_view name_;
  const int rank_;
  const pid_t owner_ = getpid();
  const std::chrono::milliseconds timeout_;
  const std::vector<FileDescriptor> links_;
  std::vector<FileDescriptor> processes_;
  std::atomic<SegmentId> next_id_ = 0;
  std::mutex mutex_;
  std::vector<std::map<SegmentId, Notice>> notices_;
};

}  // namespace

std::shared_ptr<Fabric> open_shm_fabric(const ShmJob& job, std::chrono::milliseconds timeout) {
  return std::make_shared<ShmFabric>(job, meet_all(job, Deadline(timeout)), timeout);
}

}  // namespace flexep
