// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "core/arena.h"
#include "transport/transport.h"

namespace flexep {

/// Memory of the caller's that the other ranks may read where it lies. Safe to use from several threads.
class Registrations : public std::enable_shared_from_this<Registrations> {
 public:
  explicit Registrations(std::shared_ptr<Transport> transport) : transport_(std::move(transport)) {}

  /// @return the registration, which ends with its last reference, once nobody holds it.
  /// @throws InvalidArgument for memory that overlaps with registered memory; as Transport::adopt_segment.
  std::shared_ptr<void> add(void* memory, std::size_t num_bytes);

  /// Keeps the registration that the address lies in, if any, for as long as the result is kept.
  std::shared_ptr<void> hold(const void* data);
  /// Where the other ranks find the memory, if all of it is in one registration.
  std::optional<ArenaAddress> locate(const void* data, std::size_t num_bytes);

 private:
  struct Entry {
    Segment segment;
    int num_holders = 0;
    bool is_ending = false;
  };

  Entry* find_locked(const std::byte* data);
  void release(Entry& entry);
  void end(std::byte* memory);

  std::shared_ptr<Transport> transport_;
  std::mutex mutex_;
  std::condition_variable released_;
  std::map<const std::byte*, Entry> entries_;  ///< by the beginning of their memory
};

}  // namespace flexep
