# SPDX-License-Identifier: Apache-2.0
#
# What `cmake --install` puts into a prefix: the public headers, the libraries, the command, and the package that
# find_package(flexep) reads.

if(NOT FLEXEP_INSTALL)
  return()
endif()
include(CMakePackageConfigHelpers)

set(FLEXEP_INSTALLED_LIBRARIES flexep)
set(FLEXEP_HEADERS_LEFT_OUT)
if(TARGET flexep_moe)
  list(APPEND FLEXEP_INSTALLED_LIBRARIES flexep_moe)
  set_target_properties(flexep_moe PROPERTIES EXPORT_NAME moe)
else()
  set(FLEXEP_HEADERS_LEFT_OUT PATTERN moe EXCLUDE)
endif()
set_target_properties(${FLEXEP_INSTALLED_LIBRARIES} PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} INSTALL_RPATH "$ORIGIN")
if(NOT FLEXEP_HAS_CUDA)
  list(APPEND FLEXEP_HEADERS_LEFT_OUT PATTERN cuda.h EXCLUDE)
endif()
install(TARGETS ${FLEXEP_INSTALLED_LIBRARIES} EXPORT flexepTargets)
if(FLEXEP_HAS_MPI)
  install(TARGETS flexep_mpi LIBRARY NAMELINK_SKIP)  # nobody links it: flexep loads it
else()
  list(APPEND FLEXEP_HEADERS_LEFT_OUT PATTERN mpi.h EXCLUDE)
endif()
install(DIRECTORY "${FLEXEP_SOURCE_DIR}/include/flexep" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  ${FLEXEP_HEADERS_LEFT_OUT})

if(FLEXEP_BUILD_TOOLS)
  set_target_properties(flexep_command PROPERTIES
    INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}" INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS flexep_command)
endif()

set(FLEXEP_INSTALL_CONFIGDIR "${CMAKE_INSTALL_LIBDIR}/cmake/flexep")
install(EXPORT flexepTargets NAMESPACE flexep:: DESTINATION "${FLEXEP_INSTALL_CONFIGDIR}")
configure_package_config_file(
  "${FLEXEP_SOURCE_DIR}/cmake/flexepConfig.cmake.in" "${FLEXEP_BINARY_DIR}/flexepConfig.cmake"
  INSTALL_DESTINATION "${FLEXEP_INSTALL_CONFIGDIR}")
write_basic_package_version_file(
  "${FLEXEP_BINARY_DIR}/flexepConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${FLEXEP_BINARY_DIR}/flexepConfig.cmake" "${FLEXEP_BINARY_DIR}/flexepConfigVersion.cmake"
  DESTINATION "${FLEXEP_INSTALL_CONFIGDIR}")
