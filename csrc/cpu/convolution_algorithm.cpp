#include "convolution_algorithm.h"

#include <ATen/Context.h>

#include <atomic>

#include "matrix_product.h"

namespace torchbp {

namespace {

struct Named {
  Algorithm algorithm;
  const char* name;
  std::array<int64_t, 2> tile;
};

constexpr Named kAlgorithms[] = {
    {Algorithm::panels, "panels", {0, 0}},
    {Algorithm::direct, "direct", {0, 0}},
    {Algorithm::depthwise, "depthwise", {0, 0}},
    {Algorithm::matrix_product, "matrix_product", {0, 0}},
    {Algorithm::patches, "patches", {0, 0}},
    {Algorithm::winograd_4, "winograd_4", {1, 4}},
    {Algorithm::winograd_2x4, "winograd_2x4", {2, 4}},
    {Algorithm::winograd_4x4, "winograd_4x4", {4, 4}},
};

constexpr int64_t kMostPatch = 1 << 16;  // elements of a window, or values of one
constexpr int kNone = -1;
std::atomic<int> forced{kNone};

bool is_depthwise(const Geometry& g, int64_t input_channels, int64_t output_channels) {
  return g.groups > 1 && input_channels * output_channels > 0 && (input_channels == 1 || output_channels == 1);
}

// Three taps of stride and dilation 1 along the width, and as many or one along the height, of images.
bool takes_winograd(const Geometry& g, int64_t taps_height) {
  const bool flat = g.kernel[0] == 1 && g.input[0] == 1 && g.padding[0] == 0 && g.output[0] == 1;
  if (!flat || g.kernel[1] != taps_height || g.kernel[2] != 3) return false;
  for (int d = 1; d < kSpatial; ++d)
    if (g.stride[d] != 1 || (g.dilation[d] != 1 && g.kernel[d] > 1)) return false;
  return true;
}

// Kernels of one element that read every input where it stands.
bool is_matrix_product(const Geometry& g) {
  for (int d = 0; d < kSpatial; ++d)
    if (g.kernel[d] != 1 || g.stride[d] != 1 || g.padding[d] != 0 || g.output[d] != g.input[d]) return false;
  return products_stay_on_a_thread();
}

// Windows that do not overlap, but for those that are all of the input.
bool is_patches(const Geometry& g, int64_t input_channels, int64_t output_channels) {
  int64_t size = input_channels;
  bool pointwise = true;
  for (int d = 0; d < kSpatial; ++d) {
    const bool apart = g.stride[d] >= g.kernel[d] || g.output[d] == 1;
    const bool whole = g.padding[d] == 0 && (g.output[d] - 1) * g.stride[d] + g.kernel[d] <= g.input[d];
    if (!apart || !whole || (g.dilation[d] != 1 && g.kernel[d] > 1)) return false;
    if (size > kMostPatch / g.kernel[d]) return false;
    size *= g.kernel[d];
    pointwise = pointwise && g.kernel[d] == 1 && g.output[d] == g.input[d];
  }
  return !pointwise && g.groups == 1 && size > 0 && output_channels <= kMostPatch;
}

bool takes(Algorithm algorithm, const Geometry& g, int64_t input_channels, int64_t output_channels) {
  switch (algorithm) {
    case Algorithm::panels:
    case Algorithm::direct:
      return true;
    case Algorithm::depthwise:
      return is_depthwise(g, input_channels, output_channels);
    case Algorithm::matrix_product:
      return is_matrix_product(g);
    case Algorithm::patches:
      return is_patches(g, input_channels, output_channels);
    case Algorithm::winograd_4:
      return takes_winograd(g, 1);
    default:
      return takes_winograd(g, 3);
  }
}

// The table. Winograd's tiles of 2 x 4 outputs need 24 products in place of 72, with errors of the size that direct
// summation has; those of 4 x 4 need 36 in place of 144, with larger errors, and are for those who allow them. Few
// channels leave vectors of channels empty; vectors of positions, as the panels have them, are full.
Algorithm table(Product product, const Geometry& g, int64_t input_channels, int64_t output_channels,
                at::ScalarType type) {
  constexpr int64_t kFewChannels = 12;
  constexpr int64_t kManyChannels = 2048;  // whose transformed tiles would exceed the workspace
  constexpr int64_t kFewPositions = 64;    // whose rows leave most of a matrix product's tiles empty
  constexpr int64_t kShortSum = 512;       // whose own error is small beside that of the transforms
  constexpr int64_t kManyTaps = 16;        // that pay for reading few channels as vectors
  const bool exact =
      type != at::kFloat || at::globalContext().float32MatmulPrecision() == at::Float32MatmulPrecision::HIGHEST;
  const bool few_inputs = input_channels < kFewChannels, few_outputs = output_channels < kFewChannels;
  const bool many_taps = g.kernel[0] * g.kernel[1] * g.kernel[2] >= kManyTaps;
  if (is_depthwise(g, input_channels, output_channels)) return Algorithm::depthwise;
  const bool in_place = g.channels_last || product == Product::input || g.kernel[0] * g.kernel[1] * g.kernel[2] > 1;
  if (in_place && is_patches(g, input_channels, output_channels)) return Algorithm::patches;
  if (!few_inputs && !few_outputs) {
    if (is_matrix_product(g)) {
      const int64_t positions = g.output[0] * g.output[1] * g.output[2];
      const bool short_rows = !g.channels_last && product != Product::weight && positions > 1;
      return short_rows && positions < kFewPositions ? Algorithm::direct : Algorithm::matrix_product;
    }
    if (input_channels > kManyChannels || output_channels > kManyChannels) return Algorithm::direct;
    if (takes_winograd(g, 3)) {
      if (!exact) return Algorithm::winograd_4x4;
      const bool short_sums =
          product == Product::weight && g.channels_last && g.batch * g.output[1] * g.output[2] < kShortSum;
      return short_sums ? Algorithm::direct : Algorithm::winograd_2x4;
    }
    if (takes_winograd(g, 1)) return Algorithm::winograd_4;
    return Algorithm::direct;
  }
  switch (product) {
    case Product::output:
      return !few_outputs && (many_taps || (g.channels_last && input_channels > 1)) ? Algorithm::direct
                                                                                    : Algorithm::panels;
    case Product::input:
      return !few_inputs && many_taps ? Algorithm::direct : Algorithm::panels;
    default:
      return few_outputs ? Algorithm::panels : Algorithm::direct;
  }
}

const Named& named(Algorithm algorithm) { return kAlgorithms[static_cast<int>(algorithm)]; }

}  // namespace

std::array<int64_t, 2> winograd_tile(Algorithm algorithm) { return named(algorithm).tile; }

bool algorithm_is_forced() { return forced != kNone; }

std::string algorithm_name(Algorithm algorithm) { return named(algorithm).name; }

std::vector<std::string> algorithm_names() {
  std::vector<std::string> names;
  for (const Named& one : kAlgorithms) {
    if (one.algorithm != Algorithm::matrix_product || products_stay_on_a_thread()) names.emplace_back(one.name);
  }
  return names;
}

Algorithm algorithm_for(const char* op, Product product, const Geometry& g, int64_t input_channels,
                        int64_t output_channels, at::ScalarType type) {
  const int index = forced;
  if (index == kNone) return table(product, g, input_channels, output_channels, type);
  const Algorithm algorithm = static_cast<Algorithm>(index);
  TORCH_CHECK(
      takes(algorithm, g, input_channels, output_channels), op, ": the forced algorithm ", named(algorithm).name,
      " does not take kernel_size ",
      at::IntArrayRef(g.kernel.data() + kSpatial - g.dimensions, static_cast<size_t>(g.dimensions)), ", stride ",
      at::IntArrayRef(g.stride.data() + kSpatial - g.dimensions, static_cast<size_t>(g.dimensions)), ", dilation ",
      at::IntArrayRef(g.dilation.data() + kSpatial - g.dimensions, static_cast<size_t>(g.dimensions)), ", ", g.groups,
      " groups of ", input_channels, " input and ", output_channels, " output channels");
  return algorithm;
}

std::string force_algorithm(const std::string& name) {
  int index = kNone;
  if (!name.empty()) {
    for (const Named& one : kAlgorithms)
      if (name == one.name) index = static_cast<int>(one.algorithm);
    TORCH_CHECK_VALUE(index != kNone, "algorithm must be one of ", algorithm_names(), ", but got ", name);
  }
  const int before = forced.exchange(index);
  return before == kNone ? "" : named(static_cast<Algorithm>(before)).name;
}

}  // namespace torchbp
