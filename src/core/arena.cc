// SPDX-License-Identifier: Apache-2.0
#include "core/arena.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/math.h"
#include "flexep/error.h"

namespace flexep {
namespace {

// Chunks are whole huge pages, and no smaller than this: a handful of small outputs should not make a handful
// of chunks.
constexpr std::size_t kChunkGranularity = 2 << 20;
constexpr std::size_t kMinChunkBytes = 8 << 20;
constexpr std::size_t kPageBytes = 4 << 10;

// A quarter more than asked for: routing varies from step to step, and the next output should fit.
std::size_t chunk_bytes_for(std::size_t num_bytes) {
  return align_up(std::max(num_bytes + num_bytes / 4, kMinChunkBytes), kChunkGranularity);
}

}  // namespace

Arena::Block Arena::reserve(std::size_t num_bytes) {
  num_bytes = align_up(std::max(num_bytes, std::size_t{1}), kGranularity);
  const std::lock_guard lock(mutex_);
  if (auto block = reserve_free(num_bytes)) return std::move(*block);
  grow(num_bytes);
  return take(chunks_.size() - 1, 0, num_bytes);
}

Arena::~Arena() {
  for (const auto& chunk : chunks_) {
    if (chunk) transport_->discard(chunk->segment);
  }
}

void Arena::abandon() {
  const std::lock_guard lock(mutex_);
  is_abandoned_ = true;
}

void Arena::grow(std::size_t num_bytes) {
  if (is_abandoned_) throw TransportError("this buffer is unusable since an earlier failure of its group");
  std::size_t chunk_bytes = chunk_bytes_for(num_bytes);
  const auto fits = [&] { return max_bytes_ == 0 || num_bytes_locked() + chunk_bytes <= max_bytes_; };
  // Under a limit: first without what lies idle, then without headroom.
  if (!fits()) trim_locked();
  if (!fits()) chunk_bytes = align_up(num_bytes, kPageBytes);
  if (!fits()) throw_out_of_memory(num_bytes);
  auto chunk = std::make_unique<Chunk>();
  chunk->segment = transport_->create_segment(chunk_bytes);
  chunk->free_blocks[0] = chunk_bytes;
  chunks_.push_back(std::move(chunk));
}

void Arena::throw_out_of_memory(std::size_t num_bytes) const {
  std::size_t largest = 0;
  for (const auto& chunk : chunks_) {
    if (!chunk) continue;
    for (const auto& [offset, free_bytes] : chunk->free_blocks) largest = std::max(largest, free_bytes);
  }
  const std::size_t room = max_bytes_ - std::min(max_bytes_, num_bytes_locked());
  throw OutOfMemory(
      fmt::format("rank {} asked its arena for {} bytes: it holds {} of at most {} (max_arena_bytes), and "
                  "the largest piece that would fit has {}",
                  transport_->rank(), num_bytes, num_bytes_locked(), max_bytes_, std::max(largest, room)));
}

std::size_t Arena::trim() {
  const std::lock_guard lock(mutex_);
  return is_abandoned_ ? 0 : trim_locked();
}

std::size_t Arena::trim_locked() {
  std::size_t total = 0;
  for (auto& chunk : chunks_) {
    const bool is_idle = chunk && chunk->free_blocks.size() == 1 &&
                         chunk->free_blocks.begin()->second == chunk->segment.num_bytes;
    if (!is_idle) continue;
    // Other ranks may have the chunk mapped until their buffer goes: they keep addresses, not memory.
    transport_->discard(chunk->segment);
    total += chunk->segment.num_bytes;
    chunk.reset();
  }
  return total;
}

std::optional<Arena::Block> Arena::reserve_free(std::size_t num_bytes) {
  if (is_abandoned_) return std::nullopt;
  for (std::size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
    if (!chunks_[chunk]) continue;
    for (const auto& [offset, free_bytes] : chunks_[chunk]->free_blocks) {
      if (free_bytes >= num_bytes) return take(chunk, offset, num_bytes);
    }
  }
  return std::nullopt;
}

Arena::Block Arena::reserve_largest() {
  const std::lock_guard lock(mutex_);
  std::size_t best_chunk = 0;
  std::size_t best_offset = 0;
  std::size_t best_bytes = 0;
  for (std::size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
    if (!chunks_[chunk]) continue;
    for (const auto& [offset, free_bytes] : chunks_[chunk]->free_blocks) {
      if (free_bytes <= best_bytes) continue;
      best_chunk = chunk;
      best_offset = offset;
      best_bytes = free_bytes;
    }
  }
  if (best_bytes == 0) return {};
  return take(best_chunk, best_offset, best_bytes);
}

Arena::Block Arena::take(std::size_t chunk, std::size_t offset, std::size_t num_bytes) {
  auto& free_blocks = chunks_[chunk]->free_blocks;
  const auto found = free_blocks.find(offset);
  // What is left stays under its new offset, in the same node.
  auto rest = free_blocks.extract(found);
  rest.key() += num_bytes;
  rest.mapped() -= num_bytes;
  if (rest.mapped() > 0) free_blocks.insert(std::move(rest));
  return {shared_from_this(), chunk, offset, num_bytes};
}

void Arena::give_back(std::size_t chunk, std::size_t offset, std::size_t num_bytes) {
  const std::lock_guard lock(mutex_);
  if (is_abandoned_) return;
  auto& free_blocks = chunks_[chunk]->free_blocks;
  auto next = free_blocks.lower_bound(offset);
  if (next != free_blocks.end() && offset + num_bytes == next->first) {
    num_bytes += next->second;
    next = free_blocks.erase(next);
  }
  if (next != free_blocks.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      previous->second += num_bytes;
      return;
    }
  }
  free_blocks[offset] = num_bytes;
}

std::optional<ArenaAddress> Arena::locate(const void* data, std::size_t num_bytes) const {
  const auto* begin = static_cast<const std::byte*>(data);
  const std::lock_guard lock(mutex_);
  for (const auto& chunk : chunks_) {
    if (!chunk) continue;
    const std::byte* memory = chunk->segment.memory.get();
    if (begin < memory || begin + num_bytes > memory + chunk->segment.num_bytes) continue;
    return ArenaAddress{chunk->segment.id, static_cast<std::uint64_t>(begin - memory)};
  }
  return std::nullopt;
}

std::size_t Arena::num_bytes() const {
  const std::lock_guard lock(mutex_);
  return num_bytes_locked();
}

std::size_t Arena::num_bytes_locked() const {
  std::size_t total = 0;
  for (const auto& chunk : chunks_) total += chunk ? chunk->segment.num_bytes : 0;
  return total;
}

Arena::Block::~Block() {
  if (num_bytes_ > 0) arena_->give_back(chunk_, offset_, num_bytes_);
}

void Arena::Block::swap(Block& other) noexcept {
  std::swap(arena_, other.arena_);
  std::swap(chunk_, other.chunk_);
  std::swap(offset_, other.offset_);
  std::swap(num_bytes_, other.num_bytes_);
}

std::byte* Arena::Block::data() const {
  if (!arena_) return nullptr;
  const std::lock_guard lock(arena_->mutex_);
  return arena_->chunks_[chunk_]->segment.memory.get() + offset_;
}

ArenaAddress Arena::Block::address() const {
  if (!arena_) return {};
  const std::lock_guard lock(arena_->mutex_);
  return {arena_->chunks_[chunk_]->segment.id, offset_};
}

Arena::Block Arena::Block::take_front(std::size_t num_bytes) {
  num_bytes = align_up(num_bytes, kGranularity);
  Block front(num_bytes > 0 ? arena_ : nullptr, chunk_, offset_, num_bytes);
  offset_ += num_bytes;
  num_bytes_ -= num_bytes;
  return front;
}

Tensor make_tensor(Arena::Block block, const Shape& shape, DType dtype) {
  std::byte* data = block.data();
  auto owner = std::make_shared<Arena::Block>(std::move(block));
  return Tensor::from_memory(data, shape, dtype, std::move(owner));
}

Tensor make_tensor(Arena::Block block, const Shape& shape, const Shape& strides, DType dtype) {
  std::byte* data = block.data();
  auto owner = std::make_shared<Arena::Block>(std::move(block));
  return Tensor::from_memory(data, shape, strides, dtype, std::move(owner));
}

}  // namespace flexep
