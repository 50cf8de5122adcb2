// lattice_handlers.cc: passes XLA's buffers to the kernels of lattice.h. It checks limits and chooses types.
#include "../cpp/lattice_operands.h"
#include "errors.h"
#include "handlers.h"
#include "lattice.h"
#include "stream.h"

namespace jax_rnnt::cuda {
namespace {

ffi::Error CheckLimits(const char* operation, const LatticeShape& shape) {
  if (shape.num_arcs() > kMaxMoves) return TooLarge(operation, "the number of moves", kMaxMoves, shape.num_arcs());
  if (shape.span > kMaxStep) return TooLarge(operation, "a move", kMaxStep, shape.span);
  if (shape.num_frames > kMaxSide) return TooLarge(operation, "T", kMaxSide, shape.num_frames);
  if (shape.num_positions > kMaxSide) return TooLarge(operation, "U+1", kMaxSide, shape.num_positions);
  return ffi::Error::Success();
}

ffi::Error Dispatch(const char* operation, cudaStream_t stream, ffi::AnyBuffer arcs, ffi::AnyBuffer logit_lengths,
                    ffi::AnyBuffer target_lengths, ffi::AnyBuffer cost, ffi::AnyBuffer* posteriors,
                    ffi::AnyBuffer workspace, ffi::Span<const int64_t> moves) {
  LatticeShape shape;
  int64_t batch = 0;
  if (auto e = CheckLattice(operation, arcs, logit_lengths, target_lengths, cost, moves, shape, batch); e.failure())
    return e;
  if (auto e = CheckLimits(operation, shape); e.failure()) return e;
  const auto run = [&](auto tag) -> ffi::Error {
    using R = typename decltype(tag)::Type;
    const int64_t least =
        WorkspaceOf(shape.moves, posteriors != nullptr, shape.num_frames, shape.num_positions).For(shape);
    // A program that was lowered for all T and U + 1 may give more than these need.
    const auto given = static_cast<int64_t>(workspace.element_count());
    if (given < batch * least) {
      return ffi::Error::InvalidArgument(std::string(operation) + ": the workspace must have " +
                                         std::to_string(batch * least) + " numbers or more, got " +
                                         std::to_string(given));
    }
    const int64_t each = batch > 0 ? given / batch / 2 * 2 : 0;
    return FromLaunch(LatticeSums(stream, shape, batch, Data<const R>(arcs), Data<const int32_t>(logit_lengths),
                                  Data<const int32_t>(target_lengths), Data<R>(cost),
                                  posteriors == nullptr ? nullptr : Data<R>(*posteriors), Data<R>(workspace), each));
  };
  if (arcs.element_type() == ffi::F32) return run(Tag<float>{});
  if (arcs.element_type() == ffi::F64) return run(Tag<double>{});
  return ffi::Error::InvalidArgument(std::string(operation) + ": arcs must be F32 or F64");
}

ffi::Error CostImpl(cudaStream_t stream, ffi::AnyBuffer arcs, ffi::AnyBuffer logit_lengths,
                    ffi::AnyBuffer target_lengths, ffi::Result<ffi::AnyBuffer> cost,
                    ffi::Result<ffi::AnyBuffer> workspace, ffi::Span<const int64_t> moves) {
  return Dispatch("lattice_cost", stream, arcs, logit_lengths, target_lengths, *cost, nullptr, *workspace, moves);
}

ffi::Error PosteriorsImpl(cudaStream_t stream, ffi::AnyBuffer arcs, ffi::AnyBuffer logit_lengths,
                          ffi::AnyBuffer target_lengths, ffi::Result<ffi::AnyBuffer> cost,
                          ffi::Result<ffi::AnyBuffer> posteriors, ffi::Result<ffi::AnyBuffer> workspace,
                          ffi::Span<const int64_t> moves) {
  constexpr const char* kName = "lattice_posteriors";
  if (auto e = CheckPosteriors(kName, arcs, *posteriors, moves); e.failure()) return e;
  return Dispatch(kName, stream, arcs, logit_lengths, target_lengths, *cost, &*posteriors, *workspace, moves);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CudaLatticeCostHandler, CostImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<StreamContext>()
                                  .Arg<ffi::AnyBuffer>()  // arcs [..., T, U+1, K]
                                  .Arg<ffi::AnyBuffer>()  // logit_lengths [...]
                                  .Arg<ffi::AnyBuffer>()  // target_lengths [...]
                                  .Ret<ffi::AnyBuffer>()  // cost [...]
                                  .Ret<ffi::AnyBuffer>()  // workspace [..., each]
                                  .Attr<ffi::Span<const int64_t>>("moves"),
                              {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(CudaLatticePosteriorsHandler, PosteriorsImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<StreamContext>()
                                  .Arg<ffi::AnyBuffer>()  // arcs [..., T, U+1, K]
                                  .Arg<ffi::AnyBuffer>()  // logit_lengths [...]
                                  .Arg<ffi::AnyBuffer>()  // target_lengths [...]
                                  .Ret<ffi::AnyBuffer>()  // cost [...]
                                  .Ret<ffi::AnyBuffer>()  // posteriors [..., T, U+1, K]
                                  .Ret<ffi::AnyBuffer>()  // workspace [..., each]
                                  .Attr<ffi::Span<const int64_t>>("moves"),
                              {ffi::Traits::kCmdBufferCompatible});

}  // namespace jax_rnnt::cuda
