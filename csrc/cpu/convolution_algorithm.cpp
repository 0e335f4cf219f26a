#include "convolution_algorithm.h"

#include <ATen/Context.h>

#include <algorithm>
#include <atomic>

#include "dispatch.h"
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
    {Algorithm::winograd_2x2, "winograd_2x2", {2, 2}},
    {Algorithm::winograd_2x4, "winograd_2x4", {2, 4}},
    {Algorithm::winograd_4x4, "winograd_4x4", {4, 4}},
};

constexpr int64_t kMostPatch = 1 << 16;  // elements of a window, or values of one
constexpr int kNone = -1;
std::atomic<int> forced{kNone};

bool is_depthwise(const Geometry& g, int64_t input_channels, int64_t output_channels) {
  return g.groups > 1 && input_channels * output_channels > 0 && (input_channels == 1 || output_channels == 1);
}

// A kernel whose planes have this size and stride; every residue of planes meets a tap. Dilation goes with stride 1.
bool takes_winograd(const Geometry& g, int64_t height, int64_t width, int64_t stride) {
  if (g.kernel[0] < g.stride[0] || g.kernel[1] != height || g.kernel[2] != width) return false;
  for (int d = 0; d < kSpatial; ++d)
    if ((d > 0 && g.stride[d] != stride) || ((d == 0 || stride > 1) && g.dilation[d] != 1)) return false;
  return stride == 1 || (g.padding[1] - g.padding[2]) % 2 == 0;  // the gradient's first targets are of the same taps
}

bool takes_winograd(Algorithm algorithm, const Geometry& g) {
  switch (algorithm) {
    case Algorithm::winograd_4:
      return takes_winograd(g, 1, 3, 1);
    case Algorithm::winograd_2x2:
      return takes_winograd(g, 5, 5, 1) || takes_winograd(g, 3, 3, 2) || takes_winograd(g, 4, 4, 2) ||
             takes_winograd(g, 5, 5, 2);
    default:
      return takes_winograd(g, 3, 3, 1);
  }
}

bool is_matrix_product(const Geometry& g) { return is_pointwise(g) && products_stay_on_a_thread(); }

// Windows that do not overlap, but for those that are all of the input.
bool is_patches(const Geometry& g, int64_t input_channels, int64_t output_channels) {
  int64_t size = input_channels;
  for (int d = 0; d < kSpatial; ++d) {
    const bool apart = g.stride[d] >= g.kernel[d] || g.output[d] == 1;
    const bool whole = g.padding[d] == 0 && (g.output[d] - 1) * g.stride[d] + g.kernel[d] <= g.input[d];
    if (!apart || !whole || g.dilation[d] != 1) return false;
    if (size > kMostPatch / g.kernel[d]) return false;
    size *= g.kernel[d];
  }
  return g.groups == 1 && size > 0 && output_channels <= kMostPatch;
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
    default:
      return takes_winograd(algorithm, g);
  }
}

// Channels that leave vectors of channels empty; vectors of positions are full.
bool few(int64_t channels) { return channels < 12; }

// Kernels of one element. Tiles of patches and of direct keep the weight in the cache, and add the bias and transpose
// a gradient on the way, which products of matrices need passes of their own for. Channels last they read pixels where
// they stand. On contiguous maps ATen's products win where they run at full speed: rows of positions that begin
// anywhere are written as fast by patches only where few channels are read.
Algorithm pointwise(Product product, const Geometry& g, int64_t input_channels, int64_t output_channels) {
  constexpr int64_t kFewPositions = 64;  // whose rows leave most of a product's tiles empty
  constexpr int64_t kManyWeights = 1 << 16;
  constexpr int64_t kNarrow = 24, kShallow = 32, kWide = 64;  // channels
  const int64_t positions = g.output[0] * g.output[1] * g.output[2], weights = input_channels * output_channels;
  const bool pixels = g.channels_last || positions == 1, fast = products_run_at_full_speed();
  const bool few_rows = pixels && weights > kManyWeights && g.batch * positions < kFewPositions;
  if (g.groups > 1 || few_rows) return Algorithm::matrix_product;
  if (product == Product::weight) {
    if (positions == 1) return Algorithm::matrix_product;
    if (pixels && few(output_channels))
      return output_channels > 1 && input_channels > kNarrow ? Algorithm::direct : Algorithm::patches;
    if (!pixels && positions < kFewPositions) return fast ? Algorithm::matrix_product : Algorithm::direct;
    if (few(output_channels)) return Algorithm::matrix_product;
    if (!fast || (!pixels && few(input_channels))) return Algorithm::patches;
    const bool pays = pixels ? input_channels <= kNarrow : input_channels >= kWide && weights <= kManyWeights;
    return pays ? Algorithm::patches : Algorithm::matrix_product;
  }
  const int64_t source = product == Product::output ? input_channels : output_channels;
  const int64_t target = product == Product::output ? output_channels : input_channels;
  if (pixels) return target == 1 ? Algorithm::matrix_product : Algorithm::patches;
  if (positions < kFewPositions) return Algorithm::direct;
  if (!fast) return source <= kShallow || few(target) ? Algorithm::patches : Algorithm::direct;
  const bool pays = product == Product::output ? source <= target : source < target;
  return pays && !few(output_channels) && weights <= kManyWeights ? Algorithm::patches : Algorithm::matrix_product;
}

// Fewer channels than fill vectors, on one side or on both.
Algorithm few_channels(Product product, const Geometry& g, int64_t input_channels, int64_t output_channels) {
  constexpr int64_t kManyTaps = 16;    // that pay for reading few channels as vectors
  constexpr int64_t kDotProducts = 8;  // input channels up to which the panels' weight gradient is dot products of rows
  constexpr int64_t kWideRow = 24;     // that fills the panels' vectors of positions
  const bool many_taps = g.kernel[0] * g.kernel[1] * g.kernel[2] >= kManyTaps;
  bool direct = false;
  switch (product) {
    case Product::output:
      direct = !few(output_channels) &&
               (g.channels_last ? many_taps || input_channels > 1 : many_taps && g.output[2] < kWideRow);
      break;
    case Product::input:
      direct = !few(input_channels) && (many_taps || g.channels_last || output_channels > 2);
      break;
    case Product::weight:
      direct = !few(output_channels) || input_channels > kDotProducts;
      break;
  }
  return direct ? Algorithm::direct : Algorithm::panels;
}

// 3 x 3 taps of stride 2 save a third of the products only, which must pay for the transforms of the input: not of few
// channels, and not where tiles reach far beyond a map whose direct products run at full speed.
bool strided_stays_direct(Product product, const Geometry& g, int64_t input_channels) {
  if (g.kernel[2] != 3 || product == Product::input) return false;
  const int64_t covered = 4 * up(g.output[1], 2) * up(g.output[2], 2), outputs = g.output[1] * g.output[2];
  return input_channels < (g.channels_last ? 32 : 16) || (product == Product::weight && 5 * covered > 6 * outputs);
}

// Whether the residues modulo a dilation are maps that tiles of 2 x 4 cover with little waste.
bool dilation_is_small(const Geometry& g) {
  const int64_t height = up(up(g.output[1], g.dilation[1]), 2) * 2 * g.dilation[1];
  const int64_t width = up(up(g.output[2], g.dilation[2]), 4) * 4 * g.dilation[2];
  return (g.dilation[1] == 1 && g.dilation[2] == 1) || 5 * height * width <= 8 * g.output[1] * g.output[2];
}

// The table. Winograd's tiles of 2 x 4 outputs need 24 products in place of 72, with errors of the size that direct
// summation has; those of 4 x 4 need 36 in place of 144, with larger errors, and are for those who allow them.
Algorithm table(Product product, const Geometry& g, int64_t input_channels, int64_t output_channels,
                at::ScalarType type) {
  constexpr int64_t kManyChannels = 2048;  // whose transformed tiles would exceed the workspace
  constexpr int64_t kShortSum = 512;       // whose own error is small beside that of the transforms
  const bool exact =
      type != at::kFloat || at::globalContext().float32MatmulPrecision() == at::Float32MatmulPrecision::HIGHEST;
  if (is_depthwise(g, input_channels, output_channels)) return Algorithm::depthwise;
  // Kernels of one element that skip contiguous pixels gather them as fast by other means.
  if (is_pointwise(g)) {
    const Algorithm algorithm = pointwise(product, g, input_channels, output_channels);
    if (algorithm != Algorithm::matrix_product || products_stay_on_a_thread()) return algorithm;
  }
  const bool in_place = g.channels_last || product == Product::input || g.kernel[0] * g.kernel[1] * g.kernel[2] > 1;
  if (in_place && !is_pointwise(g) && is_patches(g, input_channels, output_channels)) return Algorithm::patches;
  const int64_t lanes = type == at::kDouble ? winograd_kernels<double>().lanes : winograd_kernels<float>().lanes;
  const auto fill = [&](int64_t channels) { return !few(channels) || (channels == 8 && channels % lanes == 0); };
  const bool eight_do = takes_winograd(Algorithm::winograd_2x4, g) && fill(input_channels) && fill(output_channels);
  if (!eight_do && (few(input_channels) || few(output_channels)))
    return few_channels(product, g, input_channels, output_channels);
  if (std::max(input_channels, output_channels) * g.kernel[0] > kManyChannels || !dilation_is_small(g))
    return Algorithm::direct;
  if (takes_winograd(Algorithm::winograd_2x4, g)) {
    if (!exact) return Algorithm::winograd_4x4;
    const int64_t products = g.batch * g.output[0] * g.output[1] * g.output[2];
    const bool short_sums = product == Product::weight && g.channels_last && products < kShortSum;
    return short_sums ? Algorithm::direct : Algorithm::winograd_2x4;
  }
  if (takes_winograd(Algorithm::winograd_4, g)) return Algorithm::winograd_4;
  if (takes_winograd(Algorithm::winograd_2x2, g) && !strided_stays_direct(product, g, input_channels))
    return Algorithm::winograd_2x2;
  return Algorithm::direct;
}

const Named& named(Algorithm algorithm) { return kAlgorithms[static_cast<int>(algorithm)]; }

}  // namespace

bool is_pointwise(const Geometry& g) {
  for (int d = 0; d < kSpatial; ++d)
    if (g.kernel[d] != 1 || g.stride[d] != 1 || g.padding[d] != 0 || g.output[d] != g.input[d]) return false;
  return true;
}

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
