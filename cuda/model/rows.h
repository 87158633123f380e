// Rows of strided views as f32, in pieces that fit a thread's scratch.
#pragma once
#include <cstring>

#include "../core/ops.h"
#include "../cpu/convert_rows.h"
#include "../cpu/pool.h"
#include "../index/work_list.h"

namespace mi::cpu {

constexpr int64_t kPiece = 4096;            // elements converted at once: a multiple of every block format
constexpr int64_t kItemElements = 1 << 15;  // elements of a work item: tens of microseconds

// Reads and writes pieces of rows. f32 rows are used where they lie, others through a buffer of kPiece
// floats.
class Rows {
 public:
  Rows(const View& view, mi_isa isa)
      : view_(view), to_f32_(row_to_f32(isa, view.dtype)), from_f32_(row_from_f32(isa, view.dtype)) {}

  const float* load(int64_t head, int64_t row, int64_t first, int64_t n, float* buffer) const {
    if (view_.dtype == MI_F32) return static_cast<const float*>(at(head, row, first));
    to_f32_(at(head, row, first), buffer, n);
    return buffer;
  }
  // Where the piece is to be computed; store() then moves it into place if that is not already so.
  float* place(int64_t head, int64_t row, int64_t first, float* buffer) const {
    return view_.dtype == MI_F32 ? static_cast<float*>(at(head, row, first)) : buffer;
  }
  void store(int64_t head, int64_t row, int64_t first, int64_t n, const float* values) const {
    void* const target = at(head, row, first);
    if (target != values) from_f32_(values, target, n);
  }

 private:
  void* at(int64_t head, int64_t row, int64_t first) const {
    const int64_t element = head * view_.head_stride + row * view_.row_stride + first;
    return static_cast<char*>(view_.data) + bytes_of(view_.dtype, element);
  }

  View view_;
  RowToF32 to_f32_;
  RowFromF32 from_f32_;
};

// body(head, row, scratch) for every row of every head; scratch holds Pool::kScratchBytes. Neighbouring short
// rows share an item.
template <class Body>
void for_each_row(Pool& pool, int64_t heads, int64_t rows, int64_t dim, const Body& body) {
  const int64_t total = heads * rows, per_item = max64(1, kItemElements / dim);
  pool.parallel(ceil_div(total, per_item), [&](int64_t item, int thread) {
    auto* const scratch = static_cast<float*>(pool.scratch(thread));
    const int64_t end = min64(total, (item + 1) * per_item);
    for (int64_t i = item * per_item; i < end; i++) body(i / rows, i % rows, scratch);
  });
}

// body(first, n) for the pieces of a row.
template <class Body>
void for_each_piece(int64_t dim, const Body& body) {
  for (int64_t first = 0; first < dim; first += kPiece) body(first, min64(kPiece, dim - first));
}

}  // namespace mi::cpu
