// lattice_handlers.cc: XLA's buffers to the lattices of lattice.h; types and the split into tasks, no arithmetic.
#include <atomic>
#include <new>

#include "handlers.h"
#include "huge_pages.h"
#include "lattice.h"
#include "lattice_operands.h"
#include "parallel.h"

namespace jax_rnnt {
namespace {

constexpr int64_t kNodesWorthAThread = 4096;  // below this much work, waking another thread costs more than it gives
constexpr int64_t kUtterancesPerThread = 4;   // from here on, threads that take whole ones end at about the same time

template <class R>
ffi::Error Run(ffi::ThreadPool& pool, const LatticeShape& shape, int64_t batch, const R* arcs, const int32_t* frames,
               const int32_t* labels, R* cost, R* posteriors) {
  const auto lattice = [&](int64_t b) {
    return Lattice<R>(shape, arcs + b * shape.size(), frames[b], labels[b],
                      posteriors == nullptr ? nullptr : posteriors + b * shape.size());
  };
  // What may throw: a task that runs in the pool must not let an exception out.
  std::atomic<bool> exhausted{false};
  const auto guarded = [&](const auto& f) {
    try {
      f();
    } catch (const std::bad_alloc&) {
      exhausted = true;
    }
  };
  const int64_t nodes = std::max<int64_t>(1, shape.frames * shape.columns), threads = pool.num_threads();
  if (threads <= 1 || batch * nodes < 2 * kNodesWorthAThread || batch >= kUtterancesPerThread * threads) {
    // A task is some utterances, whose arrays stay in the caches of one processor.
    ForRanges(pool, batch, std::max<int64_t>(1, kNodesWorthAThread / nodes), [&](IndexRange range) {
      guarded([&] {
        for (int64_t b = range.begin; b < range.end; ++b) {
          Lattice<R> whole = lattice(b);
          for (int direction : {0, 1}) whole.FirstHalf(direction);
          cost[b] = whole.Meet();
          for (int direction : {0, 1}) {
            if (posteriors != nullptr) whole.SecondHalf(direction);
          }
        }
      });
    });
  } else {
    // A task is one direction over one utterance.
    guarded([&] {
      std::vector<Lattice<R>> lattices;
      lattices.reserve(static_cast<size_t>(batch));
      for (int64_t b = 0; b < batch; ++b) lattices.push_back(lattice(b));
      ForEach(pool, 2 * batch, [&](int64_t i) { lattices[i / 2].FirstHalf(i % 2); });
      for (int64_t b = 0; b < batch; ++b) cost[b] = lattices[b].Meet();
      if (posteriors != nullptr) {
        ForEach(pool, 2 * batch, [&](int64_t i) { lattices[i / 2].SecondHalf(i % 2); });
      }
    });
  }
  if (!exhausted) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "lattice: no memory for the diagonals of an utterance");
}

ffi::Error Dispatch(const char* operation, ffi::ThreadPool& pool, ffi::AnyBuffer arcs, ffi::AnyBuffer frames,
                    ffi::AnyBuffer labels, ffi::AnyBuffer cost, ffi::AnyBuffer* posteriors,
                    ffi::Span<const int64_t> moves) {
  LatticeShape shape;
  int64_t batch = 0;
  if (auto e = CheckLattice(operation, arcs, frames, labels, cost, moves, shape, batch); e.failure()) return e;
  auto run = [&](auto tag) {
    using R = typename decltype(tag)::Type;
    return Run(pool, shape, batch, Data<const R>(arcs), Data<const int32_t>(frames), Data<const int32_t>(labels),
               Data<R>(cost), posteriors == nullptr ? nullptr : Data<R>(*posteriors));
  };
  if (arcs.element_type() == ffi::F32) return run(Tag<float>{});
  if (arcs.element_type() == ffi::F64) return run(Tag<double>{});
  return ffi::Error::InvalidArgument(std::string(operation) + ": arcs must be F32 or F64");
}

ffi::Error LatticeCostImpl(ffi::ThreadPool pool, ffi::AnyBuffer arcs, ffi::AnyBuffer frames, ffi::AnyBuffer labels,
                           ffi::Result<ffi::AnyBuffer> cost, ffi::Span<const int64_t> moves) {
  return Dispatch("lattice_cost", pool, arcs, frames, labels, *cost, nullptr, moves);
}

ffi::Error LatticePosteriorsImpl(ffi::ThreadPool pool, ffi::AnyBuffer arcs, ffi::AnyBuffer frames,
                                 ffi::AnyBuffer labels, ffi::Result<ffi::AnyBuffer> cost,
                                 ffi::Result<ffi::AnyBuffer> posteriors, ffi::Span<const int64_t> moves) {
  constexpr const char* kName = "lattice_posteriors";
  if (auto e = CheckPosteriors(kName, arcs, *posteriors, moves); e.failure()) return e;
  AdviseHugePages(posteriors->untyped_data(), posteriors->size_bytes());
  return Dispatch(kName, pool, arcs, frames, labels, *cost, &*posteriors, moves);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(LatticeCostHandler, LatticeCostImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()  // arcs [..., T, U+1, K]
                                  .Arg<ffi::AnyBuffer>()  // logit_lengths [...]
                                  .Arg<ffi::AnyBuffer>()  // target_lengths [...]
                                  .Ret<ffi::AnyBuffer>()  // cost [...]
                                  .Attr<ffi::Span<const int64_t>>("moves"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(LatticePosteriorsHandler, LatticePosteriorsImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()  // arcs [..., T, U+1, K]
                                  .Arg<ffi::AnyBuffer>()  // logit_lengths [...]
                                  .Arg<ffi::AnyBuffer>()  // target_lengths [...]
                                  .Ret<ffi::AnyBuffer>()  // cost [...]
                                  .Ret<ffi::AnyBuffer>()  // posteriors [..., T, U+1, K]
                                  .Attr<ffi::Span<const int64_t>>("moves"));

}  // namespace jax_rnnt
