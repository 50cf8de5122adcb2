// arcs_handlers.cc: passes XLA's buffers to the kernels of arcs.h. It checks limits and chooses types.
#include "../cpp/arcs_operands.h"
#include "arcs.h"
#include "errors.h"
#include "handlers.h"
#include "stream.h"

namespace jax_rnnt::cuda {
namespace {

ffi::Error CheckLimits(const char* operation, const ArcsShape& shape) {
  if (shape.num_columns > kMaxColumns)
    return TooLarge(operation, "the number of columns", kMaxColumns, shape.num_columns);
  if (shape.width > kMaxWidth) return TooLarge(operation, "V", kMaxWidth, shape.width);
  if (shape.vocabulary > INT32_MAX) return TooLarge(operation, "the vocabulary", INT32_MAX, shape.vocabulary);
  return ffi::Error::Success();
}

ffi::Error ForwardImpl(cudaStream_t stream, ffi::AnyBuffer logits, ffi::AnyBuffer labels, ffi::RemainingArgs optional,
                       ffi::Result<ffi::AnyBuffer> log_probs, ffi::Result<ffi::AnyBuffer> norms,
                       ffi::Span<const int64_t> columns, int64_t vocabulary, ffi::Span<const int64_t> window) {
  constexpr const char* kName = "arcs_forward";
  const jax_rnnt::Rows rows = RowsOf(logits, columns, vocabulary, window);
  auto e = CheckRows(kName, rows, labels, norms->element_count(), log_probs->element_count());
  if (e.failure()) return e;
  if (e = CheckLimits(kName, rows.shape); e.failure()) return e;
  const auto offsets = Optional(kName, rows, optional, 0);
  if (!offsets.has_value()) return offsets.error();
  return DispatchFloating(kName, logits.element_type(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    using A = typename Compute<T>::Type;
    return FromLaunch(ArcsForward(stream, rows.shape, rows.count, Data<const T>(logits), Data<const int32_t>(labels),
                                  static_cast<const int32_t*>(*offsets), Data<A>(*log_probs), Data<Norm<A>>(*norms)));
  });
}

ffi::Error BackwardImpl(cudaStream_t stream, ffi::AnyBuffer logits, ffi::AnyBuffer labels, ffi::AnyBuffer norms,
                        ffi::AnyBuffer cotangent, ffi::RemainingArgs optional, ffi::Result<ffi::AnyBuffer> grad,
                        ffi::Span<const int64_t> columns, int64_t vocabulary, ffi::Span<const int64_t> window,
                        bool clipped) {
  constexpr const char* kName = "arcs_backward";
  const jax_rnnt::Rows rows = RowsOf(logits, columns, vocabulary, window);
  auto e = CheckRows(kName, rows, labels, norms.element_count(), cotangent.element_count());
  if (e.failure()) return e;
  if (e = CheckCount(kName, "grad", logits.element_count(), grad->element_count()); e.failure()) return e;
  if (e = CheckLimits(kName, rows.shape); e.failure()) return e;
  const auto bound = Optional(kName, rows, optional, clipped ? 0 : optional.size());
  if (!bound.has_value()) return bound.error();
  const auto offsets = Optional(kName, rows, optional, clipped ? 1 : 0);
  if (!offsets.has_value()) return offsets.error();
  return DispatchFloating(kName, logits.element_type(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    using A = typename Compute<T>::Type;
    return FromLaunch(ArcsBackward(stream, rows.shape, rows.count, Data<const T>(logits), Data<const int32_t>(labels),
                                   static_cast<const int32_t*>(*offsets), Data<const Norm<A>>(norms),
                                   Data<const A>(cotangent), static_cast<const A*>(*bound), Data<T>(*grad)));
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CudaArcsForwardHandler, ForwardImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<StreamContext>()
                                  .Arg<ffi::AnyBuffer>()  // logits [..., V]
                                  .Arg<ffi::AnyBuffer>()  // labels [...]
                                  .RemainingArgs()        // offsets [...], where the vocabulary is divided
                                  .Ret<ffi::AnyBuffer>()  // log_probs [..., K]
                                  .Ret<ffi::AnyBuffer>()  // norms [..., 2]
                                  .Attr<ffi::Span<const int64_t>>("columns")
                                  .Attr<int64_t>("vocabulary")
                                  .Attr<ffi::Span<const int64_t>>("window"),
                              {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(CudaArcsBackwardHandler, BackwardImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<StreamContext>()
                                  .Arg<ffi::AnyBuffer>()  // logits [..., V]
                                  .Arg<ffi::AnyBuffer>()  // labels [...]
                                  .Arg<ffi::AnyBuffer>()  // norms [..., 2]
                                  .Arg<ffi::AnyBuffer>()  // cotangent of log_probs [..., K]
                                  .RemainingArgs()        // bound [...], where clipped; then offsets [...]
                                  .Ret<ffi::AnyBuffer>()  // d logits [..., V], which may be logits
                                  .Attr<ffi::Span<const int64_t>>("columns")
                                  .Attr<int64_t>("vocabulary")
                                  .Attr<ffi::Span<const int64_t>>("window")
                                  .Attr<bool>("clipped"),
                              {ffi::Traits::kCmdBufferCompatible});

}  // namespace jax_rnnt::cuda
