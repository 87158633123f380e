// Conversion of whole tensors between storage dtypes, by way of f32.
#include "rows.h"

namespace mi::cpu {

void convert(Pool& pool, const ConvertArgs& a) {
  // One row; its pieces are the work items.
  const View src{const_cast<void*>(a.src), a.elements, a.elements, a.src_dtype};
  const View dst{a.dst, a.elements, a.elements, a.dst_dtype};
  const Rows from(src, pool.isa()), to(dst, pool.isa());
  pool.parallel(ceil_div(a.elements, kItemElements), [&](int64_t item, int thread) {
    auto* const scratch = static_cast<float*>(pool.scratch(thread));
    const int64_t begin = item * kItemElements;
    for_each_piece(min64(kItemElements, a.elements - begin), [&](int64_t first, int64_t n) {
      to.store(0, 0, begin + first, n, from.load(0, 0, begin + first, n, scratch));
    });
  });
}

}  // namespace mi::cpu
