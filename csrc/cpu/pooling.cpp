// Max pooling with one stored winner per output, its two linear maps (scatter and gather), and average
// pooling over fixed or adaptive windows with its adjoint, for 1 to 3 spatial dimensions.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "dispatch.h"

namespace torchbp {
namespace {

using at::IntArrayRef;
using at::Tensor;

// Output positions of a pool along one dimension. With ceil_mode a last, partial window counts if it
// starts inside the input or its left padding.
int64_t pooled_size(const char* op, int64_t input, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                    bool ceil_mode) {
  int64_t room = window_room(op, input, kernel, padding, dilation);
  if (ceil_mode) room = checked_sum(op, "stride", room, stride - 1);
  int64_t size = room < 0 ? 0 : room / stride + 1;
  if (size > 0 && ceil_mode && (size - 1) * stride >= input + padding) --size;
  TORCH_CHECK(size >= 1, op, ": kernel_size ", kernel, " with dilation ", dilation, " and padding ", padding,
              " leaves no output for an input of size ", input);
  return size;
}

PoolProblem window_problem(const char* op, IntArrayRef input, IntArrayRef kernel, IntArrayRef stride,
                           IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  const int64_t dimensions = static_cast<int64_t>(input.size());
  check_list(op, "input_size", input, dimensions, 1);
  check_list(op, "kernel_size", kernel, dimensions, 1);
  check_list(op, "stride", stride, dimensions, 1);
  check_list(op, "padding", padding, dimensions, 0);
  check_list(op, "dilation", dilation, dimensions, 1);
  PoolProblem p{};
  const Sizes full[] = {spatial(input, 1), spatial(kernel, 1), spatial(stride, 1), spatial(padding, 0),
                        spatial(dilation, 1)};
  for (int d = 0; d < kSpatial; ++d) {
    p.input[d] = full[0][d];
    p.kernel[d] = full[1][d];
    p.stride[d] = full[2][d];
    p.padding[d] = full[3][d];
    p.dilation[d] = full[4][d];
    TORCH_CHECK(p.padding[d] <= p.kernel[d] / 2, op, ": padding must be at most half of kernel_size, but got padding ",
                padding, " for kernel_size ", kernel);
    p.output[d] = pooled_size(op, p.input[d], p.kernel[d], p.stride[d], p.padding[d], p.dilation[d], ceil_mode);
  }
  return p;
}

std::vector<int64_t> pooled_shape(const Tensor& input, const int64_t* spatial_size) {
  std::vector<int64_t> shape = input.sizes().slice(0, 2).vec();
  shape.insert(shape.end(), spatial_size + kSpatial - (input.dim() - 2), spatial_size + kSpatial);
  return shape;
}

// Contiguous: one plane per image and channel. Channels-last: one image with the channels innermost.
template <typename Problem>
void set_planes(Problem& problem, const Tensor& tensor, at::MemoryFormat format) {
  const bool contiguous = format == at::MemoryFormat::Contiguous;
  problem.outer = contiguous ? tensor.size(0) * tensor.size(1) : tensor.size(0);
  problem.inner = contiguous ? 1 : tensor.size(1);
}

int64_t tap_count(const char* op, const PoolProblem& p) {
  const int64_t taps =
      checked_product(op, "kernel_size", checked_product(op, "kernel_size", p.kernel[0], p.kernel[1]), p.kernel[2]);
  TORCH_CHECK(taps <= std::numeric_limits<int32_t>::max(), op, ": kernel_size has too many elements: ", taps);
  return taps;
}

at::ScalarType winner_type(int64_t taps) { return taps <= 256 ? at::kByte : at::kInt; }

int winner_bytes(const Tensor& winner) { return winner.scalar_type() == at::kByte ? 1 : 4; }

// The maxima and, where wanted, the winners; an undefined winner otherwise.
std::tuple<Tensor, Tensor> run_max_pool(const char* op, const Tensor& input, IntArrayRef kernel_size,
                                        IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, bool ceil_mode,
                                        bool winners) {
  check_batched(op, "input", input);
  PoolProblem problem = window_problem(op, input.sizes().slice(2), kernel_size, stride, padding, dilation, ceil_mode);
  const int64_t taps = tap_count(op, problem);
  if (input.scalar_type() == at::kHalf) {
    auto [output, winner] =
        run_max_pool(op, input.to(at::kFloat), kernel_size, stride, padding, dilation, ceil_mode, winners);
    return {output.to(at::kHalf), winner};
  }
  const at::MemoryFormat format = input.suggest_memory_format();
  const Tensor dense = input.contiguous(format);
  set_planes(problem, dense, format);
  const auto shape = pooled_shape(input, problem.output);
  Tensor output = at::empty(shape, input.options().memory_format(format));
  Tensor winner;
  if (winners) winner = at::empty(shape, input.options().dtype(winner_type(taps)).memory_format(format));
  if (output.numel() == 0) return {output, winner};
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, input.scalar_type(), "max_pool", [&] {
    typedef InKernels<scalar_t>::Type S;
    const MaxPoolKernels<S>& kernel = max_pool_kernels<S>();
    const S* from = static_cast<const S*>(dense.const_data_ptr());
    S* to = static_cast<S*>(output.data_ptr());
    void* places = winners ? winner.data_ptr() : nullptr;
    const int bytes = winner_type(taps) == at::kByte ? 1 : 4;
    run_ranges(kernel.forward_tasks(problem), std::max(output.numel(), dense.numel()),
               kernel.forward_workspace(problem), [&](int64_t begin, int64_t end, void* workspace) {
                 kernel.forward(problem, from, to, places, bytes, begin, end, workspace);
               });
  });
  return {output, winner};
}

std::tuple<Tensor, Tensor> max_pool(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride,
                                    IntArrayRef padding, IntArrayRef dilation, bool ceil_mode) {
  return run_max_pool("max_pool", input, kernel_size, stride, padding, dilation, ceil_mode, true);
}

Tensor max_pool_values(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                       IntArrayRef dilation, bool ceil_mode) {
  return std::get<0>(run_max_pool("max_pool_values", input, kernel_size, stride, padding, dilation, ceil_mode, false));
}

// Checks winner against the geometry and returns the problem with its output sizes taken from it.
PoolProblem winner_problem(const char* op, const Tensor& tensor, const char* name, const Tensor& winner,
                           IntArrayRef input_size, IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                           IntArrayRef dilation) {
  const int64_t dimensions = check_batched(op, name, tensor);
  TORCH_CHECK(static_cast<int64_t>(input_size.size()) == dimensions, op, ": input_size must have ", dimensions,
              " values, but got ", input_size);
  TORCH_CHECK(winner.dim() == tensor.dim() && winner.size(0) == tensor.size(0) && winner.size(1) == tensor.size(1), op,
              ": winner must have the batch and channels of ", name, ", but got shapes ", winner.sizes(), " and ",
              tensor.sizes());
  TORCH_CHECK(winner.device().is_cpu(), op, ": winner must be a CPU tensor, but got ", winner.device());
  // The winners fix the output size, which ceil_mode may have rounded up.
  PoolProblem problem = window_problem(op, input_size, kernel_size, stride, padding, dilation, true);
  TORCH_CHECK(winner.scalar_type() == winner_type(tap_count(op, problem)), op, ": winner must have dtype ",
              winner_type(tap_count(op, problem)), ", but got ", winner.scalar_type());
  for (int64_t d = 0; d < dimensions; ++d) {
    int64_t& size = problem.output[kSpatial - dimensions + d];
    TORCH_CHECK(winner.size(2 + d) >= 1 && winner.size(2 + d) <= size, op, ": winner of shape ", winner.sizes(),
                " does not come from an input of size ", input_size);
    size = winner.size(2 + d);
  }
  return problem;
}

Tensor max_pool_scatter(const Tensor& grad_output, const Tensor& winner, IntArrayRef input_size,
                        IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation) {
  constexpr const char* op = "max_pool_scatter";
  PoolProblem problem =
      winner_problem(op, grad_output, "grad_output", winner, input_size, kernel_size, stride, padding, dilation);
  TORCH_CHECK(grad_output.sizes() == winner.sizes(), op, ": grad_output must have the shape of winner, ",
              winner.sizes(), ", but got ", grad_output.sizes());
  // The winners keep the layout of the forward pass; a gradient may arrive expanded or permuted.
  const at::MemoryFormat format = winner.suggest_memory_format();
  set_planes(problem, winner, format);
  const at::ScalarType type = grad_output.scalar_type();
  if (type == at::kHalf || (type == at::kBFloat16 && !max_pool_kernels<BFloat16>().rounds_once(problem)))
    return max_pool_scatter(grad_output.to(at::kFloat), winner, input_size, kernel_size, stride, padding, dilation)
        .to(type);
  const Tensor dense = grad_output.contiguous(format), winners = winner.contiguous(format);
  Tensor grad_input = at::empty(pooled_shape(grad_output, problem.input), grad_output.options().memory_format(format));
  if (grad_input.numel() == 0) return grad_input;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, type, op, [&] {
    typedef InKernels<scalar_t>::Type S;
    const MaxPoolKernels<S>& kernel = max_pool_kernels<S>();
    const S* from = static_cast<const S*>(dense.const_data_ptr());
    S* to = static_cast<S*>(grad_input.data_ptr());
    const void* taps = winners.const_data_ptr();
    const int bytes = winner_bytes(winner);
    run_ranges(kernel.scatter_tasks(problem), std::max(grad_input.numel(), dense.numel()),
               kernel.scatter_workspace(problem), [&](int64_t begin, int64_t end, void* workspace) {
                 kernel.scatter(problem, from, taps, bytes, to, begin, end, workspace);
               });
  });
  return grad_input;
}

Tensor max_pool_gather(const Tensor& input, const Tensor& winner, IntArrayRef kernel_size, IntArrayRef stride,
                       IntArrayRef padding, IntArrayRef dilation) {
  constexpr const char* op = "max_pool_gather";
  check_batched(op, "input", input);
  PoolProblem problem =
      winner_problem(op, input, "input", winner, input.sizes().slice(2), kernel_size, stride, padding, dilation);
  if (input.scalar_type() == at::kHalf)
    return max_pool_gather(input.to(at::kFloat), winner, kernel_size, stride, padding, dilation).to(at::kHalf);
  const at::MemoryFormat format = winner.suggest_memory_format();
  const Tensor dense = input.contiguous(format), winners = winner.contiguous(format);
  set_planes(problem, dense, format);
  Tensor output = at::empty(winner.sizes(), input.options().memory_format(format));
  if (output.numel() == 0) return output;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, input.scalar_type(), op, [&] {
    typedef InKernels<scalar_t>::Type S;
    const MaxPoolKernels<S>& kernel = max_pool_kernels<S>();
    const S* from = static_cast<const S*>(dense.const_data_ptr());
    S* to = static_cast<S*>(output.data_ptr());
    const void* taps = winners.const_data_ptr();
    const int bytes = winner_bytes(winner);
    run_ranges(kernel.gather_tasks(problem), output.numel(), 0,
               [&](int64_t begin, int64_t end, void*) { kernel.gather(problem, from, taps, bytes, to, begin, end); });
  });
  return output;
}

// ---------------------------------------------------------------------------------------------

// Windows that follow no stride: of adaptive and fractional max pooling.
struct Irregular {
  IrregularProblem problem{};
  std::vector<int64_t> windows;  // what problem.windows points into
};

// Output o of n covers the inputs [floor(o * i / n), ceil((o + 1) * i / n)) of i.
void write_adaptive_windows(int64_t input, int64_t output, int64_t* start, int64_t* length) {
  for (int64_t o = 0; o < output; ++o) {
    start[o] = o * input / output;
    length[o] = up((o + 1) * input, output) - start[o];
  }
}

// The starts of fractional windows of `kernel` inputs (Graham, "Fractional Max-Pooling", 2014), in the arithmetic of
// the sample's type, as the built-in. Samples outside [0, 1) may give windows outside the input.
template <typename T>
void write_fractional_windows(T sample, int64_t input, int64_t output, int64_t kernel, int64_t* start,
                              int64_t* length) {
  const T alpha = output > 1 ? static_cast<T>(input - kernel) / static_cast<T>(output - 1) : T(0);
  const auto whole = [](T value) {
    constexpr int64_t kMost = int64_t{1} << 62;
    const double number = static_cast<double>(value), most = static_cast<double>(kMost);
    return number > -most && number < most ? static_cast<int64_t>(number) : -kMost;
  };
  const int64_t shift = whole(sample * alpha);
  for (int64_t o = 0; o < output; ++o) {
    start[o] = o + 1 == output ? input - kernel : whole((static_cast<T>(o) + sample) * alpha) - shift;
    length[o] = kernel;
  }
}

// The windows of adaptive pools, which sizes alone place, or those of fractional ones, which `samples` (N, C, d) place.
Irregular irregular_problem(const char* op, const Tensor& planes, const std::optional<Tensor>& samples,
                            IntArrayRef input_size, IntArrayRef output_size, IntArrayRef kernel_size) {
  const int64_t dimensions = check_batched(op, "input", planes);
  check_list(op, "input_size", input_size, dimensions, 1);
  check_list(op, "output_size", output_size, dimensions, 0);
  check_list(op, "kernel_size", kernel_size, dimensions, 1);
  Irregular irregular;
  IrregularProblem& problem = irregular.problem;
  const Sizes full[] = {spatial(input_size, 1), spatial(output_size, 1), spatial(kernel_size, 1)};
  for (int d = 0; d < kSpatial; ++d) {
    problem.input[d] = full[0][d];
    problem.output[d] = full[1][d];
    problem.kernel[d] = full[2][d];
    checked_product(op, "output_size", problem.input[d], checked_sum(op, "output_size", problem.output[d], 1));
    problem.first[d] = problem.total;
    problem.total = checked_sum(op, "output_size", problem.total, problem.output[d]);
  }
  const auto axes = [&](int64_t plane, const auto& write) {
    int64_t* table = irregular.windows.data() + 2 * plane * problem.total;
    for (int d = 0; d < kSpatial; ++d) {
      int64_t *start = table + problem.first[d], *length = start + problem.total;
      write(d, start, length);
      for (int64_t o = 0; o < problem.output[d]; ++o)
        TORCH_CHECK(start[o] >= 0 && start[o] <= problem.input[d] - length[o] && length[o] <= problem.kernel[d], op,
                    ": windows must lie inside the input of size ", input_size, " and span at most ", kernel_size,
                    ", but one covers ", length[o], " inputs from ", start[o], " on");
    }
  };
  const auto adaptive = [&](int d, int64_t* start, int64_t* length) {
    write_adaptive_windows(problem.input[d], problem.output[d], start, length);
  };
  if (samples.has_value())
    TORCH_CHECK(samples->device().is_cpu() && samples->dim() == 3 && samples->size(0) == planes.size(0) &&
                    samples->size(1) == planes.size(1) && samples->size(2) == dimensions,
                op, ": samples must be a CPU tensor of shape [", planes.size(0), ", ", planes.size(1), ", ", dimensions,
                "], but got ", samples->sizes(), " on ", samples->device());
  const int64_t count = planes.size(0) * planes.size(1);
  const bool any = count > 0 && std::find(output_size.begin(), output_size.end(), 0) == output_size.end();
  if (!any) return irregular;  // sizes next to a zero may be larger than any table
  if (!samples.has_value()) {
    irregular.windows.resize(2 * problem.total);
    axes(0, adaptive);
  } else {
    const int64_t missing = kSpatial - dimensions;
    problem.plane_stride = 2 * problem.total;
    irregular.windows.resize(checked_product(op, "output_size", count, problem.plane_stride));
    const Tensor dense = samples->contiguous();
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dense.scalar_type(), "samples", [&] {
      const scalar_t* sample = dense.const_data_ptr<scalar_t>();
      for (int64_t plane = 0; plane < count; ++plane, sample += dimensions)
        axes(plane, [&](int d, int64_t* start, int64_t* length) {
          if (d < missing) return adaptive(d, start, length);
          // Samples stand where the built-in looks: from the first axis on in three dimensions, else from the last.
          const int64_t place = dimensions == kSpatial ? d : kSpatial - 1 - d;
          write_fractional_windows(sample[place], problem.input[d], problem.output[d], problem.kernel[d], start,
                                   length);
        });
    });
  }
  problem.windows = irregular.windows.data();
  return irregular;
}

// Channels-last if the tensor is and all its channels share their windows.
at::MemoryFormat irregular_format(const Tensor& tensor, const std::optional<Tensor>& samples) {
  return samples.has_value() ? at::MemoryFormat::Contiguous : tensor.suggest_memory_format();
}

at::ScalarType irregular_winner_type(const char* op, IntArrayRef kernel_size) {
  int64_t taps = 1;
  for (const int64_t size : kernel_size) taps = checked_product(op, "kernel_size", taps, size);
  TORCH_CHECK(taps <= std::numeric_limits<int32_t>::max(), op, ": kernel_size has too many elements: ", taps);
  return winner_type(taps);
}

std::tuple<Tensor, Tensor> irregular_max_pool(const Tensor& input, const std::optional<Tensor>& samples,
                                              IntArrayRef output_size, IntArrayRef kernel_size) {
  constexpr const char* op = "irregular_max_pool";
  if (computes_in_float(input)) {
    auto [output, winner] = irregular_max_pool(input.to(at::kFloat), samples, output_size, kernel_size);
    return {output.to(input.scalar_type()), winner};
  }
  check_batched(op, "input", input);
  check_list(op, "output_size", output_size, input.dim() - 2, 0);
  const at::MemoryFormat format = irregular_format(input, samples);
  const auto shape = pooled_shape(input, spatial(output_size, 1).data());
  // A size that memory cannot hold is refused before tables of that size are made.
  Tensor output = at::empty(shape, input.options().memory_format(format));
  Tensor winner = at::empty(shape, input.options().dtype(irregular_winner_type(op, kernel_size)).memory_format(format));
  Irregular irregular = irregular_problem(op, input, samples, input.sizes().slice(2), output_size, kernel_size);
  if (output.numel() == 0) return {output, winner};
  const Tensor dense = input.contiguous(format);
  set_planes(irregular.problem, dense, format);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const IrregularPoolKernels<scalar_t>& kernel = irregular_pool_kernels<scalar_t>();
    const scalar_t* from = dense.const_data_ptr<scalar_t>();
    scalar_t* to = output.data_ptr<scalar_t>();
    void* places = winner.data_ptr();
    const int bytes = winner_bytes(winner);
    run_ranges(kernel.tasks(irregular.problem), std::max(output.numel(), dense.numel()),
               kernel.forward_workspace(irregular.problem), [&](int64_t begin, int64_t end, void* workspace) {
                 kernel.forward(irregular.problem, from, to, places, bytes, begin, end, workspace);
               });
  });
  return {output, winner};
}

void check_irregular_winner(const char* op, const char* name, const Tensor& tensor, const Tensor& winner,
                            IntArrayRef kernel_size) {
  check_batched(op, name, tensor);
  TORCH_CHECK(winner.dim() == tensor.dim() && winner.size(0) == tensor.size(0) && winner.size(1) == tensor.size(1), op,
              ": winner must have the batch and channels of ", name, ", but got shapes ", winner.sizes(), " and ",
              tensor.sizes());
  TORCH_CHECK(winner.device().is_cpu() && winner.scalar_type() == irregular_winner_type(op, kernel_size), op,
              ": winner must have dtype ", irregular_winner_type(op, kernel_size), " on the CPU, but got ",
              winner.scalar_type(), " on ", winner.device());
}

Tensor irregular_max_pool_scatter(const Tensor& grad_output, const Tensor& winner, const std::optional<Tensor>& samples,
                                  IntArrayRef input_size, IntArrayRef kernel_size) {
  constexpr const char* op = "irregular_max_pool_scatter";
  check_irregular_winner(op, "grad_output", grad_output, winner, kernel_size);
  TORCH_CHECK(grad_output.sizes() == winner.sizes(), op, ": grad_output must have the shape of winner, ",
              winner.sizes(), ", but got ", grad_output.sizes());
  if (computes_in_float(grad_output))
    return irregular_max_pool_scatter(grad_output.to(at::kFloat), winner, samples, input_size, kernel_size)
        .to(grad_output.scalar_type());
  Irregular irregular = irregular_problem(op, grad_output, samples, input_size, winner.sizes().slice(2), kernel_size);
  const at::MemoryFormat format = irregular_format(winner, samples);
  const Tensor dense = grad_output.contiguous(format), places = winner.contiguous(format);
  set_planes(irregular.problem, dense, format);
  Tensor grad_input =
      at::empty(pooled_shape(grad_output, spatial(input_size, 1).data()), grad_output.options().memory_format(format));
  if (grad_output.numel() == 0) return grad_input.zero_();
  AT_DISPATCH_FLOATING_TYPES(grad_output.scalar_type(), op, [&] {
    const IrregularPoolKernels<scalar_t>& kernel = irregular_pool_kernels<scalar_t>();
    const scalar_t* from = dense.const_data_ptr<scalar_t>();
    scalar_t* to = grad_input.data_ptr<scalar_t>();
    const int bytes = winner_bytes(winner);
    run_ranges(kernel.tasks(irregular.problem), std::max(grad_input.numel(), dense.numel()), 0,
               [&](int64_t begin, int64_t end, void*) {
                 kernel.scatter(irregular.problem, from, places.const_data_ptr(), bytes, to, begin, end);
               });
  });
  return grad_input;
}

Tensor irregular_max_pool_gather(const Tensor& input, const Tensor& winner, const std::optional<Tensor>& samples,
                                 IntArrayRef kernel_size) {
  constexpr const char* op = "irregular_max_pool_gather";
  check_irregular_winner(op, "input", input, winner, kernel_size);
  if (computes_in_float(input))
    return irregular_max_pool_gather(input.to(at::kFloat), winner, samples, kernel_size).to(input.scalar_type());
  Irregular irregular =
      irregular_problem(op, input, samples, input.sizes().slice(2), winner.sizes().slice(2), kernel_size);
  const at::MemoryFormat format = irregular_format(winner, samples);
  const Tensor dense = input.contiguous(format), places = winner.contiguous(format);
  set_planes(irregular.problem, dense, format);
  Tensor output = at::empty(winner.sizes(), input.options().memory_format(format));
  if (output.numel() == 0) return output;
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const IrregularPoolKernels<scalar_t>& kernel = irregular_pool_kernels<scalar_t>();
    const scalar_t* from = dense.const_data_ptr<scalar_t>();
    scalar_t* to = output.data_ptr<scalar_t>();
    const int bytes = winner_bytes(winner);
    run_ranges(kernel.tasks(irregular.problem), output.numel(), 0, [&](int64_t begin, int64_t end, void*) {
      kernel.gather(irregular.problem, from, places.const_data_ptr(), bytes, to, begin, end);
    });
  });
  return output;
}

// ---------------------------------------------------------------------------------------------
// Unpooling

void check_indices(const char* op, const char* name, const Tensor& tensor, const Tensor& indices) {
  check_batched(op, name, tensor);
  TORCH_CHECK(indices.device().is_cpu() && indices.scalar_type() == at::kLong, op,
              ": indices must be an int64 CPU tensor, but got ", indices.scalar_type(), " on ", indices.device());
}

int64_t plane_elements(const char* op, IntArrayRef size) {
  int64_t elements = 1;
  for (const int64_t extent : size) elements = checked_product(op, "output_size", elements, extent);
  return elements;
}

// The tensor, copied unless it is contiguous or channels-last.
Tensor readable(const Tensor& tensor) {
  return tensor.dim() > 3 && tensor.is_contiguous(channels_last_format(tensor.dim())) ? tensor : tensor.contiguous();
}

UnpoolSteps steps_of(const Tensor& tensor, int64_t elements) {
  const int64_t channels = tensor.size(1);
  if (tensor.is_contiguous()) return {channels * elements, elements, 1};
  return {channels * elements, 1, channels};
}

// Of tensors that are contiguous or channels-last.
UnpoolProblem unpool_problem(const char* op, const Tensor& indices, const Tensor& small, const Tensor& large) {
  UnpoolProblem problem{};
  problem.outer = indices.size(0);
  problem.inner = indices.size(1);
  problem.from = plane_elements(op, small.sizes().slice(2));
  problem.to = plane_elements(op, large.sizes().slice(2));
  problem.index = steps_of(indices, problem.from);
  problem.small = steps_of(small, problem.from);
  problem.large = steps_of(large, problem.to);
  if (indices.is_contiguous() && small.is_contiguous() && large.is_contiguous()) {
    problem.outer *= problem.inner;
    problem.inner = 1;
    problem.index.outer = problem.small.outer = problem.from;
    problem.large.outer = problem.to;
  }
  return problem;
}

// Runs task(index, workspace), which returns where it met an index outside the plane, or null, for every task.
template <typename Task>
void run_unpool(const char* op, int64_t tasks, int64_t workspace_bytes, IntArrayRef size, const Task& task) {
  std::vector<const int64_t*> outside(static_cast<size_t>(tasks), nullptr);
  run_tasks<char>(tasks, workspace_bytes,
                  [&](int64_t index, char* workspace) { outside[index] = task(index, workspace); });
  for (const int64_t* index : outside)
    TORCH_CHECK(index == nullptr, op, ": indices must be places in planes of size ", size, ", but got ", *index);
}

// Of unpooling, as the built-in's: channels-last is kept in two dimensions only.
at::MemoryFormat planar_format(const Tensor& tensor) {
  return tensor.dim() == 4 ? tensor.suggest_memory_format() : at::MemoryFormat::Contiguous;
}

Tensor max_unpool(const Tensor& input, const Tensor& indices, IntArrayRef output_size) {
  constexpr const char* op = "max_unpool";
  check_indices(op, "input", input, indices);
  TORCH_CHECK(input.sizes() == indices.sizes(), op, ": indices must have the shape of input, ", input.sizes(),
              ", but got ", indices.sizes());
  check_list(op, "output_size", output_size, input.dim() - 2, 0);
  if (computes_in_float(input)) return max_unpool(input.to(at::kFloat), indices, output_size).to(input.scalar_type());
  const at::MemoryFormat format = planar_format(input);
  plane_elements(op, output_size);
  Tensor output = at::empty(pooled_shape(input, spatial(output_size, 1).data()), input.options().memory_format(format));
  const Tensor dense = readable(input), places = readable(indices);
  const UnpoolProblem problem = unpool_problem(op, places, dense, output);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const IrregularPoolKernels<scalar_t>& kernel = irregular_pool_kernels<scalar_t>();
    const scalar_t* from = dense.const_data_ptr<scalar_t>();
    scalar_t* to = output.data_ptr<scalar_t>();
    const int64_t* index = places.const_data_ptr<int64_t>();
    run_unpool(op, kernel.unpool_tasks(problem), 0, output_size,
               [&](int64_t task, void*) { return kernel.unpool(problem, from, index, to, task); });
  });
  return output;
}

Tensor max_unpool_adjoint(const Tensor& grad_output, const Tensor& indices) {
  constexpr const char* op = "max_unpool_adjoint";
  check_indices(op, "grad_output", grad_output, indices);
  TORCH_CHECK(indices.dim() == grad_output.dim() && indices.size(0) == grad_output.size(0) &&
                  indices.size(1) == grad_output.size(1),
              op, ": indices must have the batch and channels of grad_output, but got shapes ", indices.sizes(),
              " and ", grad_output.sizes());
  if (computes_in_float(grad_output))
    return max_unpool_adjoint(grad_output.to(at::kFloat), indices).to(grad_output.scalar_type());
  const IntArrayRef output_size = grad_output.sizes().slice(2);
  const at::MemoryFormat format = planar_format(grad_output);
  Tensor grad_input = at::empty(indices.sizes(), grad_output.options().memory_format(format));
  const Tensor dense = readable(grad_output), places = readable(indices);
  const UnpoolProblem problem = unpool_problem(op, places, grad_input, dense);
  AT_DISPATCH_FLOATING_TYPES(grad_output.scalar_type(), op, [&] {
    const IrregularPoolKernels<scalar_t>& kernel = irregular_pool_kernels<scalar_t>();
    const scalar_t* from = dense.const_data_ptr<scalar_t>();
    scalar_t* to = grad_input.data_ptr<scalar_t>();
    const int64_t* index = places.const_data_ptr<int64_t>();
    run_unpool(op, kernel.unpool_tasks(problem), kernel.unpool_adjoint_workspace(problem), output_size,
               [&](int64_t task, void* workspace) {
                 return kernel.unpool_adjoint(problem, from, index, to, task, workspace);
               });
  });
  return grad_input;
}

// ---------------------------------------------------------------------------------------------
// Average pooling

// The windows of an average, per dimension: output o covers [start, end) and divides by length.
struct Windows {
  std::array<std::vector<int64_t>, kSpatial> start, end, length;
  Sizes input, output;
  int64_t divisor = 0;  // replaces the product of the lengths unless zero
  // Along the width: the windows are the part inside the input of [o * step - padding, ... + kernel), unless step is 0.
  int64_t step = 0, kernel = 0, padding = 0;
};

void check_pooled_gradient(const char* op, const Tensor& grad_output, IntArrayRef input_size, const int64_t* output) {
  TORCH_CHECK(grad_output.sizes().vec() == pooled_shape(grad_output, output), op, ": grad_output has shape ",
              grad_output.sizes(), ", but an input of size ", input_size, " gives ",
              IntArrayRef(output, static_cast<size_t>(kSpatial)));
}

Windows fixed_windows(const char* op, IntArrayRef input_size, IntArrayRef kernel_size, IntArrayRef stride,
                      IntArrayRef padding, bool ceil_mode, bool count_include_pad,
                      std::optional<int64_t> divisor_override, const Tensor* grad_output = nullptr) {
  const std::vector<int64_t> ones(input_size.size(), 1);
  const PoolProblem p = window_problem(op, input_size, kernel_size, stride, padding, ones, ceil_mode);
  TORCH_CHECK(!divisor_override.has_value() || *divisor_override != 0, op,
              ": divisor_override must not be zero, but got 0");
  // Before anything of the output's size is made.
  if (grad_output != nullptr) check_pooled_gradient(op, *grad_output, input_size, p.output);
  Windows windows;
  windows.divisor = divisor_override.value_or(0);
  windows.step = p.stride[2];
  windows.kernel = p.kernel[2];
  windows.padding = p.padding[2];
  for (int d = 0; d < kSpatial; ++d) {
    windows.input[d] = p.input[d];
    windows.output[d] = p.output[d];
    for (int64_t o = 0; o < p.output[d]; ++o) {
      const int64_t from = o * p.stride[d] - p.padding[d];
      const int64_t padded_end = std::min(from + p.kernel[d], p.input[d] + p.padding[d]);
      const int64_t start = std::max<int64_t>(from, 0), end = std::min(padded_end, p.input[d]);
      windows.start[d].push_back(start);
      windows.end[d].push_back(std::max(start, end));
      windows.length[d].push_back(std::max<int64_t>(1, count_include_pad ? padded_end - from : end - start));
    }
  }
  return windows;
}

// Output o of n averages the inputs [floor(o * i / n), ceil((o + 1) * i / n)) of i.
Windows adaptive_windows(const char* op, IntArrayRef input_size, IntArrayRef output_size) {
  const int64_t dimensions = static_cast<int64_t>(input_size.size());
  check_list(op, "output_size", output_size, dimensions, 0);
  check_list(op, "input_size", input_size, dimensions, 1);
  Windows windows;
  windows.input = spatial(input_size, 1);
  windows.output = spatial(output_size, 1);
  for (int d = 0; d < kSpatial; ++d) {
    const int64_t in = windows.input[d], out = windows.output[d];
    checked_product(op, "output_size", in, checked_sum(op, "output_size", out, 1));
    for (int64_t o = 0; o < out; ++o) {
      windows.start[d].push_back(o * in / out);
      windows.end[d].push_back(((o + 1) * in + out - 1) / out);
      windows.length[d].push_back(windows.end[d].back() - windows.start[d].back());
    }
  }
  const int64_t in = windows.input[2], out = windows.output[2];
  if (out > 0 && in % out == 0) windows.step = windows.kernel = in / out;
  return windows;
}

// The outputs [first[i], end[i]) whose windows cover input i: starts and ends of windows never decrease.
void find_cover(const Windows& windows, int axis, std::vector<int64_t>& first, std::vector<int64_t>& end) {
  const auto& starts = windows.start[axis];
  const auto& ends = windows.end[axis];
  for (int64_t i = 0; i < windows.input[axis]; ++i) {
    end.push_back(std::upper_bound(starts.begin(), starts.end(), i) - starts.begin());
    first.push_back(std::min(end.back(), std::upper_bound(ends.begin(), ends.end(), i) - ends.begin()));
  }
}

// Axes that one window covers as a whole become one axis.
void merge_whole_axes(Windows& windows) {
  const auto whole = [&](int d) {
    return windows.output[d] == 1 && windows.start[d][0] == 0 && windows.end[d][0] == windows.input[d];
  };
  for (int d = kSpatial - 2; d >= 0 && whole(d) && whole(kSpatial - 1); --d) {
    const int last = kSpatial - 1;
    windows.input[last] *= windows.input[d];
    windows.end[last][0] = windows.input[last];
    windows.length[last][0] *= windows.length[d][0];
    windows.input[d] = windows.end[d][0] = windows.length[d][0] = 1;
    windows.step = 0;
  }
}

// Averages `from` (spread = false) or spreads it back over the windows (spread = true).
Tensor run_average(const char* op, Windows windows, const Tensor& from, bool spread) {
  if (from.scalar_type() == at::kHalf) return run_average(op, windows, from.to(at::kFloat), spread).to(at::kHalf);
  const at::MemoryFormat format = from.suggest_memory_format();
  const Tensor dense = from.contiguous(format);
  Tensor to = at::empty(pooled_shape(from, (spread ? windows.input : windows.output).data()),
                        from.options().memory_format(format));
  if (to.numel() == 0) return to;
  if (from.numel() == 0) return to.zero_();
  merge_whole_axes(windows);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, from.scalar_type(), "average_pool", [&] {
    typedef InKernels<scalar_t>::Type S;
    typedef Compute<S> T;
    AverageProblem<T> problem{};
    set_planes(problem, dense, format);
    problem.factor = windows.divisor == 0 ? T(1) : T(1) / static_cast<T>(windows.divisor);
    problem.step = windows.step;
    problem.kernel = windows.kernel;
    problem.padding = windows.padding;
    std::array<std::vector<T>, kSpatial> scale;
    std::array<std::vector<int64_t>, kSpatial> cover_first, cover_end;
    for (int d = 0; d < kSpatial; ++d) {
      problem.input[d] = windows.input[d];
      problem.output[d] = windows.output[d];
      problem.start[d] = windows.start[d].data();
      problem.end[d] = windows.end[d].data();
      for (const int64_t length : windows.length[d])
        scale[d].push_back(windows.divisor == 0 ? T(1) / static_cast<T>(length) : T(1));
      scale[d].resize(scale[d].size() + kScaleSlack);
      problem.scale[d] = scale[d].data();
      if (spread) find_cover(windows, d, cover_first[d], cover_end[d]);
      problem.cover_first[d] = cover_first[d].data();
      problem.cover_end[d] = cover_end[d].data();
    }
    const AveragePoolKernels<S>& kernel = average_pool_kernels<S>();
    const S* source = static_cast<const S*>(dense.const_data_ptr());
    S* target = static_cast<S*>(to.data_ptr());
    const int64_t elements = std::max(to.numel(), from.numel());
    if (spread)
      run_ranges(kernel.adjoint_tasks(problem), elements, kernel.adjoint_workspace(problem),
                 [&](int64_t begin, int64_t end, void* workspace) {
                   kernel.adjoint(problem, source, target, begin, end, workspace);
                 });
    else
      run_ranges(kernel.tasks(problem), elements, kernel.workspace(problem),
                 [&](int64_t begin, int64_t end, void* workspace) {
                   kernel.forward(problem, source, target, begin, end, workspace);
                 });
  });
  return to;
}

Tensor average_pool(const Tensor& input, IntArrayRef kernel_size, IntArrayRef stride, IntArrayRef padding,
                    bool ceil_mode, bool count_include_pad, std::optional<int64_t> divisor_override) {
  constexpr const char* op = "average_pool";
  check_batched(op, "input", input);
  return run_average(op,
                     fixed_windows(op, input.sizes().slice(2), kernel_size, stride, padding, ceil_mode,
                                   count_include_pad, divisor_override),
                     input, false);
}

Tensor average_pool_adjoint(const Tensor& grad_output, IntArrayRef input_size, IntArrayRef kernel_size,
                            IntArrayRef stride, IntArrayRef padding, bool ceil_mode, bool count_include_pad,
                            std::optional<int64_t> divisor_override) {
  constexpr const char* op = "average_pool_adjoint";
  check_batched(op, "grad_output", grad_output);
  TORCH_CHECK(static_cast<int64_t>(input_size.size()) == grad_output.dim() - 2, op, ": input_size must have ",
              grad_output.dim() - 2, " values, but got ", input_size);
  const Windows windows = fixed_windows(op, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad,
                                        divisor_override, &grad_output);
  return run_average(op, windows, grad_output, true);
}

Tensor adaptive_average_pool(const Tensor& input, IntArrayRef output_size) {
  constexpr const char* op = "adaptive_average_pool";
  const int64_t dimensions = check_batched(op, "input", input);
  check_list(op, "output_size", output_size, dimensions, 0);
  // A size that memory cannot hold is refused before tables of that size are made.
  at::empty(pooled_shape(input, spatial(output_size, 1).data()), input.options().memory_format(std::nullopt));
  return run_average(op, adaptive_windows(op, input.sizes().slice(2), output_size), input, false);
}

Tensor adaptive_average_pool_adjoint(const Tensor& grad_output, IntArrayRef input_size) {
  constexpr const char* op = "adaptive_average_pool_adjoint";
  check_batched(op, "grad_output", grad_output);
  TORCH_CHECK(static_cast<int64_t>(input_size.size()) == grad_output.dim() - 2, op, ": input_size must have ",
              grad_output.dim() - 2, " values, but got ", input_size);
  return run_average(op, adaptive_windows(op, input_size, grad_output.sizes().slice(2)), grad_output, true);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) {
  m.impl("max_pool", max_pool);
  m.impl("max_pool_values", max_pool_values);
  m.impl("max_pool_scatter", max_pool_scatter);
  m.impl("max_pool_gather", max_pool_gather);
  m.impl("irregular_max_pool", irregular_max_pool);
  m.impl("irregular_max_pool_scatter", irregular_max_pool_scatter);
  m.impl("irregular_max_pool_gather", irregular_max_pool_gather);
  m.impl("max_unpool", max_unpool);
  m.impl("max_unpool_adjoint", max_unpool_adjoint);
  m.impl("average_pool", average_pool);
  m.impl("average_pool_adjoint", average_pool_adjoint);
  m.impl("adaptive_average_pool", adaptive_average_pool);
  m.impl("adaptive_average_pool_adjoint", adaptive_average_pool_adjoint);
}

}  // namespace torchbp
