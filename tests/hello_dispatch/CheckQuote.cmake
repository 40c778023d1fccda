# SPDX-License-Identifier: Apache-2.0
#
# Fails unless the C++ block of README stands, letter for letter, in SOURCE.
# cmake -DREADME=<file> -DSOURCE=<file> -P CheckQuote.cmake

file(READ "${README}" readme)
file(READ "${SOURCE}" source)
string(REGEX MATCH "```cpp\n([^`]*)```" block "${readme}")
set(quote "${CMAKE_MATCH_1}")
string(FIND "${source}" "${quote}" position)
if(quote STREQUAL "" OR position EQUAL -1)
  message(FATAL_ERROR "${README} does not quote ${SOURCE}:\n${quote}")
endif()
