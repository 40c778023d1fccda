# SPDX-License-Identifier: Apache-2.0
#
# Whether and how the CUDA backend is built. Sets FLEXEP_HAS_CUDA.

set(FLEXEP_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO (where nvcc is found), ON or OFF")
set_property(CACHE FLEXEP_CUDA PROPERTY STRINGS AUTO ON OFF)
set(FLEXEP_CUDA_ARCHITECTURES 90a CACHE STRING "GPU architectures to compile for, as CMAKE_CUDA_ARCHITECTURES")
option(FLEXEP_NVTX "Name the operations of the CUDA backend in the timelines of NVIDIA's profilers" OFF)
# CI compiles everything: a compiler that is missing there shall not pass unnoticed.
if(FLEXEP_CUDA STREQUAL "AUTO" AND DEFINED ENV{CI} AND NOT "$ENV{CI}" STREQUAL "")
  set(FLEXEP_CUDA_IS_REQUIRED ON)
else()
  set(FLEXEP_CUDA_IS_REQUIRED "${FLEXEP_CUDA}")
endif()

set(FLEXEP_HAS_CUDA OFF)
if(NOT FLEXEP_CUDA STREQUAL "OFF")
  set(CMAKE_CUDA_ARCHITECTURES "${FLEXEP_CUDA_ARCHITECTURES}")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit 12.8 REQUIRED)
    set(FLEXEP_HAS_CUDA ON)
  elseif(FLEXEP_CUDA_IS_REQUIRED STREQUAL "ON")
    message(FATAL_ERROR "FLEXEP_CUDA is ${FLEXEP_CUDA} (CI: '$ENV{CI}'), but there is no nvcc")
  endif()
endif()
message(STATUS "CUDA backend: ${FLEXEP_HAS_CUDA}")
if(NOT FLEXEP_HAS_CUDA)
  return()
endif()

if(FLEXEP_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${FLEXEP_CCACHE}")
endif()
string(REPLACE "-O2" "-O3" CMAKE_CUDA_FLAGS_RELWITHDEBINFO "${CMAKE_CUDA_FLAGS_RELWITHDEBINFO}")

# flexep_cuda_options: for device code, in place of flexep_options. --fmad=false is -ffp-contract=off. relaxed-constexpr: constexpr
# functions of the library (layouts, rounding) are device functions too. The standard is a flag because CMake 3.25 does not know
# it for nvcc.
add_library(flexep_cuda_options INTERFACE)
target_compile_options(flexep_cuda_options INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --fmad=false --expt-relaxed-constexpr -lineinfo
    -Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers,-fno-omit-frame-pointer
    $<$<BOOL:${FLEXEP_WERROR}>:--Werror=all-warnings -Xcompiler=-Werror>>)
