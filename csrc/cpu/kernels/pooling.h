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

// A pool whose windows follow no stride. The window of output o along axis a covers `length` inputs from `start` on,
// with start = windows[first[a] + o] and length = windows[total + first[a] + o]; every plane of a contiguous tensor has
// a table of its own, plane_stride from one to the next, or all have the same one.
struct IrregularProblem {
  int64_t outer;  // as in PoolProblem
  int64_t inner;
  int64_t input[kSpatial];
  int64_t output[kSpatial];
  int64_t kernel[kSpatial];  // the largest window; winners are places in one of this size
  const int64_t* windows;
  int64_t first[kSpatial];
  int64_t total;
  int64_t plane_stride;
};

// From one image, channel or position of a tensor to the next.
struct UnpoolSteps {
  int64_t outer;
  int64_t channel;
  int64_t pixel;
};

// Each of `from` elements of a small plane has a place in a large one of `to`. Of several writers to one place the
// last stays; the adjoint reads for it only. An image is a task, or a block of its channels; a plane of its own where
// all tensors are contiguous.
struct UnpoolProblem {
  int64_t outer;
  int64_t inner;  // channels
  int64_t from;
  int64_t to;
  UnpoolSteps index;
  UnpoolSteps small;
  UnpoolSteps large;
};

// Entries behind the last scale of an average, so that vectors of them can be read whole.
constexpr int64_t kScaleSlack = 16;

// Windows of an average along each axis: output o averages the inputs [start[o], end[o]) and weighs
// them with the product over the axes of scale[o], times `factor`. The outputs [cover_first[i], cover_end[i])
// are those whose windows cover input i.
template <typename T>
struct AverageProblem {
  int64_t outer;
  int64_t inner;
  int64_t input[kSpatial];
  int64_t output[kSpatial];
  const int64_t* start[kSpatial];
  const int64_t* end[kSpatial];
  const T* scale[kSpatial];
  const int64_t* cover_first[kSpatial];
  const int64_t* cover_end[kSpatial];
  T factor;
  // Where step is not 0, windows along the width are the part inside the input of [o * step - padding, ... + kernel).
  int64_t step;
  int64_t kernel;
  int64_t padding;
};

// Kernels run the tasks [begin, end), which write disjoint outputs. S is a type in memory: bfloat16 is computed in
// float and rounded once.
template <typename S>
struct MaxPoolKernels {
  int64_t (*forward_tasks)(const PoolProblem&);
  int64_t (*forward_workspace)(const PoolProblem&);  // bytes, per thread
  // winner_bytes is 1 or 4; winner may be null.
  void (*forward)(const PoolProblem&, const S* input, S* output, void* winner, int winner_bytes, int64_t begin,
                  int64_t end, void* workspace);

  // Adds what each output got to the input that won it.
  int64_t (*scatter_tasks)(const PoolProblem&);
  int64_t (*scatter_workspace)(const PoolProblem&);
  void (*scatter)(const PoolProblem&, const S* gradient, const void* winner, int winner_bytes, S* grad_input,
                  int64_t begin, int64_t end, void* workspace);
  bool (*rounds_once)(const PoolProblem&);  // whether it keeps sums in registers until they are complete

  // Reads the winners' values.
  int64_t (*gather_tasks)(const PoolProblem&);
  void (*gather)(const PoolProblem&, const S* input, const void* winner, int winner_bytes, S* output, int64_t begin,
                 int64_t end);
};

// The same three for windows that follow no stride.
template <typename T>
struct IrregularPoolKernels {
  int64_t (*tasks)(const IrregularProblem&);
  int64_t (*forward_workspace)(const IrregularProblem&);  // bytes, per thread
  void (*forward)(const IrregularProblem&, const T* input, T* output, void* winner, int winner_bytes, int64_t begin,
                  int64_t end, void* workspace);
  void (*scatter)(const IrregularProblem&, const T* grad_output, const void* winner, int winner_bytes, T* grad_input,
                  int64_t begin, int64_t end);
  void (*gather)(const IrregularProblem&, const T* input, const void* winner, int winner_bytes, T* output,
                 int64_t begin, int64_t end);

  // Both return where they met an index outside the plane, or null.
  int64_t (*unpool_tasks)(const UnpoolProblem&);
  int64_t (*unpool_adjoint_workspace)(const UnpoolProblem&);
  const int64_t* (*unpool)(const UnpoolProblem&, const T* input, const int64_t* index, T* output, int64_t task);
  const int64_t* (*unpool_adjoint)(const UnpoolProblem&, const T* grad_output, const int64_t* index, T* grad_input,
                                   int64_t task, void* workspace);
};

template <typename S>
struct AveragePoolKernels {
  typedef Compute<S> T;
  int64_t (*tasks)(const AverageProblem<T>&);
  int64_t (*workspace)(const AverageProblem<T>&);  // bytes, per thread
  void (*forward)(const AverageProblem<T>&, const S* input, S* output, int64_t begin, int64_t end, void* workspace);

  int64_t (*adjoint_tasks)(const AverageProblem<T>&);
  int64_t (*adjoint_workspace)(const AverageProblem<T>&);
  void (*adjoint)(const AverageProblem<T>&, const S* gradient, S* grad_input, int64_t begin, int64_t end,
                  void* workspace);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

MaxPoolKernels<float> max_pool_float();
MaxPoolKernels<double> max_pool_double();
MaxPoolKernels<BFloat16> max_pool_bfloat16();
IrregularPoolKernels<float> irregular_pool_float();
IrregularPoolKernels<double> irregular_pool_double();
AveragePoolKernels<float> average_pool_float();
AveragePoolKernels<double> average_pool_double();
AveragePoolKernels<BFloat16> average_pool_bfloat16();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
