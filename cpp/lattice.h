// lattice.h: operation 2, the cost and the arc posteriors of a lattice of nodes (t, u).
//
// Nodes are 0 <= t < T_b, 0 <= u <= U_b and the end (T_b, U_b). Arc k leaves (t, u) for (t + dt_k, u + du_k). With p_k
// the exponential of its log-probability,
//   alpha(0, 0) = 1,      alpha(t, u) = sum_k alpha(t - dt_k, u - du_k) p_k(t - dt_k, u - du_k)
//   beta(T_b, U_b) = 1,   beta(t, u)  = sum_k p_k(t, u) beta(t + dt_k, u + du_k)
//   cost = -log alpha(T_b, U_b),   posterior_k(t, u) = alpha(t, u) p_k(t, u) beta(t + dt_k, u + du_k) / alpha(T_b, U_b)
//
// Both recursions run over anti-diagonals n = t + u, alpha from the beginning and beta from the end. Two threads may
// run them at the same time. They meet in the middle, which gives the cost. Then each recursion continues over the half
// of the other, where the other's values are known, and computes the posteriors there. Until then the array of the
// posteriors holds those values.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lattice_rules.h"

namespace jax_rnnt {

struct Move {
  int64_t dt, du;
  int64_t step() const { return dt + du; }
};

struct LatticeShape {
  int64_t num_frames;       // T
  int64_t num_positions;    // U + 1
  std::vector<Move> moves;  // K moves; at least two where the caller wants posteriors
  int64_t span;             // the longest step

  int64_t num_arcs() const { return static_cast<int64_t>(moves.size()); }
  int64_t size() const { return num_frames * num_positions * num_arcs(); }
};

template <class R>
struct Sweep;

// One utterance. R is float or double, the type of arcs and posteriors; the recursion is in double.
// To use it: call FirstHalf(0) and FirstHalf(1), in any order or at the same time, then Meet(). If posteriors are
// wanted, call SecondHalf(0) and SecondHalf(1) in the same way.
template <class R>
class Lattice {
 public:
  // posteriors may be null. If not, it has the shape of arcs, and every element of it is written, padding included.
  Lattice(const LatticeShape& shape, const R* arcs, int32_t length_t, int32_t length_u, R* posteriors);
  ~Lattice();
  Lattice(Lattice&&) noexcept;

  void FirstHalf(int direction);
  R Meet();  // the cost
  void SecondHalf(int direction);

 private:
  enum class State { kRunning, kFilled };

  const LatticeShape& shape_;
  R* posteriors_;
  int64_t length_t_, length_u_;  // T_b, U_b
  int64_t middle_ = 0;
  State state_ = State::kRunning;  // kFilled: there is no path, or the input is invalid; the posteriors are written
  R cost_ = 0;
  double total_m_ = 0, total_e_ = 0;  // the probability of all paths
  std::unique_ptr<Sweep<R>> sweeps_[2];

  void Fill(R inside, R outside);
  void Finish(const Outcome<R>& outcome);
};

}  // namespace jax_rnnt
