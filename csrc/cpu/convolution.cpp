// The three products of a convolution, y = T(x, w, .) + bias, dx = T(., w, dy) + bias and dw = T(x, ., dy), for 1 to
// 3 spatial dimensions in any memory layout.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "arguments.h"
#include "convolution_algorithm.h"
#include "dispatch.h"
#include "matrix_product.h"
#include "patches.h"

namespace torchbp {

using at::IntArrayRef;
using at::Tensor;

namespace {

// Leaves out the taps at both ends of a kernel that meet nothing but padding: on maps of one element, all of a 3x3
// kernel but the middle one. A forced algorithm gets all of them.
void leave_out_padding(Geometry& g) {
  g.whole_kernel = g.kernel;
  g.first_tap.fill(0);
  if (algorithm_is_forced()) return;
  for (int d = 0; d < kSpatial; ++d) {
    // Tap k of output o reads input stride * o + dilation * k - padding.
    const int64_t before = g.padding[d] - (g.output[d] - 1) * g.stride[d];
    const int64_t first = before > 0 ? std::min(up(before, g.dilation[d]), g.padding[d] / g.dilation[d]) : 0;
    const int64_t last = std::min(g.kernel[d] - 1, (g.input[d] - 1 + g.padding[d]) / g.dilation[d]);
    if (g.input[d] == 0 || last < first) continue;
    g.first_tap[d] = first;
    g.kernel[d] = last - first + 1;
    g.padding[d] -= first * g.dilation[d];
  }
}

// The taps of a weight that meet an input, where they stand.
Tensor taps_of(const Geometry& g, Tensor weight) {
  for (int64_t d = 0; d < g.dimensions; ++d) {
    const auto axis = static_cast<size_t>(kSpatial - g.dimensions + d);
    weight = weight.narrow(2 + d, g.first_tap[axis], g.kernel[axis]);
  }
  return weight;
}

Tensor used_taps(const Geometry& g, const Tensor& weight) {
  return g.kernel == g.whole_kernel ? weight : taps_of(g, weight).contiguous(weight.suggest_memory_format());
}

}  // namespace

Geometry geometry_of(const char* op, int64_t batch, IntArrayRef input, IntArrayRef kernel, IntArrayRef stride,
                     IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
  const int64_t dimensions = static_cast<int64_t>(input.size());
  check_list(op, "input_size", input, dimensions, 0);
  check_list(op, "kernel_size", kernel, dimensions, 1);
  check_list(op, "stride", stride, dimensions, 1);
  check_list(op, "dilation", dilation, dimensions, 1);
  TORCH_CHECK(groups >= 1, op, ": groups must be positive, but got ", groups);
  TORCH_CHECK(padding.size() == input.size() || padding.size() == 2 * input.size(), op,
              ": padding must have one value per spatial dimension, or all before and then all after, but got ",
              padding);
  Geometry g;
  g.dimensions = dimensions;
  g.batch = batch;
  g.groups = groups;
  g.input = spatial(input, 1);
  g.kernel = spatial(kernel, 1);
  g.stride = spatial(stride, 1);
  const bool sided = padding.size() == 2 * input.size();
  g.padding = spatial(sided ? padding.slice(0, input.size()) : padding, 0);
  const Sizes after = spatial(sided ? padding.slice(input.size()) : padding, 0);
  g.dilation = spatial(dilation, 1);
  for (int d = 0; d < kSpatial; ++d) {
    TORCH_CHECK(g.padding[d] >= 0 && after[d] >= (sided ? -g.input[d] : 0), op,
                ": padding must not be negative, or cut more than there is, but got ", padding);
    const int64_t padded = checked_sum(op, "padding", checked_sum(op, "padding", g.input[d], g.padding[d]), after[d]);
    const int64_t room = padded - window_extent(op, g.kernel[d], g.dilation[d]);
    TORCH_CHECK(room >= 0, op, ": kernel_size ", kernel, " with dilation ", dilation,
                " is larger than the padded input of size ", input, " with padding ", padding);
    g.output[d] = room / g.stride[d] + 1;
    g.stride[d] = std::min(g.stride[d], room + 1);  // any larger one meets the same single position
  }
  leave_out_padding(g);
  for (int d = 0; d < kSpatial; ++d)
    if (g.kernel[d] == 1) g.dilation[d] = 1;
  return g;
}

namespace {

void check_same_type(const char* op, const char* first_name, const Tensor& first, const char* name,
                     const Tensor& tensor) {
  TORCH_CHECK(first.scalar_type() == tensor.scalar_type(), op, ": ", first_name, " and ", name,
              " must have the same dtype, but got ", first.scalar_type(), " and ", tensor.scalar_type());
  TORCH_CHECK(tensor.device().is_cpu() && tensor.layout() == at::kStrided, op, ": ", name,
              " must be a dense CPU tensor, but got ", tensor.device(), " ", tensor.layout());
}

void check_bias(const char* op, const char* first_name, const Tensor& first, const Tensor& bias, int64_t channels) {
  check_same_type(op, first_name, first, "bias", bias);
  TORCH_CHECK(bias.dim() == 1 && bias.size(0) == channels, op, ": bias must have shape [", channels, "], but got ",
              bias.sizes());
}

std::optional<Tensor> in_float(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional<Tensor>(tensor->to(at::kFloat)) : std::nullopt;
}

std::vector<int64_t> with_spatial(int64_t first, int64_t second, const Sizes& sizes, int64_t dimensions) {
  std::vector<int64_t> shape = {first, second};
  shape.insert(shape.end(), sizes.end() - dimensions, sizes.end());
  return shape;
}

// Channels-last if either operand is, as the built-in convolution chooses; the geometry is told.
at::MemoryFormat result_format(const Tensor& a, const Tensor& b, Geometry& g) {
  at::MemoryFormat format = a.suggest_memory_format();
  if (format == at::MemoryFormat::Contiguous) format = b.suggest_memory_format();
  g.channels_last = format != at::MemoryFormat::Contiguous;
  return format;
}

// Strides of the spatial dimensions and, first, of the batch.
std::array<int64_t, kAxes> axis_strides(const Tensor& tensor) {
  std::array<int64_t, kAxes> strides{};
  strides[0] = tensor.stride(0);
  const int64_t dimensions = tensor.dim() - 2;
  for (int64_t d = 0; d < dimensions; ++d) strides[kAxes - dimensions + d] = tensor.stride(2 + d);
  return strides;
}

struct TapList {
  std::vector<int64_t> offset;
  std::vector<int64_t> weight;
  int64_t count = 0;

  void add(const Sizes& at, int64_t weight_offset) {
    offset.insert(offset.end(), at.begin(), at.end());
    weight.push_back(weight_offset);
    ++count;
  }
};

template <typename Visit>
void visit_kernel(const Sizes& kernel, const Visit& visit) {
  for (int64_t d = 0; d < kernel[0]; ++d)
    for (int64_t h = 0; h < kernel[1]; ++h)
      for (int64_t w = 0; w < kernel[2]; ++w) visit(Sizes{d, h, w});
}

int64_t dot(const Sizes& at, const std::array<int64_t, kAxes>& strides) {
  return at[0] * strides[1] + at[1] * strides[2] + at[2] * strides[3];
}

// Runs one gather problem, packing its weight first.
template <typename T>
void run_gather(const GatherProblem& problem, const Tensor& source, const Tensor& weight, const T* bias, T* target) {
  const ConvolutionKernels<T>& kernel = convolution_kernels<T>();
  const T* from = source.const_data_ptr<T>();
  const T* weights = weight.const_data_ptr<T>();
  const int64_t group_size = kernel.packed_weight_size(problem);
  const Tensor packed = at::empty({problem.groups * group_size}, source.options().memory_format(std::nullopt));
  T* packed_data = packed.data_ptr<T>();
  at::parallel_for(0, problem.groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group)
      kernel.pack_weight(problem, weights, packed_data + group * group_size, group);
  });
  run_tasks<T>(kernel.gather_tasks(problem), kernel.gather_workspace(problem), [&](int64_t task, T* workspace) {
    kernel.gather(problem, from, packed_data, bias, target, workspace, task);
  });
}

// The same with channels as vectors.
template <typename T>
void run_direct(const GatherProblem& problem, const Tensor& source, const Tensor& weight, const T* bias, T* target) {
  const DirectKernels<T>& kernel = direct_kernels<T>();
  if (!kernel.fits(problem)) return run_gather(problem, source, weight, bias, target);
  const T* from = source.const_data_ptr<T>();
  const T* weights = weight.const_data_ptr<T>();
  const int64_t panels = kernel.packed_panels(problem), threads = at::get_num_threads();
  const Tensor packed =
      at::empty({panels * kernel.packed_panel_size(problem)}, source.options().memory_format(std::nullopt));
  T* matrices = packed.data_ptr<T>();
  at::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) kernel.pack_weight(problem, weights, matrices, panel);
  });
  run_tasks<T>(kernel.gather_tasks(problem, threads), kernel.gather_workspace(problem),
               [&](int64_t task, T* workspace) {
                 kernel.gather(problem, threads, from, matrices, bias, target, workspace, task);
               });
}

DepthwiseProblem one_phase(const GatherProblem& problem, const int64_t* residue) {
  DepthwiseProblem depthwise{};
  depthwise.phases = 1;
  depthwise.phase = &problem;
  depthwise.residue = residue;
  for (int axis = 0; axis < kAxes; ++axis) {
    if (axis > 0) depthwise.period[axis - 1] = 1;
    depthwise.target_size[axis] = problem.grid[axis];
    depthwise.target_stride[axis] = problem.target_stride[axis];
  }
  return depthwise;
}

// Multiply-adds that are worth another thread.
constexpr int64_t kThreadProducts = 1 << 18;

// Runs tasks(first, last, workspace), each thread with a workspace of its own and enough to do.
template <typename T, typename Tasks>
void run_ranges(int64_t count, int64_t products, int64_t workspace_elements, const Tasks& tasks) {
  const int64_t grain = std::max<int64_t>(1, kThreadProducts / std::max<int64_t>(1, products));
  at::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    const Scratch<T> workspace(workspace_elements);
    tasks(first, last, workspace.data());
  });
}

// Runs gather problems that write interleaved positions of one target, where in each group one side has one channel.
template <typename T>
void run_depthwise(const DepthwiseProblem& problem, const Tensor& source, const Tensor& weight, const T* bias,
                   T* target) {
  const DepthwiseKernels<T>& kernel = depthwise_kernels<T>();
  const Tensor packed = at::empty({kernel.packed_size(problem)}, source.options().memory_format(std::nullopt));
  kernel.pack(problem, weight.const_data_ptr<T>(), bias, packed.data_ptr<T>());
  const T* from = source.const_data_ptr<T>();
  const T* packed_data = packed.const_data_ptr<T>();
  run_ranges<T>(kernel.tasks(problem), kernel.task_products(problem), kernel.workspace(problem),
                [&](int64_t first, int64_t last, T* workspace) {
                  kernel.gather(problem, from, packed_data, target, workspace, first, last);
                });
}

// ---------------------------------------------------------------------------------------------
// Winograd

// Products that are summed one after the other: as many as have errors of the size that the transforms have. Tiles of
// 2 x 2 have small ones, and those of 4 x 4 such that shorter sums gain nothing.
int64_t winograd_chain(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::winograd_2x2:
      return 64;
    case Algorithm::winograd_4x4:
      return 256;
    default:
      return 16;
  }
}

// Strides of (batch, height, width) from those of all axes.
void image_strides(const std::array<int64_t, kAxes>& strides, int64_t* to) {
  to[0] = strides[0];
  to[1] = strides[2];
  to[2] = strides[3];
}

WinogradProblem winograd_problem(const Geometry& g, Algorithm algorithm, const Tensor& source, const Tensor& target) {
  const std::array<int64_t, 2> tile = winograd_tile(algorithm);
  const auto from = axis_strides(source), to = axis_strides(target);
  WinogradProblem problem{};
  problem.batch = source.size(0);
  image_strides(from, problem.source_stride);
  image_strides(to, problem.target_stride);
  problem.source_planes = g.input[0];
  problem.target_planes = g.output[0];
  problem.plane_taps = g.kernel[0];
  problem.plane_step = g.stride[0];
  problem.plane_origin = -g.padding[0];
  problem.source_plane_stride = from[1];
  problem.target_plane_stride = to[1];
  problem.source_channel_stride = source.stride(1);
  problem.target_channel_stride = target.stride(1);
  problem.groups = g.groups;
  problem.source_channels = source.size(1) / g.groups;
  problem.target_channels = target.size(1) / g.groups;
  problem.stride = g.stride[2];
  problem.threads = at::get_num_threads();
  problem.chain = winograd_chain(algorithm);
  for (int d = 0; d < 2; ++d) {
    problem.tile[d] = tile[static_cast<size_t>(d)];
    problem.taps[d] = g.kernel[d + 1];
    problem.dilation[d] = g.dilation[d + 1];
    problem.source_size[d] = g.input[d + 1];
    problem.target_size[d] = g.output[d + 1];
    problem.origin[d] = -g.padding[d + 1];
  }
  return problem;
}

template <typename T>
void run_winograd(const WinogradProblem& problem, const Tensor& source, const T* weight, const Tensor& bias, T* to) {
  const WinogradKernels<T>& kernel = winograd_kernels<T>();
  const int64_t panels = kernel.packed_panels(problem);
  const Tensor packed =
      at::empty({panels * kernel.packed_panel_size(problem)}, source.options().memory_format(std::nullopt));
  T* matrices = packed.data_ptr<T>();
  at::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) kernel.pack_weight(problem, weight, matrices, panel);
  });
  const T* from = source.const_data_ptr<T>();
  const T* biases = bias.defined() ? bias.const_data_ptr<T>() : nullptr;
  run_tasks<T>(kernel.gather_tasks(problem), kernel.gather_workspace(problem), [&](int64_t task, T* workspace) {
    kernel.gather(problem, from, weight, matrices, biases, to, workspace, task);
  });
}

template <typename T>
void forward_winograd(Algorithm algorithm, const Geometry& g, const Tensor& input, const Tensor& weight,
                      const Tensor& bias, Tensor& output) {
  WinogradProblem problem = winograd_problem(g, algorithm, input, output);
  const auto strides = axis_strides(weight);
  problem.weight_group_stride = problem.target_channels * weight.stride(0);
  problem.weight_source_stride = weight.stride(1);
  problem.weight_target_stride = weight.stride(0);
  for (int d = 0; d < 2; ++d) problem.weight_tap_stride[d] = strides[d + 2];
  problem.weight_plane_stride = strides[1];
  run_winograd<T>(problem, input, weight.const_data_ptr<T>(), bias, output.data_ptr<T>());
}

// The input's gradient is the forward product of the flipped weight with its channels exchanged, for stride 2 of the
// output's gradient with zeros between its elements. Planes that are as far apart as the stride meet the same taps.
template <typename T>
void input_gradient_winograd(Algorithm algorithm, const Geometry& g, const Tensor& grad_output, const Tensor& weight,
                             const Tensor& bias, Tensor& grad_input) {
  Geometry flipped = g;
  flipped.input = g.output;
  flipped.output = g.input;
  for (int d = 0; d < kSpatial; ++d) flipped.padding[d] = (g.kernel[d] - 1) * g.dilation[d] - g.padding[d];
  WinogradProblem problem = winograd_problem(flipped, algorithm, grad_output, grad_input);
  const auto strides = axis_strides(weight);
  problem.weight_group_stride = problem.source_channels * weight.stride(0);
  problem.weight_source_stride = weight.stride(0);
  problem.weight_target_stride = weight.stride(1);
  for (int d = 0; d < 2; ++d) problem.weight_tap_stride[d] = -strides[d + 2];
  if (g.stride[2] == 2) {
    problem.interleaved = true;
    problem.odd_first = (g.padding[2] - g.kernel[2]) % 2 == 0;
    for (int d = 0; d < 2; ++d)  // the numerators are even
      problem.origin[d] = (g.padding[d + 1] - g.kernel[d + 1] + (problem.odd_first ? 2 : 1)) / 2;
  }
  const int64_t stride = g.stride[0];
  problem.plane_step = 1;
  problem.target_plane_stride *= stride;
  problem.weight_plane_stride = -stride * strides[1];
  for (int64_t residue = 0; residue < std::min(stride, g.input[0]); ++residue) {
    const int64_t first = (residue + g.padding[0]) % stride, taps = up(g.kernel[0] - first, stride);
    problem.plane_taps = taps;
    problem.target_planes = up(g.input[0] - residue, stride);
    problem.plane_origin = (residue + g.padding[0] - first) / stride - (taps - 1);
    const Sizes last = {first + stride * (taps - 1), g.kernel[1] - 1, g.kernel[2] - 1};
    run_winograd<T>(problem, grad_output, weight.const_data_ptr<T>() + dot(last, strides), bias,
                    grad_input.data_ptr<T>() + residue * axis_strides(grad_input)[1]);
  }
}

// Whether a weight lies in memory as [row][tap][channel].
bool taps_before_channels(const Tensor& weight) {
  const int64_t channels = weight.size(1), taps = weight.numel() / weight.size(0) / channels;
  if (channels == 1 || taps == 1) return weight.is_contiguous();
  return weight.dim() > 3 && weight.is_contiguous(channels_last_format(weight.dim()));
}

// Room for the slices [slice][row][tap][channel] of a weight gradient: the gradient itself where that is all.
Tensor room_for_slices(int64_t slices, const Tensor& grad_weight) {
  if (slices == 1 && taps_before_channels(grad_weight)) return grad_weight;
  return at::empty({slices, grad_weight.numel()}, grad_weight.options().memory_format(std::nullopt));
}

// Adds the slices of a weight gradient in order and writes it.
template <typename T>
void sum_slices(const Geometry& g, const Tensor& room, int64_t slices, int64_t channels, Tensor& grad_weight) {
  if (room.is_same(grad_weight)) return;
  const int64_t rows = grad_weight.size(0);
  const auto strides = axis_strides(grad_weight);
  std::vector<int64_t> tap_at;
  visit_kernel(g.kernel, [&](const Sizes& k) { tap_at.push_back(dot(k, strides)); });
  const int64_t taps = static_cast<int64_t>(tap_at.size()), length = taps * channels;
  const bool dense = grad_weight.is_contiguous();
  T* sums = room.data_ptr<T>();
  T* to = grad_weight.data_ptr<T>();
  const int64_t row_stride = grad_weight.stride(0), channel_stride = grad_weight.stride(1);
  at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* sum = sums + row * length;
      for (int64_t slice = 1; slice < slices; ++slice) {
        const T* next = sum + slice * rows * length;
        for (int64_t i = 0; i < length; ++i) sum[i] += next[i];
      }
      if (dense) {
        T* next = to + row * length;
        for (int64_t c = 0; c < channels; ++c)
          for (const T* from = sum + c; from < sum + length; from += channels) *next++ = *from;
        continue;
      }
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t c = 0; c < channels; ++c)
          to[row * row_stride + c * channel_stride + tap_at[static_cast<size_t>(tap)]] = sum[tap * channels + c];
    }
  });
}

template <typename T>
void weight_gradient_winograd(Algorithm algorithm, const Geometry& g, const Tensor& input, const Tensor& grad_output,
                              Tensor& grad_weight) {
  const WinogradProblem problem = winograd_problem(g, algorithm, input, grad_output);
  const WinogradKernels<T>& kernel = winograd_kernels<T>();
  const int64_t slices = kernel.correlation_slices(problem);
  const Tensor room = room_for_slices(slices, grad_weight);
  T* sums = room.data_ptr<T>();
  const T* from = input.const_data_ptr<T>();
  const T* grads = grad_output.const_data_ptr<T>();
  run_tasks<T>(kernel.correlation_tasks(problem), kernel.correlation_workspace(problem),
               [&](int64_t task, T* workspace) { kernel.correlate(problem, from, grads, sums, workspace, task); });
  sum_slices<T>(g, room, slices, problem.source_channels, grad_weight);
}

// ---------------------------------------------------------------------------------------------

template <typename T>
void forward(const Geometry& g, const Tensor& input, const Tensor& weight, const Tensor& bias, Tensor& output) {
  const Algorithm algorithm =
      algorithm_for("convolution", Product::output, g, weight.size(1), weight.size(0) / g.groups, weight.scalar_type());
  if (winograd_tile(algorithm)[0] > 0) return forward_winograd<T>(algorithm, g, input, weight, bias, output);
  const T* biases = bias.defined() ? bias.const_data_ptr<T>() : nullptr;
  if (algorithm == Algorithm::matrix_product) {
    const ChannelMatrix<T> matrix = {weight.const_data_ptr<T>(), weight.stride(0), weight.stride(1),
                                     weight.size(0) / g.groups * weight.stride(0)};
    return multiply_channels(input, matrix, biases, g.groups, output);
  }
  if (algorithm == Algorithm::patches) return patches_output(g, input, weight, biases, output);
  const auto source = axis_strides(input), kernel = axis_strides(weight), target = axis_strides(output);
  TapList taps;
  visit_kernel(g.kernel, [&](const Sizes& k) {
    Sizes at;
    for (int d = 0; d < kSpatial; ++d) at[d] = k[d] * g.dilation[d] - g.padding[d];
    taps.add(at, dot(k, kernel));
  });
  GatherProblem problem{};
  for (int axis = 0; axis < kAxes; ++axis) {
    problem.grid[axis] = axis == 0 ? input.size(0) : g.output[axis - 1];
    problem.step[axis] = axis == 0 ? 1 : g.stride[axis - 1];
    problem.source_size[axis] = axis == 0 ? input.size(0) : g.input[axis - 1];
    problem.source_stride[axis] = source[axis];
    problem.target_stride[axis] = target[axis];
  }
  problem.taps = taps.count;
  problem.tap_offset = taps.offset.data();
  problem.tap_weight = taps.weight.data();
  problem.groups = g.groups;
  problem.source_channels = input.size(1) / g.groups;
  problem.target_channels = weight.size(0) / g.groups;
  problem.source_channel_stride = input.stride(1);
  problem.target_channel_stride = output.stride(1);
  problem.weight_group_stride = problem.target_channels * weight.stride(0);
  problem.weight_source_stride = weight.stride(1);
  problem.weight_target_stride = weight.stride(0);
  if (algorithm == Algorithm::direct) return run_direct<T>(problem, input, weight, biases, output.data_ptr<T>());
  if (algorithm != Algorithm::depthwise) return run_gather<T>(problem, input, weight, biases, output.data_ptr<T>());
  const int64_t residue[kSpatial] = {0, 0, 0};
  run_depthwise<T>(one_phase(problem, residue), input, weight, biases, output.data_ptr<T>());
}

// dx[i] = sum of w[k] * dy[o] over o * stride + k * dilation - padding = i. Along each dimension the
// inputs i = stride * q + residue meet only the taps with (residue + padding - k * dilation) divisible
// by the stride, and for those o = q + that quotient: each residue is a gather problem of its own with
// step 1, and no inserted zero is ever multiplied.
template <typename T>
void input_gradient(const Geometry& g, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
                    Tensor& grad_input) {
  const Algorithm algorithm = algorithm_for("convolution_input", Product::input, g, weight.size(1),
                                            weight.size(0) / g.groups, weight.scalar_type());
  if (winograd_tile(algorithm)[0] > 0)
    return input_gradient_winograd<T>(algorithm, g, grad_output, weight, bias, grad_input);
  const T* biases = bias.defined() ? bias.const_data_ptr<T>() : nullptr;
  if (algorithm == Algorithm::matrix_product) {
    const ChannelMatrix<T> matrix = {weight.const_data_ptr<T>(), weight.stride(1), weight.stride(0),
                                     weight.size(0) / g.groups * weight.stride(0)};
    return multiply_channels(grad_output, matrix, biases, g.groups, grad_input);
  }
  if (algorithm == Algorithm::patches) return patches_input(g, grad_output, weight, biases, grad_input);
  const auto source = axis_strides(grad_output), kernel = axis_strides(weight), target = axis_strides(grad_input);
  T* to = grad_input.data_ptr<T>();
  Sizes phases;
  for (int d = 0; d < kSpatial; ++d) phases[d] = std::min(g.stride[d], g.input[d]);
  const bool depthwise = algorithm == Algorithm::depthwise;
  // The phases of a depthwise product go together, so that the target is written once; but not very many.
  const bool together = depthwise && phases[0] <= 4 && phases[1] <= 4 && phases[2] <= 4;
  std::vector<TapList> lists;
  std::vector<GatherProblem> problems;
  std::vector<int64_t> residues;
  if (together) lists.reserve(static_cast<size_t>(phases[0] * phases[1] * phases[2]));  // problems point into them
  visit_kernel(phases, [&](const Sizes& residue) {
    TapList one;
    TapList& taps = together ? lists.emplace_back() : one;
    visit_kernel(g.kernel, [&](const Sizes& k) {
      Sizes at;
      for (int d = 0; d < kSpatial; ++d) {
        const int64_t distance = residue[d] + g.padding[d] - k[d] * g.dilation[d];
        if (distance % g.stride[d] != 0) return;
        at[d] = distance / g.stride[d];
      }
      taps.add(at, dot(k, kernel));
    });
    GatherProblem problem{};
    problem.grid[0] = problem.source_size[0] = grad_output.size(0);
    problem.step[0] = 1;
    problem.source_stride[0] = source[0];
    problem.target_stride[0] = target[0];
    for (int d = 0; d < kSpatial; ++d) {
      problem.grid[d + 1] = (g.input[d] - residue[d] + g.stride[d] - 1) / g.stride[d];
      problem.step[d + 1] = 1;
      problem.source_size[d + 1] = g.output[d];
      problem.source_stride[d + 1] = source[d + 1];
      problem.target_stride[d + 1] = target[d + 1] * g.stride[d];
    }
    problem.taps = taps.count;
    problem.tap_offset = taps.offset.data();
    problem.tap_weight = taps.weight.data();
    problem.groups = g.groups;
    problem.source_channels = weight.size(0) / g.groups;
    problem.target_channels = weight.size(1);
    problem.source_channel_stride = grad_output.stride(1);
    problem.target_channel_stride = grad_input.stride(1);
    problem.weight_group_stride = problem.source_channels * weight.stride(0);
    problem.weight_source_stride = weight.stride(0);
    problem.weight_target_stride = weight.stride(1);
    const int64_t origin[kSpatial] = {0, 0, 0};
    if (together) {
      problems.push_back(problem);
      residues.insert(residues.end(), residue.begin(), residue.end());
    } else if (depthwise) {
      run_depthwise<T>(one_phase(problem, origin), grad_output, weight, biases, to + dot(residue, target));
    } else if (algorithm == Algorithm::direct) {
      run_direct<T>(problem, grad_output, weight, biases, to + dot(residue, target));
    } else {
      run_gather<T>(problem, grad_output, weight, biases, to + dot(residue, target));
    }
  });
  if (!together) return;
  DepthwiseProblem whole{};
  whole.phases = static_cast<int64_t>(problems.size());
  whole.phase = problems.data();
  whole.residue = residues.data();
  for (int axis = 0; axis < kAxes; ++axis) {
    if (axis > 0) whole.period[axis - 1] = g.stride[axis - 1];
    whole.target_size[axis] = grad_input.size(0);
    if (axis > 0) whole.target_size[axis] = g.input[axis - 1];
    whole.target_stride[axis] = target[axis];
  }
  run_depthwise<T>(whole, grad_output, weight, biases, to);
}

template <typename T>
void weight_gradient(const Geometry& g, const Tensor& input, const Tensor& grad_output, Tensor& grad_weight) {
  const Algorithm algorithm = algorithm_for("convolution_weight", Product::weight, g, grad_weight.size(1),
                                            grad_weight.size(0) / g.groups, grad_weight.scalar_type());
  if (winograd_tile(algorithm)[0] > 0)
    return weight_gradient_winograd<T>(algorithm, g, input, grad_output, grad_weight);
  if (algorithm == Algorithm::matrix_product) {
    const ChannelCorrelation<T> correlation(input, grad_output, g.groups);
    const Tensor room = room_for_slices(correlation.slices(), grad_weight);
    correlation.run(room.data_ptr<T>());
    return sum_slices<T>(g, room, correlation.slices(), grad_weight.size(1), grad_weight);
  }
  if (algorithm == Algorithm::patches) return patches_weight<T>(g, input, grad_output, grad_weight);
  const auto source = axis_strides(input), gradient = axis_strides(grad_output);
  TapList taps;
  visit_kernel(g.kernel, [&](const Sizes& k) {
    Sizes at;
    for (int d = 0; d < kSpatial; ++d) at[d] = k[d] * g.dilation[d] - g.padding[d];
    taps.add(at, 0);
  });
  CorrelationProblem problem{};
  for (int axis = 0; axis < kAxes; ++axis) {
    problem.grid[axis] = axis == 0 ? input.size(0) : g.output[axis - 1];
    problem.step[axis] = axis == 0 ? 1 : g.stride[axis - 1];
    problem.source_size[axis] = axis == 0 ? input.size(0) : g.input[axis - 1];
    problem.source_stride[axis] = source[axis];
    problem.gradient_stride[axis] = gradient[axis];
  }
  problem.taps = taps.count;
  problem.tap_offset = taps.offset.data();
  problem.groups = g.groups;
  problem.source_channels = input.size(1) / g.groups;
  problem.gradient_channels = grad_output.size(1) / g.groups;
  problem.source_channel_stride = input.stride(1);
  problem.gradient_channel_stride = grad_output.stride(1);

  const ConvolutionKernels<T>& kernel = convolution_kernels<T>();
  const T* from = input.const_data_ptr<T>();
  const T* grads = grad_output.const_data_ptr<T>();
  const int64_t channels = problem.source_channels;
  const auto options = input.options().memory_format(std::nullopt);
  const DepthwiseKernels<T>& depthwise = depthwise_kernels<T>();
  if (algorithm == Algorithm::depthwise && depthwise.correlation_fits(problem)) {
    const Tensor partial =
        at::empty({depthwise.correlation_slices(problem), depthwise.correlation_size(problem)}, options);
    T* sums = partial.data_ptr<T>();
    run_ranges<T>(depthwise.correlation_tasks(problem), depthwise.correlation_task_products(problem),
                  depthwise.correlation_workspace(problem), [&](int64_t first, int64_t last, T* workspace) {
                    depthwise.correlate(problem, from, grads, sums, workspace, first, last);
                  });
    const bool dense = grad_weight.is_contiguous();
    const Tensor flat = dense ? grad_weight : at::empty(grad_weight.sizes(), options);
    T* to = flat.data_ptr<T>();
    at::parallel_for(0, depthwise.correlation_blocks(problem), 8, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) depthwise.correlation_sum(problem, sums, to, block);
    });
    if (!dense) grad_weight.copy_(flat);
    return;
  }
  const DirectKernels<T>& direct = direct_kernels<T>();
  if (algorithm == Algorithm::direct && direct.correlation_fits(problem)) {
    const int64_t slices = direct.correlation_slices(problem);
    const Tensor room = room_for_slices(slices, grad_weight);
    T* sums = room.data_ptr<T>();
    run_tasks<T>(direct.correlation_tasks(problem), direct.correlation_workspace(problem),
                 [&](int64_t task, T* workspace) { direct.correlate(problem, from, grads, sums, workspace, task); });
    return sum_slices<T>(g, room, slices, channels, grad_weight);
  }
  const int64_t slices = kernel.correlation_slices(problem);
  const Tensor room = room_for_slices(slices, grad_weight);
  T* sums = room.data_ptr<T>();
  run_tasks<T>(kernel.correlation_tasks(problem), kernel.correlation_workspace(problem),
               [&](int64_t task, T* workspace) { kernel.correlate(problem, from, grads, sums, workspace, task); });
  sum_slices<T>(g, room, slices, channels, grad_weight);
}

Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride,
                   IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
  constexpr const char* op = "convolution";
  check_batched(op, "input", input);
  TORCH_CHECK(weight.dim() == input.dim(), op, ": weight must have ", input.dim(), " dimensions, but got shape ",
              weight.sizes());
  check_same_type(op, "input", input, "weight", weight);
  Geometry g = geometry_of(op, input.size(0), input.sizes().slice(2), weight.sizes().slice(2), stride, padding,
                           dilation, groups);
  TORCH_CHECK(weight.size(0) % groups == 0, op, ": groups must divide the ", weight.size(0),
              " output channels of weight, but got groups = ", groups);
  TORCH_CHECK(weight.size(1) * groups == input.size(1), op, ": weight of shape ", weight.sizes(),
              " with groups = ", groups, " takes an input of ", weight.size(1) * groups,
              " channels, but got input of shape ", input.sizes());
  if (bias.has_value()) check_bias(op, "input", input, *bias, weight.size(0));
  if (computes_in_float(input))
    return convolution(input.to(at::kFloat), weight.to(at::kFloat), in_float(bias), stride, padding, dilation, groups)
        .to(input.scalar_type());
  Tensor output = at::empty(with_spatial(input.size(0), weight.size(0), g.output, g.dimensions),
                            input.options().memory_format(result_format(input, weight, g)));
  if (output.numel() == 0) return output;
  const Tensor dense_bias = bias.has_value() ? bias->contiguous() : Tensor();
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op,
                             [&] { forward<scalar_t>(g, input, used_taps(g, weight), dense_bias, output); });
  return output;
}

// Channels of weight and gradient must agree with each other in both gradient operators.
void check_gradient_shape(const char* op, const Geometry& g, const Tensor& grad_output, int64_t channels) {
  TORCH_CHECK(grad_output.size(1) == channels, op, ": grad_output must have ", channels, " channels, but got shape ",
              grad_output.sizes());
  const int64_t dimensions = g.dimensions;
  for (int64_t d = 0; d < dimensions; ++d)
    TORCH_CHECK(grad_output.size(2 + d) == g.output[kSpatial - dimensions + d], op,
                ": grad_output must have the spatial size of the output, ",
                IntArrayRef(g.output.data() + kSpatial - dimensions, static_cast<size_t>(dimensions)),
                ", but got shape ", grad_output.sizes());
}

Tensor convolution_input(const Tensor& grad_output, const Tensor& weight, const std::optional<Tensor>& bias,
                         IntArrayRef input_size, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                         int64_t groups) {
  constexpr const char* op = "convolution_input";
  check_batched(op, "grad_output", grad_output);
  TORCH_CHECK(weight.dim() == grad_output.dim(), op, ": weight must have ", grad_output.dim(),
              " dimensions, but got shape ", weight.sizes());
  check_same_type(op, "grad_output", grad_output, "weight", weight);
  TORCH_CHECK(static_cast<int64_t>(input_size.size()) == grad_output.dim() - 2, op, ": input_size must have ",
              grad_output.dim() - 2, " values, but got ", input_size);
  Geometry g =
      geometry_of(op, grad_output.size(0), input_size, weight.sizes().slice(2), stride, padding, dilation, groups);
  TORCH_CHECK(weight.size(0) % groups == 0, op, ": groups must divide the ", weight.size(0),
              " output channels of weight, but got groups = ", groups);
  check_gradient_shape(op, g, grad_output, weight.size(0));
  if (bias.has_value()) check_bias(op, "grad_output", grad_output, *bias, weight.size(1) * groups);
  if (computes_in_float(grad_output))
    return convolution_input(grad_output.to(at::kFloat), weight.to(at::kFloat), in_float(bias), input_size, stride,
                             padding, dilation, groups)
        .to(grad_output.scalar_type());
  const auto shape = with_spatial(grad_output.size(0), weight.size(1) * groups, g.input, g.dimensions);
  Tensor grad_input = at::empty(shape, grad_output.options().memory_format(result_format(grad_output, weight, g)));
  if (grad_input.numel() == 0) return grad_input;
  if (grad_output.numel() == 0 || weight.numel() == 0) {
    grad_input.zero_();
    if (bias.has_value()) grad_input.transpose(1, -1).add_(*bias);
    return grad_input;
  }
  const Tensor dense_bias = bias.has_value() ? bias->contiguous() : Tensor();
  AT_DISPATCH_FLOATING_TYPES(grad_output.scalar_type(), op, [&] {
    input_gradient<scalar_t>(g, grad_output, used_taps(g, weight), dense_bias, grad_input);
  });
  return grad_input;
}

Tensor convolution_weight(const Tensor& input, const Tensor& grad_output, IntArrayRef kernel_size, IntArrayRef stride,
                          IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
  constexpr const char* op = "convolution_weight";
  check_batched(op, "input", input);
  TORCH_CHECK(grad_output.dim() == input.dim() && grad_output.size(0) == input.size(0), op, ": grad_output must have ",
              input.dim(), " dimensions and a batch of ", input.size(0), ", but got shape ", grad_output.sizes());
  check_same_type(op, "input", input, "grad_output", grad_output);
  Geometry g = geometry_of(op, input.size(0), input.sizes().slice(2), kernel_size, stride, padding, dilation, groups);
  TORCH_CHECK(input.size(1) % groups == 0 && grad_output.size(1) % groups == 0, op, ": groups must divide the ",
              input.size(1), " input and ", grad_output.size(1), " output channels, but got groups = ", groups);
  check_gradient_shape(op, g, grad_output, grad_output.size(1));
  if (computes_in_float(input))
    return convolution_weight(input.to(at::kFloat), grad_output.to(at::kFloat), kernel_size, stride, padding, dilation,
                              groups)
        .to(input.scalar_type());
  const auto shape = with_spatial(grad_output.size(1), input.size(1) / groups, g.whole_kernel, g.dimensions);
  const auto options = input.options().memory_format(result_format(input, grad_output, g));
  if (input.numel() == 0 || grad_output.numel() == 0) return at::zeros(shape, options);
  const bool all = g.kernel == g.whole_kernel;
  Tensor grad_weight = all ? at::empty(shape, options) : at::zeros(shape, options), used = grad_weight;
  if (!all) used = at::empty(with_spatial(shape[0], shape[1], g.kernel, g.dimensions), options);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] { weight_gradient<scalar_t>(g, input, grad_output, used); });
  if (!all) taps_of(g, grad_weight).copy_(used);
  return grad_weight;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) {
  m.impl("convolution", convolution);
  m.impl("convolution_input", convolution_input);
  m.impl("convolution_weight", convolution_weight);
}

}  // namespace torchbp
