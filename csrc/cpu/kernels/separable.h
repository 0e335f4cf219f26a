// Kernels of separable linear maps, of the instruction set TORCHBP_ISA.
#pragma once

#include "table.h"

namespace torchbp {
namespace TORCHBP_ISA {

SeparableKernels<float> separable_float();
SeparableKernels<double> separable_double();

}  // namespace TORCHBP_ISA
}  // namespace torchbp
