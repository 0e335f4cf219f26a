// Batch normalisation with the batch's statistics, and its gradients.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "arguments.h"
#include "dispatch.h"

namespace torchbp {
namespace {

using at::Tensor;

// A (N, C, *) tensor as outer x channels x inner, and the dense layout in which to read it.
struct Layout {
  ChannelProblem problem;
  at::MemoryFormat format;
  int64_t count;  // elements per channel
};

Layout layout_of(const char* op, const Tensor& input) {
  TORCH_CHECK(input.dim() >= 2, op, ": input must have shape (N, C, *), but got ", input.sizes());
  Layout layout{};
  layout.format = input.suggest_memory_format();
  const int64_t channels = input.size(1);
  layout.count = channels == 0 ? 0 : input.numel() / channels;
  const int64_t inner = input.size(0) == 0 ? 0 : layout.count / input.size(0);
  const bool rows = layout.format != at::MemoryFormat::Contiguous || inner == 1;
  layout.problem = {rows ? layout.count : input.size(0), channels, rows ? 1 : inner};
  return layout;
}

void check_vector(const char* op, const char* name, const std::optional<Tensor>& vector, const Tensor& input) {
  if (!vector.has_value()) return;
  TORCH_CHECK(vector->dim() == 1 && vector->size(0) == input.size(1), op, ": ", name, " must have shape [",
              input.size(1), "], but got ", vector->sizes());
  TORCH_CHECK(vector->device().is_cpu(), op, ": ", name, " must be a CPU tensor, but got ", vector->device());
}

template <typename T>
std::vector<T> values(const std::optional<Tensor>& vector, int64_t channels, T otherwise) {
  std::vector<T> result(static_cast<size_t>(channels), otherwise);
  if (vector.has_value()) {
    const Tensor dense = vector->to(c10::CppTypeToScalarType<T>::value).contiguous();
    const T* from = dense.const_data_ptr<T>();
    std::copy(from, from + channels, result.begin());
  }
  return result;
}

// The two sums per channel, the slices added in order.
template <typename T>
std::vector<double> channel_sums(const ChannelProblem& problem, const Tensor& like, const T* x, const T* gradient,
                                 const T* centre, bool squared) {
  const ChannelKernels<T>& kernel = channel_kernels<T>();
  const int64_t slices = kernel.slices(problem), width = 2 * problem.channels;
  std::vector<double> partial(static_cast<size_t>(slices * width));
  run_tasks<T>(kernel.reduce_tasks(problem), kernel.reduce_workspace(problem), like.options(),
               [&](int64_t task, T* workspace) {
                 kernel.reduce(problem, x, gradient, centre, squared, partial.data(), workspace, task);
               });
  std::vector<double> sums(partial.begin(), partial.begin() + width);
  for (int64_t slice = 1; slice < slices; ++slice)
    for (int64_t i = 0; i < width; ++i) sums[i] += partial[slice * width + i];
  return sums;
}

template <typename T>
void run_apply(const ChannelProblem& problem, const T* x, const T* gradient, const std::vector<T>& centre,
               const std::vector<T>& slope, const std::vector<T>& scale, const std::vector<T>& shift, T* out) {
  const ChannelKernels<T>& kernel = channel_kernels<T>();
  at::parallel_for(0, kernel.apply_tasks(problem), 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task)
      kernel.apply(problem, x, gradient, centre.data(), slope.data(), scale.data(), shift.data(), out, task);
  });
}

std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& input, const std::optional<Tensor>& weight,
                                              const std::optional<Tensor>& bias, double eps) {
  constexpr const char* op = "batch_norm";
  const Layout layout = layout_of(op, input);
  check_vector(op, "weight", weight, input);
  check_vector(op, "bias", bias, input);
  if (computes_in_float(input)) {
    auto [output, mean, variance] = batch_norm(input.to(at::kFloat), weight, bias, eps);
    return {output.to(input.scalar_type()), mean, variance};
  }
  const int64_t channels = layout.problem.channels;
  const Tensor dense = input.contiguous(layout.format);
  Tensor output = at::empty_like(dense);
  const auto options = input.options().memory_format(std::nullopt);
  Tensor mean = at::zeros({channels}, options), variance = at::zeros({channels}, options);
  if (input.numel() == 0) return {output, mean, variance};
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const scalar_t* x = dense.const_data_ptr<scalar_t>();
    const double count = static_cast<double>(layout.count);
    const auto sums = channel_sums<scalar_t>(layout.problem, dense, x, nullptr, nullptr, false);
    std::vector<scalar_t> centre(channels);
    for (int64_t c = 0; c < channels; ++c) centre[c] = static_cast<scalar_t>(sums[c] / count);
    const auto squares = channel_sums<scalar_t>(layout.problem, dense, x, nullptr, centre.data(), true);
    std::vector<scalar_t> scale = values<scalar_t>(weight, channels, 1);
    const std::vector<scalar_t> shift = values<scalar_t>(bias, channels, 0);
    scalar_t* to_mean = mean.data_ptr<scalar_t>();
    scalar_t* to_variance = variance.data_ptr<scalar_t>();
    for (int64_t c = 0; c < channels; ++c) {
      to_mean[c] = centre[c];
      to_variance[c] = static_cast<scalar_t>(squares[c] / count);
      scale[c] = static_cast<scalar_t>(static_cast<double>(scale[c]) / std::sqrt(squares[c] / count + eps));
    }
    run_apply<scalar_t>(layout.problem, x, nullptr, centre, scale, scale, shift, output.data_ptr<scalar_t>());
  });
  return {output, mean, variance};
}

// With n elements per channel, r = (variance + eps)^(-1/2), c = x - mean:
// gw = r sum(g c), gb = sum(g), gx = w r (g - gb / n - c r² sum(g c) / n).
std::tuple<Tensor, Tensor, Tensor> batch_norm_gradients(const Tensor& grad_output, const Tensor& input,
                                                        const std::optional<Tensor>& weight, const Tensor& mean,
                                                        const Tensor& variance, double eps) {
  constexpr const char* op = "batch_norm_gradients";
  const Layout layout = layout_of(op, input);
  check_vector(op, "weight", weight, input);
  check_vector(op, "mean", mean, input);
  check_vector(op, "variance", variance, input);
  TORCH_CHECK(grad_output.sizes() == input.sizes(), op, ": grad_output must have input's shape, ", input.sizes(),
              ", but got ", grad_output.sizes());
  TORCH_CHECK(grad_output.scalar_type() == input.scalar_type(), op, ": grad_output must have input's dtype, ",
              input.scalar_type(), ", but got ", grad_output.scalar_type());
  if (computes_in_float(input)) {
    auto [gx, gw, gb] =
        batch_norm_gradients(grad_output.to(at::kFloat), input.to(at::kFloat), weight, mean, variance, eps);
    return {gx.to(input.scalar_type()), gw, gb};
  }
  const int64_t channels = layout.problem.channels;
  const Tensor dense = input.contiguous(layout.format), gradient = grad_output.contiguous(layout.format);
  Tensor grad_input = at::empty_like(dense);
  const auto options = input.options().memory_format(std::nullopt);
  Tensor grad_weight = at::zeros({channels}, options), grad_bias = at::zeros({channels}, options);
  if (input.numel() == 0) return {grad_input, grad_weight, grad_bias};
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const scalar_t* x = dense.const_data_ptr<scalar_t>();
    const scalar_t* g = gradient.const_data_ptr<scalar_t>();
    const double count = static_cast<double>(layout.count);
    const std::vector<scalar_t> centre = values<scalar_t>(mean, channels, 0);
    const std::vector<scalar_t> spread = values<scalar_t>(variance, channels, 0);
    const std::vector<scalar_t> weights = values<scalar_t>(weight, channels, 1);
    const auto sums = channel_sums<scalar_t>(layout.problem, dense, x, g, centre.data(), false);
    std::vector<scalar_t> slope(channels), scale(channels), shift(channels);
    scalar_t* to_weight = grad_weight.data_ptr<scalar_t>();
    scalar_t* to_bias = grad_bias.data_ptr<scalar_t>();
    for (int64_t c = 0; c < channels; ++c) {
      const double r = 1.0 / std::sqrt(static_cast<double>(spread[c]) + eps);
      const double wr = static_cast<double>(weights[c]) * r;
      to_bias[c] = static_cast<scalar_t>(sums[c]);
      to_weight[c] = static_cast<scalar_t>(r * sums[channels + c]);
      slope[c] = static_cast<scalar_t>(wr);
      scale[c] = static_cast<scalar_t>(-wr * r * r * sums[channels + c] / count);
      shift[c] = static_cast<scalar_t>(-wr * sums[c] / count);
    }
    run_apply<scalar_t>(layout.problem, x, g, centre, slope, scale, shift, grad_input.data_ptr<scalar_t>());
  });
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) {
  m.impl("batch_norm", batch_norm);
  m.impl("batch_norm_gradients", batch_norm_gradients);
}

}  // namespace torchbp
