// Pooling: the problems and their kernels, and those of the instruction set being compiled.
#pragma once

#include "problem.h"

namespace torchbp {

// A pool over planes of depth x height x width. `outer` counts images times channels for contiguous
// tensors (inner = 1) and images for channels-last ones (inner = channels, the fastest axis).
struct PoolProblem {
  int64_t outer;
  int64_t inner;
  int64_t input[kSpatial];
  int64_t output[kSpatial];
  int64_t kernel[kSpatial];
  int64_t stride[kSpatial];
  int64_t padding[kSpatial];
  int64_t dilation[kSpatial];
};

// A pool whose windows follow no stride. The window of output o along axis a covers the inputs
// [start, end) with start = windows[first[a] + o] and end = windows[total + first[a] + o]; the table of an
// image and channel begins at n * batch_stride + c * channel_stride.
struct IrregularProblem {
  int64_t outer;  // as in PoolProblem
  int64_t inner;
  int64_t input[kSpatial];
  int64_t output[kSpatial];
  const int64_t* windows;
  int64_t first[kSpatial];
  int64_t total;
  int64_t channels;  // of an image, if inner is 1
  int64_t batch_stride;
  int64_t channel_stride;
};

// One plane of `from` elements, `step` apart, each of which has a place in a plane of `to` elements, as far
// apart. Of several writers to one place the last stays; the adjoint reads for it only.
struct UnpoolProblem {
  int64_t from;
  int64_t to;
  int64_t step;
};

// Windows of an average along each axis: output o averages the inputs [start[o], end[o]) and weighs
// them with the product over the axes of scale[o], times `factor`.
template <typename T>
struct AverageProblem {
  int64_t outer;
  int64_t inner;
  int64_t input[kSpatial];
  int64_t output[kSpatial];
  const int64_t* start[kSpatial];
  const int64_t* end[kSpatial];
  const T* scale[kSpatial];
  T factor;
};

// One task is one element of `outer` and a block of `inner`; tasks write disjoint outputs.
template <typename T>
struct PoolKernels {
  int64_t (*max_tasks)(const PoolProblem&);
  int64_t (*max_workspace)(const PoolProblem&);  // elements, per thread
  // winner_bytes is 1 or 4.
  void (*max_pool)(const PoolProblem&, const T* input, T* output, void* winner, int winner_bytes, T* workspace,
                   int64_t task);
  void (*max_scatter)(const PoolProblem&, const T* grad_output, const void* winner, int winner_bytes, T* grad_input,
                      int64_t task);
  void (*max_gather)(const PoolProblem&, const T* input, const void* winner, int winner_bytes, T* output, int64_t task);

  // The same three for windows that follow no stride; the winner is a place in its own window.
  int64_t (*irregular_tasks)(const IrregularProblem&);
  void (*irregular_max_pool)(const IrregularProblem&, const T* input, T* output, void* winner, int winner_bytes,
                             int64_t task);
  void (*irregular_scatter)(const IrregularProblem&, const T* grad_output, const void* winner, int winner_bytes,
                            T* grad_input, int64_t task);
  void (*irregular_gather)(const IrregularProblem&, const T* input, const void* winner, int winner_bytes, T* output,
                           int64_t task);

  // Both return where they met an index outside the plane, or null.
  const int64_t* (*unpool)(const UnpoolProblem&, const T* input, const int64_t* index, T* output);
  const int64_t* (*unpool_adjoint)(const UnpoolProblem&, const T* grad_output, const int64_t* index, T* grad_input,
                                   uint8_t* taken);  // a byte per element of `to`

  int64_t (*average_tasks)(const AverageProblem<T>&);
  int64_t (*average_workspace)(const AverageProblem<T>&);  // elements, per thread
  void (*average_pool)(const AverageProblem<T>&, const T* input, T* output, T* workspace, int64_t task);
  void (*average_spread)(const AverageProblem<T>&, const T* grad_output, T* grad_input, T* workspace, int64_t task);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

PoolKernels<float> pool_float();
PoolKernels<double> pool_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
