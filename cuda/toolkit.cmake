# toolkit.cmake: decides whether the CUDA kernels are built, with which compiler and for which GPUs.
#
# The compiler is, in this order: CMAKE_CUDA_COMPILER or CUDACXX, where given; nvcc on the path or in /usr/local/cuda;
# nvcc of the wheels nvidia-cuda-nvcc, nvidia-nvvm, nvidia-cuda-crt, nvidia-cuda-runtime and nvidia-cuda-cccl, where
# they are installed for this Python. Sets JAX_RNNT_HAS_CUDA and JAX_RNNT_CUDA_ARCHITECTURES.

set(JAX_RNNT_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO (for this machine's GPU, if it has one), ON or OFF")
set_property(CACHE JAX_RNNT_CUDA PROPERTY STRINGS AUTO ON OFF)
set(JAX_RNNT_CUDA_ARCHITECTURES "" CACHE STRING
    "GPU architectures, as in CMAKE_CUDA_ARCHITECTURES; empty: this machine's with AUTO, all with ON")
set(JAX_RNNT_HAS_CUDA OFF)

if(NOT JAX_RNNT_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "JAX_RNNT_CUDA must be AUTO, ON or OFF, got ${JAX_RNNT_CUDA}")
endif()
if(JAX_RNNT_CUDA STREQUAL "OFF")
  message(STATUS "CUDA kernels: not built, JAX_RNNT_CUDA is OFF")
  return()
endif()

# All architectures take minutes, which nobody needs on a machine without a GPU. Whoever names architectures wants them.
if(JAX_RNNT_CUDA STREQUAL "AUTO" AND NOT JAX_RNNT_CUDA_ARCHITECTURES)
  find_program(jax_rnnt_nvidia_smi nvidia-smi)
  if(jax_rnnt_nvidia_smi)
    execute_process(COMMAND "${jax_rnnt_nvidia_smi}" --query-gpu=compute_cap --format=csv,noheader
                    OUTPUT_VARIABLE jax_rnnt_gpus ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    string(REGEX MATCHALL "[0-9]+[.][0-9]+" jax_rnnt_gpus "${jax_rnnt_gpus}")
    list(REMOVE_DUPLICATES jax_rnnt_gpus)
  endif()
  if(NOT jax_rnnt_gpus)
    message(STATUS "CUDA kernels: not built, there is no GPU here; -Ccmake.define.JAX_RNNT_CUDA=ON builds them for all")
    return()
  endif()
  list(TRANSFORM jax_rnnt_gpus REPLACE "[.]" "")
  list(TRANSFORM jax_rnnt_gpus APPEND "-real" OUTPUT_VARIABLE JAX_RNNT_CUDA_ARCHITECTURES)
endif()

if(NOT CMAKE_CUDA_COMPILER AND DEFINED ENV{CUDACXX})
  set(CMAKE_CUDA_COMPILER "$ENV{CUDACXX}")
endif()
if(NOT CMAKE_CUDA_COMPILER)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
      "import glob, site, sys; paths = [p for s in [*site.getsitepackages(), *sys.path] for p in glob.glob(s + '/nvidia/cu*/bin/nvcc')]; print(paths[0] if paths else '')"
    OUTPUT_VARIABLE jax_rnnt_wheel_nvcc OUTPUT_STRIP_TRAILING_WHITESPACE)
  find_program(jax_rnnt_nvcc nvcc HINTS ENV CUDA_PATH PATH_SUFFIXES bin PATHS /usr/local/cuda)
  if(jax_rnnt_nvcc)
    set(CMAKE_CUDA_COMPILER "${jax_rnnt_nvcc}")
  elseif(jax_rnnt_wheel_nvcc)
    set(CMAKE_CUDA_COMPILER "${jax_rnnt_wheel_nvcc}")
  else()
    if(JAX_RNNT_CUDA STREQUAL "ON")
      message(FATAL_ERROR
        "JAX_RNNT_CUDA is ON, but there is no nvcc on the path, in $CUDA_PATH or in /usr/local/cuda. Install the CUDA "
        "toolkit, or pip install nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime nvidia-cuda-cccl "
        "and build with --no-build-isolation, or name a compiler with CUDACXX.")
    endif()
    message(STATUS "CUDA kernels: not built, no nvcc was found")
    return()
  endif()
endif()

# The compiler of the wheels looks for CUDA's libraries in lib64, and the wheels have them in lib; CMake looks for a
# libcudart.so, and there it has a version behind.
get_filename_component(jax_rnnt_cuda_root "${CMAKE_CUDA_COMPILER}" DIRECTORY)
get_filename_component(jax_rnnt_cuda_root "${jax_rnnt_cuda_root}" DIRECTORY)
if(NOT EXISTS "${jax_rnnt_cuda_root}/lib64" AND EXISTS "${jax_rnnt_cuda_root}/lib/libcudart_static.a")
  set(CMAKE_CUDA_FLAGS "${CMAKE_CUDA_FLAGS} -L${jax_rnnt_cuda_root}/lib")
  set(CUDAToolkit_ROOT "${jax_rnnt_cuda_root}")
  file(GLOB CUDA_CUDART "${jax_rnnt_cuda_root}/lib/libcudart.so.*")
endif()

# Any value will do for the check of the compiler; the real one needs its version.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80)
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

if(NOT JAX_RNNT_CUDA_ARCHITECTURES)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    set(JAX_RNNT_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real 100-real 120)
  elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 11.8)
    set(JAX_RNNT_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90)
  else()
    message(FATAL_ERROR "CUDA kernels need nvcc 11.8 or newer, got ${CMAKE_CUDA_COMPILER_VERSION}")
  endif()
endif()
set(JAX_RNNT_HAS_CUDA ON)
message(STATUS "CUDA kernels: built by ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION} "
               "for ${JAX_RNNT_CUDA_ARCHITECTURES}")
