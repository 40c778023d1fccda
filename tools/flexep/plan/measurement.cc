// SPDX-License-Identifier: Apache-2.0
#include "plan/measurement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "errors.h"

namespace flexep::tool {
namespace {

using Json = nlohmann::json;

bool can_calibrate(const Json& result) {
  const std::string op = result.at("op");
  const bool is_known = op == "dispatch" || op == "cached_dispatch" || op == "combine";
  return is_known && result.at("device") == "cpu" &&
         (result.at("transport") == "shm" || result.at("transport") == "mpi") &&
         result.at("routing") == "uniform" && result.at("input") == "arena";
}

/// "AMD EPYC, 2 cores": 2.
int cores_of(const std::string& machine) {
  const auto comma = machine.rfind(", ");
  int num_cores = 0;
  if (comma == std::string::npos || std::sscanf(machine.c_str() + comma, ", %d cores", &num_cores) != 1 ||
      num_cores < 1) {
    throw std::invalid_argument(machine);
  }
  return num_cores;
}

DType type_named(const std::string& name) {
  for (const DType type : kAllDTypes)
    if (name == name_of(type)) return type;
  throw std::invalid_argument(name);
}

Measurement measurement_of(const Json& result, int num_cores) {
  const int num_domains = result.value("num_domains", 1);
  Measurement measured{
      .op = result.at("op"),
      .variant = {.do_expand = result.at("layout") == "expanded"},
      .inputs = {.num_scaleout_ranks = num_domains,
                 .num_scaleup_ranks = result.at("num_ranks").get<int>() / std::max(1, num_domains),
                 .num_experts = result.at("num_experts"),
                 .num_topk = result.at("num_topk"),
                 .num_tokens = result.at("num_tokens"),
                 .hidden = result.at("hidden"),
                 .dtype = type_named(result.at("dtype")),
                 .machine = {.plays_domains = true}},
      .num_cores = num_cores,
      .least_us = result.at("min_us")};
  measured.variant.is_hybrid = num_domains > 1 && result.at("mode") == "hybrid";
  if (measured.op == "combine") measured.variant.operation = Operation::kCombine;
  const PlanInputs& in = measured.inputs;
  if (in.num_scaleout_ranks < 1 || in.num_scaleup_ranks < 1 || in.num_experts % in.num_ranks() != 0 ||
      in.num_topk < 1 || in.num_topk > in.num_experts || in.num_tokens < 0 || !(measured.least_us > 0)) {
    throw std::invalid_argument(measured.name());
  }
  return measured;
}

void read_file(const std::string& file, std::map<std::string, std::vector<Measurement>>& by_name) {
  std::ifstream stream(file);
  const Json run = Json::parse(stream);
  const int num_cores = cores_of(run.at("machine"));
  for (const Json& result : run.at("results")) {
    if (!can_calibrate(result)) continue;
    Measurement measured = measurement_of(result, num_cores);
    // Without rows there is nothing to predict.
    if (measured.inputs.num_tokens == 0) continue;
    by_name[measured.name()].push_back(std::move(measured));
  }
}

}  // namespace

std::string Measurement::name() const {
  return fmt::format("{}, {}, {}, {}x{} ranks, {} tokens, hidden {}, {}, top-{} of {}", op,
                     variant.layout_name(), variant.mode_name(), inputs.num_scaleout_ranks,
                     inputs.num_scaleup_ranks, inputs.num_tokens, inputs.hidden, name_of(inputs.dtype),
                     inputs.num_topk, inputs.num_experts);
}

std::vector<Measurement> read_measurements(const std::vector<std::string>& files) {
  std::map<std::string, std::vector<Measurement>> by_name;
  for (const std::string& file : files) {
    try {
      read_file(file, by_name);
    } catch (const std::exception&) {
      // Of the parser, of a field that is missing or of another type, of a value that makes no sense.
      throw UsageError(fmt::format("--calibrate {}: not a file of results that flexep bench wrote", file));
    }
  }
  std::vector<Measurement> measurements;
  for (auto& [name, repeated] : by_name) {
    measurements.push_back(*std::ranges::min_element(repeated, {}, &Measurement::least_us));
  }
  return measurements;
}

}  // namespace flexep::tool
