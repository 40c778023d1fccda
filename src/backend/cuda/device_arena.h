// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "backend/cuda/device_range.h"
#include "backend/cuda/free_list.h"
#include "backend/cuda/stream.h"
#include "flexep/tensor.h"

namespace flexep::cuda {

/// How other ranks hear of what becomes of a range; both return when all can do what they need to.
struct RangeNews {
  /// The range has grown: called before memory of it is handed out.
  std::function<void()> grown = [] {};
  /// Its last `num_bytes` will be taken away.
  std::function<void(std::size_t num_bytes)> shrinking = [](std::size_t) {};
};

/// One rank's device memory for outputs, inputs and staging, in stream order: a block that goes back is free
/// behind the streams that may still use it, and a stream that takes it waits for them; the host does only
/// where the stream is being captured. Safe to use from several threads.
class DeviceArena : public std::enable_shared_from_this<DeviceArena> {
 public:
  /// Blocks begin at multiples of this and are no smaller.
  static constexpr std::size_t kGranularity = 128;

  /// A reserved piece of the arena; goes back when destroyed.
  class Block {
   public:
    Block() = default;
    Block(std::shared_ptr<DeviceArena> arena, std::size_t offset, std::size_t num_bytes)
        : arena_(std::move(arena)), offset_(offset), num_bytes_(num_bytes) {}
    ~Block();
    Block(Block&& other) noexcept { swap(other); }
    Block& operator=(Block&& other) noexcept {
      Block(std::move(other)).swap(*this);
      return *this;
    }

    std::size_t num_bytes() const { return num_bytes_; }
    std::size_t offset() const { return offset_; }
    std::byte* data() const { return arena_ ? arena_->range_->begin() + offset_ : nullptr; }
    /// The block is used on `stream`, too: it is free again behind what the stream has been given by then.
    /// What a stream is given while it is captured does not count: the graph keeps the block.
    void add_user(cudaStream_t stream);
    /// Cuts `num_bytes`, rounded up to the granularity, off the front, with the same users.
    Block take_front(std::size_t num_bytes);

   private:
    void swap(Block& other) noexcept;

    std::shared_ptr<DeviceArena> arena_;
    std::size_t offset_ = 0;
    std::size_t num_bytes_ = 0;
    std::vector<cudaStream_t> users_;
  };

  /// @param stream     the communication stream; the arena keeps it.
  /// @param max_bytes  the most that it may hold; 0 = what the device has.
  DeviceArena(int device, std::shared_ptr<CUstream_st> stream, std::shared_ptr<DeviceRange> range,
              std::size_t max_bytes, RangeNews news);
  ~DeviceArena();
  DeviceArena(const DeviceArena&) = delete;
  DeviceArena& operator=(const DeviceArena&) = delete;

  /// Calls visitor(arena) with the arena of this process in whose range `data` lies, if there is one.
  static void visit_arena_of(const void* data, const std::function<void(DeviceArena&)>& visitor);
  /// As Block::add_user, for who knows an address in the block alone.
  void record_stream(const void* data, cudaStream_t stream);
  /// The communication stream, on which operations write memory of the arena.
  cudaStream_t stream() const { return stream_.get(); }

  /// What the communication stream has been given lies before `point`, from its operations' ends on: blocks
  /// that it used go back behind the last one.
  void note_operation(std::shared_ptr<const StreamEvent> point);
  /// The communication stream waits for `point` already.
  void note_wait(std::shared_ptr<const StreamEvent> point);

  /// A block for use on `stream`. @throws OutOfMemory.
  Block reserve(std::size_t num_bytes, cudaStream_t stream);
  /// The largest free block as a whole, perhaps empty; never grows.
  Block reserve_largest(cudaStream_t stream);

  /// Gives the free end of the range back to the system, as far as whole growths go; waits for the streams
  /// that still use it. No operation may be in flight. @return the bytes given back.
  std::size_t trim();

  /// Where the memory lies in the range, if all of it does.
  std::optional<std::uint64_t> locate(const void* data, std::size_t num_bytes) const;
  std::size_t num_bytes() const;
  /// Takes no memory back any more: a rank that was given up may still store into it.
  void abandon();

  /// A tensor in the front of `block`, which it keeps.
  Tensor make_tensor(Block block, const Shape& shape, DType dtype) const;
  Tensor make_tensor(Block block, const Shape& shape, const Shape& strides, DType dtype) const;

 private:
  using Pieces = FreeList<StreamEvent>;

  /// A block on its way back.
  struct Return {
    std::size_t offset;
    std::size_t num_bytes;
    std::vector<cudaStream_t> users;
  };

  void grow(std::size_t num_bytes);
  Block hand_out(Pieces::Piece piece, cudaStream_t stream);
  void give_back(Return block);
  bool can_be_fenced(const Return& block) const;
  void fence(const Return& block);
  void require_usable() const;
  void fence_waiting();

  const int device_;
  const std::shared_ptr<CUstream_st> stream_;
  const std::shared_ptr<DeviceRange> range_;
  const std::size_t max_bytes_;
  const RangeNews news_;
  mutable std::mutex mutex_;
  bool is_abandoned_ = false;
  Pieces free_;
  /// Streams that were recorded by an address, which they stand behind, until its block goes back.
  std::multimap<std::size_t, cudaStream_t> recorded_streams_;
  std::vector<Return> waiting_;                         ///< for the end of captures
  std::shared_ptr<const StreamEvent> last_operation_;   ///< on stream_
  std::shared_ptr<const StreamEvent> last_waited_for_;  ///< by stream_
};

}  // namespace flexep::cuda
