// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "conformance/expected_results.h"
#include "cuda/device_group.h"
#include "kernels/cuda/combine.h"
#include "kernels/cuda/dispatch.h"

namespace flexep::testing {

/// A conformance case, run by the kernels alone.
class CaseOnDevice {
 public:
  struct Options {
    int num_sms = 4;
    bool allow_bulk_copies = true;
  };

  CaseOnDevice(DeviceGroup& group, const conformance::CaseSpec& spec, const Options& options);

  /// Where combine's input lies: where others reach it, perhaps with sums for those across a link, or where
  /// the kernel has to stage it.
  enum class CombineInput { kInPlace, kInPlaceWithSums, kStaged };

  /// Dispatch, combine of each kind of input, cached dispatch; each held against the reference. @return the
  /// first difference.
  std::optional<std::string> run();
  /// The first of these alone.
  std::optional<std::string> run_dispatch() {
    return check_dispatch(expected_.received, expected_.inputs, false);
  }

  /// What a rank launches for its dispatch of the case's inputs.
  cuda::DispatchLaunch dispatch_launch(int rank);
  cuda::CombineLaunch combine_launch(int rank, CombineInput input);
  const conformance::ExpectedResults& expected() const { return expected_; }

  /// What memory holds where nothing has been written.
  static constexpr int kPoison = 0xA5;

 private:
  /// A dispatch's output on one rank.
  struct Region {
    OutputFormat format;
    std::byte* data = nullptr;
    std::size_t num_bytes = 0;
  };

  void clear();
  OutputFormat format_of(const reference::RankInput& input, bool is_cached) const;
  cuda::DispatchLaunch launch_of(int rank, const reference::RankInput& input, bool is_cached);
  void set_rows(cuda::DispatchLaunch& launch, const reference::RankInput& input, DeviceMemory& memory) const;
  void launch_dispatches(const std::vector<reference::RankInput>& inputs, bool is_cached);
  void place_input(int rank, CombineInput where, cuda::CombineLaunch& launch);

  std::optional<std::string> check_dispatch(const std::vector<reference::RankOutput>& expected,
                                            const std::vector<reference::RankInput>& inputs, bool is_cached);
  std::optional<std::string> check_output(int rank, const reference::RankOutput& expected,
                                          const reference::RankInput& input, bool is_cached);
  std::optional<std::string> check_plan(int rank, const reference::RankOutput& expected);
  std::optional<std::string> check_combine(CombineInput input);

  DeviceGroup& group_;
  const conformance::CaseSpec& spec_;
  Options options_;
  conformance::ExpectedResults expected_;
  int num_local_experts_;
  std::vector<Region> regions_;
  std::vector<std::byte*> plans_;
  std::vector<std::byte*> kept_ids_;
  std::vector<std::byte*> metadata_;  ///< of the fresh dispatch
};

}  // namespace flexep::testing
