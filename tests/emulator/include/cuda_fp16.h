// Half precision, by the compiler's own type.
#pragma once
#include "device_functions.h"

struct __half {
  _Float16 value;
};
struct alignas(4) __half2 {
  __half x, y;
};
inline __half __float2half_rn(float f) { return {_Float16(f)}; }
inline __half __float2half(float f) { return {_Float16(f)}; }
inline float __half2float(__half h) { return float(h.value); }
inline __half __ushort_as_half(unsigned short bits) { return emu::bits_as<__half>(bits); }
inline unsigned short __half_as_ushort(__half h) { return emu::bits_as<unsigned short>(h); }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
