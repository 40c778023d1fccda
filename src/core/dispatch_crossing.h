// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "backend/backend.h"
#include "core/carried_waves.h"
#include "core/crossing_plan.h"
#include "routing/waves.h"
#include "transport/traffic.h"

namespace flexep {

/// The rows of one dispatch on one rank, across domains: it packs its own waves and sends them to its
/// partners, stores what it carries for others at the final places, and in between stores its own rows inside
/// the domain.
class DispatchCrossing final : public Traffic {
 public:
  struct Job {
    Backend* backend = nullptr;
    Messages* messages = nullptr;
    const Routes* routes = nullptr;
    const CrossingPlan* plan = nullptr;
    const SendPlan* send = nullptr;  ///< this rank's whole plan
    PushJob rows;                    ///< of all this rank's tokens; targets inside the domain; no plan
    OutputFormat format;
    Waves waves;
    std::byte* staging = nullptr;  ///< waves.num_bytes()
    int width = 1;
  };

  explicit DispatchCrossing(const Job& job);

  bool advance() override;
  bool is_done() const override;
  std::vector<int> awaited() const override;

 private:
  /// Room for one wave of this rank's, and the messages that it is in.
  struct Area {
    std::byte* memory;
    PlainTraffic messages;
  };
  /// Room for one message that this rank carries on.
  struct Slot {
    std::byte* memory;
    std::optional<std::size_t> wave;  ///< index in carried_waves_
    Messages::Ticket ticket = 0;
  };

  bool send_wave();
  void pack(Area& area, int begin, int end);
  SendPlan plan_packing(int begin, int end, std::vector<int>& num_tokens) const;
  bool expect_waves();
  void expect(Slot& slot, std::size_t index);
  bool carry_wave();
  void carry(const Slot& slot);
  bool store_within();
  PushJob rows_from(int begin, int end, const SendPlan& plan) const;

  Job job_;
  std::vector<int> partner_to_;
  std::vector<std::int32_t> all_tokens_;
  int num_tokens_sent_ = 0;
  int num_tokens_stored_ = 0;  ///< inside the domain
  std::vector<Area> areas_;
  std::vector<CarriedWave> carried_waves_;
  std::size_t num_waves_awaited_ = 0;
  std::size_t num_waves_carried_ = 0;
  std::vector<Slot> slots_;
};

}  // namespace flexep
