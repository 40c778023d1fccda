// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/device_arena.h"

#include <fmt/format.h>

#include <algorithm>

#include "backend/cuda/capture.h"
#include "common/math.h"
#include "flexep/error.h"

namespace flexep::cuda {
namespace {

// Growth is rare, and each makes the other ranks map something.
constexpr std::size_t kMinGrowth = 64 << 20;

struct ArenasOfProcess {
  std::mutex mutex;
  std::vector<DeviceArena*> arenas;
};

ArenasOfProcess& arenas_of_process() {
  static ArenasOfProcess all;
  return all;
}

}  // namespace

DeviceArena::DeviceArena(int device, std::shared_ptr<CUstream_st> stream, std::shared_ptr<DeviceRange> range,
                         std::size_t max_bytes, RangeNews news)
    : device_(device),
      stream_(std::move(stream)),
      range_(std::move(range)),
      max_bytes_(max_bytes),
      news_(std::move(news)) {
  ArenasOfProcess& all = arenas_of_process();
  const std::lock_guard lock(all.mutex);
  all.arenas.push_back(this);
}

DeviceArena::~DeviceArena() {
  ArenasOfProcess& all = arenas_of_process();
  const std::lock_guard lock(all.mutex);
  std::erase(all.arenas, this);
}

void DeviceArena::visit_arena_of(const void* data, const std::function<void(DeviceArena&)>& visitor) {
  ArenasOfProcess& all = arenas_of_process();
  const std::lock_guard lock(all.mutex);
  for (DeviceArena* arena : all.arenas) {
    if (arena->locate(data, 1)) return visitor(*arena);
  }
}

void DeviceArena::record_stream(const void* data, cudaStream_t stream) {
  const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(data) - range_->begin());
  const std::lock_guard lock(mutex_);
  const auto [first, last] = recorded_streams_.equal_range(offset);
  if (std::none_of(first, last, [&](const auto& recorded) { return recorded.second == stream; }))
    recorded_streams_.emplace(offset, stream);
}

DeviceArena::Block DeviceArena::reserve(std::size_t num_bytes, cudaStream_t stream) {
  num_bytes = align_up(std::max(num_bytes, std::size_t{1}), kGranularity);
  const std::lock_guard lock(mutex_);
  require_usable();
  fence_waiting();
  if (auto piece = free_.take(num_bytes)) return hand_out(std::move(*piece), stream);
  grow(num_bytes);
  return hand_out(*free_.take(num_bytes), stream);
}

DeviceArena::Block DeviceArena::reserve_largest(cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  require_usable();
  fence_waiting();
  auto piece = free_.take_largest();
  return piece ? hand_out(std::move(*piece), stream) : Block();
}

void DeviceArena::note_operation(std::shared_ptr<const StreamEvent> point) {
  const std::lock_guard lock(mutex_);
  last_operation_ = std::move(point);
}

void DeviceArena::note_wait(std::shared_ptr<const StreamEvent> point) {
  const std::lock_guard lock(mutex_);
  last_waited_for_ = std::move(point);
}

void DeviceArena::require_usable() const {
  if (is_abandoned_) throw TransportError("this buffer is unusable since an earlier failure of its group");
}

void DeviceArena::fence_waiting() {
  const auto may_go = std::ranges::partition(waiting_, [&](const Return& r) { return !can_be_fenced(r); });
  for (const Return& block : may_go) fence(block);
  waiting_.erase(may_go.begin(), may_go.end());
}

// Only by what the free end of the range lacks; a quarter more, since routing varies from step to step.
void DeviceArena::grow(std::size_t num_bytes) {
  const std::size_t held = range_->backed_bytes();
  const std::size_t lacking = num_bytes - free_.bytes_before(held);
  const std::size_t granularity = range_->granularity();
  std::size_t growth = align_up(std::max(lacking + num_bytes / 4, kMinGrowth), granularity);
  if (max_bytes_ > 0 && held + growth > max_bytes_) growth = align_up(lacking, granularity);
  if (max_bytes_ > 0 && held + growth > max_bytes_) {
    throw OutOfMemory(
        fmt::format("the arena on device {} was asked for {} bytes: it holds {} of at most {} "
                    "(max_arena_bytes), {} of them free "
                    "at its end",
                    device_, num_bytes, held, max_bytes_, free_.bytes_before(held)));
  }
  const DeviceGuard guard(device_);
  range_->grow(growth);
  news_.grown();
  free_.give({held, growth, {}});
}

std::size_t DeviceArena::trim() {
  const std::lock_guard lock(mutex_);
  if (is_abandoned_) return 0;
  fence_waiting();
  const std::size_t num_bytes = range_->whole_growths_within(free_.bytes_before(range_->backed_bytes()));
  if (num_bytes == 0) return 0;
  for (const auto& fence : free_.take_end(num_bytes).fences) fence->wait();
  news_.shrinking(num_bytes);
  range_->shrink(num_bytes);
  return num_bytes;
}

DeviceArena::Block DeviceArena::hand_out(Pieces::Piece piece, cudaStream_t stream) {
  // A graph runs on other streams than the one that is captured, and has waited for nothing.
  const bool has_waited = stream == stream_.get() && last_waited_for_ && !is_captured(stream);
  for (const auto& fence : piece.fences) {
    if (!has_waited || !last_waited_for_->covers(*fence)) fence->hold_back(stream);
  }
  Block block(shared_from_this(), piece.offset, piece.num_bytes);
  block.add_user(stream);
  return block;
}

// Called by destructors, perhaps after the device has failed: what cannot be fenced is not handed out again.
void DeviceArena::give_back(Return block) {
  const std::lock_guard lock(mutex_);
  if (is_abandoned_) return;
  try {
    const auto first = recorded_streams_.lower_bound(block.offset);
    const auto last = recorded_streams_.lower_bound(block.offset + block.num_bytes);
    for (auto recorded = first; recorded != last; ++recorded) block.users.push_back(recorded->second);
    recorded_streams_.erase(first, last);
    if (can_be_fenced(block)) {
      fence(block);
    } else {
      waiting_.push_back(std::move(block));
    }
  } catch (const Error&) {
    is_abandoned_ = true;
  }
}

// A point of a stream that is being captured would be one of the graph.
bool DeviceArena::can_be_fenced(const Return& block) const {
  return std::ranges::none_of(block.users,
                              [&](cudaStream_t user) { return user != stream_.get() && is_captured(user); });
}

void DeviceArena::fence(const Return& block) {
  const DeviceGuard guard(device_);
  Pieces::Piece piece{block.offset, block.num_bytes, {}};
  for (const cudaStream_t user : block.users) {
    if (user != stream_.get()) {
      piece.fences.push_back(std::make_shared<const StreamEvent>(user));
    } else if (last_operation_) {
      piece.fences.push_back(last_operation_);
    }
  }
  free_.give(std::move(piece));
}

std::optional<std::uint64_t> DeviceArena::locate(const void* data, std::size_t num_bytes) const {
  const auto* begin = static_cast<const std::byte*>(data);
  const std::lock_guard lock(mutex_);
  const std::byte* first = range_->begin();
  if (begin < first || begin + num_bytes > first + range_->backed_bytes()) return std::nullopt;
  return static_cast<std::uint64_t>(begin - first);
}

std::size_t DeviceArena::num_bytes() const {
  const std::lock_guard lock(mutex_);
  return range_->backed_bytes();
}

void DeviceArena::abandon() {
  const std::lock_guard lock(mutex_);
  is_abandoned_ = true;
}

Tensor DeviceArena::make_tensor(Block block, const Shape& shape, DType dtype) const {
  std::byte* data = block.data();
  auto owner = std::make_shared<Block>(std::move(block));
  return Tensor::from_memory(data, shape, dtype, std::move(owner), Device::cuda(device_));
}

Tensor DeviceArena::make_tensor(Block block, const Shape& shape, const Shape& strides, DType dtype) const {
  std::byte* data = block.data();
  auto owner = std::make_shared<Block>(std::move(block));
  return Tensor::from_memory(data, shape, strides, dtype, std::move(owner), Device::cuda(device_));
}

DeviceArena::Block::~Block() {
  if (num_bytes_ > 0) arena_->give_back({offset_, num_bytes_, std::move(users_)});
}

void DeviceArena::Block::add_user(cudaStream_t stream) {
  if (std::ranges::find(users_, stream) == users_.end() && !is_captured(stream)) users_.push_back(stream);
}

DeviceArena::Block DeviceArena::Block::take_front(std::size_t num_bytes) {
  num_bytes = align_up(num_bytes, kGranularity);
  Block front(num_bytes > 0 ? arena_ : nullptr, offset_, num_bytes);
  front.users_ = users_;
  offset_ += num_bytes;
  num_bytes_ -= num_bytes;
  return front;
}

void DeviceArena::Block::swap(Block& other) noexcept {
  std::swap(arena_, other.arena_);
  std::swap(offset_, other.offset_);
  std::swap(num_bytes_, other.num_bytes_);
  std::swap(users_, other.users_);
}

}  // namespace flexep::cuda
