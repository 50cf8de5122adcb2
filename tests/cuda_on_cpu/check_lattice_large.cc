// check_lattice_large.cc: operation 2 in one type, CHECK_TYPE, on arrays of more than 2^32 entries. Of a launch only
// the first and the last blocks are run, and of the arrays only what those touch takes memory.
#include "../../cuda/lattice.h"
#include "check.h"

namespace jax_rnnt::check {
namespace {

using R = CHECK_TYPE;

constexpr double kTolerance = sizeof(R) == 8 ? 1e-11 : 2e-5;
constexpr int32_t kNumFrames = 3, kNumPositions = 5;  // of the utterances that are compared
constexpr int64_t kCompared = 2;                      // of them, at each end of the batch

LatticeShape Shape(int64_t num_frames, int64_t num_positions, const std::vector<Move>& moves) {
  LatticeShape shape{num_frames, num_positions, moves, 1};
  for (const Move& move : moves) shape.span = std::max(shape.span, move.step());
  return shape;
}

void CheckLarge(const LatticeShape& shape, int64_t batch, bool with_posteriors) {
  const OnlyEnds ends(4);
  std::mt19937 random(5);
  std::normal_distribution<double> normal(-2, 1);
  const int64_t size = shape.size(), row = kNumPositions * shape.num_arcs();
  Array<R> arcs(batch * size, true), posteriors(with_posteriors ? batch * size : 1, true), cost(batch, true);
  Array<int32_t> logit_lengths(batch, true), target_lengths(batch, true);
  const int64_t each =
      cuda::WorkspaceOf(shape.moves, with_posteriors, shape.num_frames, shape.num_positions).For(shape);
  Array<R> workspace(batch * each, true);
  const LatticeShape small = Shape(kNumFrames, kNumPositions, shape.moves);
  const auto for_compared = [&](const auto& f) {
    for (const int64_t first : {int64_t{0}, batch - kCompared}) {
      for (int64_t b = first; b < first + kCompared; ++b) f(b);
    }
  };
  for_compared([&](int64_t b) {
    logit_lengths[b] = kNumFrames;
    target_lengths[b] = kNumPositions - 1;
    for (int64_t t = 0; t < kNumFrames; ++t) {
      for (int64_t i = 0; i < row; ++i) {
        arcs[b * size + t * shape.num_positions * shape.num_arcs() + i] = static_cast<R>(normal(random));
      }
    }
  });
  Run(cuda::LatticeSums<R>(stream, shape, batch, arcs.get(), logit_lengths.get(), target_lengths.get(), cost.get(),
                           with_posteriors ? posteriors.get() : nullptr, workspace.get(), each));
  for_compared([&](int64_t b) {
    Array<R> of_utterance(small.size()), expected(small.size());
    for (int64_t t = 0; t < kNumFrames; ++t) {
      const R* from = arcs.get() + b * size + t * shape.num_positions * shape.num_arcs();
      std::copy(from, from + row, of_utterance.get() + t * row);
    }
    Lattice<R> lattice(small, of_utterance.get(), kNumFrames, kNumPositions - 1, expected.get());
    for (int d : {0, 1}) lattice.FirstHalf(d);
    const R cpu_cost = lattice.Meet();
    for (int d : {0, 1}) lattice.SecondHalf(d);
    const std::string what = "lattice of " CHECK_NAME ", T " + std::to_string(shape.num_frames) + ", U+1 " +
                             std::to_string(shape.num_positions) + ", moves " + std::to_string(shape.moves.size()) +
                             ", utterance " + std::to_string(b) + ", ";
    Compare(cost.get() + b, &cpu_cost, 1, kTolerance, what + "cost");
    if (with_posteriors) {
      Compare(posteriors.get() + b * size, expected.get(), size, kTolerance, what + "posteriors");
    }
  });
}

void Check() {
  constexpr int64_t kMost = int64_t{1} << 32;
  for (const auto& moves : {std::vector<Move>{{1, 0}, {0, 1}}, {{1, 0}, {2, 0}, {0, 1}}}) {
    const auto n = static_cast<int64_t>(moves.size());
    const LatticeShape small = Shape(kNumFrames, kNumPositions, moves);
    CheckLarge(small, kMost / small.size() + 9, true);
    // The last utterance's place in the workspace is in 32 bits one of the first's.
    CheckLarge(small, kMost / cuda::WorkspaceOf(moves, true).For(small) + 2, true);
    CheckLarge(Shape(kMost / n / 40, 50, moves), 3, false);                  // the second begins behind 2^32 entries
    CheckLarge(Shape(kNumFrames, kMost / 2 / n / 2 + 99, moves), 2, false);  // its last frame begins behind 2^31
  }
}

const Part part("large lattice " CHECK_NAME, Check);

}  // namespace
}  // namespace jax_rnnt::check
