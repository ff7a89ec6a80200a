// Nearest rows for whatever the compiler targets (x86-64-v2 on x86).
#define BIASGEN_ISA baseline
#include "cpu/knn-inl.h"
