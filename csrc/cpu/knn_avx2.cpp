// Nearest rows for x86-64-v3.
#define BIASGEN_ISA avx2
#include "cpu/knn-inl.h"
