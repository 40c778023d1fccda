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

/// The rows of one combine on one rank, across domains: it brings back what it carried for others, summed
/// first where the contract says so (stage S), and sums its own tokens, wave by wave, from the rows of its
/// own domain and from what its partners bring.
class CombineCrossing final : public Traffic {
 public:
  struct Job {
    Backend* backend = nullptr;
    Messages* messages = nullptr;
    const Routes* routes = nullptr;
    const CrossingPlan* plan = nullptr;
    PullJob rows;  ///< of all this rank's tokens, with its whole plan; sources inside the domain
    CombineFormat format;
    Waves waves;
    std::byte* staging = nullptr;  ///< waves.num_bytes()
    int width = 1;
  };

  explicit CombineCrossing(const Job& job);

  /// Whether every domain reduces a token's rows to one before they cross (stage S).
  static bool reduces_domains(const Routes& routes, bool allow_multiple_reduction) {
    return routes.is_hybrid && allow_multiple_reduction;
  }
  static CombineFormat format_of(const Routes& routes, const PullJob& rows);

  bool advance() override;
  bool is_done() const override;
  std::vector<int> awaited() const override;

  /// Rows that partners have brought.
  std::int64_t num_rows_received() const { return num_rows_received_; }

 private:
  /// What a partner brings for one wave.
  struct Part {
    int num_tokens = 0;
    int num_rows = 0;
    std::byte* memory = nullptr;
  };
  /// Room for one wave of this rank's tokens.
  struct Area {
    std::byte* memory;
    PlainTraffic messages;
    int begin = 0;  ///< tokens; none = the area is free
    int end = 0;
    std::vector<Part> parts;  ///< by partner
  };
  /// Room for one message that this rank brings back.
  struct Slot {
    std::byte* memory;
    PlainTraffic message;
  };

  // As a home.
  bool expect_waves();
  void expect(Area& area);
  bool sum_wave();
  void sum(const Area& area);
  SendPlan plan_sums(const Area& area) const;
  void name_domains(SendPlan& plan) const;
  void sum_domains(const Area& area, PullJob& sums);
  void sum_ranks(const Area& area, PullJob& sums);
  void gather_weights(const Area& area);
  std::vector<PullSource> sources_with(const Area& area) const;

  // As a carrier.
  bool bring_wave();
  void gather(Slot& slot, const CarriedWave& wave);
  SendPlan plan_rows(const SendPlan& carried) const;

  Job job_;
  std::vector<int> partner_to_;
  int num_tokens_begun_ = 0;
  std::int64_t num_rows_received_ = 0;
  std::vector<Area> areas_;
  std::vector<CarriedWave> carried_waves_;
  std::size_t num_waves_brought_ = 0;
  std::vector<Slot> slots_;
  std::byte* domain_sums_ = nullptr;  ///< [waves.num_tokens] rows
};

}  // namespace flexep
