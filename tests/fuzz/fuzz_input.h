// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <string_view>

#include "flexep/error.h"

/// What a fuzz target is: a function of bytes that does not crash, hang or break a promise, whatever they
/// are.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace flexep::fuzz {

/// Makes decisions of bytes. When they have run out, every decision is the first choice.
class FuzzInput {
 public:
  FuzzInput(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  bool is_empty() const { return size_ == 0; }

  std::uint8_t byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  bool flag() { return (byte() & 1) != 0; }
  /// True for one byte in 16: for what should be seen, but not spoil most inputs.
  bool rarely() { return byte() >= 0xF0; }

  /// In [low, high], which are less than 256 apart.
  int in_range(int low, int high) { return low + byte() % (high - low + 1); }
  template <typename T>
  T one_of(std::initializer_list<T> choices) {
    return choices.begin()[byte() % choices.size()];
  }
  /// Any value; often one at which arithmetic breaks.
  template <typename T>
  T integer() {
    constexpr T kMin = std::numeric_limits<T>::min(), kMax = std::numeric_limits<T>::max();
    switch (byte() % 4) {
      case 0:
        return static_cast<T>(byte());
      case 1:
        return one_of<T>(
            {0, 1, static_cast<T>(-1), kMin, kMax, kMax / 2 + 1, 1 << 16, static_cast<T>(kMax - 1)});
      default:
        return bits<T>();
    }
  }
  /// Any bits, as a number.
  template <typename T>
  T bits() {
    unsigned char raw[sizeof(T)];
    for (unsigned char& each : raw) each = byte();
    T value;
    std::memcpy(&value, raw, sizeof(T));
    return value;
  }
  /// All bytes that are left.
  std::string_view rest() {
    const std::string_view text(reinterpret_cast<const char*>(data_), size_);
    size_ = 0;
    return text;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

/// Whether `call` accepts what it is given. It may refuse, but only with an exception of flexep's: another
/// one ends the program.
template <typename Call>
bool accepts(Call call) {
  try {
    call();
  } catch (const Error&) {
    return false;
  }
  return true;
}

/// Ends the program when a promise is broken.
inline void promise(bool holds) {
  if (!holds) __builtin_trap();
}

}  // namespace flexep::fuzz
