#include "host_memory.h"

#include <sys/sysinfo.h>

#include <cstdlib>
#include <fstream>
#include <string>

namespace mi {

// MemAvailable counts page cache that the kernel would give back, unlike sysinfo's freeram.
uint64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, 13, "MemAvailable:") == 0) return std::strtoull(line.c_str() + 13, nullptr, 10) * 1024;
  struct sysinfo s {};
  return sysinfo(&s) == 0 ? (uint64_t)s.freeram * s.mem_unit : 0;
}

uint64_t total_memory() {
  struct sysinfo s {};
  return sysinfo(&s) == 0 ? (uint64_t)s.totalram * s.mem_unit : 0;
}

}  // namespace mi
