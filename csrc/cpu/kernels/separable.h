// Separable linear maps: the problems and their kernels, and those of the instruction set being compiled.
#pragma once

#include "problem.h"

namespace torchbp {

// One spatial axis of a separable linear map, as a sparse matrix: output o is the sum of weight[t] times
// the source at source[t] over the taps t in [begin[o], begin[o + 1]), and is written at target[o].
template <typename T>
struct SeparableAxis {
  int64_t outputs;
  const int64_t* begin;
  const int64_t* source;  // an offset; for the last axis the place in the row, which may stand in a buffer
  const T* weight;        // null where every weight is one
  const int64_t* target;  // an offset; null for the last axis, whose runs know theirs
  const int64_t* index;   // of the source, where `source` has its offset
  int64_t stride;         // of the source from one index to the next, if rows are expanded
};

// Consecutive outputs of the last axis, consecutive in the target too, whose taps follow one rule.
struct SeparableRun {
  enum Kind : int32_t {
    kZero,         // no taps
    kStepped,      // equally many taps, each `step` places further from one output to the next
    kInterleaved,  // one tap of weight one, from two stretches of consecutive places by turns
    kIndexed,      // equally many taps, at the places of `lane_index`
    kListed,       // any taps, as the axis lists them
  };
  Kind kind;
  bool unit;    // every weight is one
  bool single;  // every output has one tap
  int64_t first;
  int64_t count;
  int64_t target;  // offset of the first
  int64_t taps;
  int64_t step;
  int64_t lanes;  // where the run's [taps][count] weights and places begin
};

// Consecutive outputs of the last axis of planes, consecutive in the target too.
struct SeparableStretch {
  enum Kind : int32_t {
    kClear,    // no taps
    kCopy,     // one tap of weight one each, consecutive from `source` on
    kPermute,  // each vector of outputs, the last perhaps in part, is the sum of `terms` terms
  };
  Kind kind;
  int64_t target;  // offset of the first
  int64_t count;
  int64_t source;
  int64_t term;  // the first vector's first
  int64_t terms;
};

// One tap of each output of a vector, or none. The taps lie in one or two windows of a row, each a vector long.
// `lane_index` has their places in the windows, which it counts as consecutive, negative where an output has no tap;
// `lane_weight` has the weights unless all are one.
struct SeparableTerm {
  int64_t first;
  int64_t second;
  int64_t windows;
  int64_t lanes;  // where the places and weights begin
};

// y = (M_0 x M_1 x M_2) x for every image and channel: padding, interpolation, unfolding and their adjoints.
// Offsets in source and target are sums over the axes, so any strides are read and written in place.
template <typename T>
struct SeparableProblem {
  int64_t batch;
  int64_t channels;
  bool channels_last;  // the channels are consecutive, and the vector axis; otherwise the last axis is
  bool turned;         // then only those of the source; the target has planes
  int64_t source_batch_stride;
  int64_t source_channel_stride;
  int64_t target_batch_stride;
  int64_t target_channel_stride;
  SeparableAxis<T> axis[kSpatial];
  // The last axis of a target of planes may be cut into stretches in place of runs; `weighted` where they have weights.
  // `in_place` then says that the stretches' sources are offsets in a source row; else they are places in one that is
  // dense.
  int64_t stretches;
  const SeparableStretch* stretch;
  const SeparableTerm* term;
  bool weighted;
  bool in_place;
  int64_t span;  // elements of a source row from the first to the last
  // A source row has `row` places; `piece` of them at a time are source_step apart, and the pieces piece_stride.
  int64_t row;
  int64_t piece;
  int64_t piece_stride;
  int64_t source_step;
  int64_t target_step;
  // Planes that get more rows may have the last axis first: so many source rows are expanded at most, for as many
  // target rows of one depth, or of all depths if `expanded_for` is 0. Else 0.
  int64_t expanded;
  int64_t expanded_for;
  int64_t runs;
  const SeparableRun* run;
  const T* lane_weight;
  const int32_t* lane_index;
};

// One task is a block of output rows (of one block of channels); tasks write disjoint outputs.
template <typename T>
struct SeparableKernels {
  int64_t permutes;  // lanes of the vectors of stretches; 0 where they are not to be used
  int64_t (*tasks)(const SeparableProblem<T>&);
  int64_t (*workspace)(const SeparableProblem<T>&);  // elements, per thread
  void (*apply)(const SeparableProblem<T>&, const T* source, T* target, T* workspace, int64_t task);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

SeparableKernels<float> separable_float();
SeparableKernels<double> separable_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
