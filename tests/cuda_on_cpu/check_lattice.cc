// check_lattice.cc: operation 2 in one type, CHECK_TYPE: lengths out of range, masks, NaN and infinities, several
// topologies up to as many moves as there may be.
#include "../../cuda/lattice.h"
#include "../../cuda/power.cuh"
#include "check.h"

namespace jax_rnnt::check {
namespace {

using R = CHECK_TYPE;

int64_t Numbers(const LatticeShape& shape, bool with_posteriors) {
  return cuda::WorkspaceOf(shape.moves, with_posteriors, shape.num_frames, shape.num_positions).For(shape);
}

// For a program that was lowered before its sizes were known.
int64_t NumbersOfAny(const LatticeShape& shape, bool with_posteriors) {
  return cuda::WorkspaceOf(shape.moves, with_posteriors).For(shape);
}

void CheckLattice(int64_t num_frames, int64_t num_positions, const std::vector<Move>& moves, std::mt19937& random) {
  std::normal_distribution<double> normal(-2, 3);
  LatticeShape shape{num_frames, num_positions, moves, 1};
  for (const Move& move : moves) shape.span = std::max(shape.span, move.step());
  const auto t = static_cast<int32_t>(num_frames), u = static_cast<int32_t>(num_positions - 1);
  const std::vector<std::pair<int32_t, int32_t>> lengths = {
      {t, u},  {t / 2, u / 2}, {1, u},         {t, 0},         {1, 0}, {0, 0},     {0, 1},     {t, u}, {-5, u},
      {t, -5}, {kHuge, u},     {kHuge, kHuge}, {kTiny, kTiny}, {t, u}, {t + 1, u}, {t, u + 1}, {t, u}, {t, u}};
  const auto batch = static_cast<int64_t>(lengths.size());
  Array<R> arcs(batch * shape.size()), got(batch * shape.size()), expected(batch * shape.size());
  Array<int32_t> logit_lengths(batch), target_lengths(batch);
  Array<R> cost(batch), cost_alone(batch), cpu_cost(batch);
  for (int64_t b = 0; b < batch; ++b) {
    logit_lengths[b] = lengths[static_cast<size_t>(b)].first;
    target_lengths[b] = lengths[static_cast<size_t>(b)].second;
    const auto only = static_cast<int64_t>(random() % static_cast<uint64_t>(shape.size()));  // one NaN or +inf
    for (int64_t i = 0; i < shape.size(); ++i) {
      const int special = static_cast<int>(random() % (b % 2 == 0 ? 100 : 2000));
      const Move& move = moves[static_cast<size_t>(i % shape.num_arcs())];
      const int64_t node = i / shape.num_arcs(), frame = node / num_positions, position = node % num_positions;
      // The first and the last arc of a path are so high that its end is out of bounds, and its middle is not.
      const bool at_an_end = node == 0 || (frame + move.dt == t && position + move.du == u);
      const bool poison = b == 17 ? i == only : special == 0 && b % 2 == 1 && b != 13;
      const double above = b == 16 || (b == 13 && at_an_end) ? 2e5  // scores above 0
                           : b == 1 && sizeof(R) == 8        ? -1e5
                           : b == 4 && sizeof(R) == 8        ? 6.2e9  // its exponent in 32 bits is in bounds
                                                             : 0;
      const bool masked = b == 7 || (b % 4 == 2 && special < 9);  // in all arcs of one utterance, in some of others
      arcs[b * shape.size() + i] = static_cast<R>(poison         ? (random() % 2   ? kNaN
                                                                    : random() % 2 ? -kNaN
                                                                                   : kInf)
                                                  : special == 1 ? -kInf
                                                  : masked       ? (random() % 9 == 0 ? -1e30 : -1e9)
                                                                 : above + normal(random));
    }
    Lattice<R> lattice(shape, arcs.get() + b * shape.size(), logit_lengths[b], target_lengths[b],
                       expected.get() + b * shape.size());
    for (int d : {0, 1}) lattice.FirstHalf(d);
    cpu_cost[b] = lattice.Meet();
    for (int d : {0, 1}) lattice.SecondHalf(d);
  }
  char what[120];
  std::snprintf(what, sizeof what, "lattice of " CHECK_NAME ", T %d, U+1 %d, moves %d, ", t,
                static_cast<int>(num_positions), static_cast<int>(moves.size()));
  const double tolerance = sizeof(R) == 8 ? 1e-11 : 2e-5;
  std::fill(got.get(), got.get() + batch * shape.size(), R(77));
  std::fill(cost.get(), cost.get() + batch, R(77));
  std::fill(cost_alone.get(), cost_alone.get() + batch, R(77));
  const int64_t each = Numbers(shape, true), each_of_cost = NumbersOfAny(shape, false);
  Array<R> workspace(batch * each), workspace_of_cost(batch * each_of_cost);
  Run(cuda::LatticeSums<R>(stream, shape, batch, arcs.get(), logit_lengths.get(), target_lengths.get(), cost.get(),
                           got.get(), workspace.get(), each));
  Run(cuda::LatticeSums<R>(stream, shape, batch, arcs.get(), logit_lengths.get(), target_lengths.get(),
                           cost_alone.get(), nullptr, workspace_of_cost.get(), each_of_cost));
  Compare(cost.get(), cpu_cost.get(), batch, tolerance, std::string(what) + "cost");
  Compare(cost_alone.get(), cost.get(), batch, 0, std::string(what) + "cost without posteriors");
  Compare(got.get(), expected.get(), batch * shape.size(), tolerance, std::string(what) + "posteriors");
}

// Utterances without extreme scores, with NaN beyond their lengths: the fast kernel must not leave them to the walk,
// which would give the same results.
void CheckNotWalked(int64_t num_frames, int64_t num_positions, const std::vector<Move>& moves, std::mt19937& random) {
  LatticeShape shape{num_frames, num_positions, moves, 1};
  for (const Move& move : moves) shape.span = std::max(shape.span, move.step());
  const cuda::WorkspaceSize size = cuda::WorkspaceOf(shape.moves, true);
  if (size.of_node == 0) return;  // it would be walked
  const auto t = static_cast<int32_t>(num_frames), u = static_cast<int32_t>(num_positions - 1);
  const std::pair<int32_t, int32_t> lengths[] = {{t, u}, {t / 2 + 1, u / 2}, {t / 2 + 2, 3}, {t / 2 + 3, 0}};
  const auto batch = static_cast<int64_t>(std::size(lengths));
  Array<R> arcs(batch * shape.size()), posteriors(batch * shape.size()), cost(batch),
      workspace(batch * size.For(shape));
  Array<int32_t> logit_lengths(batch), target_lengths(batch);
  std::normal_distribution<double> normal(-2, 3);
  for (int64_t b = 0; b < batch; ++b) {
    logit_lengths[b] = lengths[b].first;
    target_lengths[b] = lengths[b].second;
    const double below = b == 1 ? (sizeof(R) == 8 ? 5e5 : 5e3) : 0;  // a cost near the highest one
    for (int64_t i = 0; i < shape.size(); ++i) {
      const int64_t node = i / shape.num_arcs(), frame = node / num_positions, position = node % num_positions;
      arcs[b * shape.size() + i] =
          frame < logit_lengths[b] && position <= target_lengths[b] ? static_cast<R>(normal(random) - below) : kNaN;
    }
  }
  for (R* p : {posteriors.get(), static_cast<R*>(nullptr)}) {
    int64_t barriers[2];
    cuda_on_cpu_barriers(barriers, 0);
    Run(cuda::LatticeSums<R>(stream, shape, batch, arcs.get(), logit_lengths.get(), target_lengths.get(), cost.get(), p,
                             workspace.get(), size.For(shape)));
    const int64_t launches = cuda_on_cpu_barriers(barriers, 2);
    ++comparisons;
    if (barriers[0] > (num_frames + num_positions) / 2 || (launches == 2 && barriers[1] > 1)) {
      Fail("lattice, moves " + std::to_string(moves.size()) + ": the walk has run");
    }
  }
}

// exp(x) of a double.
void CheckFactors(std::mt19937& random) {
  for (const double x : std::initializer_list<double>{1024, 2e9, 1e300, kInf, kNaN, -kNaN}) {
    ++comparisons;
    if (!std::isnan(cuda::FactorOf(x).m)) Fail("exp of " + std::to_string(x) + " as a number");
  }
  for (const double most : {1.0, 1e3}) {
    for (int i = 0; i < 1000; ++i) {
      const double x = std::uniform_real_distribution<double>(-most, std::min(most, 1023.0))(random);
      const cuda::Factor<double> got = cuda::FactorOf(x);
      const long double wanted = std::exp(static_cast<long double>(x) - got.e * std::log(2.0L));
      ++comparisons;
      if (std::fabs(got.m / wanted - 1) > 4e-16L) Fail("exp of " + std::to_string(x));
    }
  }
}

const std::vector<Move> kTdt = {{1, 0}, {2, 0}, {3, 0}, {4, 0}, {0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}};

void Check() {
  std::mt19937 random(7);
  if (sizeof(R) == 8) CheckFactors(random);
  const std::vector<std::vector<Move>> topologies = {{{1, 0}, {0, 1}},
                                                     {{1, 0}, {1, 1}},
                                                     {{1, 0}, {2, 0}, {5, 0}, {0, 1}},
                                                     {{1, 0}, {4, 0}, {0, 1}},
                                                     kTdt,
                                                     {{0, 1}, {8, 0}, {3, 0}, {8, 1}, {2, 1}},
                                                     {{1, 0}, {2, 0}, {3, 0}, {0, 1}, {1, 1}, {2, 1}, {3, 2}},
                                                     {{2, 0}, {3, 2}}};
  const std::pair<int64_t, int64_t> sizes[] = {{1, 1},  {1, 5},   {9, 1},   {7, 4},    {12, 32},
                                               {5, 33}, {40, 70}, {300, 9}, {60, 140}, {7, 300}};
  for (const auto& moves : topologies) {
    for (const auto& [num_frames, num_positions] : sizes) CheckLattice(num_frames, num_positions, moves, random);
    CheckNotWalked(40, 20, moves, random);
  }
  for (const size_t i : {0, 6}) CheckLattice(3, 600, topologies[i], random);
  // Strips: shared memory for two warps, or for one.
  const int kilobytes[] = {9, 13, 48, sizeof(R) == 4 ? 20 : 48, 36, 48};  // double: twice as many
  for (size_t i = 0; i < std::size(kilobytes); ++i) {
    cuda_on_cpu_shared(static_cast<int>(kilobytes[i] * sizeof(R) / sizeof(float)) << 10);
    CheckLattice(40, 100, topologies[i], random);
    CheckNotWalked(104, 100, topologies[i], random);
  }
  cuda_on_cpu_shared(99 << 10);
  std::vector<Move> most;
  for (int64_t k = 0; k < cuda::kMaxMoves; ++k) most.push_back({1 + k % 9, k / 9});
  for (const auto& [num_frames, num_positions] : {std::pair<int64_t, int64_t>{25, 20}, {11, 40}}) {
    CheckLattice(num_frames, num_positions, most, random);
  }
}

const Part part("lattice " CHECK_NAME, Check);

}  // namespace
}  // namespace jax_rnnt::check
