// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace flexep::cuda {

/// The free pieces of a range, neighbours merged. With each piece stand the fences behind which it is really
/// free: whoever takes it waits for them. Of fences that cover one another (Fence::covers) the last is kept.
template <typename Fence>
class FreeList {
 public:
  using Fences = std::vector<std::shared_ptr<const Fence>>;
  struct Piece {
    std::size_t offset = 0;
    std::size_t num_bytes = 0;
    Fences fences;
  };

  void give(Piece piece) {
    auto next = pieces_.lower_bound(piece.offset);
    if (next != pieces_.end() && piece.offset + piece.num_bytes == next->first) {
      next = absorb(next, piece);
    }
    if (next != pieces_.begin()) {
      const auto previous = std::prev(next);
      if (previous->first + previous->second.num_bytes == piece.offset) {
        piece.offset = previous->first;
        absorb(previous, piece);
      }
    }
    const std::size_t offset = piece.offset;
    pieces_.insert_or_assign(offset, std::move(piece));
  }

  /// The front of the first piece that has `num_bytes`.
  std::optional<Piece> take(std::size_t num_bytes) {
    const auto found = std::find_if(pieces_.begin(), pieces_.end(),
                                    [&](const auto& entry) { return entry.second.num_bytes >= num_bytes; });
    if (found == pieces_.end()) return std::nullopt;
    Piece rest = std::move(pieces_.extract(found).mapped());
    Piece taken{rest.offset, num_bytes, rest.fences};
    rest.offset += num_bytes;
    rest.num_bytes -= num_bytes;
    const std::size_t offset = rest.offset;
    if (rest.num_bytes > 0) pieces_.emplace(offset, std::move(rest));
    return taken;
  }

  /// The largest piece as a whole.
  std::optional<Piece> take_largest() {
    const auto largest = std::max_element(pieces_.begin(), pieces_.end(), [](const auto& a, const auto& b) {
      return a.second.num_bytes < b.second.num_bytes;
    });
    if (largest == pieces_.end()) return std::nullopt;
    return std::move(pieces_.extract(largest).mapped());
  }

  /// The last `num_bytes` of the last piece, which has as many.
  Piece take_end(std::size_t num_bytes) {
    Piece& last = pieces_.rbegin()->second;
    Piece taken{last.offset + last.num_bytes - num_bytes, num_bytes, last.fences};
    last.num_bytes -= num_bytes;
    if (last.num_bytes == 0) pieces_.erase(last.offset);
    return taken;
  }

  /// Bytes of the piece that ends at `end`; 0 when that is in use.
  std::size_t bytes_before(std::size_t end) const {
    if (pieces_.empty()) return 0;
    const Piece& last = pieces_.rbegin()->second;
    return last.offset + last.num_bytes == end ? last.num_bytes : 0;
  }

 private:
  using Pieces = std::map<std::size_t, Piece>;

  static void add(Fences& fences, std::shared_ptr<const Fence> fence) {
    if (std::ranges::any_of(fences, [&](const auto& other) { return other->covers(*fence); })) return;
    std::erase_if(fences, [&](const auto& other) { return fence->covers(*other); });
    fences.push_back(std::move(fence));
  }

  // Moves a neighbour's bytes and fences into `piece`.
  typename Pieces::iterator absorb(typename Pieces::iterator neighbour, Piece& piece) {
    piece.num_bytes += neighbour->second.num_bytes;
    for (auto& fence : neighbour->second.fences) add(piece.fences, std::move(fence));
    return pieces_.erase(neighbour);
  }

  Pieces pieces_;
};

}  // namespace flexep::cuda
