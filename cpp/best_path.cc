// best_path.cc: the maximum over paths, one frame after another. best_path.h has the recursion.
#include "best_path.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace jax_rnnt {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
constexpr double kLargest = 1e300;  // sums of a hundred million such arcs do not overflow

JAX_RNNT_INLINE double Cut(double x, double largest) {
  double cut = x < -largest ? -largest : x;
  cut = cut > largest ? largest : cut;
  return x == kNever ? kNever : cut;
}

// best[t * (length_u + 1) + u] for every node, and for the frame after the last one, where the end is the only node.
template <class R>
struct Table {
  Table(const LatticeShape& shape, const R* arcs, int64_t length_t, int64_t length_u, double largest)
      : shape(shape),
        arcs(arcs),
        length_t(length_t),
        length_u(length_u),
        width(length_u + 1),
        largest(largest),
        best(new double[static_cast<size_t>((length_t + 1) * width)]) {}

  const R* Arcs(int64_t t) const { return arcs + t * shape.num_positions * shape.num_arcs(); }
  double* Row(int64_t t) const { return best.get() + t * width; }

  const LatticeShape& shape;
  const R* arcs;
  int64_t length_t, length_u, width;
  double largest;
  std::unique_ptr<double[]> best;
  bool poisoned = false;  // an arc was NaN or +inf
};

// row = max(row, arc k + best of its destination), for a move that takes frames, and the nodes from which it stays in
// the lattice.
template <class R>
JAX_RNNT_INLINE bool TakeFrames(const Table<R>& s, int64_t t, int64_t k) {
  constexpr R kInfinity = std::numeric_limits<R>::infinity();
  const Move& move = s.shape.moves[k];
  if (move.dt > s.length_t - t || move.du > s.length_u) return false;
  const int64_t last = s.length_u - move.du, first = move.dt == s.length_t - t ? last : 0, stride = s.shape.num_arcs();
  const R* x = s.Arcs(t) + k;
  const double largest = s.largest, *to = s.Row(t + move.dt) + move.du;
  double* row = s.Row(t);
  int wrong = 0;
#pragma omp simd reduction(| : wrong)
  for (int64_t u = first; u <= last; ++u) {
    const R raw = x[u * stride];
    const double score = Cut(static_cast<double>(raw), largest) + to[u];
    row[u] = score > row[u] ? score : row[u];
    wrong |= raw < kInfinity ? 0 : 1;
  }
  return wrong != 0;
}

// The same where arc k is the only one that takes no frame, and it takes one label. Each node needs the result of the
// node before it, which stays in a register.
template <class R>
JAX_RNNT_INLINE bool TakeLabel(const Table<R>& s, int64_t t, int64_t k) {
  constexpr R kInfinity = std::numeric_limits<R>::infinity();
  const int64_t stride = s.shape.num_arcs();
  const R* x = s.Arcs(t) + k;
  double *row = s.Row(t), best = row[s.length_u];
  bool wrong = false;
  for (int64_t u = s.length_u - 1; u >= 0; --u) {
    const R raw = x[u * stride];
    const double score = Cut(static_cast<double>(raw), s.largest) + best;
    best = score > row[u] ? score : row[u];
    row[u] = best;
    wrong |= !(raw < kInfinity);
  }
  return wrong;
}

// The same for any moves that take no frame, from the last node of the frame to its first.
template <class R>
JAX_RNNT_INLINE bool TakeLabels(const Table<R>& s, int64_t t) {
  constexpr R kInfinity = std::numeric_limits<R>::infinity();
  const int64_t num_arcs = s.shape.num_arcs();
  double* row = s.Row(t);
  bool wrong = false;
  for (int64_t u = s.length_u; u >= 0; --u) {
    const R* x = s.Arcs(t) + u * num_arcs;
    double best = row[u];
    for (int64_t k = 0; k < num_arcs; ++k) {
      const Move& move = s.shape.moves[k];
      if (move.dt > 0 || move.du > s.length_u - u) continue;
      const double score = Cut(static_cast<double>(x[k]), s.largest) + row[u + move.du];
      best = score > best ? score : best;
      wrong |= !(x[k] < kInfinity);
    }
    row[u] = best;
  }
  return wrong;
}

template <class R>
JAX_RNNT_CLONES void Fill(Table<R>& s) {
  double* end = s.Row(s.length_t);
  std::fill(end, end + s.length_u, kNever);
  end[s.length_u] = 0.0;
  int64_t within_frame = 0, one_label = -1;  // how many moves take no frame; the last of these that takes one label
  for (int64_t k = 0; k < s.shape.num_arcs(); ++k) {
    const Move& move = s.shape.moves[k];
    within_frame += move.dt == 0;
    if (move.dt == 0 && move.du == 1) one_label = k;
  }
  for (int64_t t = s.length_t - 1; t >= 0; --t) {
    std::fill(s.Row(t), s.Row(t) + s.width, kNever);
    for (int64_t k = 0; k < s.shape.num_arcs(); ++k) {
      if (s.shape.moves[k].dt > 0) s.poisoned |= TakeFrames(s, t, k);
    }
    if (within_frame > 0) {
      s.poisoned |= within_frame == 1 && one_label >= 0 ? TakeLabel(s, t, one_label) : TakeLabels(s, t);
    }
  }
}

// Writes the best path, which must exist, and returns the sum of its arcs.
template <class R>
double Follow(const Table<R>& s, const PathArrays& path) {
  double sum = 0.0;
  for (int64_t t = 0, u = 0; t < s.length_t;) {
    const R* x = s.Arcs(t) + u * s.shape.num_arcs();
    const double best = s.Row(t)[u];
    for (int64_t k = 0;; ++k) {
      const Move& move = s.shape.moves[k];
      if (move.dt > s.length_t - t || move.du > s.length_u - u) continue;
      const double arc = static_cast<double>(x[k]);
      if (Cut(arc, s.largest) + s.Row(t + move.dt)[u + move.du] != best) continue;
      sum += arc;
      path.taken[t + u] = static_cast<int32_t>(k);
      std::fill_n(path.label_frames + u, move.du, static_cast<int32_t>(t));
      std::fill_n(path.label_durations + u, move.du, static_cast<int32_t>(move.dt));
      t += move.dt;
      u += move.du;
      break;
    }
  }
  return sum;
}

}  // namespace

template <class R>
double BestScore(const LatticeShape& shape, const R* arcs, int64_t length_t, int64_t length_u, double largest) {
  Table<R> table(shape, arcs, length_t, length_u, largest);
  Fill(table);
  return table.best[0];
}

template <class R>
R BestPath(const LatticeShape& shape, const R* arcs, int32_t length_t, int32_t length_u, const PathArrays& path) {
  std::fill_n(path.label_frames, shape.num_positions - 1, -1);
  std::fill_n(path.label_durations, shape.num_positions - 1, -1);
  std::fill_n(path.taken, shape.num_frames + shape.num_positions - 1, -1);
  const auto outcome = FromLengths<R>(shape.num_frames, shape.num_positions, length_t, length_u);
  if (outcome.known) return outcome.cost;
  Table<R> table(shape, arcs, length_t, length_u, kLargest);
  Fill(table);
  if (table.poisoned) return PoisonedArc<R>().cost;
  if (table.best[0] == kNever) return NoPath<R>().cost;
  constexpr double kMost = std::numeric_limits<R>::max();  // +inf would say that there is no path
  return static_cast<R>(std::clamp(0.0 - Follow(table, path), -kMost, kMost));
}

template double BestScore<float>(const LatticeShape&, const float*, int64_t, int64_t, double);
template double BestScore<double>(const LatticeShape&, const double*, int64_t, int64_t, double);
template float BestPath<float>(const LatticeShape&, const float*, int32_t, int32_t, const PathArrays&);
template double BestPath<double>(const LatticeShape&, const double*, int32_t, int32_t, const PathArrays&);

}  // namespace jax_rnnt
