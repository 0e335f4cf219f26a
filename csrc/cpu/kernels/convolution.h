// Convolution: the problems and their kernels, and those of the instruction set being compiled.
#pragma once

#include "problem.h"

namespace torchbp {

// y[m, q] = bias[m] + sum over taps t and channels c of  w[m, c, t] * x[c, step * q + offset[t]].
//
// This one form is the forward product of a convolution (step = stride, offsets = dilated taps minus
// padding) and, with the kernel's taps taken in reverse, each phase of the gradient of its input
// (step = 1; see cpu/convolution.cpp). Strides are in elements, so any memory layout is read and
// written in place.
struct GatherProblem {
  int64_t grid[kAxes];  // number of positions q along each axis
  int64_t step[kAxes];
  int64_t source_size[kAxes];  // a source coordinate outside [0, size) contributes zero
  int64_t source_stride[kAxes];
  int64_t target_stride[kAxes];
  int64_t taps;
  const int64_t* tap_offset;  // [taps][kSpatial], in source coordinates
  const int64_t* tap_weight;  // [taps], offset of the tap inside the weight
  int64_t groups;
  int64_t source_channels;  // per group
  int64_t target_channels;  // per group
  int64_t source_channel_stride;
  int64_t target_channel_stride;
  int64_t weight_group_stride;
  int64_t weight_source_stride;  // from one source channel to the next
  int64_t weight_target_stride;  // from one target channel to the next
};

// w[m, c, t] = sum over positions q of  g[m, q] * x[c, step * q + offset[t]].
struct CorrelationProblem {
  int64_t grid[kAxes];
  int64_t step[kAxes];
  int64_t source_size[kAxes];
  int64_t source_stride[kAxes];
  int64_t gradient_stride[kAxes];
  int64_t taps;
  const int64_t* tap_offset;
  int64_t groups;
  int64_t source_channels;    // per group
  int64_t gradient_channels;  // per group
  int64_t source_channel_stride;
  int64_t gradient_channel_stride;
};

template <typename T>
struct ConvolutionKernels {
  // Elements of the packed weight, and the packing itself (one group at a time).
  int64_t (*packed_weight_size)(const GatherProblem&);
  void (*pack_weight)(const GatherProblem&, const T* weight, T* packed, int64_t group);

  // One task computes a block of positions times a block of target channels of one group.
  int64_t (*gather_tasks)(const GatherProblem&);
  int64_t (*gather_workspace)(const GatherProblem&);  // elements, per thread
  void (*gather)(const GatherProblem&, const T* source, const T* packed_weight, const T* bias, T* target, T* workspace,
                 int64_t task);

  // One task computes a block of the weight gradient over one slice of the positions; `partial` is
  // [slices][groups][gradient channels][taps][source channels] and is summed by the caller.
  int64_t (*correlation_slices)(const CorrelationProblem&);
  int64_t (*correlation_tasks)(const CorrelationProblem&);
  int64_t (*correlation_workspace)(const CorrelationProblem&);
  void (*correlate)(const CorrelationProblem&, const T* source, const T* gradient, T* partial, T* workspace,
                    int64_t task);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

ConvolutionKernels<float> convolution_float();
ConvolutionKernels<double> convolution_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
