// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moe_lm {

using Bytes = std::vector<std::uint8_t>;

/// A text in two parts: one to train on, one that is only ever measured.
struct Corpus {
  Bytes train;
  Bytes heldout;
};

/// The headers of the newest C++ standard library under /usr/include/c++, in sorted order.
/// @throws flexep::InvalidArgument when there is none.
std::vector<std::string> default_text_files();

/// Reads the files, one after the other, up to `max_bytes` in all. @throws flexep::InvalidArgument naming
/// what cannot be read.
Bytes read_text(const std::vector<std::string>& files, std::int64_t max_bytes);

/// Cuts the text into blocks of about 64 KiB and holds out the last sixteenth of each, so that both parts
/// hold all kinds of the text. @throws flexep::InvalidArgument for a text of less than 4 KiB.
Corpus split_text(const Bytes& text);

/// Bits per byte of the best code that knows only how frequent each byte is in `text`: the bar for a model to
/// clear.
double unigram_bits_per_byte(std::span<const std::uint8_t> text);

}  // namespace moe_lm
