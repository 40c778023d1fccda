// SPDX-License-Identifier: Apache-2.0
//
// flexep's MPI calls. A shared library, compiled once for each MPI.
#include "transport/mpi/mpi_library.h"

#include <mpi.h>

#include <stdexcept>
#include <string_view>
#include <utility>

namespace flexep {
namespace {

std::string text_of(int error) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(error, text, &length);
  return {text, static_cast<std::size_t>(length)};
}

void require_success(int error, const char* function) {
  if (error != MPI_SUCCESS) throw std::runtime_error(std::string(function) + ": " + text_of(error));
}

class Request final : public MpiRequest {
 public:
  /// @param start  starts the message, unless MPI refuses it.
  template <typename Start>
  Request(std::size_t num_bytes, bool is_receive, Start start)
      : num_bytes_(num_bytes), is_receive_(is_receive), error_(start(&request_)) {}

  MpiProgress test() override {
    if (error_ != MPI_SUCCESS) return MpiProgress::kFailed;
    int is_done = 0;
    MPI_Status status;
    error_ = MPI_Test(&request_, &is_done, &status);
    if (error_ != MPI_SUCCESS) return is_truncated() ? MpiProgress::kOtherLength : MpiProgress::kFailed;
    if (is_done == 0) return MpiProgress::kUnderWay;
    return has_all_bytes(status) ? MpiProgress::kComplete : MpiProgress::kOtherLength;
  }

  void cancel() override {
    if (is_receive_ && request_ != MPI_REQUEST_NULL) MPI_Cancel(&request_);
  }

  std::string error() const override { return text_of(error_); }

 private:
  bool is_truncated() const {
    int error_class = MPI_SUCCESS;
    MPI_Error_class(error_, &error_class);
    return error_class == MPI_ERR_TRUNCATE;
  }

  bool has_all_bytes(const MPI_Status& status) const {
    if (!is_receive_) return true;
    int is_cancelled = 0;
    MPI_Test_cancelled(&status, &is_cancelled);
    int count = 0;
    MPI_Get_count(&status, MPI_BYTE, &count);
    return is_cancelled != 0 || static_cast<std::size_t>(count) == num_bytes_;
  }

  std::size_t num_bytes_;
  bool is_receive_;
  MPI_Request request_ = MPI_REQUEST_NULL;
  int error_;
};

class OwnCommunicator final : public MpiCommunicator {
 public:
  explicit OwnCommunicator(MPI_Comm parent) {
    require_success(MPI_Comm_dup(parent, &comm_), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &num_ranks_);
  }
  // The communicator stays: to free it is collective, which a rank that has lost others cannot be.

  int rank() const override { return rank_; }
  int num_ranks() const override { return num_ranks_; }

  int max_tag() const override {
    constexpr int kLeastOfTheStandard = 32767;
    void* value = nullptr;
    int is_set = 0;
    // Only MPI_COMM_WORLD has the attribute for certain.
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &value, &is_set);
    return is_set != 0 ? *static_cast<int*>(value) : kLeastOfTheStandard;
  }

  int first_rank_of_machine() override {
    MPI_Comm machine = MPI_COMM_NULL;
    require_success(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &machine),
                    "MPI_Comm_split_type");
    int first = rank_;
    const int error = MPI_Bcast(&first, 1, MPI_INT, 0, machine);
    MPI_Comm_free(&machine);
    require_success(error, "MPI_Bcast");
    return first;
  }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    const int count = static_cast<int>(mine.size());
    require_success(MPI_Allgather(mine.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, comm_),
                    "MPI_Allgather");
  }

  std::unique_ptr<MpiRequest> send(int rank, int tag, std::span<const std::byte> bytes) override {
    return std::make_unique<Request>(bytes.size(), false, [&](MPI_Request* request) {
      return MPI_Isend(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, rank, tag, comm_, request);
    });
  }

  std::unique_ptr<MpiRequest> receive(int rank, int tag, std::span<std::byte> bytes) override {
    return std::make_unique<Request>(bytes.size(), true, [&](MPI_Request* request) {
      return MPI_Irecv(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, rank, tag, comm_, request);
    });
  }

  bool take(int tag, std::span<std::byte> bytes) override {
    int has_come = 0;
    MPI_Message message = MPI_MESSAGE_NULL;
    if (MPI_Improbe(MPI_ANY_SOURCE, tag, comm_, &has_come, &message, MPI_STATUS_IGNORE) != MPI_SUCCESS ||
        has_come == 0) {
      return false;
    }
    // Short messages travel with their envelope: this one is here.
    return MPI_Mrecv(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, &message, MPI_STATUS_IGNORE) ==
           MPI_SUCCESS;
  }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int num_ranks_ = 1;
};

class Library final : public MpiLibrary {
 public:
  std::string description() const override {
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(text, &length);
    const std::string_view version(text, static_cast<std::size_t>(length));
    return std::string(version.substr(0, version.find_first_of(",\n")));
  }

  std::size_t handle_bytes() const override { return sizeof(MPI_Comm); }

  bool is_initialized() const override { return ask(MPI_Initialized); }
  bool is_finalized() const override { return ask(MPI_Finalized); }

  void initialize() override {
    int granted = MPI_THREAD_SINGLE;
    require_success(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &granted), "MPI_Init_thread");
  }
  void finalize() override { MPI_Finalize(); }

  MpiThreads threads() const override {
    int granted = MPI_THREAD_SINGLE;
    MPI_Query_thread(&granted);
    if (granted == MPI_THREAD_MULTIPLE) return MpiThreads::kAny;
    return granted == MPI_THREAD_SERIALIZED ? MpiThreads::kOneAtATime : MpiThreads::kMainThread;
  }
  bool is_main_thread() const override { return ask(MPI_Is_thread_main); }

  std::unique_ptr<MpiCommunicator> duplicate(const void* handle) override {
    const MPI_Comm parent = handle == nullptr ? MPI_COMM_WORLD : *static_cast<const MPI_Comm*>(handle);
    return std::make_unique<OwnCommunicator>(parent);
  }

 private:
  template <typename Question>
  static bool ask(Question question) {
    int answer = 0;
    question(&answer);
    return answer != 0;
  }
};

}  // namespace
}  // namespace flexep

extern "C" flexep::MpiLibrary* flexep_mpi_library() {
  static flexep::Library library;
  return &library;
}
