// Padding by reflection, replication, wrapping around and zeros, and its adjoint, for 1 to 3 spatial dimensions.
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "separable.h"

namespace torchbp {
namespace {

using at::IntArrayRef;
using at::Tensor;

enum class Mode { kReflect, kReplicate, kCircular, kZeros };

Mode mode_of(const char* op, c10::string_view mode) {
  if (mode == "reflect") return Mode::kReflect;
  if (mode == "replicate") return Mode::kReplicate;
  if (mode == "circular") return Mode::kCircular;
  TORCH_CHECK(mode == "zeros", op, ": mode must be reflect, replicate, circular or zeros, but got ", mode);
  return Mode::kZeros;
}

// What an axis gains before and after its elements; negative where elements are cut off.
struct Sides {
  int64_t before;
  int64_t after;
};

Sides sides(IntArrayRef padding, int64_t axis) {
  const size_t place = padding.size() - 2 * static_cast<size_t>(axis) - 2;
  return {padding[place], padding[place + 1]};
}

// Sizes after padding; the padding is listed from the last axis to the first.
std::vector<int64_t> padded_size(const char* op, IntArrayRef input, IntArrayRef padding, Mode mode) {
  TORCH_CHECK(padding.size() == 2 * input.size(), op, ": padding must have ", 2 * input.size(),
              " values, two per spatial dimension, but got ", padding);
  std::vector<int64_t> sizes;
  for (size_t axis = 0; axis < input.size(); ++axis) {
    const auto [before, after] = sides(padding, static_cast<int64_t>(axis));
    const int64_t size = checked_sum(op, "padding", checked_sum(op, "padding", input[axis], before), after);
    // What may be repeated: nothing but what is left of the input, less the edge itself in a reflection.
    int64_t room = std::numeric_limits<int64_t>::max();
    if (mode == Mode::kReflect) room = input[axis] - 1;
    if (mode == Mode::kCircular)
      room = checked_sum(op, "padding", checked_sum(op, "padding", input[axis], std::min<int64_t>(before, 0)),
                         std::min<int64_t>(after, 0));
    const int64_t least = mode == Mode::kReflect || mode == Mode::kReplicate ? 1 : 0;
    TORCH_CHECK(input[axis] >= least && size >= 0 && std::max(before, after) <= room, op, ": padding ", padding,
                " does not fit an input of size ", input);
    sizes.push_back(size);
  }
  return sizes;
}

Taps padded_axis(int64_t input, int64_t output, Sides pad, Mode mode) {
  const int64_t start = std::max<int64_t>(-pad.before, 0), before = std::max<int64_t>(pad.before, 0);
  const int64_t left = input - start - std::max<int64_t>(-pad.after, 0);
  return selection(input, output, [&](int64_t o) {
    const int64_t i = o - pad.before;
    if (mode == Mode::kZeros) return i < input ? i : int64_t(-1);
    if (mode == Mode::kReplicate) return std::clamp<int64_t>(i, 0, input - 1);
    if (mode == Mode::kCircular) return start + (o - before + left) % left;
    return i < 0 ? -i : i >= input ? 2 * (input - 1) - i : i;
  });
}

Axes padded_axes(IntArrayRef input, IntArrayRef output, IntArrayRef padding, Mode mode, bool adjoint) {
  Axes axes;
  for (size_t d = 0; d < input.size(); ++d) {
    axes.push_back(padded_axis(input[d], output[d], sides(padding, static_cast<int64_t>(d)), mode));
    if (adjoint) axes.back() = transposed(axes.back());
  }
  return axes;
}

at::MemoryFormat format_of(const Tensor& tensor, Mode mode) {
  return mode == Mode::kCircular ? at::MemoryFormat::Contiguous : tensor.suggest_memory_format();
}

Tensor pad(const Tensor& input, IntArrayRef padding, c10::string_view mode_name) {
  constexpr const char* op = "pad";
  check_batched(op, "input", input);
  const Mode mode = mode_of(op, mode_name);
  const IntArrayRef size = input.sizes().slice(2);
  const std::vector<int64_t> output = padded_size(op, size, padding, mode);
  return apply_separable(op, input, output, format_of(input, mode),
                         [&] { return padded_axes(size, output, padding, mode, false); });
}

Tensor pad_adjoint(const Tensor& grad_output, IntArrayRef input_size, IntArrayRef padding, c10::string_view mode_name) {
  constexpr const char* op = "pad_adjoint";
  const int64_t dimensions = check_batched(op, "grad_output", grad_output);
  check_list(op, "input_size", input_size, dimensions, 0);
  const Mode mode = mode_of(op, mode_name);
  const std::vector<int64_t> output = padded_size(op, input_size, padding, mode);
  TORCH_CHECK(grad_output.sizes().slice(2) == IntArrayRef(output), op, ": grad_output has shape ", grad_output.sizes(),
              ", but an input of size ", input_size, " padded by ", padding, " has size ", IntArrayRef(output));
  return apply_separable(op, grad_output, input_size, format_of(grad_output, mode),
                         [&] { return padded_axes(input_size, output, padding, mode, true); });
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) {
  m.impl("pad", pad);
  m.impl("pad_adjoint", pad_adjoint);
}

}  // namespace torchbp
