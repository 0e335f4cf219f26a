// Pointwise maps and their gradients.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <torch/library.h>

#include "arguments.h"
#include "dispatch.h"

namespace torchbp {
namespace {

using at::Tensor;

Activation activation_of(const char* op, c10::string_view map, at::ArrayRef<double> parameters) {
  const struct {
    c10::string_view name;
    ActivationMap map;
    size_t parameters;
  } known[] = {{"sigmoid", ActivationMap::kSigmoid, 0},    {"scaled_tanh", ActivationMap::kScaledTanh, 2},
               {"softplus", ActivationMap::kSoftplus, 2},  {"gelu", ActivationMap::kGelu, 0},
               {"gelu_tanh", ActivationMap::kGeluTanh, 0}, {"silu", ActivationMap::kSilu, 0}};
  for (const auto& entry : known) {
    if (entry.name != map) continue;
    TORCH_CHECK(parameters.size() == entry.parameters, op, ": parameters of ", map, " must be ", entry.parameters,
                " numbers, but got ", parameters);
    Activation activation{entry.map, {0, 0}};
    std::copy(parameters.begin(), parameters.end(), activation.parameters);
    return activation;
  }
  TORCH_CHECK(false, op, ": map must be sigmoid, scaled_tanh, softplus, gelu, gelu_tanh or silu, but got ", map);
}

Tensor activation(const Tensor& input, c10::string_view map, at::ArrayRef<double> parameters) {
  constexpr const char* op = "activation";
  const Activation chosen = activation_of(op, map, parameters);
  if (computes_in_float(input)) return activation(input.to(at::kFloat), map, parameters).to(input.scalar_type());
  Tensor output = at::empty_like(input);
  const Tensor x = laid_out_as(input, output);
  if (chosen.map == ActivationMap::kGelu && input.numel() > kChunk) {
    // PyTorch calls oneDNN, which is slow to start but fast, for contiguous tensors only; so it gets the elements in
    // the order of memory.
    const auto flat = [](const Tensor& dense) { return dense.as_strided({dense.numel()}, {1}); };
    Tensor to = flat(output);
    at::gelu_out(to, flat(x));
    return output;
  }
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    scalar_t* to = output.data_ptr<scalar_t>();
    run_chunks(input.numel(), [&](int64_t begin, int64_t end) {
      activation_kernels<scalar_t>().forward(chosen, from + begin, to + begin, end - begin);
    });
  });
  return output;
}

Tensor activation_gradient(const Tensor& grad_output, const Tensor& kept, c10::string_view map,
                           at::ArrayRef<double> parameters) {
  constexpr const char* op = "activation_gradient";
  const Activation chosen = activation_of(op, map, parameters);
  TORCH_CHECK(grad_output.sizes() == kept.sizes(), op, ": grad_output must have kept's shape, ", kept.sizes(),
              ", but got ", grad_output.sizes());
  TORCH_CHECK(grad_output.scalar_type() == kept.scalar_type(), op, ": grad_output must have kept's dtype, ",
              kept.scalar_type(), ", but got ", grad_output.scalar_type());
  if (computes_in_float(kept))
    return activation_gradient(grad_output.to(at::kFloat), kept.to(at::kFloat), map, parameters).to(kept.scalar_type());
  Tensor grad_input = at::empty_like(kept);
  const Tensor g = laid_out_as(grad_output, grad_input), operand = laid_out_as(kept, grad_input);
  AT_DISPATCH_FLOATING_TYPES(kept.scalar_type(), op, [&] {
    const scalar_t* cotangent = g.const_data_ptr<scalar_t>();
    const scalar_t* from = operand.const_data_ptr<scalar_t>();
    scalar_t* to = grad_input.data_ptr<scalar_t>();
    run_chunks(kept.numel(), [&](int64_t begin, int64_t end) {
      activation_kernels<scalar_t>().gradient(chosen, cotangent + begin, from + begin, to + begin, end - begin);
    });
  });
  return grad_input;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) {
  m.impl("activation", activation);
  m.impl("activation_gradient", activation_gradient);
}

}  // namespace torchbp
