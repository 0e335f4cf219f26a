// Scaling what a mask keeps.
#pragma once

#include "problem.h"

namespace torchbp {

template <typename T>
struct DropoutKernels {
  // y = x scale where the mask is set, else x 0; mask holds bytes 0 and 1.
  void (*masked_scale)(const T* x, const uint8_t* mask, T scale, T* y, int64_t count);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

DropoutKernels<float> dropout_float();
DropoutKernels<double> dropout_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
