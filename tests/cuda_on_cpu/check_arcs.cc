// check_arcs.cc: operation 1 in one type, CHECK_TYPE: rows of every alignment, labels out of range, NaN and infinities,
// windows, divided vocabularies, as many columns as there may be.
#include "../../cuda/arcs.h"
#include "check.h"

namespace jax_rnnt::check {
namespace {

using T = CHECK_TYPE;
using A = Compute<T>::Type;

struct Case {
  int64_t num_columns;
  Window<int64_t> window;
  bool divided;
};

// shift: how many elements the arrays begin beyond an aligned address.
void CheckArcs(int64_t rows, int64_t width, int64_t shift, const std::vector<Case>& cases, std::mt19937& random) {
  std::normal_distribution<float> normal(0, 3);
  Array<T> logits(shift + rows * width, false, shift), grad(rows * width);
  Array<A> wide(rows * width), expected(rows * width);
  const int kind_of_row = static_cast<int>(random() % 3);
  for (int64_t i = 0; i < rows * width; ++i) {
    const int special = kind_of_row == 0 ? static_cast<int>(random() % std::max<int64_t>(400, 10 * width)) : 400;
    logits[shift + i] = Narrow<T>(special == 0 ? kInf : special == 1 ? kNaN : special < 9 ? -kInf : normal(random));
  }
  for (int64_t n = 0; n < rows; n += 3) logits[shift + n * width + random() % width] = Narrow<T>(19);  // sure rows
  for (int64_t v = 0; v < width; ++v) logits[shift + rows / 2 * width + v] = Narrow<T>(-kInf);
  for (int64_t i = 0; i < rows * width; ++i) wide[i] = Widen(logits[shift + i]);
  int64_t columns[cuda::kMaxColumns] = {width - 1, 0, width / 2};
  for (int64_t k = 3; k < cuda::kMaxColumns; ++k) columns[k] = (7 * k + 3) % width;
  Array<int32_t> labels(rows), offsets(rows);
  const int32_t hostile[] = {kNoLabel, kPadding, -3, kTiny, kHuge, static_cast<int32_t>(2 * width)};
  for (int64_t n = 0; n < rows; ++n) {
    labels[n] = random() % 4 == 0 ? hostile[random() % 6] : static_cast<int32_t>(random() % width);
    offsets[n] = random() % 2 == 0 ? 0 : static_cast<int32_t>(width);
  }
  for (const auto& [num_columns, window, divided] : cases) {
    const bool clipped = num_columns % 2 == 1;
    const ArcsShape shape{width, divided ? 2 * width : width, columns, num_columns, window};
    const int32_t* offset = divided ? offsets.get() : nullptr;
    const int64_t arcs = shape.num_arcs();
    Array<A> entries(rows * arcs), cpu_entries(rows * arcs), cotangent(rows * arcs);
    Array<Norm<A>> norm(rows), cpu_norm(rows);
    Array<A> bound(rows);
    for (int64_t i = 0; i < rows * arcs; ++i) {
      const int64_t row = i / arcs;
      cotangent[i] = row % 5 == 0 ? A(0) : row % 17 == 1 ? A(kNaN) : A(-std::fabs(normal(random)));
    }
    for (int64_t i = 0; i < rows; ++i) bound[i] = static_cast<A>(std::fabs(normal(random)));
    const T* x = logits.get() + shift;
    ArcsForward(shape, x, labels.get(), offset, cpu_entries.get(), cpu_norm.get(), 0, rows);
    Run(cuda::ArcsForward<T>(stream, shape, rows, x, labels.get(), offset, entries.get(), norm.get()));
    char what[160];
    std::snprintf(what, sizeof what, "arcs of " CHECK_NAME ", rows %d, V %d, columns %d, window [%d, %d), shift %d, ",
                  static_cast<int>(rows), static_cast<int>(width), static_cast<int>(num_columns),
                  static_cast<int>(window.first), static_cast<int>(window.stop), static_cast<int>(shift));
    const double tolerance = sizeof(A) == 8 ? 1e-12 : 3e-6;
    Compare(&norm[0].top, &cpu_norm[0].top, 2 * rows, tolerance, std::string(what) + "norms");
    Compare(entries.get(), cpu_entries.get(), rows * arcs, tolerance, std::string(what) + "log_probs");
    for (int64_t i = 0; divided && i < rows; ++i) {
      if (i % 3 != 0 && cpu_norm[i].top == A(-kInf)) cpu_norm[i] = {2, 0};  // another part's entries count in it, too
    }
    const A* limit = clipped ? bound.get() : nullptr;
    ArcsBackward(shape, wide.get(), labels.get(), offset, cpu_norm.get(), cotangent.get(), limit, expected.get(), 0,
                 rows);
    Run(cuda::ArcsBackward<T>(stream, shape, rows, x, labels.get(), offset, cpu_norm.get(), cotangent.get(), limit,
                              grad.get()));
    Compare(grad.get(), expected.get(), rows * width, tolerance, std::string(what) + "gradient");
    Array<T> in_place(shift + rows * width, false, shift);
    std::copy(x, x + rows * width, in_place.get() + shift);
    Run(cuda::ArcsBackward<T>(stream, shape, rows, in_place.get() + shift, labels.get(), offset, cpu_norm.get(),
                              cotangent.get(), limit, in_place.get() + shift));
    Compare(in_place.get() + shift, grad.get(), rows * width, 0, std::string(what) + "gradient in place");
  }
}

void Check() {
  std::mt19937 random(7);
  for (int64_t width : {1, 2, 3, 7, 8, 13, 28, 32, 33, 63, 64, 129, 500, 523, 1024}) {
    const int64_t third = width / 3, half = width / 2;
    const std::vector<Case> cases = {
        {0, {0, width}, false},     {1, {0, width}, false},          {2, {0, 0}, false},
        {1, {0, width - 1}, false}, {2, {third, width}, false},      {3, {half, half + 1}, false},
        {3, {0, 2 * width}, true},  {3, {half, width + half}, true}, {2, {width, 2 * width}, true}};
    CheckArcs(width > 300 ? 19 : 71, width, static_cast<int64_t>(random() % 4), cases, random);
    CheckArcs(32, width, 0, cases, random);
  }
  for (int64_t width : {5, 140, 700}) {
    CheckArcs(9, width, 1, {{cuda::kMaxColumns, {0, width}, false}, {63, {2, 2 * width - 3}, true}}, random);
  }
  // Longer than 32 vectors of each of 32 lanes, the most that one word has bits for; the ends of windows lie beyond.
  const int64_t bits = 32 * 32 * 16 / static_cast<int64_t>(sizeof(T)), width = bits + bits / 2 + 3;
  CheckArcs(9, width, 0,
            {{2, {0, width}, false}, {cuda::kMaxColumns, {7, bits + 90}, false}, {3, {bits + 5, width + 99}, true}},
            random);
}

const Part part("arcs " CHECK_NAME, Check);

}  // namespace
}  // namespace jax_rnnt::check
