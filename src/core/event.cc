// SPDX-License-Identifier: Apache-2.0
#include "flexep/event.h"

#include <chrono>

#include "common/check.h"

namespace flexep {
namespace {

class FutureMoment final : public Event::Moment {
 public:
  explicit FutureMoment(std::shared_future<void> future) : future_(std::move(future)) {}
  void wait() const override { future_.get(); }
  bool wait_for(std::chrono::nanoseconds longest) const override {
    if (future_.wait_for(longest) != std::future_status::ready) return false;
    future_.get();
    return true;
  }
  bool is_done() const override {
    return future_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }

 private:
  std::shared_future<void> future_;
};

}  // namespace

Event::Event(std::shared_future<void> moment) {
  if (moment.valid()) moment_ = std::make_shared<const FutureMoment>(std::move(moment));
}

void Event::wait() const {
  require_argument(moment_ != nullptr, "event",
                   "there is no event to wait for: the operation was not asynchronous");
  moment_->wait();
}

bool Event::wait_for(std::chrono::nanoseconds longest) const {
  require_argument(moment_ != nullptr, "event",
                   "there is no event to wait for: the operation was not asynchronous");
  return moment_->wait_for(longest);
}

bool Event::is_done() const {
  return moment_ && moment_->is_done();
}

}  // namespace flexep
