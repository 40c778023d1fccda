// SPDX-License-Identifier: Apache-2.0
#include "cuda_engine/nvtx_range.h"

#include <nvtx3/nvToolsExt.h>

namespace flexep::cuda {
namespace {

nvtxDomainHandle_t domain() {
  static const nvtxDomainHandle_t flexep = nvtxDomainCreateA("flexep");
  return flexep;
}

}  // namespace

NvtxRange::NvtxRange(const char* name) {
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name;
  nvtxDomainRangePushEx(domain(), &attributes);
}

NvtxRange::~NvtxRange() {
  nvtxDomainRangePop(domain());
}

}  // namespace flexep::cuda
