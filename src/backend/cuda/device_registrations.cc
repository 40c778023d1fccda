// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/device_registrations.h"

#include <fmt/format.h>

#include <algorithm>

#include "backend/cuda/capture.h"
#include "common/check.h"

namespace flexep::cuda {
namespace {

bool overlap(const DeviceMemory& a, const DeviceMemory& b) {
  return a.begin < b.begin + b.num_bytes && b.begin < a.begin + a.num_bytes;
}

}  // namespace

std::shared_ptr<void> DeviceRegistrations::add(const DeviceMemory& memory) {
  Entry& entry = enter(memory);
  try {
    ranges_->share(entry.slot, memory);
  } catch (...) {
    forget(entry);
    throw;
  }
  const std::lock_guard lock(mutex_);
  entry.is_shared = true;
  return {&entry, [all = shared_from_this()](Entry* ending) { all->end(*ending); }};
}

DeviceRegistrations::Entry& DeviceRegistrations::enter(const DeviceMemory& memory) {
  const std::lock_guard lock(mutex_);
  int slot = 0;  // the first that is free: entries are in the order of theirs
  for (const auto& [used, entry] : entries_) {
    require_argument(!overlap(entry.memory, memory), "memory",
                     "memory [{}, {}) on rank {} overlaps with memory that is registered",
                     fmt::ptr(memory.begin), fmt::ptr(memory.begin + memory.num_bytes), rank_);
    if (used == slot) ++slot;
  }
  if (slot == SegmentTable::kMaxSegments) {
    throw OutOfMemory(
        fmt::format("rank {} has {} registrations, the most that there can be on a GPU", rank_, slot));
  }
  Entry& entry = entries_[slot];
  entry.memory = memory;
  entry.slot = slot;
  return entry;
}

void DeviceRegistrations::forget(const Entry& entry) {
  const std::lock_guard lock(mutex_);
  entries_.erase(entry.slot);
}

std::unique_ptr<DeviceRegistrations::Use> DeviceRegistrations::use(const void* data, std::size_t num_bytes) {
  const auto* begin = static_cast<const std::byte*>(data);
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find_if(entries_, [&](const auto& item) {
    const Entry& entry = item.second;
    return entry.is_shared && !entry.is_ending && begin >= entry.memory.begin &&
           begin + num_bytes <= entry.memory.begin + entry.memory.num_bytes;
  });
  if (found == entries_.end()) return nullptr;
  Entry& entry = found->second;
  ++entry.num_users;
  const HeaderAddress address{.segment = 1 + entry.slot,
                              .offset = static_cast<std::uint64_t>(begin - entry.memory.begin)};
  return std::make_unique<Use>(shared_from_this(), entry, address);
}

DeviceRegistrations::Use::~Use() {
  registrations_->release(entry_, std::move(end_));
}

void DeviceRegistrations::release(Entry& entry, std::shared_ptr<const StreamMoment> end) {
  const std::lock_guard lock(mutex_);
  --entry.num_users;
  // Operations of a buffer end in the order of their launch.
  if (end) entry.last_use = std::move(end);
  released_.notify_all();
}

// The caller may free the memory afterwards, so this waits for the operations whose peers read it. Called by
// a destructor, perhaps after the device or the group has failed: then nobody reads any more.
void DeviceRegistrations::end(Entry& entry) {
  std::shared_ptr<const StreamMoment> last_use;
  {
    std::unique_lock lock(mutex_);
    entry.is_ending = true;
    released_.wait(lock, [&] { return entry.num_users == 0; });
    last_use = std::move(entry.last_use);
  }
  try {
    const RelaxedCapture relaxed;
    // Not the operation's error: that is for those who wait for its event.
    if (last_use) last_use->StreamMoment::wait();
    ranges_->end_sharing(entry.slot);
  } catch (const Error&) {
  }
  forget(entry);
}

}  // namespace flexep::cuda
