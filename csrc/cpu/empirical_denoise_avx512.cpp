// The empirical denoiser for x86-64-v4 with VNNI, BITALG and VPOPCNTDQ.
#define BIASGEN_ISA avx512
#include "cpu/empirical_denoise-inl.h"
