// SPDX-License-Identifier: Apache-2.0
//
// JSON to MoeConfig: what is accepted is written and read back as the same, and its questions have answers.
#include "flexep/moe/moe_config.h"
#include "fuzz_input.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using flexep::moe::MoeConfig;
  flexep::fuzz::FuzzInput input(data, size);
  MoeConfig config;
  if (!flexep::fuzz::accepts([&] { config = MoeConfig::from_json(input.rest()); })) return 0;
  flexep::fuzz::promise(MoeConfig::from_json(config.to_json()) == config);
  flexep::fuzz::accepts([&] { config.validate(); });
  return 0;
}
