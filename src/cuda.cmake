# SPDX-License-Identifier: Apache-2.0
#
# The layers of the CUDA backend. Included where FLEXEP_HAS_CUDA. A layer with .cu files LINKS CUDA::cudart_static.

flexep_layer(kernels/cuda
  SOURCES cast.cu combine.cu dispatch.cu kernels.cu refusal.cu
  USES routing common
  LINKS CUDA::cudart_static)
flexep_layer(backend/cuda
  SOURCES boundary.cc capture.cc check_cuda.cc device_arena.cc device_range.cc device_registrations.cc driver_api.cc memory_board.cc
    peer_ranges.cc pinned_memory.cc rank_places.cc result_slots.cc segment_mappings.cc segment_table.cc shareable_memory.cc stream.cc survey_ranks.cc
  USES kernels/cuda transport routing common
  LINKS CUDA::cudart_static fmt::fmt Threads::Threads)
set(ranges_source no_nvtx_range.cc)
if(FLEXEP_NVTX)
  set(ranges_source nvtx_range.cc)
endif()
flexep_layer(cuda_engine
  SOURCES captured_reports.cc casts.cc combine.cc dense_copy.cc device_group.cc device_planned_engine.cc dispatch.cc flight.cc handle_state.cc
    operation.cc staged_device.cc verdict_errors.cc ${ranges_source}
  USES core backend/cuda kernels/cuda backend transport routing common
  LINKS CUDA::cudart_static fmt::fmt Threads::Threads)
if(FLEXEP_NVTX)
  target_link_libraries(flexep_cuda_engine PRIVATE CUDA::nvtx3)
endif()
