# SPDX-License-Identifier: Apache-2.0
#
# Layers: a source may include the headers of its own layer and of the layers that it names in USES, nothing else.
#
# Every layer gets an include root of its own, build/layers/<name>/, that holds one link <name> -> src/<name>. A header is
# spelled "routing/routing_plan.h", and that resolves only in targets which name the layer `routing`: a wrong include
# does not compile (tests/unit/layer_rule holds this). Links are private, so nothing is inherited.

# flexep_layer_headers(<name> [HEADERS <file>...])
# Declares the include root of the layer <name>, whose sources live in src/<name>. A layer whose folder holds the folders of other
# layers names its own HEADERS: only they are linked.
function(flexep_layer_headers name)
  cmake_parse_arguments(ARG "" "" "HEADERS" ${ARGN})
  string(REPLACE "/" "_" target "${name}")
  set(root "${FLEXEP_BINARY_DIR}/layers/${target}")
  set(links "${name}")
  if(ARG_HEADERS)
    if(IS_SYMLINK "${root}/${name}")
      file(REMOVE "${root}/${name}")
    endif()
    list(TRANSFORM ARG_HEADERS PREPEND "${name}/" OUTPUT_VARIABLE links)
  endif()
  foreach(link IN LISTS links)
    get_filename_component(parent "${root}/${link}" DIRECTORY)
    file(MAKE_DIRECTORY "${parent}")
    if(NOT EXISTS "${root}/${link}")
      file(CREATE_LINK "${FLEXEP_SOURCE_DIR}/src/${link}" "${root}/${link}" SYMBOLIC)
    endif()
  endforeach()
  add_library(flexep_${target}_headers INTERFACE)
  target_include_directories(flexep_${target}_headers INTERFACE "${root}")
endfunction()

# flexep_layer(<name> SOURCES <file>... [USES <layer>...] [LINKS <target>...])
# Compiles src/<name>/<file>... into the object library flexep_<name>. LINKS names external libraries.
function(flexep_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;USES;LINKS" ${ARGN})
  string(REPLACE "/" "_" target "${name}")
  if(NOT TARGET flexep_${target}_headers)
    flexep_layer_headers("${name}")
  endif()
  list(TRANSFORM ARG_SOURCES PREPEND "${FLEXEP_SOURCE_DIR}/src/${name}/")
  add_library(flexep_${target} OBJECT ${ARG_SOURCES})
  if(FLEXEP_HAS_CUDA)
    target_link_libraries(flexep_${target} PRIVATE flexep_cuda_options)
  endif()
  target_link_libraries(flexep_${target} PRIVATE flexep_options flexep_public flexep_${target}_headers ${ARG_LINKS})
  foreach(used IN LISTS ARG_USES)
    string(REPLACE "/" "_" used_target "${used}")
    target_link_libraries(flexep_${target} PRIVATE flexep_${used_target}_headers)
  endforeach()
  set_target_properties(flexep_${target} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  # With {fmt} as they do come its definitions.
  if(target STREQUAL "common")
    flexep_precompile(flexep_common ALL ${FLEXEP_PRECOMPILED})
  elseif("fmt::fmt" IN_LIST ARG_LINKS AND NOT FLEXEP_HAS_CUDA)
    flexep_reuse_precompiled(flexep_${target} ALL flexep_common)
  endif()
endfunction()
