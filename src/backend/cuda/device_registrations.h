// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>

#include "backend/cuda/peer_ranges.h"
#include "backend/cuda/stream_moment.h"
#include "kernels/cuda/exchange_header.h"

namespace flexep::cuda {

/// Device memory of the caller's that the other ranks may read where it lies. Safe to use from several
/// threads.
class DeviceRegistrations : public std::enable_shared_from_this<DeviceRegistrations> {
  struct Entry;

 public:
  DeviceRegistrations(std::shared_ptr<PeerRanges> ranges, int rank)
      : ranges_(std::move(ranges)), rank_(rank) {}

  /// An operation's use of registered memory, which stays registered until that has ended.
  class Use {
   public:
    Use(std::shared_ptr<DeviceRegistrations> registrations, Entry& entry, const HeaderAddress& address)
        : registrations_(std::move(registrations)), entry_(entry), address_(address) {}
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

    const HeaderAddress& address() const { return address_; }
    /// The operation has been launched and ends then; without it, it never began.
    void ends_at(std::shared_ptr<const StreamMoment> moment) { end_ = std::move(moment); }

   private:
    std::shared_ptr<DeviceRegistrations> registrations_;
    Entry& entry_;
    HeaderAddress address_;
    std::shared_ptr<const StreamMoment> end_;
  };

  /// @return the registration, which ends with its last reference, once nobody reads the memory.
  /// @throws InvalidArgument for memory that overlaps with registered memory or cannot be shared, OutOfMemory
  /// when too much is registered, TimeoutError, TransportError.
  std::shared_ptr<void> add(const DeviceMemory& memory);

  /// Null unless all of it is in one registration.
  std::unique_ptr<Use> use(const void* data, std::size_t num_bytes);

 private:
  struct Entry {
    DeviceMemory memory;
    int slot = 0;
    int num_users = 0;
    bool is_shared = false;
    bool is_ending = false;
    std::shared_ptr<const StreamMoment> last_use;
  };

  Entry& enter(const DeviceMemory& memory);
  void forget(const Entry& entry);
  void end(Entry& entry);
  void release(Entry& entry, std::shared_ptr<const StreamMoment> end);

  std::shared_ptr<PeerRanges> ranges_;
  int rank_;
  std::mutex mutex_;
  std::condition_variable released_;
  std::map<int, Entry> entries_;  ///< by slot
};

}  // namespace flexep::cuda
