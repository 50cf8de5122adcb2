// lattice.cc: the wavefront over the diagonals of one utterance; lattice.h has the recursion.
#include "lattice.h"

#include <utility>

#include "sweep.h"

namespace jax_rnnt {
namespace {

enum class Mode { kStore, kPosteriors };

struct Total {  // the probability of all paths: the posteriors' denominator
  double m, e;
};

JAX_RNNT_INLINE double ExpOfFraction(double r, float) { return ShortExpPolynomial(r); }
JAX_RNNT_INLINE double ExpOfFraction(double r, double) { return ExpPolynomial(r); }

// probability[k] on diagonal n; zero wherever the arc leads out of the lattice.
template <class R>
JAX_RNNT_INLINE void LoadArcs(Sweep<R>& s, int64_t n) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kRound = 6755399441055744.0;
  const Range nodes = s.Nodes(n);
  const int64_t arcs_k = s.shape.num_arcs(), columns = s.shape.columns;
  for (int64_t k = 0; k < arcs_k; ++k) {
    const Range from = s.Sources(n, s.shape.moves[k]);
    double* raw = s.raw.data();
    for (int64_t u = nodes.first; u <= nodes.last; ++u) raw[u] = -kInfinity;
    for (int64_t u = from.first; u <= from.last; ++u) raw[u] = s.arcs[((n - u) * columns + u) * arcs_k + k];
    double* m = s.probability[k].m;
    double* e = s.probability[k].e;
    int64_t wrong = 0;
#pragma omp simd reduction(+ : wrong)
    for (int64_t u = nodes.first; u <= nodes.last; ++u) {
      const bool valid = raw[u] < kInfinity;
      wrong += valid ? 0 : 1;
      const bool zero = !valid | (raw[u] == -kInfinity);
      const double x = zero ? 0.0 : raw[u];
      const double power = x * kLog2E;
      double whole = (power + kRound) - kRound;
      whole = std::fabs(power) < 1e15 ? whole : power;
      whole = whole < -kLargestExponent ? -kLargestExponent : whole;
      whole = whole > kLargestExponent ? kLargestExponent : whole;
      double r = (x - whole * 0.69314718036912381649) - whole * 1.9082149292705877e-10;
      r = r < -1.0 ? -1.0 : r;
      r = r > 1.0 ? 1.0 : r;
      m[u] = zero ? 0.0 : ExpOfFraction(r, R{});
      e[u] = zero ? kZeroExponent : whole;
    }
    s.poisoned |= wrong != 0;
  }
}

// A diagonal that is read `shift` places further on.
struct Term {
  Diagonal values;
  int64_t shift;
};

// sum = a + b. b may be sum itself, in place.
JAX_RNNT_INLINE void Add(Diagonal sum, Term a, Term b, Range range) {
  const double* am = a.values.m + a.shift;
  const double* ae = a.values.e + a.shift;
  const double* bm = b.values.m + b.shift;
  const double* be = b.values.e + b.shift;
#pragma omp simd
  for (int64_t u = range.first; u <= range.last; ++u) {
    const double d = ae[u] - be[u];
    const bool larger = d > 0.0;
    const double scale = Pow2(larger ? -d : d);
    const double m = larger ? bm[u] * scale + am[u] : bm[u] + am[u] * scale;
    const double e = larger ? ae[u] : be[u];
    sum.m[u] = m;
    sum.e[u] = e;
  }
}

JAX_RNNT_INLINE void Copy(Diagonal to, Term from, Range range) {
#pragma omp simd
  for (int64_t u = range.first; u <= range.last; ++u) {
    to.m[u] = from.values.m[u + from.shift];
    to.e[u] = from.values.e[u + from.shift];
  }
}

// sum = the sum of term(0) ... term(count - 1).
template <class F>
JAX_RNNT_INLINE void Sum(Diagonal sum, size_t count, Range range, const F& term) {
  if (count == 1) return Copy(sum, term(0), range);
  Add(sum, term(0), term(1), range);
  for (size_t k = 2; k < count; ++k) Add(sum, term(k), {sum, 0}, range);
}

JAX_RNNT_INLINE void Multiply(Diagonal to, Diagonal a, Diagonal b, int64_t shift, Range range) {
  const double* bm = b.m + shift;
  const double* be = b.e + shift;
#pragma omp simd
  for (int64_t u = range.first; u <= range.last; ++u) {
    to.m[u] = a.m[u] * bm[u];
    to.e[u] = a.e[u] + be[u];
  }
}

// Brings m back into [1, 2), and zeros back to their exponent.
JAX_RNNT_INLINE void Normalise(Diagonal d, Range range) {
#pragma omp simd
  for (int64_t u = range.first; u <= range.last; ++u) {
    const double m = d.m[u];
    const bool zero = m == 0.0;
    const double power =
        BitCast<double>((BitCast<uint64_t>(m) >> 52) | 0x4330000000000000u) - (4503599627370496.0 + 1023.0);
    d.m[u] = zero ? 0.0 : m * Pow2(-power);
    d.e[u] = zero ? kZeroExponent : d.e[u] + power;
  }
}

// Neighbouring diagonals may be read up to a step beyond this one's nodes: there must be zeros.
template <class R>
JAX_RNNT_INLINE void ClearMargins(const Sweep<R>& s, Diagonal d, Range nodes) {
  for (int64_t i = 1; i <= s.shape.span; ++i) {
    const int64_t before = nodes.first - i, after = nodes.last + i;
    if (before >= -s.shape.span) d.m[before] = 0.0, d.e[before] = kZeroExponent;
    if (after <= s.labels + s.shape.span) d.m[after] = 0.0, d.e[after] = kZeroExponent;
  }
}

// Values of diagonal n wait, as pairs (m, e), in the first two entries of their nodes.
template <class R>
JAX_RNNT_INLINE void Store(Sweep<R>& s, Diagonal d, int64_t n) {
  const Range nodes = s.Nodes(n);
  const int64_t columns = s.shape.columns, arcs_k = s.shape.num_arcs();
  for (int64_t u = nodes.first; u <= nodes.last; ++u) {
    R* node = s.store + ((n - u) * columns + u) * arcs_k;
    node[0] = static_cast<R>(d.m[u]);
    node[1] = static_cast<R>(d.e[u]);
  }
}

template <class R>
JAX_RNNT_INLINE void Load(Sweep<R>& s, Diagonal d, int64_t n) {
  if (n == s.end) return s.SetEnd(d);
  const Range nodes = s.Nodes(n);
  const int64_t columns = s.shape.columns, arcs_k = s.shape.num_arcs();
  for (int64_t u = nodes.first; u <= nodes.last; ++u) {
    const R* node = s.store + ((n - u) * columns + u) * arcs_k;
    d.m[u] = node[0];
    d.e[u] = node[1];
  }
  ClearMargins(s, d, nodes);
}

// Replaces what is stored in entry k of the nodes by product * other / total.
template <class R>
JAX_RNNT_INLINE void Posterior(Sweep<R>& s, int64_t n, int64_t k, Diagonal product, Diagonal other, int64_t shift,
                               Total total) {
  const Range nodes = s.Nodes(n);
  const int64_t columns = s.shape.columns, arcs_k = s.shape.num_arcs();
  const double* om = other.m + shift;
  const double* oe = other.e + shift;
  const double inverse = 1.0 / total.m;
  double* raw = s.raw.data();
#pragma omp simd
  for (int64_t u = nodes.first; u <= nodes.last; ++u) {
    raw[u] = product.m[u] * om[u] * inverse * Pow2(product.e[u] + oe[u] - total.e);
  }
  for (int64_t u = nodes.first; u <= nodes.last; ++u) {
    s.store[((n - u) * columns + u) * arcs_k + k] = static_cast<R>(raw[u]);
  }
}

// alpha of diagonal n, from the products of earlier ones; then this diagonal's products.
template <class R>
JAX_RNNT_INLINE void StepForward(Sweep<R>& s, int64_t n, Mode mode, Total total) {
  const Range nodes = s.Nodes(n);
  const Diagonal alpha = s.At(s.value, n);
  LoadArcs(s, n);
  if (n == 0) {
    alpha.m[0] = 1.0;
    alpha.e[0] = 0.0;
  } else {
    // The slot of diagonal n in a ring of `step` is still that of n - step.
    Sum(alpha, s.product.size(), nodes, [&](size_t k) { return Term{s.At(s.product[k], n), -s.shape.moves[k].du}; });
  }
  if (n % s.period == 0) Normalise(alpha, nodes);
  if (mode == Mode::kStore && s.store != nullptr) Store(s, alpha, n);
  if (mode == Mode::kPosteriors && n + s.shape.span <= s.end)
    Load(s, s.At(s.other, n + s.shape.span), n + s.shape.span);
  for (size_t k = 0; k < s.product.size(); ++k) {
    const Move& move = s.shape.moves[k];
    const Diagonal product = s.At(s.product[k], n);
    Multiply(product, alpha, s.probability[k], 0, nodes);
    ClearMargins(s, product, nodes);
    if (mode == Mode::kPosteriors) Posterior(s, n, k, product, s.At(s.other, n + move.step()), move.du, total);
  }
}

// beta of diagonal n, from those after it.
template <class R>
JAX_RNNT_INLINE void StepBackward(Sweep<R>& s, int64_t n, Mode mode, Total total) {
  const Range nodes = s.Nodes(n);
  const Diagonal beta = s.At(s.value, n);
  LoadArcs(s, n);
  const Diagonal alpha = s.other[0];
  if (mode == Mode::kPosteriors) Load(s, alpha, n);
  for (size_t k = 0; k < s.product.size(); ++k) {
    const Move& move = s.shape.moves[k];
    const Diagonal product = s.product[k][0];
    Multiply(product, s.probability[k], s.At(s.value, n + move.step()), move.du, nodes);
    if (mode == Mode::kPosteriors) Posterior(s, n, k, product, alpha, 0, total);
  }
  Sum(beta, s.product.size(), nodes, [&](size_t k) { return Term{s.product[k][0], 0}; });
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

// The probability of all paths, summed over the arcs that cross from below diagonal `middle` to it or beyond.
template <class R>
Total CrossingArcs(Sweep<R>& alpha, Sweep<R>& beta, int64_t middle) {
  Total total{0.0, kZeroExponent};
  for (size_t k = 0; k < alpha.product.size(); ++k) {
    const Move& move = alpha.shape.moves[k];
    for (int64_t n = std::max<int64_t>(0, middle - move.step()); n < middle; ++n) {
      const Diagonal out = alpha.At(alpha.product[k], n), to = beta.At(beta.value, n + move.step());
      const Range nodes = alpha.Nodes(n);
      for (int64_t u = nodes.first; u <= nodes.last; ++u) {
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
Lattice<R>::Lattice(const LatticeShape& shape, const R* arcs, int32_t frames, int32_t labels, R* posteriors)
    : shape_(shape), posteriors_(posteriors), frames_(frames), labels_(labels) {
  const auto outcome = FromLengths<R>(shape.frames, shape.columns, frames, labels);
  if (outcome.known) {
    Finish(outcome);
  } else {
    middle_ = std::max<int64_t>(1, (frames_ + labels_) / 2);
    for (int d = 0; d < 2; ++d) {
      sweeps_[d] = std::make_unique<Sweep<R>>(shape, arcs, posteriors, frames_, labels_, d);
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
  const int64_t arcs_k = shape_.num_arcs(), row = shape_.columns * arcs_k;
  const int64_t frames = std::clamp<int64_t>(frames_, 0, shape_.frames);
  const int64_t used = std::clamp<int64_t>(labels_ + 1, 0, shape_.columns) * arcs_k;
  for (int64_t t = 0; t < frames; ++t) {
    std::fill(posteriors_ + t * row, posteriors_ + t * row + used, inside);
    std::fill(posteriors_ + t * row + used, posteriors_ + (t + 1) * row, outside);
  }
  std::fill(posteriors_ + frames * row, posteriors_ + shape_.frames * row, outside);
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
  if (direction == 0) {
    RunForward(*sweeps_[0], 0, middle_, Mode::kStore, {});
  } else {
    RunBackward(*sweeps_[1], middle_, frames_ + labels_, Mode::kStore, {});
  }
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
  cost_ = static_cast<R>(-(std::log(total.m) + total.e * kLn2));
  return cost_;
}

template <class R>
void Lattice<R>::SecondHalf(int direction) {
  if (state_ == State::kFilled) return;
  const int64_t arcs_k = shape_.num_arcs(), row = shape_.columns * arcs_k;
  Sweep<R>& s = *sweeps_[direction];
  const Total total{total_m_, total_e_};
  if (direction == 0) {
    for (int64_t n = middle_ + 1; n < middle_ + shape_.span && n <= s.end; ++n) Load(s, s.At(s.other, n), n);
    RunForward(s, middle_, s.end, Mode::kPosteriors, total);
    for (int64_t t = 0; t < frames_; ++t) {
      std::fill(posteriors_ + t * row + (labels_ + 1) * arcs_k, posteriors_ + (t + 1) * row, R(0));
    }
  } else {
    RunBackward(s, 0, middle_, Mode::kPosteriors, total);
    std::fill(posteriors_ + frames_ * row, posteriors_ + shape_.frames * row, R(0));
  }
}

template class Lattice<float>;
template class Lattice<double>;

}  // namespace jax_rnnt
