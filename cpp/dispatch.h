// dispatch.h: maps the element type of a buffer to the C++ type, and turns failed checks of shapes into FFI errors.
#pragma once

#include <cstdint>
#include <string>

#include "float16.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt {

namespace ffi = xla::ffi;

template <class T>
struct Tag {
  using Type = T;
};

// Calls f(Tag<T>{}) for the storage type of a floating element type.
template <class F>
ffi::Error DispatchFloating(const char* operation, ffi::DataType type, const F& f) {
  switch (type) {
    case ffi::F32:
      return f(Tag<float>{});
    case ffi::F64:
      return f(Tag<double>{});
    case ffi::F16:
      return f(Tag<Half>{});
    case ffi::BF16:
      return f(Tag<BFloat16>{});
    default:
      return ffi::Error::InvalidArgument(std::string(operation) + ": element type must be F16, BF16, F32 or F64");
  }
}

// The product of dimensions [begin, end).
inline int64_t Product(ffi::AnyBuffer::Dimensions dimensions, size_t begin, size_t end) {
  int64_t size = 1;
  for (size_t i = begin; i < end; ++i) size *= dimensions[i];
  return size;
}

inline ffi::Error CheckCount(const char* operation, const char* what, size_t expected, size_t got) {
  if (expected == got) return ffi::Error::Success();
  return ffi::Error::InvalidArgument(std::string(operation) + ": " + what + " must have " + std::to_string(expected) +
                                     " elements, got " + std::to_string(got));
}

template <class T>
T* Data(ffi::AnyBuffer& buffer) {
  return static_cast<T*>(buffer.untyped_data());
}

}  // namespace jax_rnnt
