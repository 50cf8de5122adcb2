// module.cc: what Python sees of the compiled code: handlers by platform and name, and how they were built.
#include <nanobind/nanobind.h>

#include "handlers.h"
#include "simd.h"

namespace nb = nanobind;

namespace {

template <class T>
nb::capsule Capsule(T* handler) {
  static_assert(std::is_invocable_r_v<XLA_FFI_Error*, T, XLA_FFI_CallFrame*>, "an FFI handler is needed");
  return nb::capsule(reinterpret_cast<void*>(handler));
}

}  // namespace

NB_MODULE(_native, m) {
  m.attr("ffi_api_minor") = XLA_FFI_API_MINOR;
  m.def("handlers", [] {
    nb::dict cpu;
    cpu["arcs_forward"] = Capsule(jax_rnnt::ArcsForwardHandler);
    cpu["arcs_backward"] = Capsule(jax_rnnt::ArcsBackwardHandler);
    cpu["lattice_cost"] = Capsule(jax_rnnt::LatticeCostHandler);
    cpu["lattice_posteriors"] = Capsule(jax_rnnt::LatticePosteriorsHandler);
    nb::dict platforms;
    platforms["cpu"] = cpu;
    return platforms;
  });
  m.def("build_info", [] {
    nb::dict info;
    info["simd"] = jax_rnnt::SimdLevel();
    return info;
  });
}
