// Cross-entropy of class indices, losses of a difference, and their gradients: the problems and their kernels.
#pragma once

#include "softmax.h"

namespace torchbp {

// What the targets ask for: with s = smoothing, C classes, weights w (null means 1) and q = log softmax(x),
// loss = -(1 - s) w[t] q[t] - (s / C) sum over c of w[c] q[c], zero where the target is ignored.
template <typename T>
struct ClassTargets {
  const int64_t* target;  // one per position
  const T* weight;
  T total_weight;  // sum of w
  int64_t ignore_index;
  T smoothing;
};

// Of the positions of one task.
struct LossSums {
  double loss;
  double weight;  // of the targets that are not ignored
};

template <typename T>
struct CrossEntropyKernels {
  int64_t (*tasks)(const ClassProblem&);
  int64_t (*workspace)(const ClassProblem&);

  // The losses (null: sums only), and per position the maximum of x and the logarithm of the sum of exp(x - maximum).
  void (*forward)(const ClassProblem&, const ClassTargets<T>&, const T* x, T* loss, T* maximum, T* log_sum,
                  LossSums* sums, T* workspace, int64_t task);
  // g holds the cotangents of the losses, g_stride apart (0: one for all).
  void (*gradient)(const ClassProblem&, const ClassTargets<T>&, const T* x, const T* maximum, const T* log_sum,
                   const T* g, int64_t g_stride, T* gx, T* workspace, int64_t task);
};

// With d = x - t and the parameter p: d^2; |d|; d^2 / 2p where |d| < p, else |d| - p / 2; d^2 / 2 where |d| <= p, else
// p (|d| - p / 2).
enum class Difference { squared, absolute, smooth_l1, huber };

template <typename T>
struct DifferenceKernels {
  // y = loss(x - t), and the sum of them.
  void (*forward)(Difference loss, T parameter, const T* x, const T* t, T* y, int64_t count);
  double (*sum)(Difference loss, T parameter, const T* x, const T* t, int64_t count);
  // gx = scale g loss'(x - t), g_stride apart (0: one for all).
  void (*gradient)(Difference loss, T parameter, const T* x, const T* t, const T* g, int64_t g_stride, T scale, T* gx,
                   int64_t count);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

CrossEntropyKernels<float> cross_entropy_float();
CrossEntropyKernels<double> cross_entropy_double();
DifferenceKernels<float> difference_float();
DifferenceKernels<double> difference_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
