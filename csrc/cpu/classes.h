// How tensors are read as rows of classes, one for each position.
#pragma once

#include <ATen/core/Tensor.h>

#include "arguments.h"
#include "kernels/softmax.h"

namespace torchbp {

// One or two tensors of the same sizes that are read around dimension `dim`, to write a contiguous one.
class Classes {
 public:
  ClassProblem problem;
  at::Tensor from, other;

  Classes(const at::Tensor& from_, const at::Tensor& other_, int64_t dim) : from(from_), other(other_) {
    Axes axes = positions(dim);
    if (axes.size() > 3) {
      from = from.contiguous();
      other = other.contiguous();
      axes = positions(dim);
    }
    turn(axes);
    while (axes.size() < 3) axes.insert(axes.begin(), Axis{1, 0, 0, 0});
    for (size_t k = 0; k < 2; ++k) {
      problem.outer[k] = axes[k].size;
      problem.from.outer[k] = axes[k].from;
      problem.other.outer[k] = axes[k].other;
      problem.to.outer[k] = axes[k].to;
    }
    problem.inner = axes[2].size;
    problem.from.inner = axes[2].from;
    problem.other.inner = axes[2].other;
    problem.to.inner = axes[2].to;
  }

  // Of the first class of a position in `from`.
  int64_t offset(int64_t position) const {
    const int64_t outer = position / problem.inner;
    return outer / problem.outer[1] * problem.from.outer[0] + outer % problem.outer[1] * problem.from.outer[1] +
           position % problem.inner * problem.from.inner;
  }

 private:
  struct Axis {
    int64_t size, from, other, to;
    bool continues(const Axis& inner) const {
      return from == inner.size * inner.from && other == inner.size * inner.other && to == inner.size * inner.to;
    }
  };
  using Axes = c10::SmallVector<Axis, 8>;

  // Sets what concerns the classes and returns all other axes, neighbours as one where every tensor lets them be.
  Axes positions(int64_t dim) {
    Axes axes;
    problem.classes = problem.from.classes = problem.other.classes = problem.to.classes = 1;
    for (int64_t d = from.dim() - 1, to = 1; d >= 0; to *= from.size(d), --d) {
      const Axis axis{from.size(d), from.stride(d), other.stride(d), to};
      if (d == dim) {
        problem.classes = axis.size;
        problem.from.classes = axis.from;
        problem.other.classes = axis.other;
        problem.to.classes = axis.to;
      } else if (axis.size != 1) {
        if (!axes.empty() && axis.continues(axes.front()))
          axes.front().size *= axis.size;
        else
          axes.insert(axes.begin(), axis);
      }
    }
    return axes;
  }

  // Where rows are written whole, but one of the tensors has other neighbours than classes, these become the inner
  // axis: the kernels turn rows and columns of such a block. Positions are then in another order.
  void turn(Axes& axes) const {
    if (problem.to.classes != 1) return;
    const auto consecutive = [&](const Axis& axis) {
      return (problem.from.classes != 1 && axis.from == 1) || (problem.other.classes != 1 && axis.other == 1);
    };
    const auto found = std::find_if(axes.begin(), axes.end(), consecutive);
    if (found != axes.end()) std::rotate(found, found + 1, axes.end());
  }
};

}  // namespace torchbp
