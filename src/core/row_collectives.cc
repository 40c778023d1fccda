// SPDX-License-Identifier: Apache-2.0
#include "flexep/row_collectives.h"

#include <fmt/ranges.h>

#include <numeric>
#include <vector>

#include "common/check.h"
#include "core/engine.h"
#include "flexep/error.h"

namespace flexep {
namespace {

using Counts = std::span<const std::int32_t>;

std::int64_t sum_of(Counts counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

// Elements of a row.
std::int64_t num_columns_of(const Tensor& x) {
  std::int64_t num_columns = 1;
  for (int dim = 1; dim < x.num_dims(); ++dim) num_columns *= x.size(dim);
  return num_columns;
}

Shape shape_with_rows(const Tensor& x, std::int64_t num_rows) {
  std::vector<std::int64_t> extents(x.shape().extents().begin(), x.shape().extents().end());
  extents[0] = num_rows;
  return Shape(extents);
}

void check_rows(const Tensor& x) {
  require_argument(x.defined() && x.num_dims() >= 1, "x", "x must be a tensor of at least one dimension");
  require_argument(x.device().is_host(), "x", "x is memory of {}, but these rows are moved by the host",
                   x.device().to_string());
}

void check_counts(const Tensor& x, Counts num_rows_per_rank, int num_ranks) {
  check_rows(x);
  bool fits = num_rows_per_rank.size() == static_cast<std::size_t>(num_ranks) &&
              sum_of(num_rows_per_rank) == x.size(0);
  for (const std::int32_t num_rows : num_rows_per_rank) fits = fits && num_rows >= 0;
  require_argument(fits, "num_rows_per_rank",
                   "num_rows_per_rank is [{}], but must be {} counts that sum to the {} rows of x",
                   fmt::join(num_rows_per_rank, ", "), num_ranks, x.size(0));
}

// Every rank sums rows that all have: row t of every source, in rank order.
SendPlan plan_of_sums(std::int64_t first_row, std::int32_t num_rows, int num_ranks) {
  SendPlan plan{.num_tokens = num_rows, .num_topk = num_ranks};
  for (std::int32_t row = 0; row < num_rows; ++row) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      plan.owner.push_back(rank);
      plan.token_slot.push_back(static_cast<std::int32_t>(first_row) + row);
    }
  }
  plan.row = plan.token_slot;
  plan.masters.resize(plan.owner.size());
  std::iota(plan.masters.begin(), plan.masters.end(), 0);
  for (std::int64_t token = 0; token <= num_rows; ++token) plan.master_begin.push_back(token * num_ranks);
  return plan;
}

}  // namespace

/// Every collective is the same two exchanges: ranks say where their rows are, each reads what it needs, and
/// none returns before all have read.
class RowCollectives::Impl {
 public:
  explicit Impl(const Communicator& comm) : engine_(comm, {}) {}
  // Tensors may keep the arena, and with it the group, for long: nobody shall wait for this rank meanwhile.
  ~Impl() { engine_.transport->leave(); }

  Tensor all_to_all(const Tensor& x, Counts num_rows_per_rank) {
    const auto check = [&] { check_counts(x, num_rows_per_rank, engine_.num_ranks()); };
    return share({"all_to_all", "all_to_all: rows"}, x, num_rows_per_rank, check, [&](const Offers& offers) {
      const auto me = static_cast<std::size_t>(engine_.rank());
      std::vector<Piece> pieces;
      for (const Counts counts : offers.counts) pieces.push_back({sum_of(counts.first(me)), counts[me]});
      return copy(x, pieces, offers);
    });
  }

  Tensor all_gather(const Tensor& x) {
    const auto num_rows = static_cast<std::int32_t>(x.defined() && x.num_dims() > 0 ? x.size(0) : 0);
    const auto check = [&] { check_rows(x); };
    return share({"all_gather", "all_gather: rows"}, x, Counts(&num_rows, 1), check,
                 [&](const Offers& offers) {
                   std::vector<Piece> pieces;
                   for (const Counts counts : offers.counts) pieces.push_back({0, counts[0]});
                   return copy(x, pieces, offers);
                 });
  }

  Tensor reduce_scatter(const Tensor& x, Counts num_rows_per_rank) {
    const auto check = [&] {
      check_counts(x, num_rows_per_rank, engine_.num_ranks());
      require_argument(is_summable(x.dtype()), "x", "x is {}, but reduce_scatter sums floating-point rows",
                       name_of(x.dtype()));
    };
    return share({"reduce_scatter", "reduce_scatter: rows"}, x, num_rows_per_rank, check,
                 [&](const Offers& offers) {
                   require_same_counts(offers);
                   return sum(x, num_rows_per_rank, offers);
                 });
  }

  Tensor empty(const Shape& shape, DType dtype) {
    const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
    return make_tensor(engine_.arena->reserve(num_bytes), shape, dtype);
  }

  const Engine& engine() const { return engine_; }

 private:
  struct Names {
    std::string_view offer;
    std::string_view move;
  };

  /// Where this rank's rows are, and what keeps them there.
  struct Own {
    Tensor x;
    const std::byte* data = nullptr;
    ArenaAddress address;
    Arena::Block staged;
  };

  /// Where everybody's rows are.
  struct Offers {
    std::vector<const std::byte*> x;  ///< [R], as this rank addresses them; null where there are no rows
    std::span<const Counts> counts;   ///< [R], what each rank passed
  };

  /// Rows that this rank wants of one source.
  struct Piece {
    std::int64_t first_row;
    std::int64_t num_rows;
  };

  template <typename Check, typename Receive>
  Tensor share(const Names& names, const Tensor& x, Counts counts, Check check, Receive receive) {
    try {
      ++sequence_number_;
      Own own;
      const ExchangeResult agreed = engine_.agreement.exchange({names.offer, sequence_number_}, [&] {
        check();
        own = offer(x.contiguous());
        ExchangeMessage message{.header = {}, .counts = counts};
        message.header[Field::kDType] = static_cast<std::int64_t>(x.dtype());
        message.header[Field::kHidden] = num_columns_of(x);
        message.header.x = own.address;
        return message;
      });
      Tensor result;
      engine_.agreement.conclude({names.move, sequence_number_},
                                 [&] { result = receive(find(agreed, own)); });
      return result;
    } catch (const TimeoutError&) {
      engine_.arena->abandon();  // who was given up may still read it
      throw;
    } catch (const TransportError&) {
      engine_.arena->abandon();
      throw;
    }
  }

  Own offer(const Tensor& x) {
    Own own{.x = x, .data = static_cast<const std::byte*>(x.data()), .address = {}, .staged = {}};
    const std::size_t num_bytes = x.num_bytes();
    if (num_bytes == 0) return own;
    if (const auto address = engine_.arena->locate(own.data, num_bytes)) {
      own.address = *address;
      return own;
    }
    own.staged = engine_.arena->reserve(num_bytes);
    engine_.backend->copy(own.staged.data(), own.data, num_bytes, width());
    own.address = own.staged.address();
    own.data = own.staged.data();
    return own;
  }

  Offers find(const ExchangeResult& agreed, const Own& own) {
    Offers offers{.x = {}, .counts = agreed.counts};
    for (int rank = 0; rank < engine_.num_ranks(); ++rank) {
      const auto r = static_cast<std::size_t>(rank);
      const bool is_empty = sum_of(agreed.counts[r]) == 0;
      const bool is_own = rank == engine_.rank();
      offers.x.push_back(is_empty ? nullptr
                         : is_own ? own.data
                                  : engine_.peers.resolve(rank, agreed.headers[r].x));
    }
    return offers;
  }

  // The pieces one after the other; copied from the next rank on, so that nobody is everyone's first.
  Tensor copy(const Tensor& x, std::span<const Piece> pieces, const Offers& offers) {
    const std::size_t row_bytes = static_cast<std::size_t>(num_columns_of(x)) * size_of(x.dtype());
    std::vector<std::size_t> begins{0};
    for (const Piece& piece : pieces)
      begins.push_back(begins.back() + static_cast<std::size_t>(piece.num_rows) * row_bytes);
    std::int64_t num_rows = 0;
    for (const Piece& piece : pieces) num_rows += piece.num_rows;
    Tensor result = empty(shape_with_rows(x, num_rows), x.dtype());
    auto* to = static_cast<std::byte*>(result.data());
    for (std::size_t i = 1; i <= pieces.size(); ++i) {
      const std::size_t r = (static_cast<std::size_t>(engine_.rank()) + i) % pieces.size();
      const std::size_t num_bytes = begins[r + 1] - begins[r];
      if (num_bytes == 0) continue;
      const std::byte* from = offers.x[r] + static_cast<std::size_t>(pieces[r].first_row) * row_bytes;
      engine_.backend->copy(to + begins[r], from, num_bytes, width());
    }
    return result;
  }

  void require_same_counts(const Offers& offers) const {
    std::vector<std::string> all;
    bool same = true;
    for (const Counts counts : offers.counts) {
      same = same && std::equal(counts.begin(), counts.end(), offers.counts[0].begin());
      all.push_back(fmt::format("[{}]", fmt::join(counts, ", ")));
    }
    if (same) return;
    const auto what =
        fmt::format("reduce_scatter: ranks disagree on num_rows_per_rank: {}", fmt::join(all, ", "));
    throw CollectiveMismatch("num_rows_per_rank", std::move(all), what);
  }

  Tensor sum(const Tensor& x, Counts counts, const Offers& offers) {
    const auto me = static_cast<std::size_t>(engine_.rank());
    const SendPlan plan = plan_of_sums(sum_of(counts.first(me)), counts[me], engine_.num_ranks());
    std::vector<PullSource> sources;
    for (const std::byte* rows : offers.x)
      sources.push_back({.x = rows, .topk_weights = nullptr, .is_per_token = true});
    Tensor result = empty(shape_with_rows(x, counts[me]), x.dtype());
    engine_.backend->pull({.plan = &plan,
                           .dtype = x.dtype(),
                           .num_columns = static_cast<std::size_t>(num_columns_of(x)),
                           .sources = sources,
                           .x = static_cast<std::byte*>(result.data())},
                          width());
    return result;
  }

  int width() const { return engine_.context.default_num_sms; }

  Engine engine_;
  std::uint64_t sequence_number_ = 0;
};

RowCollectives::RowCollectives(const Communicator& comm) : impl_(std::make_unique<Impl>(comm)) {}
RowCollectives::~RowCollectives() = default;
RowCollectives::RowCollectives(RowCollectives&&) noexcept = default;
RowCollectives& RowCollectives::operator=(RowCollectives&&) noexcept = default;

int RowCollectives::rank() const {
  return impl_->engine().rank();
}
int RowCollectives::num_ranks() const {
  return impl_->engine().num_ranks();
}
Tensor RowCollectives::empty(const Shape& shape, DType dtype) {
  return impl_->empty(shape, dtype);
}
Tensor RowCollectives::all_to_all(const Tensor& x, Counts num_rows_per_rank) {
  return impl_->all_to_all(x, num_rows_per_rank);
}
Tensor RowCollectives::all_gather(const Tensor& x) {
  return impl_->all_gather(x);
}
Tensor RowCollectives::reduce_scatter(const Tensor& x, Counts num_rows_per_rank) {
  return impl_->reduce_scatter(x, num_rows_per_rank);
}

}  // namespace flexep
