// Token embedding: gathers rows of the table and dequantises them.
#include "rows.h"

namespace mi::cpu {

void embed(Pool& pool, const EmbedArgs& a) {
  const Rows table(a.table, pool.isa()), out(a.out, pool.isa());
  for_each_row(pool, 1, a.rows, a.dim, [&](int64_t, int64_t row, float* scratch) {
    const int32_t id = a.ids[row];
    const int64_t source = id >= 0 && id < a.vocab ? id : 0;
    for_each_piece(a.dim, [&](int64_t first, int64_t n) {
      out.store(0, row, first, n, table.load(0, source, first, n, scratch));
    });
  });
}

}  // namespace mi::cpu
