// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "routing/output_layout.h"

namespace flexep {

/// How rows cross: the tokens of each rank, as it numbers them, go in waves of `num_tokens`. A rank has room
/// for `num_own` waves of its own, to or from all its partners, and for `num_slots` messages of waves of
/// others, of which it takes one after the other. All ranks have the same, and none needs more however many
/// they are.
///
/// It cannot get stuck: of the ranks that are furthest behind, each has room for the wave that it is at, and
/// whoever carries for it takes waves in order, so that his room is not full of later ones.
struct Waves {
  int num_tokens = 1;
  int num_own = 2;
  std::size_t own_bytes = 0;  ///< of a wave of one's own
  std::size_t slot_bytes = 0;
  int num_slots = 0;
  std::size_t extra_bytes = 0;  ///< for rows of a wave that the home sums itself

  std::size_t num_bytes() const {
    return static_cast<std::size_t>(num_own) * own_bytes + static_cast<std::size_t>(num_slots) * slot_bytes +
           extra_bytes;
  }
};

/// What decides the size of waves, alike on all ranks.
struct WaveLimits {
  std::size_t max_staging_bytes = 0;
  int num_partners = 1;
  int num_max_tokens_per_rank = 1;
};

/// A message of dispatch is laid out as a small compact output.
OutputFormat wave_format(const OutputFormat& format);
/// @throws InvalidArgument when max_staging_bytes does not hold waves of one token.
Waves plan_dispatch_waves(const OutputFormat& format, const WaveLimits& limits);

/// How combine's rows cross.
struct CombineFormat {
  int num_topk = 1;
  std::size_t row_bytes = 0;
  std::size_t weight_bytes = 0;
  /// Whether one row crosses for each token and partner, instead of one for each row of the partner's domain.
  bool is_row_per_token = true;

  /// @param is_hybrid, allow_multiple_reduction  with both, every domain reduces a token's rows to one before
  /// they cross (stage S).
  static bool has_row_per_token(bool is_hybrid, bool do_expand, bool allow_multiple_reduction) {
    return allow_multiple_reduction || (!is_hybrid && !do_expand);
  }

  std::size_t weights_offset(int num_rows) const;
  /// Of a message of `num_rows` rows of `num_tokens` tokens: rows | weights [tokens, K].
  std::size_t message_bytes(int num_rows, int num_tokens) const;
};
/// @throws as plan_dispatch_waves.
Waves plan_combine_waves(const CombineFormat& format, const WaveLimits& limits);

}  // namespace flexep
