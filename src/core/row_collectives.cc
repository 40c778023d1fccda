// SPDX-License-Identifier: Apache-2.0
#include "flexep/row_collectives.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "common/check.h"
#include "core/engine.h"
#include "flexep/error.h"
#include "transport/traffic.h"

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

// Row t of every source is summed, in rank order.
SendPlan plan_of_sums(std::int32_t num_rows, int num_ranks) {
  SendPlan plan{.num_tokens = num_rows, .num_topk = num_ranks};
  for (std::int32_t row = 0; row < num_rows; ++row) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      plan.owner.push_back(rank);
      plan.token_slot.push_back(row);
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
    auto offers = share({"all_to_all", "all_to_all: rows"}, x, num_rows_per_rank, check, part_of_rank);
    return conclude(offers, [&] { return copy(x, offers); });
  }

  Tensor all_gather(const Tensor& x) {
    const auto num_rows = static_cast<std::int32_t>(x.defined() && x.num_dims() > 0 ? x.size(0) : 0);
    const auto check = [&] { check_rows(x); };
    auto offers = share({"all_gather", "all_gather: rows"}, x, Counts(&num_rows, 1), check, all_rows);
    return conclude(offers, [&] { return copy(x, offers); });
  }

  Tensor reduce_scatter(const Tensor& x, Counts num_rows_per_rank) {
    const auto check = [&] {
      check_counts(x, num_rows_per_rank, engine_.num_ranks());
      require_argument(is_summable(x.dtype()), "x", "x is {}, but reduce_scatter sums floating-point rows",
                       name_of(x.dtype()));
    };
    auto offers =
        share({"reduce_scatter", "reduce_scatter: rows", true}, x, num_rows_per_rank, check, part_of_rank);
    return conclude(offers, [&] { return sum(x, offers); });
  }

  Tensor empty(const Shape& shape, DType dtype) {
    const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
    return make_tensor(engine_.arena->reserve(num_bytes), shape, dtype);
  }

  const Engine& engine() const { return engine_; }

 private:
  struct Kind {
    std::string_view offer;
    std::string_view move;
    bool needs_same_counts = false;
  };

  /// Where this rank's rows are, and what keeps them there.
  struct Own {
    Tensor x;
    const std::byte* data = nullptr;
    ArenaAddress address;
    Arena::Block staged;
  };

  /// Rows of one rank that another one wants.
  struct Part {
    std::int64_t first_row;
    std::int64_t num_rows;
  };
  /// Of rank `from`, for rank `to`; by what each rank passed.
  using PartOf = Part (*)(std::span<const Counts> all, std::size_t from, std::size_t to);

  static Part part_of_rank(std::span<const Counts> all, std::size_t from, std::size_t to) {
    return {sum_of(all[from].first(to)), all[from][to]};
  }
  static Part all_rows(std::span<const Counts> all, std::size_t from, std::size_t) {
    return {0, all[from][0]};
  }

  /// What everybody has for this rank, and what keeps it there.
  struct Offers {
    Kind kind;
    Own own;
    ExchangeResult agreed;
    PartOf part_of = nullptr;
    std::size_t row_bytes = 0;
    std::vector<const std::byte*> x;     ///< [R], the first row, as this rank addresses it
    std::vector<std::int64_t> num_rows;  ///< [R]
    Arena::Block from_afar;              ///< rows of other domains
  };

  template <typename Check>
  Offers share(const Kind& kind, const Tensor& x, Counts counts, Check check, PartOf part_of) {
    return guarded([&] {
      ++sequence_number_;
      Offers offers{.kind = kind,
                    .own = {},
                    .agreed = {},
                    .part_of = part_of,
                    .row_bytes = 0,
                    .x = std::vector<const std::byte*>(static_cast<std::size_t>(engine_.num_ranks())),
                    .num_rows = {},
                    .from_afar = {}};
      offers.agreed = engine_.agreement.exchange({kind.offer, sequence_number_}, [&] {
        check();
        offers.own = offer(x.contiguous());
        ExchangeMessage message{.header = {}, .counts = counts};
        message.header[Field::kDType] = static_cast<std::int64_t>(x.dtype());
        message.header[Field::kHidden] = num_columns_of(x);
        message.header.x = offers.own.address;
        return message;
      });
      if (kind.needs_same_counts) require_same_counts(offers.agreed.counts);
      offers.row_bytes = row_bytes_of(x);
      for (std::size_t from = 0; from < offers.x.size(); ++from)
        offers.num_rows.push_back(part_of(offers.agreed.counts, from, rank()).num_rows);
      if (engine_.routes().cross_domains()) fetch_from_afar(offers);
      return offers;
    });
  }

  /// Runs `receive`, and returns its result once all ranks have read what they want.
  template <typename Receive>
  Tensor conclude(Offers& offers, Receive receive) {
    return guarded([&] {
      Tensor result;
      engine_.agreement.conclude({offers.kind.move, sequence_number_}, [&] {
        find_here(offers);
        result = receive();
      });
      return result;
    });
  }

  template <typename Work>
  auto guarded(Work work) {
    try {
      return work();
    } catch (const TimeoutError&) {
      engine_.arena->abandon();  // who was given up may still read it
      throw;
    } catch (const TransportError&) {
      engine_.arena->abandon();
      throw;
    }
  }

  std::size_t rank() const { return static_cast<std::size_t>(engine_.rank()); }
  static std::size_t row_bytes_of(const Tensor& x) {
    return static_cast<std::size_t>(num_columns_of(x)) * size_of(x.dtype());
  }
  bool is_here(std::size_t other) const { return engine_.routes().is_within(static_cast<int>(other)); }

  // Whole parts, as they are: who calls this has room for what it asks for.
  void fetch_from_afar(Offers& offers) {
    const std::size_t row_bytes = offers.row_bytes;
    std::size_t num_bytes = 0;
    for (std::size_t from = 0; from < offers.num_rows.size(); ++from) {
      if (!is_here(from)) num_bytes += static_cast<std::size_t>(offers.num_rows[from]) * row_bytes;
    }
    PlainTraffic traffic(engine_.transport->messages());
    run_or_break_up(engine_, [&] {
      offers.from_afar = engine_.arena->reserve(num_bytes);
      std::byte* room = offers.from_afar.data();
      for (std::size_t other = 0; other < offers.num_rows.size(); ++other) {
        if (is_here(other)) continue;
        const std::size_t part_bytes = static_cast<std::size_t>(offers.num_rows[other]) * row_bytes;
        if (part_bytes > 0) traffic.receive(static_cast<int>(other), {room, part_bytes});
        offers.x[other] = room;
        room += part_bytes;
        const Part wanted = offers.part_of(offers.agreed.counts, rank(), other);
        const std::byte* rows = offers.own.data + static_cast<std::size_t>(wanted.first_row) * row_bytes;
        if (wanted.num_rows > 0 && row_bytes > 0)
          traffic.send(static_cast<int>(other),
                       {rows, static_cast<std::size_t>(wanted.num_rows) * row_bytes});
      }
    });
    engine_.transport->settle(traffic, {offers.kind.move, sequence_number_});
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

  void find_here(Offers& offers) {
    for (std::size_t from = 0; from < offers.x.size(); ++from) {
      if (!is_here(from) || offers.num_rows[from] == 0) continue;
      const std::byte* rows =
          from == rank() ? offers.own.data
                         : engine_.peers.resolve(static_cast<int>(from), offers.agreed.headers[from].x);
      const Part part = offers.part_of(offers.agreed.counts, from, rank());
      offers.x[from] = rows + static_cast<std::size_t>(part.first_row) * offers.row_bytes;
    }
  }

  // The parts one after the other; copied from the next rank on, so that nobody is everyone's first.
  Tensor copy(const Tensor& x, const Offers& offers) {
    std::vector<std::size_t> begins{0};
    std::int64_t num_rows = 0;
    for (const std::int64_t part : offers.num_rows) {
      num_rows += part;
      begins.push_back(static_cast<std::size_t>(num_rows) * offers.row_bytes);
    }
    Tensor result = empty(shape_with_rows(x, num_rows), x.dtype());
    auto* to = static_cast<std::byte*>(result.data());
    for (std::size_t i = 1; i <= offers.x.size(); ++i) {
      const std::size_t r = (rank() + i) % offers.x.size();
      const std::size_t num_bytes = begins[r + 1] - begins[r];
      if (num_bytes > 0) engine_.backend->copy(to + begins[r], offers.x[r], num_bytes, width());
    }
    return result;
  }

  static void require_same_counts(std::span<const Counts> all) {
    std::vector<std::string> texts;
    bool same = true;
    for (const Counts counts : all) {
      same = same && std::ranges::equal(counts, all[0]);
      texts.push_back(fmt::format("[{}]", fmt::join(counts, ", ")));
    }
    if (same) return;
    const auto what =
        fmt::format("reduce_scatter: ranks disagree on num_rows_per_rank: {}", fmt::join(texts, ", "));
    throw CollectiveMismatch("num_rows_per_rank", std::move(texts), what);
  }

  Tensor sum(const Tensor& x, const Offers& offers) {
    const std::int64_t num_rows = offers.num_rows[rank()];
    const SendPlan plan = plan_of_sums(static_cast<std::int32_t>(num_rows), engine_.num_ranks());
    std::vector<PullSource> sources;
    for (const std::byte* rows : offers.x)
      sources.push_back({.x = rows, .topk_weights = nullptr, .is_per_token = true});
    Tensor result = empty(shape_with_rows(x, num_rows), x.dtype());
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
