# SPDX-License-Identifier: Apache-2.0
#
# The layers of the CUDA backend. Included where FLEXEP_HAS_CUDA. A layer with .cu files LINKS CUDA::cudart_static.

flexep_layer(kernels/cuda
  SOURCES combine.cu dispatch.cu kernels.cu refusal.cu
  USES routing common
  LINKS CUDA::cudart_static)
