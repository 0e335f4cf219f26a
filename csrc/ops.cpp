// Schemas of every operator, and what autograd does with a bare one.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

TORCH_LIBRARY(torchbp, m) {
#define TORCHBP_OPERATOR(name, schema) m.def(#name schema);
#include "schemas.def"
#undef TORCHBP_OPERATOR
}

// The operators carry no gradient: torchbp.autograd does. Differentiating through a bare operator
// raises instead of silently giving nothing.
TORCH_LIBRARY_IMPL(torchbp, Autograd, m) {
#define TORCHBP_OPERATOR(name, schema) m.impl(#name, torch::autograd::autogradNotImplementedFallback());
#include "schemas.def"
#undef TORCHBP_OPERATOR
}
