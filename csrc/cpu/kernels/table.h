// The kernels of one instruction set, as a table of function pointers.
#pragma once

#include "activation.h"
#include "convolution.h"
#include "dropout.h"
#include "loss.h"
#include "normalization.h"
#include "pooling.h"
#include "separable.h"
#include "softmax.h"

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
  ActivationKernels<float> activation_float;
  ActivationKernels<double> activation_double;
  CrossEntropyKernels<float> cross_entropy_float;
  CrossEntropyKernels<double> cross_entropy_double;
  DropoutKernels<float> dropout_float;
  DropoutKernels<double> dropout_double;
  SoftmaxKernels<float> softmax_float;
  SoftmaxKernels<double> softmax_double;
  SquaredErrorKernels<float> squared_error_float;
  SquaredErrorKernels<double> squared_error_double;
};

}  // namespace torchbp
