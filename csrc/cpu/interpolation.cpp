// Interpolation and its adjoint for 1 to 3 spatial dimensions. Indices and weights are computed as the
// built-in operators compute them, in their types, so that results agree to the last places.
#include <torch/library.h>

#include <algorithm>
#include <cmath>

#include "separable.h"

namespace torchbp {
namespace {

using at::IntArrayRef;
using at::Tensor;

enum class Mode { kNearest, kNearestExact, kLinear, kCubic, kLanczos };

// What is computed, along every axis.
struct Method {
  Mode mode;
  bool align_corners;
  bool antialias;
  bool in_double;      // of double tensors; float else
  bool small_nearest;  // see nearest_axis
};

// Inputs per output: given as the reciprocal, or from the sizes.
template <typename T>
T step_of(int64_t input, int64_t output, bool align_corners, double scale) {
  if (align_corners) return output > 1 ? static_cast<T>(input - 1) / static_cast<T>(output - 1) : T(0);
  return scale > 0 ? static_cast<T>(1.0 / scale) : static_cast<T>(input) / static_cast<T>(output);
}

// The input coordinate of an output. Rounded once, as compilers do where the processor can: far from the origin a
// second rounding moves an output by many units of its last place.
template <typename T>
T coordinate(T step, int64_t o, bool align_corners) {
  return align_corners ? step * static_cast<T>(o) : std::fma(step, static_cast<T>(o) + T(0.5), T(-0.5));
}

// Never more than an integer holds; NaN counts as the least.
int64_t integer(double x, int64_t least, int64_t most) {
  if (!(x > static_cast<double>(least))) return least;
  return x < static_cast<double>(most) ? static_cast<int64_t>(x) : most;
}

int64_t floor_of(double x) { return integer(std::floor(static_cast<float>(x)), -(1LL << 62), 1LL << 62); }

// The nearest input. The built-in has two rules. For small images it takes the step in float for every
// tensor, and takes equal and doubled sizes as what they are whatever the scale; else neither.
template <typename T>
Taps nearest_axis(int64_t input, int64_t output, double scale, const Method& method) {
  const bool exact = method.mode == Mode::kNearestExact;
  const T step = step_of<T>(input, output, false, scale);
  const float float_step = step_of<float>(input, output, false, scale);
  return selection(input, output, [&](int64_t o) {
    if (method.small_nearest && !exact && output == input) return o;
    if (method.small_nearest && !exact && output == 2 * input) return o / 2;
    int64_t i;
    if (method.small_nearest)
      i = exact ? floor_of((static_cast<double>(o) + 0.5) * float_step) : floor_of(static_cast<float>(o) * float_step);
    else
      i = exact ? floor_of(static_cast<double>(std::max(T(0), coordinate<T>(step, o, false))) + 0.5)
                : floor_of(static_cast<double>(coordinate<T>(step, o, true)));
    return std::clamp<int64_t>(i, 0, input - 1);
  });
}

// The input at or before a coordinate, and how far between it and the next the coordinate is.
template <typename T>
struct Between {
  int64_t index;
  T fraction;

  Between(T x, int64_t input) : index(std::min(floor_of(static_cast<double>(x)), input - 1)) {
    fraction = std::clamp(x - static_cast<T>(index), T(0), T(1));
  }
};

template <typename T>
Taps linear_axis(int64_t input, int64_t output, double scale, const Method& method) {
  if (output == input) return selection(input, output, [](int64_t o) { return o; });
  const T step = step_of<T>(input, output, method.align_corners, scale);
  Taps taps(input, output, 2);
  for (int64_t o = 0; o < output; ++o) {
    const Between<T> at(std::max(T(0), coordinate<T>(step, o, method.align_corners)), input);
    taps.add(at.index, T(1) - at.fraction);
    taps.add(std::min(at.index + 1, input - 1), at.fraction);
    taps.close();
  }
  return taps;
}

// Cubic convolution (Keys, 1981) with the slope a at distance 1: the kernel at distances x <= 1 and 1 <= x <= 2.
template <typename T>
T cubic_near(T x, T a) {
  return ((a + 2) * x - (a + 3)) * x * x + 1;
}
template <typename T>
T cubic_far(T x, T a) {
  return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
}

template <typename T>
Taps cubic_axis(int64_t input, int64_t output, double scale, const Method& method) {
  const T step = step_of<T>(input, output, method.align_corners, scale), a = T(-0.75);
  Taps taps(input, output, 4);
  for (int64_t o = 0; o < output; ++o) {
    const Between<T> at(coordinate<T>(step, o, method.align_corners), input);
    const T t = at.fraction, u = T(1) - t;
    const T weights[] = {cubic_far(t + T(1), a), cubic_near(t, a), cubic_near(u, a), cubic_far(u + T(1), a)};
    for (int64_t k = 0; k < 4; ++k) taps.add(std::clamp<int64_t>(at.index + k - 1, 0, input - 1), weights[k]);
    taps.close();
  }
  return taps;
}

template <typename T>
T sinc(T x) {
  if (x == T(0)) return T(1);
  x *= static_cast<T>(3.14159265358979323846);
  return std::sin(x) / x;
}

// The filter at a distance from its centre; it reaches `radius` to each side.
template <typename T>
T filter(Mode mode, T x) {
  x = std::abs(x);
  switch (mode) {
    case Mode::kLinear:
      return x < T(1) ? T(1) - x : T(0);
    case Mode::kCubic:
      return x < T(1) ? cubic_near(x, T(-0.5)) : x < T(2) ? cubic_far(x, T(-0.5)) : T(0);
    default:
      return x < T(3) ? sinc(x) * sinc(x / T(3)) : T(0);
  }
}

// The filter, widened by the step where the image shrinks, over the inputs that it reaches, normalised.
template <typename T>
Taps antialiased_axis(int64_t input, int64_t output, double scale, const Method& method) {
  if (output == input) return selection(input, output, [](int64_t o) { return o; });
  const T radius = method.mode == Mode::kLinear ? T(1) : method.mode == Mode::kCubic ? T(2) : T(3);
  const T step = step_of<T>(input, output, method.align_corners, scale);
  const T reach = step >= T(1) ? radius * step : radius;
  const T shrink = step >= T(1) ? static_cast<T>(1.0 / static_cast<double>(step)) : T(1);
  const int64_t most = integer(2 * std::ceil(static_cast<double>(reach)) + 1, 1, input + 1);
  Taps taps(input, output, most);
  for (int64_t o = 0; o < output; ++o) {
    const T centre = static_cast<T>(static_cast<double>(step) * (static_cast<double>(o) + 0.5));
    const int64_t first = integer(static_cast<double>(centre - reach) + 0.5, 0, input);
    const int64_t end = integer(static_cast<double>(centre + reach) + 0.5, first, input);
    const int64_t count = std::min(end - first, most);
    T total = T(0);
    for (int64_t k = 0; k < count; ++k) {
      const double x = static_cast<double>(static_cast<T>(k + first) - centre) + 0.5;
      const T weight = filter<T>(method.mode, static_cast<T>(x * static_cast<double>(shrink)));
      taps.add(first + k, static_cast<double>(weight));
      total += weight;
    }
    for (size_t t = taps.weight.size() - static_cast<size_t>(count); t < taps.weight.size() && total != T(0); ++t)
      taps.weight[t] = static_cast<double>(static_cast<T>(taps.weight[t]) / total);
    taps.close();
  }
  return taps;
}

template <typename T>
Taps axis_of(int64_t input, int64_t output, double scale, const Method& method) {
  if (method.antialias) return antialiased_axis<T>(input, output, scale, method);
  if (method.mode == Mode::kLinear) return linear_axis<T>(input, output, scale, method);
  if (method.mode == Mode::kCubic) return cubic_axis<T>(input, output, scale, method);
  return nearest_axis<T>(input, output, scale, method);
}

Method method_of(const char* op, c10::string_view mode, bool align_corners, bool antialias, IntArrayRef output,
                 at::ScalarType type) {
  Method method{Mode::kNearest, align_corners, antialias, type == at::kDouble, false};
  if (mode == "nearest-exact")
    method.mode = Mode::kNearestExact;
  else if (mode == "linear")
    method.mode = Mode::kLinear;
  else if (mode == "cubic")
    method.mode = Mode::kCubic;
  else if (mode == "lanczos")
    method.mode = Mode::kLanczos;
  else
    TORCH_CHECK(mode == "nearest", op, ": mode must be nearest, nearest-exact, linear, cubic or lanczos, but got ",
                mode);
  const bool nearest = method.mode == Mode::kNearest || method.mode == Mode::kNearestExact;
  TORCH_CHECK(!(nearest && (align_corners || antialias)), op, ": mode ", mode,
              " takes neither align_corners nor antialias");
  TORCH_CHECK(antialias || method.mode != Mode::kLanczos, op, ": mode lanczos needs antialias");
  TORCH_CHECK(output.size() == 2 || !(antialias || method.mode == Mode::kCubic), op, ": mode ", mode,
              antialias ? " with antialias" : "", " needs 2 spatial dimensions, but got ", output.size());
  method.small_nearest = output.size() == 2 && output[0] <= 128 && output[1] <= 128 && output[0] + output[1] <= 128;
  return method;
}

Tensor resize(const char* op, const Tensor& source, IntArrayRef input, IntArrayRef output, c10::string_view mode,
              bool align_corners, bool antialias, at::ArrayRef<double> scales, bool adjoint) {
  const int64_t dimensions = source.dim() - 2;
  check_list(op, "input_size", input, dimensions, 1);
  check_list(op, "output_size", output, dimensions, 1);
  TORCH_CHECK(scales.empty() || scales.size() == input.size(), op, ": scales must be empty or have ", dimensions,
              " values, one per spatial dimension, but got ", scales);
  const Method method = method_of(op, mode, align_corners, antialias, output, source.scalar_type());
  return apply_separable(op, source, adjoint ? input : output, source.suggest_memory_format(), [&] {
    Axes axes;
    for (size_t d = 0; d < input.size(); ++d) {
      const double scale = scales.empty() ? 0.0 : scales[d];
      axes.push_back((method.in_double ? axis_of<double> : axis_of<float>)(input[d], output[d], scale, method));
      if (adjoint) axes.back() = transposed(axes.back());
    }
    return axes;
  });
}

Tensor interpolate(const Tensor& input, IntArrayRef output_size, c10::string_view mode, bool align_corners,
                   bool antialias, at::ArrayRef<double> scales) {
  constexpr const char* op = "interpolate";
  check_batched(op, "input", input);
  return resize(op, input, input.sizes().slice(2), output_size, mode, align_corners, antialias, scales, false);
}

Tensor interpolate_adjoint(const Tensor& grad_output, IntArrayRef input_size, c10::string_view mode, bool align_corners,
                           bool antialias, at::ArrayRef<double> scales) {
  constexpr const char* op = "interpolate_adjoint";
  check_batched(op, "grad_output", grad_output);
  return resize(op, grad_output, input_size, grad_output.sizes().slice(2), mode, align_corners, antialias, scales,
                true);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) {
  m.impl("interpolate", interpolate);
  m.impl("interpolate_adjoint", interpolate_adjoint);
}

}  // namespace torchbp
