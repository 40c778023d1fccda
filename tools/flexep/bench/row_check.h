// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "bench/row_pattern.h"
#include "bench/workload.h"
#include "flexep/elastic_buffer.h"

namespace flexep::tool {

/// What is wrong with an output, in one sentence; nothing if all is right.
using Finding = std::optional<std::string>;

/// The rows that one rank sends, and what every row that it gets has to be. Row `t` of rank `s` is row s * T
/// + t of the pattern; the rows that stand for experts' outputs follow, by (rank, row).
class RowCheck {
 public:
  RowCheck(const BenchOptions& options, const Workload& workload, int rank);

  void write_inputs(const Tensor& x) const;
  /// fp32 [T, packs].
  void write_scales(const Tensor& sf) const;
  void write_expert_outputs(const Tensor& y) const;

  /// Every row, scaling factor, id and weight that this rank received. Ids and weights are checked where
  /// there are some.
  Finding check_dispatch(const DispatchResult& result) const;
  /// Every sum, when combine read the expert outputs.
  Finding check_combine(const Tensor& x) const;
  /// Every sum, when combine read what dispatch brought.
  Finding check_round_trip(const Tensor& x) const;
  /// The rows that rank received in the compact layout.
  Finding check_rows_received_once(const Tensor& x) const;
  /// Every sum, when each rank that received a token has sent its row back.
  Finding check_returned_once(const Tensor& x) const;

 private:
  std::size_t input_id(int rank, std::int64_t token) const;
  std::size_t expert_output_id(const RowPlace& place) const;
  /// The factor `pack` of input row `id`; every other one is different, as far as fp32 goes.
  float scale(std::size_t id, std::int64_t pack) const {
    return static_cast<float>(1 + static_cast<std::int64_t>(id) * options_.num_sf_packs() + pack);
  }
  template <typename IdsOfRow>
  Finding check_rows(const Tensor& x, std::size_t num_rows, IdsOfRow ids_of_row) const;
  Finding check_scales(const DispatchResult& result) const;
  Finding check_compact_pairs(const DispatchResult& result) const;
  Finding check_expanded_weights(const DispatchResult& result) const;

  const BenchOptions& options_;
  const Workload& workload_;
  int rank_;
  std::vector<std::size_t> first_expert_output_;  ///< [R + 1]
  RowPattern pattern_;
};

}  // namespace flexep::tool
