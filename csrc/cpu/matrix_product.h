// Convolutions with kernels of one element, stride 1 and no padding: products of matrices, which ATen computes.
#pragma once

#include "arguments.h"

namespace torchbp {

// Whether ATen's products can be kept on the thread that calls them, so that results do not depend on the number of
// threads. The functions below need it.
bool products_stay_on_a_thread();

// Whether they are there and as fast as the processor allows: MKL's are on Intel's only.
bool products_run_at_full_speed();

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

// A tensor as a matrix of channels by positions for every image.
struct Images {
  int64_t count, positions;
  int64_t image_stride, channel_stride, position_stride;
};

// sum over n and p of grad_output[n, o, p] input[n, c, p], group by group, in slices of positions that depend on the
// shape only.
template <typename T>
class ChannelCorrelation {
 public:
  ChannelCorrelation(const at::Tensor& input, const at::Tensor& grad_output, int64_t groups);
  int64_t slices() const { return slices_; }
  // Writes sums[slice][o][c], to be added by the caller.
  void run(T* sums) const;

 private:
  Images source_{}, gradient_{};
  const at::Tensor input_, grad_output_;
  const int64_t groups_;
  int64_t slices_ = 1;
  int64_t length_ = 0;  // of a slice: so many of the images, or positions of the only one
};

}  // namespace torchbp
