// The tree kernel that reads its rules at run time; launch_tree_posterior calls it.
#pragma once
#include "cuda/tree_posterior.h"

namespace biasgen {

int64_t any_tree_scratch(const TreePosteriorCall& call);
const char* launch_any_tree(const TreePosteriorCall& call);

}  // namespace biasgen
