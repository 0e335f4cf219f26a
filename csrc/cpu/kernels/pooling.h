// Pooling kernels of the instruction set TORCHBP_ISA.
#pragma once

#include "table.h"

namespace torchbp {
namespace TORCHBP_ISA {

PoolKernels<float> pool_float();
PoolKernels<double> pool_double();

}  // namespace TORCHBP_ISA
}  // namespace torchbp
