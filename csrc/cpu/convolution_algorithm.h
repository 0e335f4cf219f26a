// Which algorithm computes a product of a convolution.
#pragma once

#include <string>
#include <vector>

#include "arguments.h"

namespace torchbp {

struct Geometry {
  int64_t dimensions = 0;
  int64_t batch = 0;
  int64_t groups = 1;
  Sizes kernel, stride, padding, dilation;  // of the taps that meet an input somewhere; one tap has dilation 1
  Sizes input, output;
  Sizes whole_kernel, first_tap;
  bool channels_last = false;  // the result
};

// Checks the arguments and works out the size of the output.
Geometry geometry_of(const char* op, int64_t batch, at::IntArrayRef input, at::IntArrayRef kernel,
                     at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups);

enum class Product { output, input, weight };

enum class Algorithm {
  panels,
  direct,
  depthwise,
  matrix_product,
  patches,
  winograd_4,
  winograd_2x2,
  winograd_2x4,
  winograd_4x4,
};

// Outputs of a tile of Winograd's algorithm; {0, 0} for the other ones.
std::array<int64_t, 2> winograd_tile(Algorithm algorithm);

// The algorithm that is forced, if it takes the convolution, otherwise the table's. Channels are those of a group.
Algorithm algorithm_for(const char* op, Product product, const Geometry& geometry, int64_t input_channels,
                        int64_t output_channels, at::ScalarType type);

// Whether the kernel has one element and reads every input where it stands.
bool is_pointwise(const Geometry& geometry);

bool algorithm_is_forced();

std::string algorithm_name(Algorithm algorithm);
std::vector<std::string> algorithm_names();

// The algorithm of this name for every convolution from now on; the table's where it is empty. Returns what was forced
// before.
std::string force_algorithm(const std::string& name);

}  // namespace torchbp
