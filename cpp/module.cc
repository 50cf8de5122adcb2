// module.cc: the compiled code as Python sees it: the handlers by platform and name, and how they were built.
#include <nanobind/nanobind.h>

#include "handlers.h"
#include "simd.h"
#if defined(JAX_RNNT_CUDA)
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "../cuda/handlers.h"
#include "../cuda/lattice.h"
#endif

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

  const auto handlers = [] {
    nb::dict cpu;
    cpu["arcs_forward"] = Capsule(jax_rnnt::ArcsForwardHandler);
    cpu["arcs_backward"] = Capsule(jax_rnnt::ArcsBackwardHandler);
    cpu["lattice_cost"] = Capsule(jax_rnnt::LatticeCostHandler);
    cpu["lattice_posteriors"] = Capsule(jax_rnnt::LatticePosteriorsHandler);
    cpu["lattice_best_path"] = Capsule(jax_rnnt::LatticeBestPathHandler);
    nb::dict platforms;
    platforms["cpu"] = cpu;
#if defined(JAX_RNNT_CUDA)
    nb::dict cuda;
    cuda["arcs_forward"] = Capsule(jax_rnnt::cuda::CudaArcsForwardHandler);
    cuda["arcs_backward"] = Capsule(jax_rnnt::cuda::CudaArcsBackwardHandler);
    cuda["hidden_rows"] = Capsule(jax_rnnt::cuda::CudaHiddenRowsHandler);
    cuda["hidden_rows_backward"] = Capsule(jax_rnnt::cuda::CudaHiddenRowsBackwardHandler);
    cuda["lattice_cost"] = Capsule(jax_rnnt::cuda::CudaLatticeCostHandler);
    cuda["lattice_posteriors"] = Capsule(jax_rnnt::cuda::CudaLatticePosteriorsHandler);
    platforms["cuda"] = cuda;
#endif
    return platforms;
  };
  m.def("handlers", handlers, nb::sig("def handlers() -> dict[str, dict[str, object]]"),
        "Capsules of XLA's FFI, by platform and operation.");

  const auto traits = [] {
    nb::dict platforms;
    platforms["cpu"] = nb::list();
#if defined(JAX_RNNT_CUDA)
    nb::list cuda;
    cuda.append("in_place");
    cuda.append("workspace");
    platforms["cuda"] = cuda;
#endif
    return platforms;
  };
  m.def(
      "traits", traits, nb::sig("def traits() -> dict[str, list[str]]"),
      "What the kernels of a platform need from the custom call. in_place: results may overwrite the first operands.\n"
      "workspace: a further result to work in.");

#if defined(JAX_RNNT_CUDA)
  m.def("lattice_workspace", &jax_rnnt::cuda::WorkspaceRule, nb::arg("moves"), nb::arg("with_posteriors"),
        nb::arg("num_frames"), nb::arg("num_positions"),
        nb::sig("def lattice_workspace(moves: tuple[tuple[int, int], ...], with_posteriors: bool, "
                "num_frames: int, num_positions: int) -> tuple[int, int, int, int]"),
        "How many numbers an utterance's workspace has: of each node, diagonal and position, and the rest.");
#endif

  const auto build_info = [] {
    nb::dict info;
    info["simd"] = jax_rnnt::SimdLevel();
#if defined(JAX_RNNT_CUDA)
    nb::dict cuda;
    cuda["version"] = JAX_RNNT_CUDA_VERSION;
    cuda["architectures"] = JAX_RNNT_CUDA_ARCHITECTURES;
    info["cuda"] = cuda;
#endif
    return info;
  };
  m.def("build_info", build_info, nb::sig("def build_info() -> dict[str, object]"),
        "simd: the instruction set in use on this CPU; cuda: version of nvcc and architectures, where it was built.");
}
