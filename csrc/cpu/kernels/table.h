// The kernels of one instruction set, as a table of function pointers.
#pragma once

#include "convolution.h"
#include "depthwise.h"
#include "normalization.h"
#include "pooling.h"
#include "separable.h"

namespace torchbp {

struct KernelTable {
  const char* instruction_set;
  ConvolutionKernels<float> convolution_float;
  ConvolutionKernels<double> convolution_double;
  DepthwiseKernels<float> depthwise_float;
  DepthwiseKernels<double> depthwise_double;
  PoolKernels<float> pool_float;
  PoolKernels<double> pool_double;
  ChannelKernels<float> channel_float;
  ChannelKernels<double> channel_double;
  SeparableKernels<float> separable_float;
  SeparableKernels<double> separable_double;
};

}  // namespace torchbp
