# SPDX-License-Identifier: Apache-2.0
#
# cmake -DCUOBJDUMP=<program> "-DOBJECTS=<object>;..." -P CheckSignals.cmake
#
# Looks at the machine code of publish() and has_arrived() (src/kernels/cuda/ptx.cuh), which one GPU cannot test: its ranks
# share an L2. A store that publishes follows a system-wide barrier with no other store in between; a load that awaits is
# followed by the invalidation of the L1 before anything else is loaded. Words of messages, which carry all that they say, need
# neither; they are told apart by not being kept in the L1 (NA).

if(NOT CUOBJDUMP)
  message(STATUS "SKIPPED: there is no cuobjdump")
  return()
endif()

set(num_stores 0)
set(num_loads 0)
set(num_words 0)
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND "${CUOBJDUMP}" --dump-sass "${object}" OUTPUT_VARIABLE sass COMMAND_ERROR_IS_FATAL ANY)
  # Only what matters, one instruction a line: barriers, invalidations, loads and stores of memory that others see.
  string(REGEX MATCHALL "(MEMBAR[A-Z.]*|CCTL[A-Z.]*|(STG|LDG|ST|LD|RED|REDG|ATOMG|ATOM)[.][A-Z0-9.]*|UBLKCP[A-Z.]*)" instructions
    "${sass}")
  set(before "")
  foreach(instruction IN LISTS instructions)
    if(instruction MATCHES "[.]NA[.].*STRONG[.]SYS")
      math(EXPR num_words "${num_words} + 1")
    endif()
    if(before MATCHES "^LDG?[.].*STRONG[.]SYS" AND NOT before MATCHES "[.]NA[.]")
      math(EXPR num_loads "${num_loads} + 1")
      if(NOT instruction MATCHES "^CCTL[.]IVALL")
        message(FATAL_ERROR "${object}: ${before} is followed by ${instruction}, not by an invalidation of the L1")
      endif()
    endif()
    if(instruction MATCHES "^STG?[.].*STRONG[.]SYS" AND NOT instruction MATCHES "[.]NA[.]")
      math(EXPR num_stores "${num_stores} + 1")
      if(NOT before MATCHES "^MEMBAR[.](ALL|SC)[.]SYS")
        message(FATAL_ERROR "${object}: ${instruction} follows ${before}, not a system-wide barrier")
      endif()
    endif()
    set(before "${instruction}")
  endforeach()
endforeach()
set(found "${num_stores} publishing stores, ${num_loads} awaiting loads and ${num_words} words of messages")
if(num_stores EQUAL 0 OR num_loads EQUAL 0 OR num_words EQUAL 0)
  message(FATAL_ERROR "found ${found}: is this the right code?")
endif()
message(STATUS "${found} are ordered as they must be")
