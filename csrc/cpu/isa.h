// Which instruction-set levels this machine can run.
#pragma once
#include <string>
#include <vector>

namespace biasgen {

enum class Isa { baseline, avx2, avx512 };

std::vector<std::string> isa_levels();   // slowest first; "baseline" is always there
Isa parse_isa(const std::string& name);  // throws std::invalid_argument when unknown or not runnable here

}  // namespace biasgen
