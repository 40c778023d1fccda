// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

namespace flexep::moe {

/// The gradient of a loss with respect to a T: a value that has to be named.
///
/// It has no default, so a struct of gradients cannot be made without each of its members: a backward
/// function that forgets one of its results, or a caller that forgets one of its inputs, does not compile.
template <typename T>
class Gradient {
 public:
  Gradient(T value) : value_(std::move(value)) {}  // implicit: `{.hidden = tensor}` reads as it should
  operator const T&() const { return value_; }
  const T& value() const { return value_; }

 private:
  T value_;
};

}  // namespace flexep::moe
