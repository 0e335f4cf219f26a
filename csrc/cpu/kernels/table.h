// The kernels of one instruction set, as a table of function pointers.
#pragma once

#include "activation.h"
#include "convolution.h"
#include "depthwise.h"
#include "direct.h"
#include "dropout.h"
#include "loss.h"
#include "normalization.h"
#include "patches.h"
#include "pooling.h"
#include "separable.h"
#include "softmax.h"
#include "winograd.h"

namespace torchbp {

// Every entry of the table: its name, which is also that of the function of an instruction set that makes it, and
// its type.
#define TORCHBP_KERNELS(ENTRY)                                  \
  ENTRY(activation_float, ActivationKernels<float>)             \
  ENTRY(activation_double, ActivationKernels<double>)           \
  ENTRY(average_pool_float, AveragePoolKernels<float>)          \
  ENTRY(average_pool_double, AveragePoolKernels<double>)        \
  ENTRY(average_pool_bfloat16, AveragePoolKernels<BFloat16>)    \
  ENTRY(convolution_float, ConvolutionKernels<float>)           \
  ENTRY(convolution_double, ConvolutionKernels<double>)         \
  ENTRY(cross_entropy_float, CrossEntropyKernels<float>)        \
  ENTRY(cross_entropy_double, CrossEntropyKernels<double>)      \
  ENTRY(depthwise_float, DepthwiseKernels<float>)               \
  ENTRY(depthwise_double, DepthwiseKernels<double>)             \
  ENTRY(difference_float, DifferenceKernels<float>)             \
  ENTRY(difference_double, DifferenceKernels<double>)           \
  ENTRY(direct_float, DirectKernels<float>)                     \
  ENTRY(direct_double, DirectKernels<double>)                   \
  ENTRY(dropout_float, DropoutKernels<float>)                   \
  ENTRY(dropout_double, DropoutKernels<double>)                 \
  ENTRY(irregular_pool_float, IrregularPoolKernels<float>)      \
  ENTRY(irregular_pool_double, IrregularPoolKernels<double>)    \
  ENTRY(max_pool_float, MaxPoolKernels<float>)                  \
  ENTRY(max_pool_double, MaxPoolKernels<double>)                \
  ENTRY(max_pool_bfloat16, MaxPoolKernels<BFloat16>)            \
  ENTRY(normalization_float, NormalizationKernels<float>)       \
  ENTRY(normalization_double, NormalizationKernels<double>)     \
  ENTRY(normalization_bfloat16, NormalizationKernels<BFloat16>) \
  ENTRY(patches_float, PatchKernels<float>)                     \
  ENTRY(patches_double, PatchKernels<double>)                   \
  ENTRY(separable_float, SeparableKernels<float>)               \
  ENTRY(separable_double, SeparableKernels<double>)             \
  ENTRY(softmax_float, SoftmaxKernels<float>)                   \
  ENTRY(softmax_double, SoftmaxKernels<double>)                 \
  ENTRY(winograd_float, WinogradKernels<float>)                 \
  ENTRY(winograd_double, WinogradKernels<double>)

struct KernelTable {
  const char* instruction_set;
#define TORCHBP_FIELD(name, ...) __VA_ARGS__ name;
  TORCHBP_KERNELS(TORCHBP_FIELD)
#undef TORCHBP_FIELD
};

}  // namespace torchbp
