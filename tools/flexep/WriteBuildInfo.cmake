# SPDX-License-Identifier: Apache-2.0
#
# cmake -DSOURCE_DIR=<dir> -DOUTPUT=<file> -P WriteBuildInfo.cmake: writes the commit of SOURCE_DIR to a header, when it changed.

cmake_minimum_required(VERSION 3.25)

set(commit "")
set(dirty false)
find_program(GIT git)
if(GIT AND EXISTS "${SOURCE_DIR}/.git")
  execute_process(COMMAND "${GIT}" -C "${SOURCE_DIR}" rev-parse --short=12 HEAD
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  execute_process(COMMAND "${GIT}" -C "${SOURCE_DIR}" --no-optional-locks status --porcelain --untracked-files=no
    OUTPUT_VARIABLE changes ERROR_QUIET)
  if(changes)
    set(dirty true)
  endif()
endif()
file(CONFIGURE OUTPUT "${OUTPUT}" CONTENT "#define FLEXEP_COMMIT \"@commit@\"\n#define FLEXEP_DIRTY @dirty@\n" @ONLY)
