// The empirical denoiser for whatever the compiler targets (x86-64-v2 on x86).
#define BIASGEN_ISA baseline
#include "cpu/empirical_denoise-inl.h"
