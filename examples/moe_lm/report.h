// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "moe_lm/trainer.h"

namespace moe_lm {

/// One line for a person who watches.
std::string progress_line(const Progress& progress, const Options& options);

/// The last lines, for a person who comes back.
std::string summary(const TrainingResult& result, double unigram_bpb);

/// Replaces `options.json_file` by one JSON object, all at once; README.md describes its fields.
/// @throws std::system_error when the file cannot be written.
void write_json(const Options& options, const TrainingResult& result, double unigram_bpb);

}  // namespace moe_lm
