// lattice.h: operation 2, the cost and the arc posteriors of a lattice of nodes (t, u).
//
// Nodes are 0 <= t < T_b, 0 <= u <= U_b and the end (T_b, U_b). Arc k leaves (t, u) for (t + dt_k, u + du_k). With p_k
// the exponential of its log-probability,
//   alpha(0, 0) = 1,      alpha(t, u) = sum_k alpha(t - dt_k, u - du_k) p_k(t - dt_k, u - du_k)
//   beta(T_b, U_b) = 1,   beta(t, u)  = sum_k p_k(t, u) beta(t + dt_k, u + du_k)
//   cost = -log alpha(T_b, U_b),   posterior_k(t, u) = alpha(t, u) p_k(t, u) beta(t + dt_k, u + du_k) / alpha(T_b, U_b)
//
// Both recursions run over anti-diagonals n = t + u, alpha from one end and beta from the other; two threads may share
// them. They meet in the middle: that gives the cost. Then each goes on over the other's half, where the other's values
// are known, and turns its arcs into posteriors. Until then those values stand where the posteriors will.
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
  int64_t frames;           // T
  int64_t columns;          // U + 1
  std::vector<Move> moves;  // K of them; at least two where posteriors are wanted
  int64_t span;             // the longest step

  int64_t num_arcs() const { return static_cast<int64_t>(moves.size()); }
  int64_t size() const { return frames * columns * num_arcs(); }
};

template <class R>
struct Sweep;

// One utterance. R is float or double, the type of arcs and posteriors; the recursion is in double.
// Use: FirstHalf(0) and FirstHalf(1), in any order or at once; Meet(); if posteriors are wanted, the SecondHalf pair.
template <class R>
class Lattice {
 public:
  // posteriors may be null; otherwise it has the shape of arcs and is written throughout, padding included.
  Lattice(const LatticeShape& shape, const R* arcs, int32_t frames, int32_t labels, R* posteriors);
  ~Lattice();
  Lattice(Lattice&&) noexcept;

  void FirstHalf(int direction);
  R Meet();  // the cost
  void SecondHalf(int direction);

 private:
  enum class State { kRunning, kFilled };

  const LatticeShape& shape_;
  R* posteriors_;
  int64_t frames_, labels_;
  int64_t middle_ = 0;
  State state_ = State::kRunning;  // kFilled: no path or an invalid one, the posteriors hold a constant already
  R cost_ = 0;
  double total_m_ = 0, total_e_ = 0;  // the probability of all paths
  std::unique_ptr<Sweep<R>> sweeps_[2];

  void Fill(R inside, R outside);
  void Finish(const Outcome<R>& outcome);
};

}  // namespace jax_rnnt
