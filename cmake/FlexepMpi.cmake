# SPDX-License-Identifier: Apache-2.0
#
# Whether groups of several machines, over MPI, are built. Sets FLEXEP_HAS_MPI.

set(FLEXEP_WITH_MPI AUTO CACHE STRING "Build the transport over MPI: AUTO (where an MPI is found), ON or OFF")
set_property(CACHE FLEXEP_WITH_MPI PROPERTY STRINGS AUTO ON OFF)

set(FLEXEP_HAS_MPI OFF)
if(NOT FLEXEP_WITH_MPI STREQUAL "OFF")
  # CI builds everything: a package that is missing there shall not pass unnoticed.
  if(FLEXEP_WITH_MPI STREQUAL "ON" OR (DEFINED ENV{CI} AND NOT "$ENV{CI}" STREQUAL ""))
    find_package(MPI REQUIRED COMPONENTS CXX)
  else()
    find_package(MPI QUIET COMPONENTS CXX)
  endif()
  set(FLEXEP_HAS_MPI "${MPI_CXX_FOUND}")
endif()
message(STATUS "Transport over MPI: ${FLEXEP_HAS_MPI}")
