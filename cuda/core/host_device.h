// Functions that both a CPU and a GPU run.
#pragma once

#if defined(__CUDACC__)
#define MI_HD __host__ __device__
#else
#define MI_HD
#endif
