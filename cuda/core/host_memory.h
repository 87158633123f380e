// Memory of the machine itself.
#pragma once
#include <cstdint>

namespace mi {

uint64_t available_memory();  // bytes that could be taken now
uint64_t total_memory();

}  // namespace mi
