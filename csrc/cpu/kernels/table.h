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
  MaxPoolKernels<float> max_pool_float;
  MaxPoolKernels<double> max_pool_double;
  MaxPoolKernels<BFloat16> max_pool_bfloat16;
  IrregularPoolKernels<float> irregular_pool_float;
  IrregularPoolKernels<double> irregular_pool_double;
  AveragePoolKernels<float, float> average_pool_float;
  AveragePoolKernels<double, double> average_pool_double;
  AveragePoolKernels<BFloat16, float> average_pool_bfloat16;
  ChannelKernels<float> channel_float;
  ChannelKernels<double> channel_double;
  SeparableKernels<float> separable_float;
  SeparableKernels<double> separable_double;
};

}  // namespace torchbp
