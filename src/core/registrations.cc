// SPDX-License-Identifier: Apache-2.0
#include "core/registrations.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace flexep {

std::shared_ptr<void> Registrations::add(void* memory, std::size_t num_bytes) {
  auto* begin = static_cast<std::byte*>(memory);
  std::unique_lock lock(mutex_);
  const bool overlaps = std::ranges::any_of(entries_, [&](const auto& entry) {
    const Segment& segment = entry.second.segment;
    return begin < segment.memory.get() + segment.num_bytes && segment.memory.get() < begin + num_bytes;
  });
  require_argument(!overlaps, "memory", "memory [{}, {}) on rank {} overlaps with memory that is registered",
                   fmt::ptr(begin), fmt::ptr(begin + num_bytes), transport_->rank());
  lock.unlock();
  Segment segment = transport_->adopt_segment(begin, num_bytes);
  lock.lock();
  entries_[begin].segment = std::move(segment);
  return {begin, [all = shared_from_this()](std::byte* ending) { all->end(ending); }};
}

Registrations::Entry* Registrations::find_locked(const std::byte* data) {
  const auto next = entries_.upper_bound(data);
  if (next == entries_.begin()) return nullptr;
  auto& [begin, entry] = *std::prev(next);
  return !entry.is_ending && data < begin + entry.segment.num_bytes ? &entry : nullptr;
}

std::shared_ptr<void> Registrations::hold(const void* data) {
  const std::lock_guard lock(mutex_);
  Entry* entry = find_locked(static_cast<const std::byte*>(data));
  if (entry == nullptr) return nullptr;
  ++entry->num_holders;
  return {entry, [all = shared_from_this()](Entry* held) { all->release(*held); }};
}

void Registrations::release(Entry& entry) {
  const std::lock_guard lock(mutex_);
  --entry.num_holders;
  released_.notify_all();
}

std::optional<ArenaAddress> Registrations::locate(const void* data, std::size_t num_bytes) {
  const auto* begin = static_cast<const std::byte*>(data);
  const std::lock_guard lock(mutex_);
  const Entry* entry = find_locked(begin);
  if (entry == nullptr) return std::nullopt;
  const auto offset = static_cast<std::size_t>(begin - entry->segment.memory.get());
  if (num_bytes > entry->segment.num_bytes - offset) return std::nullopt;
  return ArenaAddress{entry->segment.id, offset};
}

// The caller may free the memory afterwards, so this waits for the operations whose peers read it.
void Registrations::end(std::byte* memory) {
  Segment segment;
  {
    std::unique_lock lock(mutex_);
    const auto found = entries_.find(memory);
    found->second.is_ending = true;
    released_.wait(lock, [&] { return found->second.num_holders == 0; });
    segment = std::move(found->second.segment);
    entries_.erase(found);
  }
}

}  // namespace flexep
