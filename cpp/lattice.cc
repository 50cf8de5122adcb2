// lattice.cc: the loop over the diagonals of one utterance. lattice.h has the recursion.
#include "lattice.h"

#include <algorithm>
#include <cmath>

#include "best_path.h"
#include "transfer.h"

namespace jax_rnnt {
namespace {

enum class Mode { kStore, kPosteriors };

struct Total {  // the probability of all paths, which is the denominator of the posteriors
  double m, e;
};

// to = values * (the probabilities of arc k)
template <class R>
JAX_RNNT_INLINE void MultiplyByArc(Sweep<R>& s, Diagonal to, Diagonal values, int64_t k, Range nodes) {
  const R* m = s.ArcM(k);
  const double* e = s.ArcE(k);
  ForNodes(nodes, [=](int64_t u) JAX_RNNT_INLINE_LAMBDA {
    to.m[u] = values.m[u] * static_cast<double>(m[u]);
    to.e[u] = values.e[u] + e[u];
  });
}

// sum = term(0) + ... + term(count - 1)
template <class F>
JAX_RNNT_INLINE void Sum(Diagonal sum, size_t count, Range nodes, const F& term) {
  if (count == 1) return Copy(sum, term(0), nodes);
  Add(sum, term(0), term(1), nodes);
  for (size_t k = 2; k < count; ++k) Add(sum, term(k), sum, nodes);
}

// Replaces what is stored on diagonal n by product(k) * other(k) / total, for every arc k.
template <class R, class P, class O>
JAX_RNNT_INLINE void Posteriors(Sweep<R>& s, int64_t n, Total total, const P& product, const O& other) {
  const Range nodes = s.Nodes(n);
  const int64_t num_arcs = s.shape.num_arcs(), width = s.width;
  const double inverse = 1.0 / total.m, exponent = total.e;
  const auto posterior = [=](Diagonal a, Diagonal b, int64_t u) JAX_RNNT_INLINE_LAMBDA {
    double p = a.m[u] * b.m[u] * inverse * Pow2(a.e[u] + b.e[u] - exponent);
    p = p > 1.0 ? 1.0 : p;                           // rounding may give more than 1
    return static_cast<R>(a.m[u] == 0.0 ? 0.0 : p);  // where an arc leads nowhere, b was never set
  };
  R* to = s.buffer.data();
  if (num_arcs == 2) {
    const Diagonal a0 = product(0), b0 = other(0), a1 = product(1), b1 = other(1);
    ForNodes(nodes, [=](int64_t u) JAX_RNNT_INLINE_LAMBDA {
      const R p0 = posterior(a0, b0, u), p1 = posterior(a1, b1, u);
      to[2 * u] = p0;
      to[2 * u + 1] = p1;
    });
    ScatterPairs(s, to, n, s.store);
  } else {
    for (int64_t k = 0; k < num_arcs; ++k) {
      const Diagonal a = product(k), b = other(k);
      R* row = to + k * width;
      ForNodes(nodes, [=](int64_t u) JAX_RNNT_INLINE_LAMBDA { row[u] = posterior(a, b, u); });
    }
    ForPlaces(s, s.store, n, [=](R* place, int64_t u) {
      for (int64_t k = 0; k < num_arcs; ++k) place[k] = to[k * width + u];
    });
  }
}

// alpha of diagonal n, from the products of earlier diagonals. Then the products of this diagonal.
template <class R>
JAX_RNNT_INLINE void StepForward(Sweep<R>& s, int64_t n, Mode mode, Total total) {
  const Range nodes = s.Nodes(n);
  const Diagonal alpha = s.value.At(n);
  const std::vector<Move>& moves = s.shape.moves;
  const int64_t num_arcs = s.shape.num_arcs(), span = s.shape.span;
  LoadArcs(s, n);
  if (n == 0) {
    alpha.m[0] = 1.0;
    alpha.e[0] = 0.0;
  } else {
    Sum(alpha, num_arcs, nodes, [&](int64_t k) { return s.product[k].At(n - moves[k].step()) + -moves[k].du; });
  }
  if (n % s.period == 0) Normalise(alpha, nodes);
  for (int64_t k = 0; k < num_arcs; ++k) {
    const Diagonal product = s.product[k].At(n);
    MultiplyByArc(s, product, alpha, k, nodes);
    ClearMargins(s, product, nodes);
  }
  if (mode == Mode::kPosteriors) {
    if (n + span <= s.end) Load(s, s.other.At(n + span), n + span);
    Posteriors(
        s, n, total, [&](int64_t k) { return s.product[k].At(n); },
        [&](int64_t k) { return s.other.At(n + moves[k].step()) + moves[k].du; });
  } else if (s.store != nullptr) {
    Store(s, alpha, n);
  }
}

// beta of diagonal n, from the diagonals after it.
template <class R>
JAX_RNNT_INLINE void StepBackward(Sweep<R>& s, int64_t n, Mode mode, Total total) {
  const Range nodes = s.Nodes(n);
  const Diagonal beta = s.value.At(n);
  const std::vector<Move>& moves = s.shape.moves;
  const int64_t num_arcs = s.shape.num_arcs();
  LoadArcs(s, n);
  for (int64_t k = 0; k < num_arcs; ++k) {
    MultiplyByArc(s, s.product[k].At(n), s.value.At(n + moves[k].step()) + moves[k].du, k, nodes);
  }
  if (mode == Mode::kPosteriors) {
    const Diagonal alpha = s.other.At(n);
    Load(s, alpha, n);
    Posteriors(s, n, total, [&](int64_t k) { return s.product[k].At(n); }, [&](int64_t) { return alpha; });
  }
  Sum(beta, num_arcs, nodes, [&](int64_t k) { return s.product[k].At(n); });
  ClearMargins(s, beta, nodes);
  if (n % s.period == 0) Normalise(beta, nodes);
  if (mode == Mode::kStore && s.store != nullptr) Store(s, beta, n);
}

template <class R>
JAX_RNNT_CLONES void RunForward(Sweep<R>& s, int64_t begin, int64_t end, Mode mode, Total total) {
  for (int64_t n = begin; n < end; ++n) StepForward(s, n, mode, total);
}

template <class R>
JAX_RNNT_CLONES void RunBackward(Sweep<R>& s, int64_t begin, int64_t end, Mode mode, Total total) {
  for (int64_t n = end - 1; n >= begin; --n) StepBackward(s, n, mode, total);
}

// Diagonals [begin, end) of alpha (direction 0) or beta (direction 1).
template <class R>
void Run(Sweep<R>& s, int direction, int64_t begin, int64_t end, Mode mode, Total total) {
  direction == 0 ? RunForward(s, begin, end, mode, total) : RunBackward(s, begin, end, mode, total);
}

// The probability of all paths: the sum over the arcs that lead from below diagonal `middle` to it or beyond it.
template <class R>
Total CrossingArcs(Sweep<R>& alpha, Sweep<R>& beta, int64_t middle) {
  Total total{0.0, kZeroExponent};
  for (size_t k = 0; k < alpha.product.size(); ++k) {
    const Move& move = alpha.shape.moves[k];
    for (int64_t n = std::max<int64_t>(0, middle - move.step()); n < middle; ++n) {
      const Diagonal out = alpha.product[k].At(n), to = beta.value.At(n + move.step());
      const Range nodes = alpha.Nodes(n);
      for (int64_t u = nodes.first; u <= nodes.last; ++u) {
        if (out.m[u] == 0.0) continue;  // where an arc leads nowhere, `to` was never set
        const double m = out.m[u] * to.m[u + move.du], e = out.e[u] + to.e[u + move.du];
        if (m == 0.0) continue;
        const double top = std::max(e, total.e);
        total = {total.m * Pow2(total.e - top) + m * Pow2(e - top), top};
      }
    }
  }
  return total;
}

}  // namespace

template <class R>
Lattice<R>::Lattice(const LatticeShape& shape, const R* arcs, int32_t length_t, int32_t length_u, R* posteriors)
    : shape_(shape), posteriors_(posteriors), length_t_(length_t), length_u_(length_u) {
  const auto outcome = FromLengths<R>(shape.num_frames, shape.num_positions, length_t, length_u);
  if (outcome.known) {
    Finish(outcome);
  } else {
    middle_ = std::max<int64_t>(1, (length_t_ + length_u_) / 2);
    for (int d = 0; d < 2; ++d) {
      sweeps_[d] = std::make_unique<Sweep<R>>(shape, arcs, posteriors, length_t_, length_u_, d);
    }
  }
}

template <class R>
Lattice<R>::~Lattice() = default;
template <class R>
Lattice<R>::Lattice(Lattice&&) noexcept = default;

template <class R>
void Lattice<R>::Fill(R inside, R outside) {
  if (posteriors_ == nullptr) return;
  const int64_t num_arcs = shape_.num_arcs(), row = shape_.num_positions * num_arcs;
  const int64_t num_frames = std::clamp<int64_t>(length_t_, 0, shape_.num_frames);
  const int64_t used = std::clamp<int64_t>(length_u_ + 1, 0, shape_.num_positions) * num_arcs;
  for (int64_t t = 0; t < num_frames; ++t) {
    std::fill(posteriors_ + t * row, posteriors_ + t * row + used, inside);
    std::fill(posteriors_ + t * row + used, posteriors_ + (t + 1) * row, outside);
  }
  std::fill(posteriors_ + num_frames * row, posteriors_ + shape_.num_frames * row, outside);
}

template <class R>
void Lattice<R>::Finish(const Outcome<R>& outcome) {
  state_ = State::kFilled;
  cost_ = outcome.cost;
  Fill(outcome.inside, outcome.outside);
}

template <class R>
void Lattice<R>::FirstHalf(int direction) {
  if (state_ == State::kFilled) return;
  const int64_t begin = direction == 0 ? 0 : middle_, end = direction == 0 ? middle_ : length_t_ + length_u_;
  Run(*sweeps_[direction], direction, begin, end, Mode::kStore, {});
}

template <class R>
R Lattice<R>::Meet() {
  if (state_ == State::kFilled) return cost_;
  if (sweeps_[0]->poisoned || sweeps_[1]->poisoned) {
    Finish(PoisonedArc<R>());
    return cost_;
  }
  const Total total = CrossingArcs(*sweeps_[0], *sweeps_[1], middle_);
  if (total.m == 0.0) {
    Finish(NoPath<R>());
    return cost_;
  }
  total_m_ = total.m;
  total_e_ = total.e;
  double cost = -(std::log(total.m) + total.e * kLn2);
  const Sweep<R>& s = *sweeps_[0];
  if (total.e < -s.largest / 2) {  // every path that matters may cross an arc that was cut
    const double cut = s.largest * kLn2, all = 1e300;
    cost += BestScore(shape_, s.arcs, length_t_, length_u_, cut) - BestScore(shape_, s.arcs, length_t_, length_u_, all);
  }
  constexpr double kMost = std::numeric_limits<R>::max();  // +inf would say that there is no path
  cost_ = static_cast<R>(std::clamp(cost, -kMost, kMost));
  return cost_;
}

template <class R>
void Lattice<R>::SecondHalf(int direction) {
  if (state_ == State::kFilled) return;
  const int64_t num_arcs = shape_.num_arcs(), row = shape_.num_positions * num_arcs;
  Sweep<R>& s = *sweeps_[direction];
  const Total total{total_m_, total_e_};
  if (direction == 0) {
    for (int64_t n = middle_ + 1; n < middle_ + shape_.span && n <= s.end; ++n) Load(s, s.other.At(n), n);
    Run(s, direction, middle_, s.end, Mode::kPosteriors, total);
    for (int64_t t = 0; t < length_t_; ++t) {
      std::fill(posteriors_ + t * row + (length_u_ + 1) * num_arcs, posteriors_ + (t + 1) * row, R(0));
    }
  } else {
    Run(s, direction, 0, middle_, Mode::kPosteriors, total);
    std::fill(posteriors_ + length_t_ * row, posteriors_ + shape_.num_frames * row, R(0));
  }
}

template class Lattice<float>;
template class Lattice<double>;

}  // namespace jax_rnnt
