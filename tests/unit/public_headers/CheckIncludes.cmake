# SPDX-License-Identifier: Apache-2.0
#
# cmake -DINCLUDE_DIR=<dir> -P CheckIncludes.cmake: fails for an #include in <dir> that is neither <name> without a dot or slash,
# as those of the standard library are, nor "flexep/...".

file(GLOB_RECURSE headers "${INCLUDE_DIR}/*.h")
# Those that meet CUDA, MPI and LibTorch.
list(REMOVE_ITEM headers "${INCLUDE_DIR}/flexep/cuda.h" "${INCLUDE_DIR}/flexep/mpi.h" "${INCLUDE_DIR}/flexep/torch.h"
  "${INCLUDE_DIR}/flexep/torch_cuda.h")
foreach(header IN LISTS headers)
  file(STRINGS "${header}" includes REGEX "^ *# *include")
  foreach(include IN LISTS includes)
    if(NOT include MATCHES "# *include (<[a-z_0-9]+>|\"flexep/[a-z_0-9/]+\\.h\")")
      message(SEND_ERROR "${header}: ${include}")
    endif()
  endforeach()
endforeach()
