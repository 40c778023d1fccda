// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "flexep/tensor.h"
#include "transport/transport.h"

namespace flexep {

/// A place in the memory of one rank that all ranks of its domain can reach.
struct ArenaAddress {
  SegmentId segment = 0;
  std::uint64_t offset = 0;
};

/// One rank's memory for outputs, inputs and staging, in chunks that the other ranks can map. It grows with
/// what is needed and reuses what is dropped: a block goes back when the last tensor in it is destroyed, on
/// any thread, and the chunks live as long as a block is in use, whatever becomes of the buffer.
class Arena : public std::enable_shared_from_this<Arena> {
  struct Chunk;

 public:
  /// Gives its pages back; what other ranks have mapped of them they do not need any more.
  ~Arena();

  /// Blocks begin at multiples of this and are no smaller.
  static constexpr std::size_t kGranularity = 128;

  /// A reserved piece of the arena; goes back when destroyed.
  class Block {
   public:
    Block() = default;
    Block(std::shared_ptr<Arena> arena, Chunk* chunk, std::size_t offset, std::size_t num_bytes)
        : arena_(std::move(arena)), chunk_(chunk), offset_(offset), num_bytes_(num_bytes) {}
    ~Block();
    Block(Block&& other) noexcept { swap(other); }
    Block& operator=(Block&& other) noexcept {
      swap(other);
      return *this;
    }

    std::size_t num_bytes() const { return num_bytes_; }
    std::byte* data() const;
    ArenaAddress address() const;
    /// Cuts `num_bytes`, rounded up to the granularity, off the front.
    Block take_front(std::size_t num_bytes);

   private:
    void swap(Block& other) noexcept;

    std::shared_ptr<Arena> arena_;
    Chunk* chunk_ = nullptr;  ///< stays as long as one of its blocks is in use
    std::size_t offset_ = 0;
    std::size_t num_bytes_ = 0;
  };

  /// Makes memory ready for a device's copies, until the last reference to the result goes.
  using Pin = std::function<std::shared_ptr<void>(std::byte* memory, std::size_t num_bytes)>;

  /// @param max_bytes  the most that it may hold; 0 = no limit.
  /// @param pin        called with each chunk, unless empty.
  explicit Arena(std::shared_ptr<Transport> transport, std::size_t max_bytes = 0, Pin pin = {})
      : transport_(std::move(transport)), max_bytes_(max_bytes), pin_(std::move(pin)) {}

  /// A block of at least `num_bytes`; grows the arena when no free block holds it. @throws OutOfMemory.
  Block reserve(std::size_t num_bytes);
  /// The largest free block as a whole, perhaps empty; never grows.
  Block reserve_largest();

  /// Where the memory lies, if all of it is in one chunk of this arena.
  std::optional<ArenaAddress> locate(const void* data, std::size_t num_bytes) const;
  /// Bytes held from the system.
  std::size_t num_bytes() const;
  /// Hands out no memory any more, and takes none back: a rank that was given up may still store into it.
  void abandon();
  /// Gives chunks that nothing uses back to the system. @return their bytes.
  std::size_t trim();

 private:
  struct FreeBlock {
    std::size_t offset = 0;
    std::size_t num_bytes = 0;
    std::size_t end() const { return offset + num_bytes; }
  };
  struct Chunk {
    Segment segment;
    std::shared_ptr<void> pinned;
    std::vector<FreeBlock> free_blocks;  ///< few, ascending; neighbours are merged
  };

  std::optional<Block> reserve_free(std::size_t num_bytes);
  void grow(std::size_t num_bytes);
  void discard(Chunk& chunk) const;
  std::size_t trim_locked();
  std::size_t num_bytes_locked() const;
  [[noreturn]] void throw_out_of_memory(std::size_t num_bytes) const;
  Block take(Chunk& chunk, std::size_t free_block, std::size_t num_bytes);
  void give_back(Chunk& chunk, std::size_t offset, std::size_t num_bytes);

  std::shared_ptr<Transport> transport_;
  mutable std::mutex mutex_;
  bool is_abandoned_ = false;
  std::size_t max_bytes_;
  Pin pin_;
  std::vector<std::unique_ptr<Chunk>> chunks_;
};

/// A tensor in the front of `block`, which it keeps.
Tensor make_tensor(Arena::Block block, const Shape& shape, DType dtype);
Tensor make_tensor(Arena::Block block, const Shape& shape, const Shape& strides, DType dtype);

}  // namespace flexep
