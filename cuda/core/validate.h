// Parameters from outside -> Operation. Checks sizes, dtypes, ranges and bounds once, for every backend.
#pragma once
#include <functional>
#include <memory>

#include "device.h"

namespace mi {

using FindBuffer = std::function<std::shared_ptr<Buffer>(uint64_t handle)>;

// `planning` skips buffers: only shapes are checked, all pointers stay null (mi_plan).
mi_status validate(const mi_header* params, bool planning, const FindBuffer& find, Operation* operation,
                   mi_error* error);

}  // namespace mi
