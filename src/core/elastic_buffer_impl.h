// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "core/agreement.h"
#include "core/arena.h"
#include "core/peer_memory.h"
#include "core/requests.h"
#include "flexep/elastic_buffer.h"
#include "transport/transport.h"

namespace flexep {

/// Drives a backend over a transport: agree, plan, place, move, complete.
class ElasticBuffer::Impl {
 public:
  Impl(const Communicator& comm, const ElasticBufferConfig& config);

  DispatchResult dispatch(const DispatchArgs& args);
  CombineResult combine(const CombineArgs& args);

  int rank() const { return context_.rank; }
  int num_ranks() const { return context_.num_ranks; }
  const ElasticBufferConfig& config() const { return config_; }
  Arena& arena() { return *arena_; }
  const BufferCounters& counters() const { return counters_; }

 private:
  /// Rows that combine's peers may read: where they are, and the memory that holds them if they had to be
  /// staged.
  struct Offer {
    ArenaAddress address;
    Arena::Block staged;
    bool is_per_token = false;
    const std::byte* data = nullptr;
  };

  // dispatch.cc
  ExchangeMessage announce_dispatch(const DispatchRequest& request, const DispatchArgs& args,
                                    const Arena::Block& region, std::span<const std::int32_t> counts) const;
  std::shared_ptr<DispatchState> plan_dispatch(const DispatchRequest& request, const DispatchArgs& args,
                                               const ExchangeResult& agreed) const;
  std::vector<PushTarget> place_outputs(const DispatchRequest& request, const DispatchState& state,
                                        const ExchangeResult& agreed, Arena::Block& region);
  PushTarget target_in(const OutputFormat& format, const ReceiveSize& size, std::byte* region) const;
  void push_rows(const DispatchRequest& request, const DispatchArgs& args, const DispatchState& state,
                 const DispatchResult& result, const std::vector<PushTarget>& targets);
  DispatchResult make_outputs(const DispatchRequest& request, const DispatchState& state, Arena::Block region,
                              Tensor& metadata) const;

  // combine.cc
  Offer offer_rows(const CombineRequest& request, const CombineArgs& args);
  Offer offer_weights(const CombineRequest& request, const CombineArgs& args);
  ExchangeMessage announce_combine(const CombineRequest& request, const CombineArgs& args, const Offer& rows,
                                   const Offer& weights) const;
  std::vector<PullSource> find_sources(const CombineRequest& request, const DispatchState& state,
                                       const ExchangeResult& agreed, const Offer& rows, const Offer& weights);
  CombineResult pull_rows(const CombineRequest& request, const DispatchState& state,
                          const std::vector<PullSource>& sources);

  void count_rows(std::span<const std::int32_t> num_rows_per_rank, std::size_t row_bytes);

  ElasticBufferConfig config_;
  std::shared_ptr<Transport> transport_;
  std::unique_ptr<Backend> backend_;
  RankContext context_;
  std::int64_t id_ = 0;
  std::uint64_t sequence_number_ = 0;
  Agreement agreement_;
  std::shared_ptr<Arena> arena_;
  PeerMemory peers_;
  BufferCounters counters_;
};

}  // namespace flexep
