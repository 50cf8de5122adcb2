// errors.h: the error that a CUDA handler returns if its kernel could not be started.
#pragma once

#include <string>

#include "../cpp/dispatch.h"
#include "launch.h"

namespace jax_rnnt::cuda {

inline ffi::Error TooLarge(const char* operation, const char* what, int64_t limit, int64_t got) {
  return ffi::Error::InvalidArgument(std::string(operation) + ": " + what + " may be at most " + std::to_string(limit) +
                                     " on CUDA, got " + std::to_string(got));
}

inline ffi::Error FromLaunch(const LaunchResult& result) {
  return result.empty() ? ffi::Error::Success() : ffi::Error::Internal(result);
}

}  // namespace jax_rnnt::cuda
