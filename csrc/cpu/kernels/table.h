// The kernels of one instruction set, as a table of function pointers.
//
// Every file in this folder but this header is compiled once per instruction set with TORCHBP_ISA
// naming it (baseline, avx2, avx512). To keep instructions of one set out of code that runs on
// another machine, these files use no Tensor and no templates of the standard library.
#pragma once

#include <cstdint>

namespace torchbp {

constexpr int kSpatial = 3;          // every problem has depth, height and width; absent ones have size 1
constexpr int kAxes = kSpatial + 1;  // ... and the batch, as the outermost axis

// y[m, q] = bias[m] + sum over taps t and channels c of  w[m, c, t] * x[c, step * q + offset[t]].
//
// This one form is the forward product of a convolution (step = stride, offsets = dilated taps minus
// padding) and, with the kernel's taps taken in reverse, each phase of the gradient of its input
// (step = 1; see cpu/convolution.cpp). Strides are in elements, so any memory layout is read and
// written in place.
struct GatherProblem {
  int64_t grid[kAxes];  // number of positions q along each axis
  int64_t step[kAxes];
  int64_t source_size[kAxes];  // a source coordinate outside [0, size) contributes zero
  int64_t source_stride[kAxes];
  int64_t target_stride[kAxes];
  int64_t taps;
  const int64_t* tap_offset;  // [taps][kSpatial], in source coordinates
  const int64_t* tap_weight;  // [taps], offset of the tap inside the weight
  int64_t groups;
  int64_t source_channels;  // per group
  int64_t target_channels;  // per group
  int64_t source_channel_stride;
  int64_t target_channel_stride;
  int64_t weight_group_stride;
  int64_t weight_source_stride;  // from one source channel to the next
  int64_t weight_target_stride;  // from one target channel to the next
};

// w[m, c, t] = sum over positions q of  g[m, q] * x[c, step * q + offset[t]].
struct CorrelationProblem {
  int64_t grid[kAxes];
  int64_t step[kAxes];
  int64_t source_size[kAxes];
  int64_t source_stride[kAxes];
  int64_t gradient_stride[kAxes];
  int64_t taps;
  const int64_t* tap_offset;
  int64_t groups;
  int64_t source_channels;    // per group
  int64_t gradient_channels;  // per group
  int64_t source_channel_stride;
  int64_t gradient_channel_stride;
};

template <typename T>
struct ConvolutionKernels {
  // Elements of the packed weight, and the packing itself (one group at a time).
  int64_t (*packed_weight_size)(const GatherProblem&);
  void (*pack_weight)(const GatherProblem&, const T* weight, T* packed, int64_t group);

  // One task computes a block of positions times a block of target channels of one group.
  int64_t (*gather_tasks)(const GatherProblem&);
  int64_t (*gather_workspace)(const GatherProblem&);  // elements, per thread
  void (*gather)(const GatherProblem&, const T* source, const T* packed_weight, const T* bias, T* target, T* workspace,
                 int64_t task);

  // One task computes a block of the weight gradient over one slice of the positions; `partial` is
  // [slices][groups][gradient channels][taps][source channels] and is summed by the caller.
  int64_t (*correlation_slices)(const CorrelationProblem&);
  int64_t (*correlation_tasks)(const CorrelationProblem&);
  int64_t (*correlation_workspace)(const CorrelationProblem&);
  void (*correlate)(const CorrelationProblem&, const T* source, const T* gradient, T* partial, T* workspace,
                    int64_t task);

  // One source channel per target channel (either side may repeat its channel): depthwise
  // convolution. One task is one image and a block of channels; weight is [taps][channels] where
  // channels = groups * max(source_channels, target_channels).
  int64_t (*depthwise_tasks)(const GatherProblem&);
  int64_t (*depthwise_workspace)(const GatherProblem&);
  void (*depthwise)(const GatherProblem&, const T* source, const T* weight, const T* bias, T* target, T* workspace,
                    int64_t task);
  // One task is a block of gradient channels; weight_gradient is [channels][taps].
  int64_t (*depthwise_correlation_tasks)(const CorrelationProblem&);
  int64_t (*depthwise_correlation_workspace)(const CorrelationProblem&);
  void (*depthwise_correlate)(const CorrelationProblem&, const T* source, const T* gradient, T* weight_gradient,
                              T* workspace, int64_t task);
};

// A pool over planes of depth x height x width. `outer` counts images times channels for contiguous
// tensors (inner = 1) and images for channels-last ones (inner = channels, the fastest axis).
struct PoolProblem {
  int64_t outer;
  int64_t inner;
  int64_t input[kSpatial];
  int64_t output[kSpatial];
  int64_t kernel[kSpatial];
  int64_t stride[kSpatial];
  int64_t padding[kSpatial];
  int64_t dilation[kSpatial];
};

// A pool whose windows follow no stride. The window of output o along axis a covers the inputs
// [start, end) with start = windows[first[a] + o] and end = windows[total + first[a] + o]; the table of an
// image and channel begins at n * batch_stride + c * channel_stride.
struct IrregularProblem {
  int64_t outer;  // as in PoolProblem
  int64_t inner;
  int64_t input[kSpatial];
  int64_t output[kSpatial];
  const int64_t* windows;
  int64_t first[kSpatial];
  int64_t total;
  int64_t channels;  // of an image, if inner is 1
  int64_t batch_stride;
  int64_t channel_stride;
};

// One plane of `from` elements, `step` apart, each of which has a place in a plane of `to` elements, as far
// apart. Of several writers to one place the last stays; the adjoint reads for it only.
struct UnpoolProblem {
  int64_t from;
  int64_t to;
  int64_t step;
};

// Windows of an average along each axis: output o averages the inputs [start[o], end[o]) and weighs
// them with the product over the axes of scale[o], times `factor`.
template <typename T>
struct AverageProblem {
  int64_t outer;
  int64_t inner;
  int64_t input[kSpatial];
  int64_t output[kSpatial];
  const int64_t* start[kSpatial];
  const int64_t* end[kSpatial];
  const T* scale[kSpatial];
  T factor;
};

// One task is one element of `outer` and a block of `inner`; tasks write disjoint outputs.
template <typename T>
struct PoolKernels {
  int64_t (*max_tasks)(const PoolProblem&);
  int64_t (*max_workspace)(const PoolProblem&);  // elements, per thread
  // winner_bytes is 1 or 4.
  void (*max_pool)(const PoolProblem&, const T* input, T* output, void* winner, int winner_bytes, T* workspace,
                   int64_t task);
  void (*max_scatter)(const PoolProblem&, const T* grad_output, const void* winner, int winner_bytes, T* grad_input,
                      int64_t task);
  void (*max_gather)(const PoolProblem&, const T* input, const void* winner, int winner_bytes, T* output, int64_t task);

  // The same three for windows that follow no stride; the winner is a place in its own window.
  int64_t (*irregular_tasks)(const IrregularProblem&);
  void (*irregular_max_pool)(const IrregularProblem&, const T* input, T* output, void* winner, int winner_bytes,
                             int64_t task);
  void (*irregular_scatter)(const IrregularProblem&, const T* grad_output, const void* winner, int winner_bytes,
                            T* grad_input, int64_t task);
  void (*irregular_gather)(const IrregularProblem&, const T* input, const void* winner, int winner_bytes, T* output,
                           int64_t task);

  // Both return where they met an index outside the plane, or null.
  const int64_t* (*unpool)(const UnpoolProblem&, const T* input, const int64_t* index, T* output);
  const int64_t* (*unpool_adjoint)(const UnpoolProblem&, const T* grad_output, const int64_t* index, T* grad_input,
                                   uint8_t* taken);  // a byte per element of `to`

  int64_t (*average_tasks)(const AverageProblem<T>&);
  int64_t (*average_workspace)(const AverageProblem<T>&);  // elements, per thread
  void (*average_pool)(const AverageProblem<T>&, const T* input, T* output, T* workspace, int64_t task);
  void (*average_spread)(const AverageProblem<T>&, const T* grad_output, T* grad_input, T* workspace, int64_t task);
};

// A tensor x[outer][channels][inner] that is normalised per channel; channels-last and (N, C) tensors
// have inner = 1. Sums are kept in double.
struct ChannelProblem {
  int64_t outer;
  int64_t channels;
  int64_t inner;
};

template <typename T>
struct ChannelKernels {
  // The sums over one slice of the elements, as partial[slices][2][channels]; the caller adds the
  // slices in order. With c = x - centre (centre null means 0):
  //   gradient null and not squared: (sum of c, 0);  squared: (sum of c * c, 0);
  //   gradient given:                (sum of g, sum of g * c).
  int64_t (*slices)(const ChannelProblem&);
  int64_t (*reduce_tasks)(const ChannelProblem&);
  int64_t (*reduce_workspace)(const ChannelProblem&);  // elements, per thread
  void (*reduce)(const ChannelProblem&, const T* x, const T* gradient, const T* centre, bool squared, double* partial,
                 T* workspace, int64_t task);

  // out = gradient * slope + (x - centre) * scale + shift per channel; gradient may be null.
  int64_t (*apply_tasks)(const ChannelProblem&);
  void (*apply)(const ChannelProblem&, const T* x, const T* gradient, const T* centre, const T* slope, const T* scale,
                const T* shift, T* out, int64_t task);
};

// One spatial axis of a separable linear map, as a sparse matrix: output o is the sum of weight[t] times
// the source at source[t] over the taps t in [begin[o], begin[o + 1]), and is written at target[o].
template <typename T>
struct SeparableAxis {
  int64_t outputs;
  const int64_t* begin;
  const int64_t* source;  // an offset; for the last axis the place in the row, which may stand in a buffer
  const T* weight;        // null where every weight is one
  const int64_t* target;  // an offset; null for the last axis, whose runs know theirs
};

// Consecutive outputs of the last axis, consecutive in the target too, whose taps follow one rule.
struct SeparableRun {
  enum Kind : int32_t {
    kZero,     // no taps
    kStepped,  // equally many taps, each `step` places further from one output to the next
    kIndexed,  // equally many taps, at the places of `lane_index`
    kListed,   // any taps, as the axis lists them
  };
  Kind kind;
  bool unit;     // every weight is one
  bool gradual;  // the place of each tap moves by 0 or 1 from one output to the next
  int64_t first;
  int64_t count;
  int64_t target;  // offset of the first
  int64_t taps;
  int64_t step;
  int64_t lanes;  // where the run's [taps][count] weights and places begin
};

// y = (M_0 x M_1 x M_2) x for every image and channel: padding, interpolation, unfolding and their adjoints.
// Offsets in source and target are sums over the axes, so any strides are read and written in place.
template <typename T>
struct SeparableProblem {
  int64_t batch;
  int64_t channels;
  bool channels_last;  // the channels are consecutive, and the vector axis; otherwise the last axis is
  int64_t source_batch_stride;
  int64_t source_channel_stride;
  int64_t target_batch_stride;
  int64_t target_channel_stride;
  SeparableAxis<T> axis[kSpatial];
  // A source row has `row` places; `piece` of them at a time are source_step apart, and the pieces piece_stride.
  int64_t row;
  int64_t piece;
  int64_t piece_stride;
  int64_t source_step;
  int64_t target_step;
  int64_t runs;
  const SeparableRun* run;
  const T* lane_weight;
  const int32_t* lane_index;
};

// One task is a block of output rows (of one block of channels); tasks write disjoint outputs.
template <typename T>
struct SeparableKernels {
  int64_t (*tasks)(const SeparableProblem<T>&);
  int64_t (*workspace)(const SeparableProblem<T>&);  // elements, per thread
  void (*apply)(const SeparableProblem<T>&, const T* source, T* target, T* workspace, int64_t task);
};

struct KernelTable {
  const char* instruction_set;
  ConvolutionKernels<float> convolution_float;
  ConvolutionKernels<double> convolution_double;
  PoolKernels<float> pool_float;
  PoolKernels<double> pool_double;
  ChannelKernels<float> channel_float;
  ChannelKernels<double> channel_double;
  SeparableKernels<float> separable_float;
  SeparableKernels<double> separable_double;
};

}  // namespace torchbp
