// Can this build run on this machine's GPU?
#pragma once
#include <string>

namespace biasgen {

// Empty when it can, else a sentence. It starts the driver, so a process that asked must not fork and use the GPU in
// the child.
std::string probe();

}  // namespace biasgen
