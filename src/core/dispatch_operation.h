// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/dispatch_state.h"
#include "core/engine.h"
#include "routing/routing_counts.h"

namespace flexep {

/// One dispatch on one rank, from the exchange of counts to the arrival of the rows.
class DispatchOperation {
 public:
  /// Validates the arguments, and makes the outputs where their sizes do not depend on counts. What is wrong
  /// is not thrown here but by the phases below, which tell the other ranks.
  /// @param refusal  what is wrong already, if something is.
  DispatchOperation(Engine& engine, const DispatchArgs& args, std::uint64_t sequence_number,
                    const std::exception_ptr& refusal);

  /// Whether counts decide the sizes of the outputs, so that result() holds only after agree_and_place().
  bool needs_counts() const { return !args_.handle && request_.do_cpu_sync; }
  bool is_refused() const { return refusal_ != nullptr; }

  /// Agrees with the other ranks and plans every slot; result() holds from here on, its rows arrive later.
  void agree_and_place();
  /// Stores this rank's rows; returns when everybody's are here.
  void move();
  /// Both. Without host sync, an error that was not known when the dispatch was called is kept for the next
  /// call that waits for the host, and nothing has been routed.
  void run();

  const DispatchResult& result() const& { return result_; }
  /// After run().
  DispatchResult result() && { return std::move(result_); }

 private:
  /// Where this rank's output goes.
  struct Region {
    ArenaAddress address;
    std::byte* data = nullptr;
    std::size_t num_bytes = 0;
  };

  // Agree and plan.
  void start_handle();
  ExchangeResult agree();
  void check_weights() const;
  ExchangeMessage announce() const;
  CountSummary summarise(const ExchangeResult& agreed);
  ExchangeResult drop(const CountSummary& counts, std::span<const std::int32_t> limits);
  void plan(const ExchangeResult& agreed, const CountSummary& counts);
  void plan_slots(const CountSummary& counts);
  void plan_crossing();
  std::vector<ReceiveSize> output_sizes(const ExchangeResult& agreed, const CountSummary& counts) const;
  void keep_ids(DispatchState& state) const;
  void route_nothing();

  // Place.
  void reserve(Arena::Block block);
  std::size_t bytes_needed(const ReceiveSize& size) const;
  bool all_fit(const ExchangeResult& agreed) const;
  bool must_place(const ExchangeResult& agreed) const;
  ExchangeResult place(const ExchangeResult& agreed);
  void prepare_crossing();
  void find_targets(const ExchangeResult& agreed);
  void make_outputs();

  // Move.
  void push();
  PushJob own_rows();
  void cross();
  void meter_crossing();
  void zero_gaps() const;
  void complete();
  void add_stats() const;

  template <typename Step>
  void attempt(Step step);

  const DispatchState& state() const { return result_.handle.state(); }

  Engine& engine_;
  DispatchArgs args_;
  std::uint64_t sequence_number_;
  DispatchRequest request_;
  std::exception_ptr refusal_;                   ///< what the constructor found wrong
  std::vector<std::int32_t> num_routed_tokens_;  ///< [El], before drops; empty without
  std::optional<RoutingCounts> own_counts_;      ///< unless the dispatch is cached
  std::vector<SentTokens> sent_;           ///< across domains, as the counts that were agreed last have it
  std::vector<std::int32_t> num_carried_;  ///< [R], the same
  Tensor ids_;                             ///< int64 [T, K], contiguous; unless the dispatch is cached
  std::shared_ptr<DispatchState> fresh_state_;  ///< what result_.handle holds, unless the dispatch is cached
  Region region_;
  Arena::Block block_;          ///< of the region, until it is cut into tensors
  std::exception_ptr failure_;  ///< of a step between exchanges, which the next exchange tells the others
  std::vector<PushTarget> targets_;  ///< where this rank's rows go, and those that it carries
  Waves waves_;                      ///< of rows that cross domains
  std::byte* staging_ = nullptr;     ///< for them
  Tensor weights_;                   ///< contiguous
  DispatchResult result_;
};

}  // namespace flexep
