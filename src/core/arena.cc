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
  return take(*chunks_.back(), 0, num_bytes);
}

Arena::~Arena() {
  for (const auto& chunk : chunks_) discard(*chunk);
}

// Pages that a device still knew would be others than those that take their place.
void Arena::discard(Chunk& chunk) const {
  chunk.pinned = nullptr;
  transport_->discard(chunk.segment);
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
  if (pin_) chunk->pinned = pin_(chunk->segment.memory.get(), chunk_bytes);
  chunk->free_blocks.push_back({.offset = 0, .num_bytes = chunk_bytes});
  chunks_.push_back(std::move(chunk));
}

void Arena::throw_out_of_memory(std::size_t num_bytes) const {
  std::size_t largest = 0;
  for (const auto& chunk : chunks_) {
    for (const FreeBlock& free : chunk->free_blocks) largest = std::max(largest, free.num_bytes);
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
  const std::size_t before = num_bytes_locked();
  std::erase_if(chunks_, [&](const auto& chunk) {
    const bool is_idle =
        chunk->free_blocks.size() == 1 && chunk->free_blocks.front().num_bytes == chunk->segment.num_bytes;
    // Other ranks may have the chunk mapped until their buffer goes: they keep addresses, not memory.
    if (is_idle) discard(*chunk);
    return is_idle;
  });
  return before - num_bytes_locked();
}

std::optional<Arena::Block> Arena::reserve_free(std::size_t num_bytes) {
  if (is_abandoned_) return std::nullopt;
  for (const auto& chunk : chunks_) {
    for (std::size_t i = 0; i < chunk->free_blocks.size(); ++i) {
      if (chunk->free_blocks[i].num_bytes >= num_bytes) return take(*chunk, i, num_bytes);
    }
  }
  return std::nullopt;
}

Arena::Block Arena::reserve_largest() {
  const std::lock_guard lock(mutex_);
  Chunk* best_chunk = nullptr;
  std::size_t best_block = 0;
  std::size_t best_bytes = 0;
  for (const auto& chunk : chunks_) {
    for (std::size_t i = 0; i < chunk->free_blocks.size(); ++i) {
      const std::size_t free_bytes = chunk->free_blocks[i].num_bytes;
      if (free_bytes <= best_bytes) continue;
      best_chunk = chunk.get();
      best_block = i;
      best_bytes = free_bytes;
    }
  }
  if (best_chunk == nullptr) return {};
  return take(*best_chunk, best_block, best_bytes);
}

Arena::Block Arena::take(Chunk& chunk, std::size_t free_block, std::size_t num_bytes) {
  FreeBlock& free = chunk.free_blocks[free_block];
  Block block(shared_from_this(), &chunk, free.offset, num_bytes);
  free.offset += num_bytes;
  free.num_bytes -= num_bytes;
  if (free.num_bytes == 0)
    chunk.free_blocks.erase(chunk.free_blocks.begin() + static_cast<std::ptrdiff_t>(free_block));
  return block;
}

void Arena::give_back(Chunk& chunk, std::size_t offset, std::size_t num_bytes) {
  const std::lock_guard lock(mutex_);
  if (is_abandoned_) return;
  auto& free_blocks = chunk.free_blocks;
  const auto next = std::ranges::lower_bound(free_blocks, offset, {}, &FreeBlock::offset);
  const bool joins_next = next != free_blocks.end() && offset + num_bytes == next->offset;
  if (next != free_blocks.begin() && std::prev(next)->end() == offset) {
    std::prev(next)->num_bytes += num_bytes + (joins_next ? next->num_bytes : 0);
    if (joins_next) free_blocks.erase(next);
  } else if (joins_next) {
    *next = {.offset = offset, .num_bytes = num_bytes + next->num_bytes};
  } else {
    free_blocks.insert(next, {.offset = offset, .num_bytes = num_bytes});
  }
}

std::optional<ArenaAddress> Arena::locate(const void* data, std::size_t num_bytes) const {
  const auto* begin = static_cast<const std::byte*>(data);
  const std::lock_guard lock(mutex_);
  for (const auto& chunk : chunks_) {
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
  for (const auto& chunk : chunks_) total += chunk->segment.num_bytes;
  return total;
}

Arena::Block::~Block() {
  if (num_bytes_ > 0) arena_->give_back(*chunk_, offset_, num_bytes_);
}

void Arena::Block::swap(Block& other) noexcept {
  std::swap(arena_, other.arena_);
  std::swap(chunk_, other.chunk_);
  std::swap(offset_, other.offset_);
  std::swap(num_bytes_, other.num_bytes_);
}

std::byte* Arena::Block::data() const {
  return chunk_ == nullptr ? nullptr : chunk_->segment.memory.get() + offset_;
}

ArenaAddress Arena::Block::address() const {
  if (chunk_ == nullptr) return {};
  return {chunk_->segment.id, offset_};
}

Arena::Block Arena::Block::take_front(std::size_t num_bytes) {
  num_bytes = align_up(num_bytes, kGranularity);
  Block front;
  if (num_bytes > 0) front = Block(arena_, chunk_, offset_, num_bytes);
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
