// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>

/// How the command `flexep` ends when it does not do what it was asked.
namespace flexep::tool {

/// Exit codes of the command.
enum ExitCode : int {
  kOk = 0,
  kFailed = 1,  ///< something failed or could not be verified
  kUsage = 2,
  kNotAvailable = 3,  ///< asked for something that this machine or this build does not have
};

/// A wrong option. what() is one sentence that names the option and its value.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Something that is not available here. what() is one sentence that says what, and why.
class NotAvailable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace flexep::tool
