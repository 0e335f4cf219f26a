// Convolutions with kernels of one element, stride 1 and no padding: products of matrices, which ATen computes.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include "arguments.h"

namespace torchbp {

// Whether ATen's products can be kept on the thread that calls them, so that results do not depend on the number of
// threads. The others need it.
bool products_stay_on_a_thread();

// While it lives, the products of this thread run on it alone: MKL cuts a product as its number of threads says, also
// where they are not to be had, and so the bits would depend on it.
class OneThread {
 public:
  OneThread();
  ~OneThread();
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  const int before_;
};

// Runs task(index, workspace) for every index below `tasks`, each thread with a workspace of its own.
template <typename T, typename Task>
void run_products(int64_t tasks, int64_t workspace_elements, const Task& task) {
  run_tasks<T>(tasks, workspace_elements, [&](int64_t index, T* workspace) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const OneThread alone;
    task(index, workspace);
  });
}

constexpr int64_t kTasks = 8;  // that threads may share, where there is enough to do

template <typename T>
at::Tensor matrix_at(const T* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
  return at::from_blob(const_cast<T*>(data), {rows, columns}, {row_stride, column_stride},
                       at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value));
}

// result = left right, and more: a tensor of the result's shape, such as the result itself.
inline void multiply(at::Tensor result, const at::Tensor& left, const at::Tensor& right) {
  at::cpu::mm_out(result, left, right);
}
inline void multiply_add(at::Tensor result, const at::Tensor& more, const at::Tensor& left, const at::Tensor& right) {
  at::cpu::addmm_out(result, more, left, right);
}

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
