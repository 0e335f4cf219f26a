// Separable linear maps, y = (M_0 x M_1 x M_2) x with a sparse matrix per spatial axis: what padding,
// interpolation and unfolding share. The adjoint is the same kernel with the transposed matrices.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "arguments.h"

namespace torchbp {

// A sparse matrix by rows: output o is the sum of weight[t] x[index[t]] for t in [begin[o], begin[o + 1]).
struct Taps {
  int64_t inputs = 0;
  std::vector<int64_t> begin;
  std::vector<int64_t> index;
  std::vector<double> weight;  // empty where every weight is one

  Taps(int64_t inputs, int64_t outputs, int64_t taps_per_output);
  void add(int64_t source) { index.push_back(source); }
  void add(int64_t source, double factor) {
    index.push_back(source);
    weight.push_back(factor);
  }
  void close() { begin.push_back(static_cast<int64_t>(index.size())); }  // the output is complete
  int64_t outputs() const { return static_cast<int64_t>(begin.size()) - 1; }
  double factor(int64_t tap) const { return weight.empty() ? 1.0 : weight[static_cast<size_t>(tap)]; }
};

// Output o is x[source(o)], or zero where source(o) is negative.
template <typename Source>
Taps selection(int64_t inputs, int64_t outputs, const Source& source) {
  Taps taps(inputs, outputs, 1);
  for (int64_t o = 0; o < outputs; ++o) {
    const int64_t from = source(o);
    if (from >= 0) taps.add(from);
    taps.close();
  }
  return taps;
}

Taps transposed(const Taps& taps);

// The matrices of the given spatial dimensions, the absent leading ones filled in.
using Axes = std::vector<Taps>;

// Where the index i of an axis lies: i / period * outer + i % period * inner.
struct AxisLayout {
  int64_t period;
  int64_t outer;
  int64_t inner;
};

// Where the elements of an (N, C, *spatial) tensor lie.
struct Layout {
  int64_t batch;
  int64_t channel;
  std::array<AxisLayout, kSpatial> axis;
};

Layout layout_of(const at::Tensor& tensor);

// What is consecutive: the last axis, the channels, or the channels of the source and the last axis of the target.
enum class Order { kPlanes, kChannelsLast, kTurned };

// Applies the matrices that `make` gives, one per spatial dimension, to `source`; float and double. `make` is called
// when the tensors are there, so that sizes that memory cannot hold are refused before tables of such sizes are made.
void run_separable(const char* op, const at::Tensor& source, const Layout& from, const at::Tensor& target,
                   const Layout& to, int64_t batch, int64_t channels, Order order, const std::function<Axes()>& make);

// The same for a dense result of shape (N, C, *size) in the given format; any floating-point type.
at::Tensor apply_separable(const char* op, const at::Tensor& source, at::IntArrayRef size, at::MemoryFormat format,
                           const std::function<Axes()>& make);

}  // namespace torchbp
