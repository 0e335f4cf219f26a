// Winograd's fast convolution: its problem and its kernels, and those of the instruction set being compiled.
#pragma once

#include "problem.h"

namespace torchbp {

// A convolution over images or volumes, and its weight gradient:
//   y[m, q]  = bias[m] + sum over channels c and taps t of  w[m, c, t] * x[c, stride * q + dilation * t + origin],
//   w[m, c, t] = sum over positions q of  g[m, q] * x[c, stride * q + dilation * t + origin].
// With stride 1 the first one, the weight's taps reversed by negative strides, is the input's gradient, too; that of
// stride 2 is interleaved: zeros stand between the elements of x, whose position 0 is that of -origin or, where the
// first target is of the odd taps, half an element before it. In the second product "target" is g.
struct WinogradProblem {
  int64_t batch;
  int64_t source_size[2];
  int64_t target_size[2];
  int64_t origin[2];         // minus the padding
  int64_t source_stride[3];  // batch, height, width
  int64_t target_stride[3];
  // Volumes are planes: target plane d meets the source planes plane_step * d + t + plane_origin for each of so many
  // taps t. Images have one plane and one such tap.
  int64_t source_planes, target_planes, plane_taps, plane_step, plane_origin;
  int64_t source_plane_stride, target_plane_stride, weight_plane_stride;
  int64_t source_channel_stride;
  int64_t target_channel_stride;
  int64_t groups;
  int64_t source_channels;  // per group
  int64_t target_channels;  // per group
  int64_t weight_group_stride;
  int64_t weight_source_stride;
  int64_t weight_target_stride;
  int64_t weight_tap_stride[2];
  // Outputs of a tile: (2, 4) or (4, 4) for 3 x 3 taps, (1, 4) for 1 x 3, (2, 2) for 5 x 5, all of stride 1, and for 3
  // x 3 to 5 x 5 of stride 2.
  int64_t tile[2];
  int64_t taps[2];
  int64_t stride;
  int64_t dilation[2];  // not 1 with stride 1 only: the positions of each residue are images of their own
  bool interleaved, odd_first;
  int64_t chain;    // most products that are summed one after the other, before their sum is added to the rest
  int64_t threads;  // that the tasks of the first product are for; the bits do not depend on it
};

template <typename T>
struct WinogradKernels {
  int64_t lanes;  // channels of a vector

  // The transformed weight, in panels of target channels; without elements where every task makes its own.
  int64_t (*packed_panels)(const WinogradProblem&);
  int64_t (*packed_panel_size)(const WinogradProblem&);
  void (*pack_weight)(const WinogradProblem&, const T* weight, T* packed, int64_t panel);

  // One task computes a block of tiles times a block of target channels of one group.
  int64_t (*gather_tasks)(const WinogradProblem&);
  int64_t (*gather_workspace)(const WinogradProblem&);  // elements, per thread
  void (*gather)(const WinogradProblem&, const T* source, const T* weight, const T* packed, const T* bias, T* target,
                 T* workspace, int64_t task);

  // One task computes a block of the weight gradient over one slice of the tiles; `partial` is
  // [slices][groups][target channels][taps][source channels] and is summed by the caller.
  int64_t (*correlation_slices)(const WinogradProblem&);
  int64_t (*correlation_tasks)(const WinogradProblem&);
  int64_t (*correlation_workspace)(const WinogradProblem&);
  void (*correlate)(const WinogradProblem&, const T* source, const T* gradient, T* partial, T* workspace, int64_t task);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

WinogradKernels<float> winograd_float();
WinogradKernels<double> winograd_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
