// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "errors.h"
#include "plan/calibration.h"
#include "plan/least_squares.h"
#include "plan/machine_file.h"
#include "plan/prediction.h"

namespace flexep::tool {
namespace {

class TemporaryFile {
 public:
  TemporaryFile()
      : path_(std::filesystem::temp_directory_path() / ("flexep_plan_" + std::to_string(getpid()))) {}
  ~TemporaryFile() { std::filesystem::remove(path_); }
  void write(const std::string& text) const { std::ofstream(path_) << text; }
  std::string name() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

/// What a machine with these costs would have measured.
nlohmann::json measured_run(const HostCosts& costs) {
  nlohmann::json results = nlohmann::json::array();
  for (const char* op : {"dispatch", "cached_dispatch", "combine"}) {
    for (const int num_ranks : {2, 3, 4}) {
      for (const int num_tokens : {64, 256, 1024, 2048}) {
        for (const int num_domains : {1, num_ranks}) {
          const int hidden = num_tokens == 256 ? 7168 : 2048;
          PlanInputs inputs{.num_scaleout_ranks = num_domains,
                            .num_scaleup_ranks = num_ranks / num_domains,
                            .num_experts = 96,
                            .num_tokens = num_tokens,
                            .hidden = hidden,
                            .machine = {.link_gbs = INFINITY,
                                        .net_gbs = INFINITY,
                                        .link_us = 0,
                                        .net_us = 0,
                                        .message_us = 0,
                                        .plays_domains = true,
                                        .dispatch = costs,
                                        .combine = costs}};
          const bool is_combine = op == std::string("combine");
          const Variant variant{.operation = is_combine ? Operation::kCombine : Operation::kDispatch,
                                .is_hybrid = num_domains > 1};
          const double us = predict(inputs, variant, uniform_load(inputs, variant).mean).total_us();
          results.push_back({{"op", op},
                             {"device", "cpu"},
                             {"transport", num_domains > 1 ? "mpi" : "shm"},
                             {"mode", num_domains > 1 ? "hybrid" : "direct"},
                             {"routing", "uniform"},
                             {"input", "arena"},
                             {"layout", "compact"},
                             {"num_ranks", num_ranks},
                             {"num_domains", num_domains},
                             {"num_tokens", num_tokens},
                             {"hidden", hidden},
                             {"num_topk", 8},
                             {"num_experts", 96},
                             {"dtype", "bf16"},
                             {"min_us", us}});
        }
      }
    }
  }
  return {{"machine", "Some processor, 2 cores"}, {"results", results}};
}

HostCosts some_costs() {
  return {.operation_us = 20,
          .rank_us = 7,
          .pair_ns = 30,
          .memory_gbs = 25,
          .cache_gbs = 50,
          .cache_bytes = 16 * 1024 * 1024,
          .domains_us = 60,
          .crossing_gbs = 8,
          .is_shared = true,
          .num_cores = 2};
}

TEST(LeastSquaresTest, FindsCoefficientsThatExplainAll) {
  std::vector<Equation> equations;
  for (int x = 1; x < 10; ++x)
    equations.push_back({{1, double(x), double(x * x), 0}, 3 + 2.0 * x + 0.5 * x * x});
  const auto found = fit_non_negative(equations, 4);
  EXPECT_NEAR(found[0], 3, 1e-3);
  EXPECT_NEAR(found[1], 2, 1e-3);
  EXPECT_NEAR(found[2], 0.5, 1e-3);
  EXPECT_EQ(found[3], 0);
}

TEST(LeastSquaresTest, NoCoefficientIsNegative) {
  std::vector<Equation> equations;
  for (int x = 1; x < 6; ++x) equations.push_back({{1, double(x)}, 10 - double(x)});
  const auto found = fit_non_negative(equations, 2);
  EXPECT_GT(found[0], 0);
  EXPECT_EQ(found[1], 0);
}

TEST(CalibrationTest, PredictsTheHalfThatItHasNotSeen) {
  const TemporaryFile file;
  file.write(measured_run(some_costs()).dump());
  const Calibration calibration = calibrate(read_measurements({file.name()}));
  ASSERT_EQ(calibration.checked.size(), 3u * 24);
  EXPECT_EQ(std::ranges::count_if(calibration.checked, &Checked::is_fitted), 3 * 12);
  EXPECT_LT(std::abs(calibration.worst_error()), 0.05);
  EXPECT_EQ(calibration.fraction_within(0.2), 1);
  const HostCosts& costs = calibration.costs.at("dispatch");
  EXPECT_NEAR(costs.memory_gbs, 25, 2.5);
  EXPECT_NEAR(costs.domains_us, 60, 6);
  EXPECT_NEAR(costs.crossing_gbs, 8, 0.8);
}

TEST(CalibrationTest, ARepeatedMeasurementCountsWithItsLeast) {
  const TemporaryFile file;
  auto run = measured_run(some_costs());
  const auto once = run["results"];
  for (auto result : once) {
    result["min_us"] = result["min_us"].get<double>() * 100;
    run["results"].push_back(result);
  }
  file.write(run.dump());
  const Calibration calibration = calibrate(read_measurements({file.name()}));
  EXPECT_EQ(calibration.checked.size(), once.size());
  EXPECT_LT(std::abs(calibration.worst_error()), 0.05);
}

TEST(CalibrationTest, WhatItWritesIsAMachineToPlanFor) {
  const TemporaryFile file;
  file.write(measured_run(some_costs()).dump());
  const auto json = json_of(calibrate(read_measurements({file.name()})));
  file.write(json.dump());
  Machine machine;
  read_machine_file(file.name(), machine);
  EXPECT_TRUE(machine.dispatch.is_shared);
  EXPECT_EQ(machine.dispatch.num_cores, 2);
  EXPECT_EQ(machine.link_us, 0);
}

TEST(CalibrationTest, FilesOfSomethingElseAreRefusedByName) {
  const TemporaryFile file;
  for (const char* text : {"", "{", "[]", "{}", R"({"machine": "x", "results": []})",
                           R"({"machine": "x, 2 cores", "results": [{"op": "dispatch"}]})",
                           R"({"machine": "x, 2 cores", "results": 7})"}) {
    file.write(text);
    EXPECT_THROW(calibrate(read_measurements({file.name()})), UsageError) << text;
    Machine machine;
    EXPECT_THROW(read_machine_file(file.name(), machine), UsageError) << text;
  }
  EXPECT_THROW(read_measurements({"/no/such/file"}), UsageError);
}

}  // namespace
}  // namespace flexep::tool
