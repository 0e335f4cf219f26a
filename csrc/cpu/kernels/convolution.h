// Convolution kernels of the instruction set TORCHBP_ISA.
#pragma once

#include "table.h"

namespace torchbp {
namespace TORCHBP_ISA {

ConvolutionKernels<float> convolution_float();
ConvolutionKernels<double> convolution_double();

}  // namespace TORCHBP_ISA
}  // namespace torchbp
