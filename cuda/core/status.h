// Filling mi_error. Every failure goes through fail(), so no status is returned without its text.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "../include/minference.h"

namespace mi {

__attribute__((format(printf, 3, 4))) inline mi_status fail(mi_error* error, mi_status code, const char* format, ...) {
  if (error) {
    std::memset(error, 0, sizeof *error);
    error->code = code;
    va_list list;
    va_start(list, format);
    std::vsnprintf(error->text, sizeof error->text, format, list);
    va_end(list);
  }
  return code;
}

inline mi_status out_of_memory(mi_error* error, uint64_t wanted, uint64_t available) {
  fail(error, MI_OUT_OF_MEMORY, "out of memory: %llu bytes wanted, %llu available", (unsigned long long)wanted,
       (unsigned long long)available);
  if (error) {
    error->wanted = wanted;
    error->available = available;
  }
  return MI_OUT_OF_MEMORY;
}

}  // namespace mi
