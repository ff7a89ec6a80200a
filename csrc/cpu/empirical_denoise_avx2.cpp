// The empirical denoiser for x86-64-v3.
#define BIASGEN_ISA avx2
#include "cpu/empirical_denoise-inl.h"
