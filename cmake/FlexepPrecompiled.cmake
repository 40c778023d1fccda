# SPDX-License-Identifier: Apache-2.0
#
# Headers that are parsed once for many files: half of what a test takes to compile, without optimisation more. test.sh asks for it.
# Not the default: with ccache, which is then of no use, a second build is faster still. And a file that forgets an include
# shall not compile: test.sh leaves the library in its first build without.

set(FLEXEP_PRECOMPILE_HEADERS OFF CACHE STRING "Precompile headers: of TESTS, ALL, or OFF")
set_property(CACHE FLEXEP_PRECOMPILE_HEADERS PROPERTY STRINGS OFF TESTS ALL)

set(FLEXEP_PRECOMPILED <algorithm> <atomic> <chrono> <cstring> <functional> <memory> <mutex> <optional> <span> <string> <thread>
  <vector> <fmt/format.h> <flexep/flexep.h>)

# flexep_precompile(<target> <TESTS|ALL> <header>...): for this target, where that is asked for.
function(flexep_precompile target scope)
  if(FLEXEP_PRECOMPILE_HEADERS STREQUAL "ALL" OR FLEXEP_PRECOMPILE_HEADERS STREQUAL scope)
    target_precompile_headers(${target} PRIVATE ${ARGN})
  endif()
endfunction()

# flexep_reuse_precompiled(<target> <TESTS|ALL> <other>): what was precompiled for <other>, whose options are those of <target>.
function(flexep_reuse_precompiled target scope other)
  if(FLEXEP_PRECOMPILE_HEADERS STREQUAL "ALL" OR FLEXEP_PRECOMPILE_HEADERS STREQUAL scope)
    target_precompile_headers(${target} REUSE_FROM ${other})
  endif()
endfunction()
