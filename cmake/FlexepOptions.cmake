# SPDX-License-Identifier: Apache-2.0
#
# flexep_options: what every target of this tree is compiled with. Not installed.

if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()
if(PROJECT_IS_TOP_LEVEL)
  find_program(FLEXEP_CCACHE ccache)
  if(FLEXEP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER "${FLEXEP_CCACHE}")
  endif()
endif()
# RelWithDebInfo keeps the symbols of Debug and the speed of Release.
string(REPLACE "-O2" "-O3" CMAKE_CXX_FLAGS_RELWITHDEBINFO "${CMAKE_CXX_FLAGS_RELWITHDEBINFO}")

add_library(flexep_options INTERFACE)
target_compile_features(flexep_options INTERFACE cxx_std_20)
# -ffp-contract=off: results are compared bit for bit, so a compiler may not fuse a multiply and an add where it likes.
target_compile_options(flexep_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wno-missing-field-initializers
  -ffp-contract=off -fno-omit-frame-pointer
  $<$<BOOL:${FLEXEP_WERROR}>:-Werror>>)
if(FLEXEP_SANITIZE)
  target_compile_options(flexep_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${FLEXEP_SANITIZE} -fno-sanitize-recover=all>)
  target_link_options(flexep_options INTERFACE -fsanitize=${FLEXEP_SANITIZE})
endif()
if(FLEXEP_BUILD_FUZZERS)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "FLEXEP_BUILD_FUZZERS needs clang (cmake --preset fuzz), not ${CMAKE_CXX_COMPILER_ID}")
  endif()
  # So that the fuzzer sees where its inputs lead.
  target_compile_options(flexep_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# flexep_public: the public headers, as code of this tree sees them.
add_library(flexep_public INTERFACE)
target_include_directories(flexep_public INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/include")
