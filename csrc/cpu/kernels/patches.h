// Convolutions whose windows do not overlap: the problem and its kernels.
#pragma once

#include "problem.h"

namespace torchbp {

// Windows of an image (N, channels, *size), `stride` apart and at least `kernel` wide, and an image (N, outputs, *grid)
// of values per window. Both images and the weight (outputs, channels, *kernel) are dense and lie in memory alike:
// contiguous, or channels last.
struct PatchProblem {
  bool channels_last;
  int64_t batch, channels, outputs;
  int64_t grid[kSpatial], kernel[kSpatial], stride[kSpatial], size[kSpatial];
};

template <typename T>
struct PatchKernels {
  // values = weight windows + bias or, to windows, windows = transposed weight values + bias, where elements of no
  // window are left alone. The weight and the bias, which may be null, are packed panel by panel.
  int64_t (*panels)(const PatchProblem&, bool to_windows);
  int64_t (*panel_size)(const PatchProblem&, bool to_windows);
  void (*pack)(const PatchProblem&, bool to_windows, const T* weight, const T* bias, T* packed, int64_t panel);
  int64_t (*gather_tasks)(const PatchProblem&, bool to_windows);
  int64_t (*gather_workspace)(const PatchProblem&, bool to_windows);  // elements, per thread
  void (*gather)(const PatchProblem&, bool to_windows, const T* source, const T* packed, T* target, T* workspace,
                 int64_t task);

  // The weight gradient: tasks write slices of correlation_size elements each, whose sum correlation_sum writes block
  // by block.
  int64_t (*correlation_slices)(const PatchProblem&);
  int64_t (*correlation_size)(const PatchProblem&);
  int64_t (*correlation_tasks)(const PatchProblem&);
  int64_t (*correlation_workspace)(const PatchProblem&);
  void (*correlate)(const PatchProblem&, const T* source, const T* gradient, T* partial, T* workspace, int64_t task);
  int64_t (*correlation_blocks)(const PatchProblem&);
  void (*correlation_sum)(const PatchProblem&, T* partial, T* weight_gradient, int64_t block);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

PatchKernels<float> patches_float();
PatchKernels<double> patches_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
