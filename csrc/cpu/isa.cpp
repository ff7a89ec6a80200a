// Instruction-set detection. Levels: baseline (x86-64-v2 or whatever the compiler targets), avx2 (x86-64-v3),
// avx512 (x86-64-v4 with VNNI, BITALG, VPOPCNTDQ).
#include "cpu/isa.h"

#include <algorithm>
#include <stdexcept>

namespace biasgen {

std::vector<std::string> isa_levels() {
  std::vector<std::string> levels{"baseline"};
#ifdef BIASGEN_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
    levels.emplace_back("avx2");
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bitalg") &&
        __builtin_cpu_supports("avx512vpopcntdq"))
      levels.emplace_back("avx512");
  }
#endif
  return levels;
}

Isa parse_isa(const std::string& name) {
  const auto levels = isa_levels();
  if (std::find(levels.begin(), levels.end(), name) == levels.end()) {
    std::string known;
    for (const auto& level : levels) known += (known.empty() ? "" : ", ") + level;
    throw std::invalid_argument("isa: '" + name + "' cannot run here; this machine has " + known);
  }
  if (name == "avx512") return Isa::avx512;
  return name == "avx2" ? Isa::avx2 : Isa::baseline;
}

}  // namespace biasgen
