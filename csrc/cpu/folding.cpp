// Unfolding, which lists the window of every position as a column, and its adjoint, folding, which adds the
// columns up again, for 1 to 3 spatial dimensions. An axis of n elements becomes kernel x positions outputs.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

#include "separable.h"

namespace torchbp {
namespace {

using at::IntArrayRef;
using at::Tensor;

struct Windows {
  std::vector<int64_t> input, kernel, stride, padding, dilation;
  std::vector<int64_t> positions;
  int64_t taps = 1;     // in a window
  int64_t columns = 1;  // positions altogether
};

Windows windows_of(const char* op, IntArrayRef input, IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding,
                   IntArrayRef dilation) {
  const int64_t dimensions = static_cast<int64_t>(input.size());
  check_list(op, "the image's size", input, dimensions, 1);
  check_list(op, "kernel_size", kernel, dimensions, 1);
  check_list(op, "stride", stride, dimensions, 1);
  check_list(op, "padding", padding, dimensions, 0);
  check_list(op, "dilation", dilation, dimensions, 1);
  Windows w{input.vec(), kernel.vec(), stride.vec(), padding.vec(), dilation.vec(), {}};
  for (size_t d = 0; d < input.size(); ++d) {
    const int64_t room = window_room(op, input[d], kernel[d], padding[d], dilation[d]);
    TORCH_CHECK(room >= 0, op, ": kernel_size ", kernel, " with dilation ", dilation, " and padding ", padding,
                " leaves no position in an image of size ", input);
    w.positions.push_back(room / stride[d] + 1);
    w.taps = checked_product(op, "kernel_size", w.taps, kernel[d]);
    w.columns = checked_product(op, "the number of positions", w.columns, w.positions.back());
    checked_product(op, "the number of positions", kernel[d], w.positions.back());
  }
  return w;
}

Axes axes_of(const Windows& w, bool adjoint) {
  Axes axes;
  for (size_t d = 0; d < w.input.size(); ++d) {
    const int64_t positions = w.positions[d];
    axes.push_back(selection(w.input[d], w.kernel[d] * positions, [&](int64_t o) {
      const int64_t i = o % positions * w.stride[d] + o / positions * w.dilation[d] - w.padding[d];
      return i < w.input[d] ? i : int64_t(-1);
    }));
    if (adjoint) axes.back() = transposed(axes.back());
  }
  return axes;
}

// Where the columns (N, channels * taps, positions) hold the element (tap * positions + position) of an axis.
Layout layout_of_columns(const Tensor& columns, const Windows& w) {
  Layout layout{columns.stride(0), columns.stride(1) * w.taps, {}};
  layout.axis.fill({1, 0, 0});
  int64_t tap = columns.stride(1), position = columns.stride(2);
  for (size_t d = w.input.size(), axis = kSpatial; d-- > 0;) {
    layout.axis[--axis] = {w.positions[d], tap, position};
    tap *= w.kernel[d];
    position *= w.positions[d];
  }
  return layout;
}

// The innermost axis must be consecutive.
Tensor dense(const Tensor& tensor) {
  return tensor.stride(-1) == 1 || tensor.size(-1) == 1 ? tensor : tensor.contiguous();
}

Tensor unfold(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
              IntArrayRef dilation) {
  constexpr const char* op = "unfold";
  check_batched(op, "input", input);
  if (computes_in_float(input))
    return unfold(input.to(at::kFloat), kernel_size, stride, padding, dilation).to(input.scalar_type());
  const Windows w = windows_of(op, input.sizes().slice(2), kernel_size, stride, padding, dilation);
  const int64_t channels = input.size(1), rows = checked_product(op, "kernel_size", channels, w.taps);
  const Tensor columns = at::empty({input.size(0), rows, w.columns}, input.options().memory_format(std::nullopt));
  if (columns.numel() == 0) return columns;
  const Tensor image = dense(input);
  run_separable(op, image, layout_of(image), columns, layout_of_columns(columns, w), input.size(0), channels,
                Order::kPlanes, [&] { return axes_of(w, false); });
  return columns;
}

Tensor fold(const Tensor& input, IntArrayRef output_size, IntArrayRef kernel_size, IntArrayRef stride,
            IntArrayRef padding, IntArrayRef dilation) {
  constexpr const char* op = "fold";
  TORCH_CHECK(input.dim() == 3, op, ": input must be (N, channels * window, positions), but got shape ", input.sizes());
  TORCH_CHECK(!output_size.empty() && output_size.size() <= kSpatial, op,
              ": output_size must have 1 to 3 values, but got ", output_size);
  if (computes_in_float(input))
    return fold(input.to(at::kFloat), output_size, kernel_size, stride, padding, dilation).to(input.scalar_type());
  const Windows w = windows_of(op, output_size, kernel_size, stride, padding, dilation);
  TORCH_CHECK(input.size(1) % w.taps == 0, op, ": input must have a multiple of the window's ", w.taps,
              " elements as its second size, but got shape ", input.sizes());
  TORCH_CHECK(input.size(2) == w.columns, op, ": input must have ", w.columns,
              " positions as its last size, for output_size ", output_size, " and kernel_size ", kernel_size,
              ", but got shape ", input.sizes());
  std::vector<int64_t> shape = {input.size(0), input.size(1) / w.taps};
  shape.insert(shape.end(), output_size.begin(), output_size.end());
  const Tensor image = at::empty(shape, input.options().memory_format(std::nullopt));
  if (image.numel() == 0) return image;
  const Tensor columns = dense(input);
  run_separable(op, columns, layout_of_columns(columns, w), image, layout_of(image), shape[0], shape[1], Order::kPlanes,
                [&] { return axes_of(w, true); });
  return image;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) {
  m.impl("unfold", unfold);
  m.impl("fold", fold);
}

}  // namespace torchbp
