// arcs_operands.h: the operands of operation 1 as XLA passes them, and their checks. All platforms share this file.
#pragma once

#include "arcs.h"
#include "dispatch.h"

namespace jax_rnnt {

struct Rows {
  ArcsShape shape;
  int64_t count;
};

inline Rows RowsOf(ffi::AnyBuffer logits, ffi::Span<const int64_t> columns, int64_t vocabulary,
                   ffi::Span<const int64_t> window) {
  const auto dims = logits.dimensions();
  const int64_t width = dims.size() == 0 ? 1 : dims[dims.size() - 1];
  const Window<int64_t> wrong{0, -1};  // CheckRows refuses it
  return {{width, vocabulary, columns.begin(), static_cast<int64_t>(columns.size()),
           window.size() == 2 ? Window<int64_t>{window.begin()[0], window.begin()[1]} : wrong},
          dims.size() == 0 ? 1 : Product(dims, 0, dims.size() - 1)};
}

// Checks the operands and results that the forward and the backward call share. Sizes count rows of logits.
inline ffi::Error CheckRows(const char* operation, const Rows& rows, ffi::AnyBuffer labels, size_t norms,
                            size_t entries) {
  const auto count = static_cast<size_t>(rows.count);
  for (int64_t k = 0; k < rows.shape.num_columns; ++k) {
    if (rows.shape.columns[k] < 0 || rows.shape.columns[k] >= rows.shape.vocabulary) {
      return ffi::Error::InvalidArgument(std::string(operation) + ": a column is outside the vocabulary");
    }
  }
  const Window<int64_t>& window = rows.shape.window;
  if (window.first < 0 || window.stop < window.first || window.stop > rows.shape.vocabulary) {
    return ffi::Error::InvalidArgument(std::string(operation) + ": the window is no part of the vocabulary");
  }
  if (labels.element_type() != ffi::S32) {
    return ffi::Error::InvalidArgument(std::string(operation) + ": labels must be S32");
  }
  if (auto e = CheckCount(operation, "labels", count, labels.element_count()); e.failure()) return e;
  if (auto e = CheckCount(operation, "norms", 2 * count, norms); e.failure()) return e;
  return CheckCount(operation, "arcs", count * static_cast<size_t>(rows.shape.num_arcs()), entries);
}

// The optional operand at `index`, which has one element for each row. Null if it was not passed.
inline ffi::ErrorOr<const void*> Optional(const char* operation, const Rows& rows, ffi::RemainingArgs args,
                                          size_t index) {
  if (index >= args.size()) return static_cast<const void*>(nullptr);
  auto buffer = args.get<ffi::AnyBuffer>(index);
  if (!buffer.has_value()) return ffi::Unexpected(buffer.error());
  auto e = CheckCount(operation, "optional operand", static_cast<size_t>(rows.count), buffer->element_count());
  if (e.failure()) return ffi::Unexpected(e);
  return static_cast<const void*>(buffer->untyped_data());
}

}  // namespace jax_rnnt
