// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace flexep::cuda {

/// Why a rank does not take part in an operation; the others hear it in its header.
enum class Refusal : std::int32_t {
  kNone,
  kText,             ///< its host refused: the reason follows the header as text
  kIdOutOfRange,     ///< topk_idx: see BadId
  kIdRepeated,       ///< topk_idx: see BadId
  kTooManyTokens,    ///< T on the device is larger than the plan has room for: BadId::value is T
  kInvalidHandle,    ///< the dispatch that made the handle was refused on all ranks
  kWeightNotFinite,  ///< topk_weights: see BadId; value holds the bits of the weight as a double
};

/// The first pair, in (token, column) order, that dispatch cannot send: its id, or its weight where all ids
/// are good.
struct BadId {
  std::int32_t token = 0;
  std::int32_t column = 0;
  std::int64_t value = 0;
  std::int32_t first_column = 0;  ///< kIdRepeated: the column that has the value already
  std::int32_t padding = 0;
};

/// A place in a segment of the sender; as SegmentAddress, without padding.
struct HeaderAddress {
  std::int64_t segment = -1;  ///< -1 = nowhere
  std::uint64_t offset = 0;
};

/// The head of what a rank says in an exchange. Travels as it is.
///
/// The host fills everything but `num_words`, and `refusal` and `bad_id`, which it leaves alone except in a
/// refusal of its own.
struct alignas(16) ExchangeHeader {
  static constexpr int kNumFields = 16;

  /// What all ranks must pass alike, compared word by word; the kernels know no meaning. The operation's kind
  /// belongs here too. Unused words are 0.
  std::int64_t fingerprint[kNumFields] = {};

  // Dispatch: where this rank's output would go, how many bytes fit there.
  HeaderAddress region;
  std::uint64_t region_bytes = 0;
  std::int32_t num_max_tokens_per_rank = 0;  ///< all ranks agree on the largest
  std::int32_t max_recv_tokens = 0;          ///< rows of this rank's output; 0 = no limit
  /// Without host sync the output is laid out for these sizes, which the caller knows beforehand, instead of
  /// for what arrives: {-1, -1} = for what arrives.
  std::int32_t bound_recv_tokens = -1;
  std::int32_t bound_expanded_tokens = -1;

  // Combine: where this rank's rows are.
  HeaderAddress x;
  /// Expanded layout, for ranks across a link: of each token of theirs that has several rows here the sum, at
  /// the token's row of the compact layout; a lone row is read at `x`. Nowhere = all rows are.
  HeaderAddress summed_x;
  HeaderAddress topk_weights;
  std::int32_t x_is_per_token = 0;  ///< one row per received token instead of one per row of the layout

  Refusal refusal = Refusal::kNone;
  BadId bad_id;
  /// Words of 4 bytes that follow the header; filled by the kernel that sends it.
  std::int32_t num_words = 0;
  std::int32_t padding = 0;
};

}  // namespace flexep::cuda
