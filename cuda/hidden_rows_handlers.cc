// hidden_rows_handlers.cc: passes XLA's buffers to the kernels of hidden_rows.h. It checks shapes and chooses types.
#include "errors.h"
#include "handlers.h"
#include "hidden_rows.h"
#include "stream.h"

namespace jax_rnnt::cuda {
namespace {

constexpr size_t kVectorBytes = 16;

ffi::Error Wrong(const char* operation, const std::string& what) {
  return ffi::Error::InvalidArgument(std::string(operation) + ": " + what);
}

bool IsAligned(ffi::AnyBuffer buffer) { return reinterpret_cast<uintptr_t>(buffer.untyped_data()) % kVectorBytes == 0; }

// The shape, if the operands that both calls share fit together.
ffi::ErrorOr<HiddenShape> ShapeOf(const char* operation, ffi::AnyBuffer encoded, ffi::AnyBuffer predicted,
                                  ffi::AnyBuffer place, ffi::AnyBuffer seed, ffi::AnyBuffer hidden, int64_t activation,
                                  int64_t dropped) {
  const auto e = encoded.dimensions(), p = predicted.dimensions(), h = hidden.dimensions();
  if (e.size() != 3 || p.size() != 3 || h.size() != 2 || e[0] != p[0] || e[2] != p[2] || e[2] != h[1])
    return ffi::Unexpected(Wrong(operation, "encoded, predicted and rows must be [B, T, D], [B, P, D] and [N, D]"));
  if (predicted.element_type() != encoded.element_type() || hidden.element_type() != encoded.element_type())
    return ffi::Unexpected(Wrong(operation, "encoded, predicted and rows must have one element type"));
  if (place.element_type() != ffi::S32 || place.element_count() != static_cast<size_t>(h[0]))
    return ffi::Unexpected(Wrong(operation, "place must be S32, one for each row"));
  if (seed.element_type() != ffi::U32 || seed.element_count() != 2)
    return ffi::Unexpected(Wrong(operation, "seed must be U32[2]"));
  if (dropped < 0 || dropped >= kDropoutSteps)
    return ffi::Unexpected(Wrong(operation, "dropped must be in [0, " + std::to_string(kDropoutSteps) + ")"));
  const size_t bytes = encoded.element_count() == 0 ? 0 : encoded.size_bytes() / encoded.element_count() * e[2];
  if (bytes % kVectorBytes != 0 || !IsAligned(encoded) || !IsAligned(predicted) || !IsAligned(hidden))
    return ffi::Unexpected(Wrong(operation, "rows must be aligned to 16 bytes, and D fill whole vectors of 16 bytes"));
  const HiddenShape shape{
      e[0], e[1], p[1], e[2], h[0], static_cast<int32_t>(activation), static_cast<int32_t>(dropped)};
  if (shape.nodes() > INT32_MAX) return ffi::Unexpected(TooLarge(operation, "B T P", INT32_MAX, shape.nodes()));
  if (shape.rows > INT32_MAX) return ffi::Unexpected(TooLarge(operation, "N", INT32_MAX, shape.rows));
  return shape;
}

ffi::Error ForwardImpl(cudaStream_t stream, ffi::AnyBuffer encoded, ffi::AnyBuffer predicted, ffi::AnyBuffer place,
                       ffi::AnyBuffer seed, ffi::Result<ffi::AnyBuffer> hidden, int64_t activation, int64_t dropped) {
  constexpr const char* kName = "hidden_rows";
  const auto shape = ShapeOf(kName, encoded, predicted, place, seed, *hidden, activation, dropped);
  if (!shape.has_value()) return shape.error();
  return DispatchFloating(kName, encoded.element_type(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return FromLaunch(HiddenRows<T>(stream, *shape, Data<const T>(encoded), Data<const T>(predicted),
                                    Data<const int32_t>(place), Data<const uint32_t>(seed), Data<T>(*hidden)));
  });
}

ffi::Error BackwardImpl(cudaStream_t stream, ffi::AnyBuffer encoded_before, ffi::AnyBuffer predicted_before,
                        ffi::AnyBuffer d_hidden, ffi::AnyBuffer encoded, ffi::AnyBuffer predicted, ffi::AnyBuffer place,
                        ffi::AnyBuffer row, ffi::AnyBuffer seed, ffi::Result<ffi::AnyBuffer> of_encoded,
                        ffi::Result<ffi::AnyBuffer> of_predicted, int64_t activation, int64_t dropped) {
  constexpr const char* kName = "hidden_rows_backward";
  const auto shape = ShapeOf(kName, encoded, predicted, place, seed, d_hidden, activation, dropped);
  if (!shape.has_value()) return shape.error();
  const auto sum_type = encoded.element_type() == ffi::F64 ? ffi::F64 : ffi::F32;
  for (ffi::AnyBuffer sums : {encoded_before, predicted_before, *of_encoded, *of_predicted}) {
    if (sums.element_type() != sum_type) return Wrong(kName, "sums must be F32, or F64 for F64 rows");
  }
  for (auto [got, of] : {std::pair(encoded_before, encoded), std::pair(*of_encoded, encoded),
                         std::pair(predicted_before, predicted), std::pair(*of_predicted, predicted)}) {
    if (auto e = CheckCount(kName, "sums", of.element_count(), got.element_count()); e.failure()) return e;
  }
  if (row.element_type() != ffi::S32) return Wrong(kName, "row must be S32");
  if (auto e = CheckCount(kName, "row", static_cast<size_t>(shape->nodes()), row.element_count()); e.failure()) {
    return e;
  }
  return DispatchFloating(kName, encoded.element_type(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    using A = typename Compute<T>::Type;
    return FromLaunch(HiddenRowsBackward<T>(stream, *shape, Data<const T>(d_hidden), Data<const T>(encoded),
                                            Data<const T>(predicted), Data<const int32_t>(place),
                                            Data<const int32_t>(row), Data<const uint32_t>(seed),
                                            {Data<const A>(encoded_before), Data<const A>(predicted_before),
                                             Data<A>(*of_encoded), Data<A>(*of_predicted)}));
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CudaHiddenRowsHandler, ForwardImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<StreamContext>()
                                  .Arg<ffi::AnyBuffer>()  // encoded [B, T, D]
                                  .Arg<ffi::AnyBuffer>()  // predicted [B, P, D]
                                  .Arg<ffi::AnyBuffer>()  // place [N]
                                  .Arg<ffi::AnyBuffer>()  // seed [2]
                                  .Ret<ffi::AnyBuffer>()  // hidden [N, D]
                                  .Attr<int64_t>("activation")
                                  .Attr<int64_t>("dropped"),
                              {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(CudaHiddenRowsBackwardHandler, BackwardImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<StreamContext>()
                                  .Arg<ffi::AnyBuffer>()  // sums of encoded [B, T, D], before
                                  .Arg<ffi::AnyBuffer>()  // sums of predicted [B, P, D], before
                                  .Arg<ffi::AnyBuffer>()  // d hidden [N, D]
                                  .Arg<ffi::AnyBuffer>()  // encoded [B, T, D]
                                  .Arg<ffi::AnyBuffer>()  // predicted [B, P, D]
                                  .Arg<ffi::AnyBuffer>()  // place [N]
                                  .Arg<ffi::AnyBuffer>()  // row [B, T, P]
                                  .Arg<ffi::AnyBuffer>()  // seed [2]
                                  .Ret<ffi::AnyBuffer>()  // sums of encoded, which may be those before
                                  .Ret<ffi::AnyBuffer>()  // sums of predicted, which may be those before
                                  .Attr<int64_t>("activation")
                                  .Attr<int64_t>("dropped"),
                              {ffi::Traits::kCmdBufferCompatible});

}  // namespace jax_rnnt::cuda
