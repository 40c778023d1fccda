// SPDX-License-Identifier: Apache-2.0
#include "bench/alltoallv_baseline.h"

#include <mpi.h>

#include <exception>
#include <numeric>

#include "bench/memory_floor.h"
#include "common/thread_pool.h"
#include "kernels/cpu/reduce_rows.h"
#include "kernels/cpu/scatter_rows.h"

namespace flexep::tool {
namespace {

constexpr std::int64_t kTokensPerPiece = 32;

/// MPI between its start and its end, where nobody else sees to these. After a failure it is not ended in
/// order, so that mpirun ends the other ranks.
class MpiSession {
 public:
  MpiSession() {
    int is_initialized = 0;
    MPI_Initialized(&is_initialized);
    is_own_ = is_initialized == 0;
    if (is_own_) MPI_Init(nullptr, nullptr);
  }
  ~MpiSession() {
    if (is_own_ && std::uncaught_exceptions() == 0) MPI_Finalize();
  }
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

 private:
  bool is_own_ = false;
};

/// Rows to or from each rank, as MPI_Alltoallv wants them: counted in rows.
struct RowCounts {
  explicit RowCounts(int num_ranks) : counts(static_cast<std::size_t>(num_ranks)), starts(counts.size()) {}
  void find_starts() { std::exclusive_scan(counts.begin(), counts.end(), starts.begin(), 0); }
  std::size_t num_rows() const { return static_cast<std::size_t>(starts.back() + counts.back()); }

  std::vector<int> counts;
  std::vector<int> starts;
};

}  // namespace

class AlltoallvBaseline::Impl {
 public:
  Impl(const BenchOptions& options, const Workload& workload, int rank, int num_threads)
      : shape_({options.num_tokens, options.hidden}),
        dtype_(options.element_type()),
        row_bytes_(options.row_bytes()),
        sent_rows_(options.num_ranks),
        received_rows_(options.num_ranks),
        combined_(Tensor::zeros(shape_, dtype_)),
        pool_(num_threads) {
    MPI_Type_contiguous(static_cast<int>(row_bytes_), MPI_BYTE, &row_type_);
    MPI_Type_commit(&row_type_);
    plan(workload, rank);
    const std::int64_t max_rows = shape_[0] * options.num_ranks;
    packed_ = Tensor::zeros({max_rows, shape_[1]}, dtype_);
    received_ = Tensor::zeros({max_rows, shape_[1]}, dtype_);
    find_places();
  }

  void dispatch(const Tensor& x) {
    const auto* rows = static_cast<const std::byte*>(x.data());
    pool_.parallel_for(shape_[0], kTokensPerPiece, [&](std::int64_t begin, std::int64_t end) {
      cpu::scatter_rows({.src = rows + static_cast<std::size_t>(begin) * row_bytes_,
                         .src_stride = row_bytes_,
                         .row_bytes = row_bytes_,
                         .dst_begin = offsets_of(place_begin_, begin, end),
                         .dsts = places_},
                        best_store_mode(packed_row_.size() * row_bytes_));
    });
    MPI_Alltoall(sent_rows_.counts.data(), 1, MPI_INT, received_rows_.counts.data(), 1, MPI_INT,
                 MPI_COMM_WORLD);
    received_rows_.find_starts();
    exchange(packed_, sent_rows_, received_, received_rows_);
  }

  void combine() {
    exchange(received_, received_rows_, packed_, sent_rows_);
    pool_.parallel_for(shape_[0], kTokensPerPiece, [&](std::int64_t begin, std::int64_t end) {
      cpu::reduce_rows(
          {.dtype = dtype_,
           .num_columns = static_cast<std::size_t>(shape_[1]),
           .group_begin = offsets_of(place_begin_, begin, end),
           .source_begin = term_begin_,
           .sources = places_,
           .out = static_cast<std::byte*>(combined_.data()) + static_cast<std::size_t>(begin) * row_bytes_},
          best_store_mode(packed_row_.size() * row_bytes_));
    });
  }

  Tensor received() const { return received_.rows(0, static_cast<std::int64_t>(received_rows_.num_rows())); }
  Tensor combined() const { return combined_; }

 private:
  static std::span<const std::int64_t> offsets_of(const std::vector<std::int64_t>& offsets,
                                                  std::int64_t begin, std::int64_t end) {
    return std::span(offsets).subspan(static_cast<std::size_t>(begin),
                                      static_cast<std::size_t>(end - begin + 1));
  }

  /// Which rows go to which rank, and the place of each among those that go there.
  void plan(const Workload& workload, int rank) {
    std::vector<std::vector<std::pair<int, int>>> slots(
        static_cast<std::size_t>(shape_[0]));  // (rank, index) of each token
    for (int destination = 0; destination < static_cast<int>(sent_rows_.counts.size()); ++destination) {
      for (const RowOrigin& origin : workload.received_once_by(destination)) {
        if (origin.src_rank != rank) continue;
        slots[static_cast<std::size_t>(origin.token)].emplace_back(
            destination, sent_rows_.counts[static_cast<std::size_t>(destination)]++);
      }
    }
    sent_rows_.find_starts();
    for (const auto& token_slots : slots) {
      for (const auto& [destination, index] : token_slots) {
        packed_row_.push_back(
            static_cast<std::size_t>(sent_rows_.starts[static_cast<std::size_t>(destination)] + index));
      }
      place_begin_.push_back(static_cast<std::int64_t>(packed_row_.size()));
    }
    term_begin_.resize(packed_row_.size() + 1);
    std::iota(term_begin_.begin(), term_begin_.end(), 0);
  }

  void find_places() {
    for (const std::size_t row : packed_row_)
      places_.push_back(static_cast<std::byte*>(packed_.data()) + row * row_bytes_);
  }

  void exchange(const Tensor& from, const RowCounts& sent, const Tensor& to, const RowCounts& received) {
    MPI_Alltoallv(from.data(), sent.counts.data(), sent.starts.data(), row_type_, to.data(),
                  received.counts.data(), received.starts.data(), row_type_, MPI_COMM_WORLD);
  }

  MpiSession session_;
  MPI_Datatype row_type_ = MPI_DATATYPE_NULL;
  Shape shape_;
  DType dtype_;
  std::size_t row_bytes_;
  RowCounts sent_rows_;
  RowCounts received_rows_;
  std::vector<std::int64_t> place_begin_{0};  ///< [T + 1]
  std::vector<std::size_t> packed_row_;       ///< by token, then destination
  std::vector<std::byte*> places_;            ///< the same, as addresses
  std::vector<std::int64_t> term_begin_;      ///< 0, 1, 2, ...: every term of a sum is a row alone
  Tensor packed_;
  Tensor received_;
  Tensor combined_;
  ThreadPool pool_;
};

bool AlltoallvBaseline::is_available() {
  return true;
}

AlltoallvBaseline::AlltoallvBaseline(const BenchOptions& options, const Workload& workload, int rank,
                                     int num_threads)
    : impl_(std::make_unique<Impl>(options, workload, rank, num_threads)) {}
AlltoallvBaseline::~AlltoallvBaseline() = default;

void AlltoallvBaseline::dispatch(const Tensor& x) {
  impl_->dispatch(x);
}
void AlltoallvBaseline::combine() {
  impl_->combine();
}
Tensor AlltoallvBaseline::received() const {
  return impl_->received();
}
Tensor AlltoallvBaseline::combined() const {
  return impl_->combined();
}

}  // namespace flexep::tool
