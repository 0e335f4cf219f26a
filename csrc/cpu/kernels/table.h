// The kernels of one instruction set, as a table of function pointers.
#pragma once

#include "convolution.h"
#include "normalization.h"
#include "pooling.h"
#include "separable.h"

namespace torchbp {

struct KernelTable {
  const char* instruction_set;
  ConvolutionKernels<float> convolution_float;
  ConvolutionKernels<double> convolution_double;
  PoolKernels<float> pool_float;
  PoolKernels<double> pool_double;
  NormalizationKernels<float> normalization_float;
  NormalizationKernels<double> normalization_double;
  NormalizationKernels<BFloat16> normalization_bfloat16;
  SeparableKernels<float> separable_float;
  SeparableKernels<double> separable_double;
};

}  // namespace torchbp
