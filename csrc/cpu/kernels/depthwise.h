// Depthwise convolution: the problems and their kernels, and those of the instruction set being compiled.
#pragma once

#include "convolution.h"

namespace torchbp {

// Gather problems that share source, weight and bias and write interleaved positions of one target: the
// phases of the gradient of a strided convolution's input, or the one problem of a forward product. In each
// group source_channels or target_channels is 1. Position q of a phase is target position
// period * q + residue, counted along the target's own strides.
struct DepthwiseProblem {
  int64_t phases;
  const GatherProblem* phase;  // of nowhere more positions than the first
  const int64_t* residue;      // [phases][kSpatial]
  int64_t period[kSpatial];
  int64_t target_size[kAxes];
  int64_t target_stride[kAxes];
};

template <typename T>
struct DepthwiseKernels {
  // Elements of the packed weight and bias, and the packing itself. Bias may be null.
  int64_t (*packed_size)(const DepthwiseProblem&);
  void (*pack)(const DepthwiseProblem&, const T* weight, const T* bias, T* packed);

  // One task computes a box of positions of all phases, for some of the channels or for all of them.
  int64_t (*tasks)(const DepthwiseProblem&);
  int64_t (*workspace)(const DepthwiseProblem&);      // elements, per thread
  int64_t (*task_products)(const DepthwiseProblem&);  // multiply-adds of one task, about
  // Tasks first .. last - 1, one after the other.
  void (*gather)(const DepthwiseProblem&, const T* source, const T* packed, T* target, T* workspace, int64_t first,
                 int64_t last);

  // The weight gradient of a correlation where in each group source_channels or gradient_channels is 1.
  // One task computes it for a block of channels, or all, over one slice of the positions into `partial`,
  // which holds slices * correlation_size elements; then correlation_blocks tasks add the slices in order
  // and write weight_gradient, [channels][taps]. Far-reaching taps do not fit: the general one does them.
  bool (*correlation_fits)(const CorrelationProblem&);
  int64_t (*correlation_slices)(const CorrelationProblem&);
  int64_t (*correlation_size)(const CorrelationProblem&);
  int64_t (*correlation_tasks)(const CorrelationProblem&);
  int64_t (*correlation_workspace)(const CorrelationProblem&);
  int64_t (*correlation_task_products)(const CorrelationProblem&);
  void (*correlate)(const CorrelationProblem&, const T* source, const T* gradient, T* partial, T* workspace,
                    int64_t first, int64_t last);
  int64_t (*correlation_blocks)(const CorrelationProblem&);
  void (*correlation_sum)(const CorrelationProblem&, const T* partial, T* weight_gradient, int64_t block);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

DepthwiseKernels<float> depthwise_float();
DepthwiseKernels<double> depthwise_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
