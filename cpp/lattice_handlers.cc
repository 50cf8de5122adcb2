// lattice_handlers.cc: passes XLA's buffers to lattice.h and best_path.h. It chooses types and divides the work into
// tasks; it computes nothing.
#include <atomic>
#include <new>

#include "best_path.h"
#include "handlers.h"
#include "huge_pages.h"
#include "lattice.h"
#include "lattice_operands.h"
#include "parallel.h"

namespace jax_rnnt {
namespace {

constexpr int64_t kNodesWorthAThread = 4096;  // for fewer nodes it costs more to wake a thread than it saves
constexpr int64_t kUtterancesPerThread = 4;   // from here on, whole utterances divide evenly enough among threads

// Catches exceptions: a task that runs in the pool must not throw.
class Guard {
 public:
  template <class F>
  void operator()(const F& f) {
    try {
      f();
    } catch (const std::bad_alloc&) {
      exhausted_ = true;
    }
  }

  ffi::Error Outcome(const char* operation, const char* what) const {
    if (!exhausted_) return ffi::Error::Success();
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, std::string(operation) + ": no memory for " + what);
  }

 private:
  std::atomic<bool> exhausted_{false};
};

int64_t Nodes(const LatticeShape& shape) { return std::max<int64_t>(1, shape.num_frames * shape.num_positions); }

// Here a task is a few utterances, whose arrays stay in the caches of one processor.
template <class F>
void ForUtterances(ffi::ThreadPool& pool, const LatticeShape& shape, int64_t batch, Guard& guarded, const F& f) {
  ForRanges(pool, batch, std::max<int64_t>(1, kNodesWorthAThread / Nodes(shape)), [&](IndexRange range) {
    guarded([&] {
      for (int64_t b = range.begin; b < range.end; ++b) f(b);
    });
  });
}

template <class R>
ffi::Error Run(ffi::ThreadPool& pool, const LatticeShape& shape, int64_t batch, const R* arcs,
               const int32_t* logit_lengths, const int32_t* target_lengths, R* cost, R* posteriors) {
  const auto lattice = [&](int64_t b) {
    return Lattice<R>(shape, arcs + b * shape.size(), logit_lengths[b], target_lengths[b],
                      posteriors == nullptr ? nullptr : posteriors + b * shape.size());
  };
  Guard guarded;
  const int64_t threads = pool.num_threads();
  if (threads <= 1 || batch * Nodes(shape) < 2 * kNodesWorthAThread || batch >= kUtterancesPerThread * threads) {
    ForUtterances(pool, shape, batch, guarded, [&](int64_t b) {
      Lattice<R> whole = lattice(b);
      for (int direction : {0, 1}) whole.FirstHalf(direction);
      cost[b] = whole.Meet();
      for (int direction : {0, 1}) {
        if (posteriors != nullptr) whole.SecondHalf(direction);
      }
    });
  } else {
    // Here a task is one direction of one utterance.
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
  return guarded.Outcome("lattice", "the diagonals of an utterance");
}

// Checks the operands that all these operations have. Then calls run(shape, batch, arcs, cost) with pointers to the
// type of the arcs.
template <class F>
ffi::Error Dispatch(const char* operation, ffi::AnyBuffer arcs, ffi::AnyBuffer logit_lengths,
                    ffi::AnyBuffer target_lengths, ffi::AnyBuffer cost, ffi::Span<const int64_t> moves, const F& run) {
  LatticeShape shape;
  int64_t batch = 0;
  if (auto e = CheckLattice(operation, arcs, logit_lengths, target_lengths, cost, moves, shape, batch); e.failure()) {
    return e;
  }
  if (arcs.element_type() == ffi::F32) return run(shape, batch, Data<const float>(arcs), Data<float>(cost));
  if (arcs.element_type() == ffi::F64) return run(shape, batch, Data<const double>(arcs), Data<double>(cost));
  return ffi::Error::InvalidArgument(std::string(operation) + ": arcs must be F32 or F64");
}

ffi::Error Sums(const char* operation, ffi::ThreadPool& pool, ffi::AnyBuffer arcs, ffi::AnyBuffer logit_lengths,
                ffi::AnyBuffer target_lengths, ffi::AnyBuffer cost, ffi::AnyBuffer* posteriors,
                ffi::Span<const int64_t> moves) {
  return Dispatch(operation, arcs, logit_lengths, target_lengths, cost, moves,
                  [&](const LatticeShape& shape, int64_t batch, auto* from, auto* to) {
                    using R = std::remove_pointer_t<decltype(to)>;
                    return Run<R>(pool, shape, batch, from, Data<const int32_t>(logit_lengths),
                                  Data<const int32_t>(target_lengths), to,
                                  posteriors == nullptr ? nullptr : Data<R>(*posteriors));
                  });
}

ffi::Error LatticeCostImpl(ffi::ThreadPool pool, ffi::AnyBuffer arcs, ffi::AnyBuffer logit_lengths,
                           ffi::AnyBuffer target_lengths, ffi::Result<ffi::AnyBuffer> cost,
                           ffi::Span<const int64_t> moves) {
  return Sums("lattice_cost", pool, arcs, logit_lengths, target_lengths, *cost, nullptr, moves);
}

ffi::Error LatticePosteriorsImpl(ffi::ThreadPool pool, ffi::AnyBuffer arcs, ffi::AnyBuffer logit_lengths,
                                 ffi::AnyBuffer target_lengths, ffi::Result<ffi::AnyBuffer> cost,
                                 ffi::Result<ffi::AnyBuffer> posteriors, ffi::Span<const int64_t> moves) {
  constexpr const char* kName = "lattice_posteriors";
  if (auto e = CheckPosteriors(kName, arcs, *posteriors, moves); e.failure()) return e;
  AdviseHugePages(posteriors->untyped_data(), posteriors->size_bytes());
  return Sums(kName, pool, arcs, logit_lengths, target_lengths, *cost, &*posteriors, moves);
}

ffi::Error CheckIntegers(const char* operation, const char* what, int64_t count, ffi::AnyBuffer& buffer) {
  if (buffer.element_type() != ffi::S32) {
    return ffi::Error::InvalidArgument(std::string(operation) + ": " + what + " must be S32");
  }
  return CheckCount(operation, what, static_cast<size_t>(count), buffer.element_count());
}

ffi::Error LatticeBestPathImpl(ffi::ThreadPool pool, ffi::AnyBuffer arcs, ffi::AnyBuffer logit_lengths,
                               ffi::AnyBuffer target_lengths, ffi::Result<ffi::AnyBuffer> cost,
                               ffi::Result<ffi::AnyBuffer> label_frames, ffi::Result<ffi::AnyBuffer> label_durations,
                               ffi::Result<ffi::AnyBuffer> taken, ffi::Span<const int64_t> moves) {
  constexpr const char* kName = "lattice_best_path";
  return Dispatch(
      kName, arcs, logit_lengths, target_lengths, *cost, moves,
      [&](const LatticeShape& shape, int64_t batch, auto* from, auto* to) {
        const int64_t num_labels = shape.num_positions - 1, steps = shape.num_frames + num_labels;
        if (auto e = CheckIntegers(kName, "label_frames", batch * num_labels, *label_frames); e.failure()) return e;
        if (auto e = CheckIntegers(kName, "label_durations", batch * num_labels, *label_durations); e.failure())
          return e;
        if (auto e = CheckIntegers(kName, "taken", batch * steps, *taken); e.failure()) return e;
        const auto *t = Data<const int32_t>(logit_lengths), *u = Data<const int32_t>(target_lengths);
        Guard guarded;
        ForUtterances(pool, shape, batch, guarded, [&](int64_t b) {
          const PathArrays path{Data<int32_t>(*label_frames) + b * num_labels,
                                Data<int32_t>(*label_durations) + b * num_labels, Data<int32_t>(*taken) + b * steps};
          to[b] = BestPath(shape, from + b * shape.size(), t[b], u[b], path);
        });
        return guarded.Outcome(kName, "the scores of an utterance");
      });
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

XLA_FFI_DEFINE_HANDLER_SYMBOL(LatticeBestPathHandler, LatticeBestPathImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()  // arcs [..., T, U+1, K]
                                  .Arg<ffi::AnyBuffer>()  // logit_lengths [...]
                                  .Arg<ffi::AnyBuffer>()  // target_lengths [...]
                                  .Ret<ffi::AnyBuffer>()  // cost [...]
                                  .Ret<ffi::AnyBuffer>()  // label_frames [..., U]
                                  .Ret<ffi::AnyBuffer>()  // label_durations [..., U]
                                  .Ret<ffi::AnyBuffer>()  // taken [..., T + U]
                                  .Attr<ffi::Span<const int64_t>>("moves"));

}  // namespace jax_rnnt
