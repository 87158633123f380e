// CUDA's small vectors.
#pragma once
#include "../engine.h"

#define EMU_VECTORS(type, name)                                                                                      \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                                           \
  struct name##3 { type x, y, z; };                                                                                  \
  struct alignas(4 * sizeof(type) > 16 ? 16 : 4 * sizeof(type)) name##4 { type x, y, z, w; };                        \
  constexpr name##2 make_##name##2(type x, type y) { return {x, y}; }                                                \
  constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                     \
  constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMU_VECTORS(float, float)
EMU_VECTORS(int, int)
EMU_VECTORS(unsigned, uint)
EMU_VECTORS(long long, longlong)
EMU_VECTORS(unsigned long long, ulonglong)
EMU_VECTORS(unsigned short, ushort)
EMU_VECTORS(unsigned char, uchar)
EMU_VECTORS(double, double)
#undef EMU_VECTORS
