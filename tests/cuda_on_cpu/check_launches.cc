// check_launches.cc: what a launch that fails leaves behind, in one operation: an error that says so, never silence.
#include "check.h"

#if defined(CHECK_ARCS)
#include "../../cuda/arcs.h"
#elif defined(CHECK_HIDDEN_ROWS)
#include "../../cuda/hidden_rows.h"
#else
#include "../../cuda/lattice.h"
#endif

namespace jax_rnnt::check {
namespace {

constexpr int64_t kTooMany = (int64_t{1} << 32) + 1;  // blocks; one in 32 bits
#if defined(CHECK_ARCS)

constexpr int64_t kRowsOfBlock = 128;  // at most

cuda::LaunchResult Forward(int64_t rows, int64_t width) {
  const ArcsShape shape{width, width, nullptr, 0, {0, width}};
  return cuda::ArcsForward<float>(stream, shape, rows, nullptr, nullptr, nullptr, nullptr, nullptr);
}

cuda::LaunchResult Backward(int64_t rows, int64_t width) {
  const ArcsShape shape{width, width, nullptr, 0, {0, width}};
  return cuda::ArcsBackward<float>(stream, shape, rows, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
}

void Check() {
  for (const int64_t width : {3, 60, 100, 1000}) {
    for (const auto& launch : {&Forward, &Backward}) {
      cuda_on_cpu_fail(1);
      ExpectRefused((*launch)(1, width), "arcs, V " + std::to_string(width) + ", no resources");
      cuda_on_cpu_fail(0);
      ExpectRefused((*launch)(kTooMany * kRowsOfBlock, width),
                    "arcs, V " + std::to_string(width) + ", too many blocks");
    }
  }
  Run(Forward(0, 9));  // has nothing to do
  Run(Backward(0, 9));
}

const Part part("launches of arcs", Check);

#elif defined(CHECK_HIDDEN_ROWS)

cuda::LaunchResult Forward(int64_t rows) {
  const cuda::HiddenShape shape{1, 3, 2, 1 << 20, rows, 0, 0};
  return cuda::HiddenRows<float>(stream, shape, nullptr, nullptr, nullptr, nullptr, nullptr);
}

void Check() {
  cuda_on_cpu_fail(1);
  ExpectRefused(Forward(1), "hidden_rows, no resources");
  cuda_on_cpu_fail(0);
  ExpectRefused(Forward(kTooMany), "hidden_rows, too many blocks");
  Run(Forward(0));  // has nothing to do
  Array<float> rows(8), sums(8);
  Array<int32_t> place(1), row(1);
  place[0] = row[0] = 0;
  const auto backward = [&](int64_t count) {
    return cuda::HiddenRowsBackward<float>(stream, {1, 1, 1, 8, count, 0, 0}, rows.get(), rows.get(), rows.get(),
                                           place.get(), row.get(), nullptr,
                                           {sums.get(), sums.get(), sums.get(), sums.get()});
  };
  for (const int launch : {1, 2}) {
    cuda_on_cpu_fail(launch);
    ExpectRefused(backward(1), "hidden_rows_backward, no resources for launch " + std::to_string(launch));
    cuda_on_cpu_fail(0);
  }
  Run(backward(0));
}

const Part part("launches of hidden_rows", Check);

#else

cuda::LaunchResult Launch(int64_t batch, int64_t num_positions, const std::vector<Move>& moves, float* workspace) {
  LatticeShape shape{4, num_positions, moves, 1};
  for (const Move& move : moves) shape.span = std::max(shape.span, move.step());
  return cuda::LatticeSums<float>(stream, shape, batch, nullptr, nullptr, nullptr, nullptr, nullptr, workspace, 0);
}

// The bytes of shared memory that a block takes: those of a launch that is refused.
int64_t SharedOf(int64_t batch, int64_t num_positions, const std::vector<Move>& moves, float* workspace) {
  cuda_on_cpu_fail(1);
  const std::string refused = Launch(batch, num_positions, moves, workspace);
  cuda_on_cpu_fail(0);
  const size_t from = refused.find(", ", refused.find(", ") + 1);  // LatticeSums<<<blocks, threads, bytes>>>
  return from == std::string::npos ? 0 : std::atoll(refused.c_str() + from + 2);
}

// If there are more blocks than multiprocessors, copies are not so far ahead that one block less fits on each.
void CheckBlocksAtOnce(float* workspace) {
  constexpr int64_t kShared = 227 << 10, kReserved = 1 << 10;
  constexpr int64_t kFew = 66, kMany = 67;  // utterances, of two blocks each, for 132 multiprocessors
  cuda_on_cpu_shared(kShared);
  std::vector<Move> tdt;
  for (int64_t dt = 0; dt <= 8; ++dt) tdt.insert(tdt.end(), {{dt + 1, 0}, {dt, 1}});
  tdt.erase(tdt.end() - 2);  // 9 frames without a label
  const auto at_once = [&](int64_t shared) { return (kShared + kReserved) / (shared + kReserved); };
  const int64_t few = SharedOf(kFew, 40, tdt, workspace), many = SharedOf(kMany, 40, tdt, workspace);
  ++comparisons;
  if (at_once(few) != 1 || at_once(many) != 2) {
    Fail("lattice: blocks of " + std::to_string(few) + " and " + std::to_string(many) + " bytes");
  }
  const std::vector<Move> rnnt = {{1, 0}, {0, 1}};
  ++comparisons;
  if (SharedOf(kFew, 40, rnnt, workspace) != SharedOf(kMany, 40, rnnt, workspace)) {
    Fail("lattice: copies are less ahead, though two blocks fit");
  }
  cuda_on_cpu_shared(99 << 10);
}

void Check() {
  Array<float> workspace(1);
  for (const int64_t num_positions : {5, 40, 600}) {
    for (const auto& moves : {std::vector<Move>{{1, 0}, {0, 1}}, {{1, 0}, {2, 0}, {0, 1}}}) {
      const std::string what =
          "lattice, U+1 " + std::to_string(num_positions) + ", moves " + std::to_string(moves.size());
      cuda_on_cpu_fail(1);
      ExpectRefused(Launch(1, num_positions, moves, workspace.get()), what + ", no resources");
      cuda_on_cpu_fail(0);
      ExpectRefused(Launch(kTooMany, num_positions, moves, workspace.get()), what + ", too many blocks");
    }
  }
  CheckBlocksAtOnce(workspace.get());
  const std::vector<Move> long_moves = {{1, 0}, {0, 1}, {30, 7}};
  Run(Launch(0, 9, long_moves, workspace.get()));  // has nothing to do
}

const Part part("launches of lattice", Check);

#endif

}  // namespace
}  // namespace jax_rnnt::check
