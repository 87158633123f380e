// How the keys of one sequence are split over blocks where rows and heads alone would not fill the GPU.
#pragma once
#include "../index/work_list.h"

namespace mi::cuda {

struct KeySplit {
  int32_t parts, part_keys, kv_len;

  // First key of a part; of part `parts`: the end.
  MI_HD int32_t first(int part) const {
    const int64_t key = int64_t(part) * part_keys;
    return key < kv_len ? int32_t(key) : kv_len;
  }
};

// Two blocks a multiprocessor in all, if each then has enough keys to be worth a merge. `blocks`: without a split.
inline KeySplit split_keys(int sm_count, int64_t blocks, int64_t kv_len) {
  constexpr int64_t kFewestKeys = 256;
  const int64_t wanted = max64(1, 2 * int64_t(sm_count) / blocks), most = max64(1, kv_len / kFewestKeys);
  const int64_t part_keys = round_up(ceil_div(kv_len, min64(wanted, most)), MI_BLOCK);
  return {int32_t(ceil_div(kv_len, part_keys)), int32_t(part_keys), int32_t(kv_len)};
}

}  // namespace mi::cuda
