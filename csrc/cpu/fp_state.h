// Floating-point mode of the caller's thread: kernels run in the default one (round to nearest, denormals kept) and put
// the caller's back.
#pragma once
#include <cstdint>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace biasgen {

class DefaultFpState {
 public:
#if defined(__SSE2__)
  DefaultFpState() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~DefaultFpState() { _mm_setcsr(saved_); }

 private:
  uint32_t saved_;
#else
  DefaultFpState() {}
  ~DefaultFpState() {}
#endif
 public:
  DefaultFpState(const DefaultFpState&) = delete;
  DefaultFpState& operator=(const DefaultFpState&) = delete;
};

}  // namespace biasgen
