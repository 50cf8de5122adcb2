// arcs_handlers.cc: passes XLA's buffers to the kernels of arcs.h. It chooses types and divides the rows; it computes
// nothing.
#include "arcs.h"
#include "arcs_operands.h"
#include "handlers.h"
#include "huge_pages.h"
#include "parallel.h"

namespace jax_rnnt {
namespace {

// The number of rows in a chunk of work. Chunks must be small, so that all threads end at about the same time. They
// must not be too small: nothing is prefetched for the first row of a chunk, so each chunk begins with a wait for
// memory.
int64_t Grain(const Rows& rows, size_t element, int64_t threads) {
  constexpr int64_t kChunksPerThread = 32, kLeastBytes = 64 << 10, kMostBytes = 1 << 20;
  const int64_t bytes = std::max<int64_t>(rows.shape.width * static_cast<int64_t>(element), 1);
  const int64_t even = rows.count / (kChunksPerThread * std::max<int64_t>(threads, 1));
  return std::max<int64_t>(1, std::clamp(even, kLeastBytes / bytes, kMostBytes / bytes));
}

ffi::Error ArcsForwardImpl(ffi::ThreadPool pool, ffi::AnyBuffer logits, ffi::AnyBuffer labels,
                           ffi::RemainingArgs optional, ffi::Result<ffi::AnyBuffer> log_probs,
                           ffi::Result<ffi::AnyBuffer> norms, ffi::Span<const int64_t> columns, int64_t vocabulary,
                           ffi::Span<const int64_t> window) {
  constexpr const char* kName = "arcs_forward";
  const Rows rows = RowsOf(logits, columns, vocabulary, window);
  if (auto e = CheckRows(kName, rows, labels, norms->element_count(), log_probs->element_count()); e.failure())
    return e;
  const auto offsets = Optional(kName, rows, optional, 0);
  if (!offsets.has_value()) return offsets.error();
  return DispatchFloating(kName, logits.element_type(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    using A = typename Compute<T>::Type;
    ForRanges(pool, rows.count, Grain(rows, sizeof(T), pool.num_threads()), [&](IndexRange range) {
      ArcsForward(rows.shape, Data<const T>(logits), Data<const int32_t>(labels), static_cast<const int32_t*>(*offsets),
                  Data<A>(*log_probs), Data<Norm<A>>(*norms), range.begin, range.end);
    });
    return ffi::Error::Success();
  });
}

ffi::Error ArcsBackwardImpl(ffi::ThreadPool pool, ffi::AnyBuffer logits, ffi::AnyBuffer labels, ffi::AnyBuffer norms,
                            ffi::AnyBuffer cotangent, ffi::RemainingArgs optional, ffi::Result<ffi::AnyBuffer> grad,
                            ffi::Span<const int64_t> columns, int64_t vocabulary, ffi::Span<const int64_t> window,
                            bool clipped) {
  constexpr const char* kName = "arcs_backward";
  const Rows rows = RowsOf(logits, columns, vocabulary, window);
  if (auto e = CheckRows(kName, rows, labels, norms.element_count(), cotangent.element_count()); e.failure()) return e;
  if (auto e = CheckCount(kName, "grad", logits.element_count(), grad->element_count()); e.failure()) return e;
  const auto bound = Optional(kName, rows, optional, clipped ? 0 : optional.size());
  if (!bound.has_value()) return bound.error();
  const auto offsets = Optional(kName, rows, optional, clipped ? 1 : 0);
  if (!offsets.has_value()) return offsets.error();
  AdviseHugePages(grad->untyped_data(), grad->size_bytes());
  return DispatchFloating(kName, logits.element_type(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    using A = typename Compute<T>::Type;
    ForRanges(pool, rows.count, Grain(rows, sizeof(T), pool.num_threads()), [&](IndexRange range) {
      ArcsBackward(rows.shape, Data<const T>(logits), Data<const int32_t>(labels),
                   static_cast<const int32_t*>(*offsets), Data<const Norm<A>>(norms), Data<const A>(cotangent),
                   static_cast<const A*>(*bound), Data<T>(*grad), range.begin, range.end);
    });
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(ArcsForwardHandler, ArcsForwardImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()  // logits [..., V]
                                  .Arg<ffi::AnyBuffer>()  // labels [...]
                                  .RemainingArgs()        // offsets [...], where the vocabulary is divided
                                  .Ret<ffi::AnyBuffer>()  // log_probs [..., K]
                                  .Ret<ffi::AnyBuffer>()  // norms [..., 2]
                                  .Attr<ffi::Span<const int64_t>>("columns")
                                  .Attr<int64_t>("vocabulary")
                                  .Attr<ffi::Span<const int64_t>>("window"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(ArcsBackwardHandler, ArcsBackwardImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()  // logits [..., V]
                                  .Arg<ffi::AnyBuffer>()  // labels [...]
                                  .Arg<ffi::AnyBuffer>()  // norms [..., 2]
                                  .Arg<ffi::AnyBuffer>()  // cotangent of log_probs [..., K]
                                  .RemainingArgs()        // bound [...], where clipped; then offsets [...]
                                  .Ret<ffi::AnyBuffer>()  // d logits [..., V]
                                  .Attr<ffi::Span<const int64_t>>("columns")
                                  .Attr<int64_t>("vocabulary")
                                  .Attr<ffi::Span<const int64_t>>("window")
                                  .Attr<bool>("clipped"));

}  // namespace jax_rnnt
