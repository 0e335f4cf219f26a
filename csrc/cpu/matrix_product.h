// Convolutions with kernels of one element, stride 1 and no padding: products of matrices, which ATen computes.
#pragma once

#include "arguments.h"

namespace torchbp {

// Whether ATen's products can be kept on the thread that calls them, so that results do not depend on the number of
// threads. The others need it.
bool products_stay_on_a_thread();

// A weight without its taps: target channels of a group as rows, source channels as columns.
template <typename T>
struct ChannelMatrix {
  const T* data;
  int64_t row_stride, column_stride, group_stride;
};

// target[n, :, p] = bias + matrix source[n, :, p] at every position p, group by group.
template <typename T>
void multiply_channels(const at::Tensor& source, const ChannelMatrix<T>& matrix, const T* bias, int64_t groups,
                       at::Tensor& target);

// sum over n and p of grad_output[n, o, p] input[n, c, p], group by group: [slices, o, c], to be summed over the
// slices, which depend on the shape only.
template <typename T>
at::Tensor correlate_channels(const at::Tensor& input, const at::Tensor& grad_output, int64_t groups);

}  // namespace torchbp
