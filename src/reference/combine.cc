// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "flexep/error.h"
#include "flexep/reference.h"
#include "reference/routing.h"
#include "reference/sum_rows.h"

namespace flexep::reference {
namespace {

/// One token's visit to one rank: the rank, and the row there (compact layout), or a row for each column
/// (expanded).
struct Visit {
  int rank = 0;
  int compact_row = 0;
  const Arrival* arrival = nullptr;

  /// The largest column whose expert lives on `rank`.
  int last_column() const {
    const auto& rows = arrival->expanded_row;
    return static_cast<int>(rows.rend() -
                            std::find_if(rows.rbegin(), rows.rend(), [](int row) { return row >= 0; })) -
           1;
  }
};

/// The visits of every token of `src_rank`, [T][ranks visited], in the order in which their rows are summed:
/// by each rank's largest column.
std::vector<std::vector<Visit>> visits_of(int src_rank, std::int64_t num_tokens,
                                          const std::vector<Arrivals>& routing) {
  std::vector<std::vector<Visit>> visits(static_cast<std::size_t>(num_tokens));
  for (int rank = 0; rank < static_cast<int>(routing.size()); ++rank) {
    const auto& tokens = routing[static_cast<std::size_t>(rank)].tokens;
    for (int row = 0; row < static_cast<int>(tokens.size()); ++row) {
      const Arrival& token = tokens[static_cast<std::size_t>(row)];
      if (token.src_rank != src_rank) continue;
      visits[static_cast<std::size_t>(token.src_token)].push_back({rank, row, &token});
    }
  }
  for (auto& token : visits) std::ranges::sort(token, std::less{}, &Visit::last_column);
  return visits;
}

/// Combines the rows of one element type.
template <typename T>
class RowCombiner {
 public:
  RowCombiner(std::span<const CombineInput> inputs, bool do_expand, const CombineOptions& options)
      : inputs_(inputs),
        do_expand_(do_expand),
        options_(options),
        num_columns_(static_cast<std::size_t>(inputs[0].x.size(1))) {}

  /// The sum of the bias rows and the token's rows, in this order.
  std::vector<T> combine(const std::vector<Row<T>>& bias, const std::vector<Visit>& visits) const {
    if (do_expand_ && !options_.allow_multiple_reduction) return combine_by_column(bias, visits);
    std::vector<Partial> partials = rows_of_ranks(visits);
    if (has_several_domains() && options_.allow_multiple_reduction) partials = reduce_domains(partials);
    return sum_rows(with_rows(bias, partials), num_columns_);
  }

 private:
  Row<T> row(int rank, int index) const {
    const T* rows = inputs_[static_cast<std::size_t>(rank)].x.template data<T>();
    return {rows + static_cast<std::size_t>(index) * num_columns_, num_columns_};
  }

  /// A row that stands for all of a token's rows on one rank, or in one domain.
  struct Partial {
    int rank = 0;  ///< or one of the domain's
    std::vector<T> row;
  };

  static std::vector<Row<T>> with_rows(std::vector<Row<T>> rows, const std::vector<Partial>& partials) {
    for (const Partial& partial : partials) rows.push_back(partial.row);
    return rows;
  }

  /// One row for each rank, in the order of the visits. Compact: the one that it supplies. Expanded: its
  /// columns' rows in ascending order, summed and rounded (stage L).
  std::vector<Partial> rows_of_ranks(const std::vector<Visit>& visits) const {
    std::vector<Partial> partials;
    for (const Visit& visit : visits) {
      std::vector<Row<T>> rows;
      if (!do_expand_) rows.push_back(row(visit.rank, visit.compact_row));
      for (const int index : visit.arrival->expanded_row) {
        if (do_expand_ && index >= 0) rows.push_back(row(visit.rank, index));
      }
      partials.push_back({visit.rank, sum_rows(rows, num_columns_)});
    }
    return partials;
  }

  bool has_several_domains() const {
    return options_.num_scaleup_ranks > 0 && std::cmp_less(options_.num_scaleup_ranks, inputs_.size());
  }

  /// One row for each domain, its ranks' rows summed and rounded in their order (stage S). A domain comes
  /// where its last rank came.
  std::vector<Partial> reduce_domains(const std::vector<Partial>& ranks) const {
    std::vector<std::vector<Partial>> domains;
    const auto domain_of = [&](const Partial& partial) { return partial.rank / options_.num_scaleup_ranks; };
    for (const Partial& partial : ranks) {
      std::vector<Partial> members;
      std::erase_if(domains, [&](const std::vector<Partial>& domain) {
        if (domain_of(domain.front()) != domain_of(partial)) return false;
        members = domain;
        return true;
      });
      members.push_back(partial);
      domains.push_back(members);
    }
    std::vector<Partial> reduced;
    for (const auto& members : domains)
      reduced.push_back({members.front().rank, sum_rows(with_rows({}, members), num_columns_)});
    return reduced;
  }

  /// Expanded without multiple reduction: all columns in ascending order, wherever their experts live,
  /// rounded once.
  std::vector<T> combine_by_column(std::vector<Row<T>> rows, const std::vector<Visit>& visits) const {
    const std::size_t num_topk = visits.empty() ? 0 : visits[0].arrival->expanded_row.size();
    for (std::size_t k = 0; k < num_topk; ++k) {
      for (const Visit& visit : visits) {
        if (visit.arrival->expanded_row[k] >= 0)
          rows.push_back(row(visit.rank, visit.arrival->expanded_row[k]));
      }
    }
    return sum_rows(rows, num_columns_);
  }

  std::span<const CombineInput> inputs_;
  bool do_expand_;
  CombineOptions options_;
  std::size_t num_columns_;
};

template <typename T>
std::vector<Row<T>> bias_rows(const std::array<Tensor, 2>& bias, std::size_t token, std::size_t num_columns) {
  std::vector<Row<T>> rows;
  for (const Tensor& tensor : bias) {
    if (tensor) rows.push_back({tensor.data<T>() + token * num_columns, num_columns});
  }
  return rows;
}

template <typename T>
Tensor combine_rows(const std::vector<std::vector<Visit>>& visits, const RowCombiner<T>& combiner,
                    const std::array<Tensor, 2>& bias, std::int64_t hidden) {
  std::vector<T> all;
  for (std::size_t token = 0; token < visits.size(); ++token) {
    const auto row =
        combiner.combine(bias_rows<T>(bias, token, static_cast<std::size_t>(hidden)), visits[token]);
    all.insert(all.end(), row.begin(), row.end());
  }
  return Tensor::from_values(std::span<const T>(all), {static_cast<std::int64_t>(visits.size()), hidden});
}

/// Each column's weight comes from the rank that owns the column's expert; 0 where there is none.
Tensor gather_weights(const std::vector<std::vector<Visit>>& visits, std::int64_t num_topk,
                      std::span<const CombineInput> inputs, bool do_expand) {
  const std::size_t num_bytes = size_of(inputs[0].topk_weights.dtype());
  Tensor weights =
      Tensor::zeros({static_cast<std::int64_t>(visits.size()), num_topk}, inputs[0].topk_weights.dtype());
  auto* out = static_cast<std::byte*>(weights.data());
  for (const auto& token : visits) {
    for (std::int64_t k = 0; k < num_topk; ++k, out += num_bytes) {
      for (const Visit& visit : token) {
        const int row = visit.arrival->expanded_row[static_cast<std::size_t>(k)];
        if (row < 0) continue;
        const std::int64_t index = do_expand ? row : visit.compact_row * num_topk + k;
        const auto* from =
            static_cast<const std::byte*>(inputs[static_cast<std::size_t>(visit.rank)].topk_weights.data());
        std::memcpy(out, from + static_cast<std::size_t>(index) * num_bytes, num_bytes);
      }
    }
  }
  return weights;
}

template <typename T>
std::vector<CombineOutput> combine_as(std::span<const RankInput> inputs,
                                      const DispatchOptions& dispatch_options,
                                      std::span<const CombineInput> expert_outputs,
                                      const CombineOptions& options) {
  const std::vector<Arrivals> routing = route(inputs, dispatch_options);
  const RowCombiner<T> combiner(expert_outputs, dispatch_options.do_expand, options);
  std::vector<CombineOutput> outputs;
  for (int rank = 0; rank < static_cast<int>(inputs.size()); ++rank) {
    const Tensor& topk_idx = inputs[static_cast<std::size_t>(rank)].topk_idx;
    const auto visits = visits_of(rank, topk_idx.size(0), routing);
    const auto& bias = expert_outputs[static_cast<std::size_t>(rank)].bias;
    CombineOutput output{.x = combine_rows(visits, combiner, bias, expert_outputs[0].x.size(1))};
    if (expert_outputs[0].topk_weights) {
      output.topk_weights =
          gather_weights(visits, topk_idx.size(1), expert_outputs, dispatch_options.do_expand);
    }
    outputs.push_back(std::move(output));
  }
  return outputs;
}

}  // namespace

std::vector<CombineOutput> combine(std::span<const RankInput> inputs, const DispatchOptions& dispatch_options,
                                   std::span<const CombineInput> expert_outputs,
                                   const CombineOptions& options) {
  std::vector<CombineOutput> outputs;
  const bool is_summed = visit_summable(expert_outputs[0].x.dtype(), [&]<typename T>(T) {
    outputs = combine_as<T>(inputs, dispatch_options, expert_outputs, options);
  });
  if (!is_summed) throw InvalidArgument("x", "rows of this type have no sum");
  return outputs;
}

}  // namespace flexep::reference
