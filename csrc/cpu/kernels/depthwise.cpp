// Depthwise convolution. The lanes of a vector are channels: a channels-last tensor is read and written in
// place, any other box by box through a buffer [positions][lanes] that is filled by transposing blocks of
// rows. So no product meets padding, whatever the layout, and no tap needs a shuffle. Only for square
// kernels of size 3, 5 and 7 and stride 1 or 2 on contiguous images are neighbouring columns better lanes.
#include "depthwise.h"

#include "parts.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

// A box and its halo stay in the second-level cache, if they can be made so small.
constexpr int64_t kBufferBytes = 192 * 1024;
// Beyond this the taps reach too far for a buffer.
constexpr int64_t kBufferLimit = 16 * 1024 * 1024;
// A problem with fewer tasks than this is split into smaller boxes: the split depends on the shape only.
constexpr int64_t kEnoughTasks = 16;
constexpr int64_t kLeastPositions = 128;
// A larger source is fetched from memory ahead of its use: where it is read in order, or row by row.
constexpr int64_t kFarBytes = 2 * 1024 * 1024;
constexpr int64_t kNearBytes = 256 * 1024;
// A larger target is no longer in any cache when it is read next: it is written past them.
constexpr int64_t kStreamedBytes = 32 * 1024 * 1024;

// ---------------------------------------------------------------------------------------------
// Transposing blocks of lanes.

// Where the lanes of a block of channels stand.
template <typename Pointer>
struct LaneBlock {
  Pointer lane[64 / sizeof(float)];
  bool consecutive;
};

// to[i][lane] = lane's element i, for `count` elements at `offset`, `stride` apart.
template <typename T>
void read_lanes(const LaneBlock<const T*>& block, int64_t offset, int64_t stride, int64_t count, T* to) {
  constexpr int64_t lanes = kLanes<T>;
  if (stride == 1 && count >= lanes) {
    for (int64_t i = 0; i < count; i += lanes) {
      const int64_t at = smaller(i, count - lanes);
      Vector<T> rows[lanes];
#pragma GCC unroll 16
      for (int l = 0; l < lanes; ++l) rows[l] = load(block.lane[l] + offset + at);
      transpose<T>(rows);
#pragma GCC unroll 16
      for (int l = 0; l < lanes; ++l) store(to + (at + l) * lanes, rows[l]);
    }
  } else if (block.consecutive) {
    const T* from = block.lane[0] + offset;
    for (int64_t i = 0; i < count; ++i) store(to + i * lanes, load(from + i * stride));
  } else {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t l = 0; l < lanes; ++l) to[i * lanes + l] = block.lane[l][offset + i * stride];
  }
}

template <typename T>
void write_lanes(const LaneBlock<T*>& block, const Range& wanted, int64_t offset, int64_t stride, int64_t count,
                 const T* from) {
  constexpr int64_t lanes = kLanes<T>;
  if (stride == 1 && count >= lanes) {
    for (int64_t i = 0; i < count; i += lanes) {
      const int64_t at = smaller(i, count - lanes);
      Vector<T> rows[lanes];
#pragma GCC unroll 16
      for (int l = 0; l < lanes; ++l) rows[l] = load(from + (at + l) * lanes);
      transpose<T>(rows);
      if (wanted.first == 0 && wanted.last == lanes) {
#pragma GCC unroll 16
        for (int l = 0; l < lanes; ++l) store(block.lane[l] + offset + at, rows[l]);
      } else {
#pragma GCC unroll 16
        for (int l = 0; l < lanes; ++l)
          if (l >= wanted.first && l < wanted.last) store(block.lane[l] + offset + at, rows[l]);
      }
    }
  } else if (block.consecutive && wanted.first == 0 && wanted.last == lanes) {
    T* to = block.lane[0] + offset;
    for (int64_t i = 0; i < count; ++i) store(to + i * stride, load(from + i * lanes));
  } else {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t l = wanted.first; l < wanted.last; ++l) block.lane[l][offset + i * stride] = from[i * lanes + l];
  }
}

// Channels first .. first + lanes - 1 of a block; a last block that would be partly empty starts earlier, so
// that it overlaps the one before. With fewer channels than lanes the last channel fills the lanes.
template <typename T>
TORCHBP_INLINE int64_t block_first(int64_t channels, int64_t block) {
  return larger(0, smaller(block * kLanes<T>, channels - kLanes<T>));
}

template <typename T>
TORCHBP_INLINE int64_t block_count(int64_t channels) {
  return (channels + kLanes<T> - 1) / kLanes<T>;
}

// Lane l of the block that starts at channel `first` reads channel c * multiple / divisor + shift, c = first + l;
// multiple or divisor is 1.
template <typename T, typename Pointer>
LaneBlock<Pointer> lane_block(Pointer base, int64_t stride, int64_t channels, int64_t first, int64_t multiple,
                              int64_t divisor, int64_t shift) {
  LaneBlock<Pointer> block;
  for (int64_t l = 0; l < kLanes<T>; ++l) {
    const int64_t c = smaller(first + l, channels - 1);
    block.lane[l] = base + ((divisor == 1 ? c * multiple : c / divisor) + shift) * stride;
  }
  block.consecutive = stride == 1 && multiple == 1 && divisor == 1 && channels >= kLanes<T>;
  return block;
}

// Part of a tensor: positions [first, last) along each spatial axis.
struct Box {
  int64_t first[kSpatial];
  int64_t last[kSpatial];

  int64_t size(int axis) const { return larger(0, last[axis] - first[axis]); }
};

// Calls visit(element offset in the tensor, position in the box, consecutive positions) for the rows of a
// box, taken together where they follow each other in the tensor.
template <typename Visit>
TORCHBP_INLINE void visit_box(const Box& box, const int64_t* stride, Visit visit) {
  int64_t planes = box.size(0), rows = box.size(1), width = box.size(2);
  if (planes == 0 || rows == 0 || width == 0) return;
  if (stride[1] == width * stride[2]) {
    width *= rows;
    rows = 1;
    if (stride[0] == width * stride[2]) {
      width *= planes;
      planes = 1;
    }
  }
  const int64_t start = box.first[0] * stride[0] + box.first[1] * stride[1] + box.first[2] * stride[2];
  for (int64_t d = 0; d < planes; ++d)
    for (int64_t h = 0; h < rows; ++h) visit(start + d * stride[0] + h * stride[1], (d * rows + h) * width, width);
}

// Strides of a box in a buffer of lanes, and the offset of position 0, which may lie outside.
template <typename T>
int64_t buffer_strides(const Box& box, int64_t (&stride)[kSpatial]) {
  stride[2] = kLanes<T>;
  stride[1] = box.size(2) * stride[2];
  stride[0] = box.size(1) * stride[1];
  int64_t start = 0;
  for (int d = 0; d < kSpatial; ++d) start -= box.first[d] * stride[d];
  return start;
}

template <typename T>
void read_box(const LaneBlock<const T*>& block, const Box& box, const int64_t* stride, T* buffer) {
  visit_box(box, stride, [&](int64_t offset, int64_t at, int64_t count) {
    read_lanes(block, offset, stride[kSpatial - 1], count, buffer + at * kLanes<T>);
  });
}

// ---------------------------------------------------------------------------------------------
// Taps. Those of one row of the kernel that read neighbouring columns are an entry: its columns are loaded
// once for all positions of a tile.

struct Entry {
  int64_t shift[kSpatial];  // of the leftmost tap, in source coordinates
  int64_t tap;              // the leftmost tap
};

struct Entries {
  int64_t count;
  int64_t width;  // taps of an entry
  int64_t step;   // positions' columns are this far apart, or 1 where an entry has one tap
  int64_t order;  // 1 or -1: from a tap to its right neighbour
};

constexpr int64_t kEntryWidths[] = {7, 5, 3};
constexpr int64_t kShortEntryWidths[] = {4, 2};

template <typename Problem>
Entries entries_of(const Problem& problem, bool short_ones) {
  const int64_t* at = problem.tap_offset;
  Entries entries = {problem.taps, 1, 1, 1};
  int64_t row = 1;
  while (row < problem.taps && at[row * kSpatial] == at[0] && at[row * kSpatial + 1] == at[1]) ++row;
  const int64_t step = problem.step[kAxes - 1];
  if (row < 2 || step > 2 || problem.taps % row != 0) return entries;
  const int64_t order = at[kSpatial + 2] - at[2];
  if (order != 1 && order != -1) return entries;
  for (int64_t tap = 0; tap + 1 < row; ++tap)
    if (at[(tap + 1) * kSpatial + 2] - at[tap * kSpatial + 2] != order) return entries;
  int64_t width = 1;
  for (const int64_t candidate : kEntryWidths)
    if (width == 1 && row % candidate == 0) width = candidate;
  for (const int64_t candidate : kShortEntryWidths)
    if (width == 1 && short_ones && step == 1 && row % candidate == 0) width = candidate;
  if (width > 1) entries = {problem.taps / width, width, step, order};
  return entries;
}

template <typename Problem>
TORCHBP_INLINE Entry entry_at(const Problem& problem, const Entries& entries, int64_t index) {
  const int64_t tap = index * entries.width + (entries.order < 0 ? entries.width - 1 : 0);
  const int64_t* at = problem.tap_offset + tap * kSpatial;
  return {{at[0], at[1], at[2]}, tap};
}

// Whether the row that an entry reads for a position lies inside the source, and where.
template <typename Problem>
TORCHBP_INLINE bool inside(const Problem& problem, const Entry& entry, int64_t d, int64_t h) {
  const int64_t z = problem.step[1] * d + entry.shift[0], y = problem.step[2] * h + entry.shift[1];
  return z >= 0 && z < problem.source_size[1] && y >= 0 && y < problem.source_size[2];
}

// ---------------------------------------------------------------------------------------------
// Rows of outputs

// An entry as a row of outputs reads it.
struct LiveEntry {
  int64_t source;  // element of column 0
  int64_t column;  // that position 0 reads first
  int64_t weight;
};

template <typename T>
struct LaneRow {
  const LiveEntry* entry;
  int64_t entries;
  const T* source;
  int64_t pixel;       // from one source column to the next
  int64_t columns;     // of the source
  int64_t step;        // columns from one position to the next
  const T* weight;     // [blocks][bias, then taps][lanes]
  int64_t block_size;  // of the weight
  int64_t tap_step;    // from a tap of an entry to its right neighbour
  T* target;
  int64_t target_pixel;
  int64_t channels;
  int64_t blocks;
  int64_t first;  // positions [first, last)
  int64_t last;
  int64_t inside_first;  // those whose columns are inside for every entry
  int64_t inside_last;
  int64_t ahead[2];  // from row 0 to rows that will be read next, in elements; 0 for none
  bool streamed;
};

template <typename T>
TORCHBP_INLINE void store_past_caches(T* to, const Vector<T>& v) {
#if TORCHBP_VECTOR_BYTES == 64
  __m512i bits;
  __builtin_memcpy(&bits, &v, sizeof(bits));
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), bits);
#else
  store(to, v);
#endif
}

// kWidth taps of an entry, kStep from a position to the next, kTile positions. Columns outside the source
// are left out, unless all are known to be inside.
template <typename T, int kWidth, int kStep, int kTile, bool kInside>
TORCHBP_INLINE void gather_tile(const LaneRow<T>& row, int64_t q, int64_t first, const T* weight) {
  const int64_t unit = kWidth == 1 ? row.step : 1;
  Vector<T> sum[kTile];
  const Vector<T> bias = load(weight);
#pragma GCC unroll 8
  for (int r = 0; r < kTile; ++r) sum[r] = bias;
  for (int64_t e = 0; e < row.entries; ++e) {
    const LiveEntry& entry = row.entry[e];
    const int64_t column = row.step * q + entry.column;
    const T* from = row.source + first + entry.source + column * row.pixel;
    const T* scale = weight + entry.weight;
    Vector<T> scales[kWidth];
#pragma GCC unroll 8
    for (int k = 0; k < kWidth; ++k) scales[k] = load(scale + k * row.tap_step);
#pragma GCC unroll 32
    for (int j = 0; j < (kTile - 1) * kStep + kWidth; ++j) {
      if (kInside || static_cast<uint64_t>(column + j * unit) < static_cast<uint64_t>(row.columns)) {
        const Vector<T> x = load(from + j * unit * row.pixel);
#pragma GCC unroll 8
        for (int r = 0; r < kTile; ++r) {
          const int k = j - r * kStep;
          if (k >= 0 && k < kWidth) sum[r] += x * scales[k];
        }
      }
    }
  }
  if (kInside) {
    for (const int64_t ahead : row.ahead) {
      if (ahead == 0) continue;
      const T* from = row.source + first + ahead + row.step * q * row.pixel;
#pragma GCC unroll 16
      for (int j = 0; j < kTile * kStep; ++j) __builtin_prefetch(from + j * unit * row.pixel, 0, 2);
    }
  }
  T* to = row.target + first + q * row.target_pixel;
  if (row.streamed) {
#pragma GCC unroll 8
    for (int r = 0; r < kTile; ++r) store_past_caches<T>(to + r * row.target_pixel, sum[r]);
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < kTile; ++r) store(to + r * row.target_pixel, sum[r]);
  }
}

template <typename T, int kWidth, int kStep, int kTile>
void gather_tiles(const LaneRow<T>& row) {
  for (int64_t at = row.first; at < row.last; at += kTile) {
    const int64_t q = smaller(at, row.last - kTile);
    const bool all_inside = q >= row.inside_first && q + kTile <= row.inside_last;
    for (int64_t block = 0; block < row.blocks; ++block) {
      const int64_t first = block_first<T>(row.channels, block);
      const T* weight = row.weight + block * row.block_size;
      if (all_inside)
        gather_tile<T, kWidth, kStep, kTile, true>(row, q, first, weight);
      else
        gather_tile<T, kWidth, kStep, kTile, false>(row, q, first, weight);
    }
  }
}

template <typename T, int kWidth, int kStep>
void gather_row(const LaneRow<T>& row) {
  const int64_t count = row.last - row.first;
  if (count % 8 != 0 && count % 7 == 0)
    gather_tiles<T, kWidth, kStep, 7>(row);
  else if (count >= 8)
    gather_tiles<T, kWidth, kStep, 8>(row);
  else if (count >= 4)
    gather_tiles<T, kWidth, kStep, 4>(row);
  else
    gather_tiles<T, kWidth, kStep, 1>(row);
}

template <typename T>
using RowFunction = void (*)(const LaneRow<T>&);

template <typename T>
RowFunction<T> row_function(const Entries& entries) {
  const bool two = entries.step == 2;
  switch (entries.width) {
    case 7:
      return two ? gather_row<T, 7, 2> : gather_row<T, 7, 1>;
    case 5:
      return two ? gather_row<T, 5, 2> : gather_row<T, 5, 1>;
    case 4:
      return gather_row<T, 4, 1>;
    case 3:
      return two ? gather_row<T, 3, 2> : gather_row<T, 3, 1>;
    case 2:
      return gather_row<T, 2, 1>;
    default:
      return gather_row<T, 1, 1>;
  }
}

// ---------------------------------------------------------------------------------------------
// Boxes: how a problem is cut into tasks

struct BoxPlan {
  int64_t size[kSpatial];   // positions of a box
  int64_t count[kSpatial];  // boxes along each axis
  int64_t boxes;            // of one image
};

void set_boxes(const int64_t* grid, BoxPlan& plan) {
  plan.boxes = 1;
  for (int d = 0; d < kSpatial; ++d) {
    plan.count[d] = (grid[d + 1] + plan.size[d] - 1) / larger(1, plan.size[d]);
    plan.boxes *= plan.count[d];
  }
}

// Cuts the outermost axis that is longer than `least` in two; false if there is none.
bool halve(const int64_t* grid, BoxPlan& plan, int64_t least) {
  for (int d = 0; d < kSpatial; ++d) {
    if (plan.size[d] <= (d == kSpatial - 1 ? least : 1)) continue;
    plan.size[d] = (plan.size[d] + 1) / 2;
    set_boxes(grid, plan);
    return true;
  }
  return false;
}

int64_t positions_of(const BoxPlan& plan) { return plan.size[0] * plan.size[1] * plan.size[2]; }

Box box_at(const int64_t* grid, const BoxPlan& plan, int64_t index) {
  Box box;
  for (int d = kSpatial - 1; d >= 0; --d) {
    box.first[d] = index % plan.count[d] * plan.size[d];
    box.last[d] = smaller(grid[d + 1], box.first[d] + plan.size[d]);
    index /= plan.count[d];
  }
  return box;
}

// What the taps of a box read of the source.
struct Reach {
  int64_t least[kSpatial];
  int64_t most[kSpatial];
};

template <typename Problem>
void extend(const Problem& problem, Reach& reach) {
  for (int64_t tap = 0; tap < problem.taps; ++tap)
    for (int d = 0; d < kSpatial; ++d) {
      reach.least[d] = smaller(reach.least[d], problem.tap_offset[tap * kSpatial + d]);
      reach.most[d] = larger(reach.most[d], problem.tap_offset[tap * kSpatial + d]);
    }
}

template <typename Problem>
Reach reach_of(const Problem* problems, int64_t count) {
  Reach reach;
  for (int d = 0; d < kSpatial; ++d) reach.least[d] = INT64_MAX, reach.most[d] = INT64_MIN;
  for (int64_t i = 0; i < count; ++i) extend(problems[i], reach);
  for (int d = 0; d < kSpatial; ++d)
    if (reach.least[d] > reach.most[d]) reach.least[d] = reach.most[d] = 0;
  return reach;
}

template <typename Problem>
Box source_box(const Problem& problem, const Reach& reach, const Box& box) {
  Box source;
  for (int d = 0; d < kSpatial; ++d) {
    const int64_t step = problem.step[d + 1];
    source.first[d] = smaller(problem.source_size[d + 1], larger(0, step * box.first[d] + reach.least[d]));
    source.last[d] = smaller(problem.source_size[d + 1], step * (box.last[d] - 1) + reach.most[d] + 1);
    source.last[d] = larger(source.first[d], source.last[d]);
  }
  return source;
}

// The most elements that the source of a box has, per channel.
template <typename Problem>
int64_t source_elements(const Problem& problem, const Reach& reach, const BoxPlan& plan) {
  int64_t elements = 1;
  for (int d = 0; d < kSpatial; ++d) {
    const int64_t extent = problem.step[d + 1] * (plan.size[d] - 1) + reach.most[d] - reach.least[d] + 1;
    elements *= smaller(problem.source_size[d + 1], extent);
  }
  return elements;
}

// ---------------------------------------------------------------------------------------------
// Gather

struct GatherPlan : BoxPlan {
  Reach reach;
  int64_t channels;           // of the target
  int64_t target_per_source;  // one of these two is 1
  int64_t source_per_target;
  bool source_in_place;
  bool target_in_place;
  bool by_planes;  // lanes are columns
  int64_t planes_of_task;
  int64_t square;  // size of the kernel
  bool paired;     // two planes at once
  bool spread;     // all phases at once
  bool fits;
  int64_t blocks;           // of lanes
  int64_t blocks_of_task;   // 1, or all
  int64_t source_elements;  // per lane and source of a target
  int64_t target_elements;  // per lane
  int64_t live;             // entries of a row, at most
  bool fetched;             // ahead of use
  bool streamed;
};

template <typename T>
int64_t weight_block(const GatherProblem& problem) {
  return (1 + problem.source_channels * problem.taps) * kLanes<T>;
}

template <typename T>
int64_t phase_size(const GatherProblem& problem) {
  return block_count<T>(problem.groups * problem.target_channels) * weight_block<T>(problem);
}

// [blocks][bias, then source channels of a target x taps][lanes]
template <typename T>
void pack_phase(const GatherProblem& problem, const T* weight, const T* bias, T* packed) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t channels = problem.groups * problem.target_channels;
  for (int64_t block = 0; block < block_count<T>(channels); ++block) {
    const int64_t first = block_first<T>(channels, block);
    LaneBlock<const T*> rows;
    for (int64_t l = 0; l < lanes; ++l) {
      const int64_t c = smaller(first + l, channels - 1);
      packed[l] = bias ? bias[c] : T(0);
      rows.lane[l] = weight + c / problem.target_channels * problem.weight_group_stride +
                     c % problem.target_channels * problem.weight_target_stride;
    }
    packed += lanes;
    rows.consecutive = false;
    bool dense = true;
    for (int64_t tap = 0; tap < problem.taps; ++tap) dense = dense && problem.tap_weight[tap] == tap;
    for (int64_t s = 0; s < problem.source_channels; ++s, packed += problem.taps * lanes) {
      const int64_t from = s * problem.weight_source_stride;
      if (dense) {
        read_lanes(rows, from, 1, problem.taps, packed);
      } else {
        for (int64_t tap = 0; tap < problem.taps; ++tap)
          for (int64_t l = 0; l < lanes; ++l) packed[tap * lanes + l] = rows.lane[l][from + problem.tap_weight[tap]];
      }
    }
  }
}

template <typename T>
int64_t target_elements(const DepthwiseProblem& problem, const BoxPlan& plan) {
  int64_t elements = 1;
  for (int d = 0; d < kSpatial; ++d) elements *= smaller(problem.target_size[d + 1], problem.period[d] * plan.size[d]);
  return elements;
}

constexpr int kMostSize = 7;
constexpr int kSquare = 3;
constexpr int kMostStrips = 16;

// The place of a tap among the weights of a plane.
int64_t plane_tap(const DepthwiseProblem& problem, const GatherPlan& plan, int64_t p, int64_t tap) {
  const int64_t* at = problem.phase[p].tap_offset + tap * kSpatial;
  int64_t k[kSpatial];
  for (int d = 0; d < kSpatial; ++d) {
    const int64_t residue = problem.residue[p * kSpatial + d];
    k[d] = plan.spread && d > 0 ? residue + plan.square / 2 - 2 * at[d] : at[d] - plan.reach.least[d];
  }
  return (k[0] * plan.square + k[2]) * plan.square + k[1];
}

// Whether lanes are better columns than channels.
template <typename T>
void choose_planes(const DepthwiseProblem& problem, GatherPlan& plan) {
  const GatherProblem& first = problem.phase[0];
  const Reach& reach = plan.reach;
  plan.by_planes = plan.paired = plan.spread = false;
  plan.planes_of_task = kLanes<T>;
  if (plan.source_per_target != 1 || first.source_stride[3] != 1 || problem.target_stride[3] != 1) return;
  const int64_t depths = reach.most[0] - reach.least[0] + 1, step = first.step[3];
  int64_t taps = 0;
  for (int64_t p = 0; p < problem.phases; ++p) taps += problem.phase[p].taps;
  if (problem.phases == 1) {
    plan.square = reach.most[2] - reach.least[2] + 1;
    if (reach.most[1] - reach.least[1] + 1 != plan.square || depths > kMostSize) return;
    if (step > 2 || first.step[2] != step || taps != plan.square * plan.square * depths) return;
  } else {
    plan.square = taps == 9 ? 3 : taps == 25 ? 5 : 7;
    plan.spread = true;
    if (problem.phases != 4 || problem.period[0] != 1 || problem.period[1] != 2 || problem.period[2] != 2) return;
    if (depths != 1 || reach.least[0] != 0 || first.grid[1] != 1 || taps != plan.square * plan.square) return;
    for (int d = 1; d < kSpatial; ++d)
      if (reach.least[d] != -((plan.square - 1) / 4) || reach.most[d] - reach.least[d] != (plan.square - 1) / 2) return;
    for (int64_t p = 0; p < problem.phases; ++p)
      for (int64_t tap = 0; tap < problem.phase[p].taps; ++tap)
        for (int d = 1; d < kSpatial; ++d) {
          const int64_t at = problem.phase[p].tap_offset[tap * kSpatial + d];
          const int64_t k = problem.residue[p * kSpatial + d] + plan.square / 2 - 2 * at;
          if (k < 0 || k >= plan.square) return;
        }
  }
  if (plan.square != 3 && plan.square != 5 && plan.square != 7) return;
  // Few strips meet padding.
  const int64_t right = step * (first.grid[3] - 1) + reach.most[2] - first.source_size[3];
  if (-reach.least[2] > kMostSize || right > kMostSize) return;
  plan.paired = kLanes<T> == 16 && 2 * first.grid[3] <= kLanes<T>;
  plan.by_planes = first.grid[3] >= 4 && (plan.paired || 2 * first.grid[3] > kLanes<T>);
}

// Elements of one or, together, two planes: the weights, [depths][columns][rows] of numbers or of vectors; a vector of
// biases; and a number that is zero if the weights are finite.
template <typename T>
int64_t plane_weights(const GatherPlan& plan) {
  const int64_t depths = plan.reach.most[0] - plan.reach.least[0] + 1;
  return depths * plan.square * plan.square * (plan.paired ? kLanes<T> : 1);
}

template <typename T>
int64_t plane_size(const GatherPlan& plan) {
  return plane_weights<T>(plan) + kLanes<T> + 1;
}

template <typename T>
void pack_planes(const DepthwiseProblem& whole, const GatherPlan& plan, const T* packed, T* to) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t together = plan.paired ? 2 : 1, width = plan.paired ? lanes : 1, weights = plane_weights<T>(plan);
  // Whether a lane of a sum belongs to the second plane of a pair: every_other() takes turns.
  const bool turns = whole.phase[0].step[3] == 2;
  const auto in_other = [turns](int64_t lane) { return turns ? lane % 4 >= 2 : lane >= lanes / 2; };
  for (int64_t c = 0; c < plan.channels; ++c) {
    T* own = to + c / together * plane_size<T>(plan);
    const bool second = c % together == 1;
    const int64_t block = c / lanes;
    const T* from = packed + c - block_first<T>(plan.channels, block);
    // An odd last plane fills all lanes.
    for (int64_t l = 0; l < lanes; ++l)
      if (!second || in_other(l)) own[weights + l] = from[block * weight_block<T>(whole.phase[0])];
    T probe = second ? own[weights + lanes] : T(0);
    for (int64_t p = 0; p < whole.phases; ++p) {
      const GatherProblem& phase = whole.phase[p];
      for (int64_t tap = 0; tap < phase.taps; ++tap) {
        const T weight = from[block * weight_block<T>(phase) + (1 + tap) * lanes];
        T* place = own + plane_tap(whole, plan, p, tap) * width;
        for (int64_t l = 0; l < width; ++l)
          if (!second || in_other(l)) place[l] = weight;
        probe += weight * T(0);
      }
      from += phase_size<T>(phase);
    }
    own[weights + lanes] = probe;
  }
}

int64_t gather_tasks(const DepthwiseProblem& problem, const GatherPlan& plan) {
  const int64_t images = problem.phase[0].grid[0];
  if (!plan.fits) return images * plan.channels;
  if (plan.by_planes) return images * plan.boxes * ((plan.channels + plan.planes_of_task - 1) / plan.planes_of_task);
  return images * plan.boxes * (plan.blocks / plan.blocks_of_task);
}

template <typename T>
GatherPlan gather_plan(const DepthwiseProblem& problem) {
  const GatherProblem& first = problem.phase[0];
  GatherPlan plan;
  plan.channels = first.groups * first.target_channels;
  plan.target_per_source = first.target_channels;
  plan.source_per_target = first.source_channels;
  const bool enough = plan.channels >= kLanes<T>;
  plan.source_in_place =
      enough && first.source_channel_stride == 1 && plan.target_per_source == 1 && plan.source_per_target == 1;
  // Blocks that are tasks of their own must not overlap in the target.
  plan.target_in_place =
      enough && first.target_channel_stride == 1 && (plan.source_in_place || plan.channels % kLanes<T> == 0);
  plan.blocks = block_count<T>(plan.channels);
  plan.blocks_of_task = plan.source_in_place && plan.target_in_place ? plan.blocks : 1;
  plan.reach = reach_of(problem.phase, problem.phases);
  plan.live = 0;
  for (int64_t p = 0; p < problem.phases; ++p)
    plan.live = larger(plan.live, problem.phase[p].taps * plan.source_per_target);

  for (int d = 0; d < kSpatial; ++d) plan.size[d] = first.grid[d + 1];
  set_boxes(first.grid, plan);
  choose_planes<T>(problem, plan);
  int64_t source_bytes = plan.channels * sizeof(T), target_bytes = source_bytes;
  bool aligned = plan.channels % kLanes<T> == 0;
  for (int axis = 0; axis < kAxes; ++axis) {
    source_bytes *= first.source_size[axis];
    target_bytes *= problem.target_size[axis];
    aligned = aligned && (problem.target_size[axis] == 1 || problem.target_stride[axis] % kLanes<T> == 0);
  }
  plan.fetched = source_bytes > (plan.by_planes ? kNearBytes : kFarBytes);
  plan.fits = true;
  if (plan.by_planes) {
    while (gather_tasks(problem, plan) < kEnoughTasks && plan.planes_of_task > 2) plan.planes_of_task /= 2;
    while (gather_tasks(problem, plan) < kEnoughTasks && positions_of(plan) > kLeastPositions * kLanes<T> &&
           halve(first.grid, plan, 64)) {
    }
    return plan;
  }
  const auto bytes = [&] {
    plan.source_elements = plan.source_in_place ? 0 : source_elements(first, plan.reach, plan);
    plan.target_elements = plan.target_in_place ? 0 : target_elements<T>(problem, plan);
    return (plan.source_elements * plan.source_per_target + plan.target_elements) * TORCHBP_VECTOR_BYTES;
  };
  while (bytes() > kBufferBytes && halve(first.grid, plan, 64)) {
  }
  while (gather_tasks(problem, plan) < kEnoughTasks && positions_of(plan) * plan.blocks_of_task > kLeastPositions &&
         halve(first.grid, plan, 64)) {
  }
  plan.fits = bytes() <= kBufferLimit;
  plan.fetched = plan.fetched && plan.source_in_place;
  plan.streamed = plan.target_in_place && aligned && target_bytes > kStreamedBytes;
  return plan;
}

template <typename T, typename Item>
int64_t elements_for(int64_t count) {
  return (count * static_cast<int64_t>(sizeof(Item)) + 63) / 64 * 64 / static_cast<int64_t>(sizeof(T));
}

// What is the same for every task of a phase.
template <typename T>
struct PhasePlan {
  Entries entries;
  RowFunction<T> run;
  int64_t inside_first;
  int64_t inside_last;
  int64_t weight;  // of the phase
  int64_t weight_block;
};

template <typename T>
PhasePlan<T> phase_plan(const GatherProblem& problem, int64_t weight) {
  PhasePlan<T> plan;
  plan.entries = entries_of(problem, true);
  plan.run = row_function<T>(plan.entries);
  plan.inside_first = 0;
  plan.inside_last = problem.grid[3];
  plan.weight = weight;
  plan.weight_block = weight_block<T>(problem);
  for (int64_t tap = 0; tap < problem.taps; ++tap) {
    const Range valid =
        valid_range(problem.grid[3], problem.step[3], problem.tap_offset[tap * kSpatial + 2], problem.source_size[3]);
    plan.inside_first = larger(plan.inside_first, valid.first);
    plan.inside_last = smaller(plan.inside_last, valid.last);
  }
  return plan;
}

// Where taps reach too far for a buffer: sums along rows of one channel.

template <typename T>
void gather_far(const DepthwiseProblem& whole, const T* source, const T* packed, T* target, int64_t image, int64_t c,
                const Box& box) {
  const int64_t channels = whole.phase[0].groups * whole.phase[0].target_channels;
  const int64_t block = c / kLanes<T>, lane = c - block_first<T>(channels, block);
  for (int64_t p = 0; p < whole.phases; ++p) {
    const GatherProblem& problem = whole.phase[p];
    const T* weight = packed + block * weight_block<T>(problem) + lane;
    packed += phase_size<T>(problem);
    const int64_t sources = problem.source_channels, pixel = problem.target_stride[3];
    const T* from = source + image * problem.source_stride[0] +
                    c / problem.target_channels * sources * problem.source_channel_stride;
    T* to = target + c * problem.target_channel_stride + image * whole.target_stride[0];
    for (int d = 0; d < kSpatial; ++d) to += whole.residue[p * kSpatial + d] * whole.target_stride[d + 1];
    const int64_t first = box.first[2], last = smaller(box.last[2], problem.grid[3]);
    for (int64_t d = box.first[0]; d < smaller(box.last[0], problem.grid[1]); ++d)
      for (int64_t h = box.first[1]; h < smaller(box.last[1], problem.grid[2]); ++h) {
        T* row = to + d * problem.target_stride[1] + h * problem.target_stride[2];
        for (int64_t w = first; w < last; ++w) row[w * pixel] = weight[0];
        for (int64_t s = 0; s < sources; ++s)
          for (int64_t tap = 0; tap < problem.taps; ++tap) {
            const int64_t* at = problem.tap_offset + tap * kSpatial;
            if (!inside(problem, {{at[0], at[1], at[2]}, tap}, d, h)) continue;
            const Range valid = valid_range(problem.grid[3], problem.step[3], at[2], problem.source_size[3]);
            const T scale = weight[(1 + s * problem.taps + tap) * kLanes<T>];
            const T* x = from + s * problem.source_channel_stride +
                         (problem.step[1] * d + at[0]) * problem.source_stride[1] +
                         (problem.step[2] * h + at[1]) * problem.source_stride[2];
            for (int64_t w = larger(first, valid.first); w < smaller(last, valid.last); ++w)
              row[w * pixel] += scale * x[(problem.step[3] * w + at[2]) * problem.source_stride[3]];
          }
      }
  }
}

// ---------------------------------------------------------------------------------------------
// Square kernels on contiguous images: lanes are columns, read where they stand. A vector that is loaded serves
// several rows of the target, the weights of one column of the kernel stay in registers. Tiles at the ends of rows
// load what is inside, and zeros.

// Elements at even, or odd, places of a and b, in an order that costs one instruction; and the order mended.
template <typename T, int kOdd>
TORCHBP_INLINE Vector<T> every_other(const Vector<T>& a, const Vector<T>& b) {
  constexpr int o = kOdd;
  if constexpr (kLanes<T> == 16)
    return TORCHBP_SHUFFLED(a, b, o, o + 2, o + 16, o + 18, o + 4, o + 6, o + 20, o + 22, o + 8, o + 10, o + 24, o + 26,
                            o + 12, o + 14, o + 28, o + 30);
  else if constexpr (kLanes<T> == 8 && sizeof(T) == 4)
    return TORCHBP_SHUFFLED(a, b, o, o + 2, o + 8, o + 10, o + 4, o + 6, o + 12, o + 14);
  else if constexpr (kLanes<T> == 8)
    return TORCHBP_SHUFFLED(a, b, o, o + 8, o + 2, o + 10, o + 4, o + 12, o + 6, o + 14);
  else if constexpr (kLanes<T> == 4 && sizeof(T) == 4)
    return TORCHBP_SHUFFLED(a, b, o, o + 2, o + 4, o + 6);
  else if constexpr (kLanes<T> == 4)
    return TORCHBP_SHUFFLED(a, b, o, o + 4, o + 2, o + 6);
  else
    return TORCHBP_SHUFFLED(a, b, o, o + 2);
}

template <typename T>
TORCHBP_INLINE Vector<T> mended(const Vector<T>& v) {
  if constexpr (kLanes<T> == 16)
    return TORCHBP_SHUFFLED(v, v, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  else if constexpr (kLanes<T> == 8 && sizeof(T) == 4)
    return TORCHBP_SHUFFLED(v, v, 0, 1, 4, 5, 2, 3, 6, 7);
  else if constexpr (kLanes<T> == 8)
    return TORCHBP_SHUFFLED(v, v, 0, 2, 4, 6, 1, 3, 5, 7);
  else if constexpr (kLanes<T> == 4 && sizeof(T) == 8)
    return TORCHBP_SHUFFLED(v, v, 0, 2, 1, 3);
  else
    return v;
}

// The inverse of mended().
template <typename T>
TORCHBP_INLINE Vector<T> taking_turns(const Vector<T>& v) {
  if constexpr (kLanes<T> == 16)
    return TORCHBP_SHUFFLED(v, v, 0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
  else if constexpr (kLanes<T> == 8 && sizeof(T) == 4)
    return TORCHBP_SHUFFLED(v, v, 0, 1, 4, 5, 2, 3, 6, 7);
  else if constexpr (kLanes<T> == 8)
    return TORCHBP_SHUFFLED(v, v, 0, 4, 1, 5, 2, 6, 3, 7);
  else if constexpr (kLanes<T> == 4 && sizeof(T) == 8)
    return TORCHBP_SHUFFLED(v, v, 0, 2, 1, 3);
  else
    return v;
}

// The first half of one vector, followed by that of another; and halves exchanged.
template <typename T>
TORCHBP_INLINE Vector<T> first_halves(const Vector<T>& a, const Vector<T>& b) {
  if constexpr (kLanes<T> == 16)
    return TORCHBP_SHUFFLED(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
  else
    return a;
}

template <typename T>
TORCHBP_INLINE Vector<T> second_half(const Vector<T>& a) {
  if constexpr (kLanes<T> == 16)
    return TORCHBP_SHUFFLED(a, a, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  else
    return a;
}

// One depth of the kernel.
template <typename T>
struct PlaneSlice {
  const T* source;  // first element of the plane
  const T* weight;  // [columns][rows], of a pair [columns][rows][lanes]
};

// A tile of one vector of columns.
template <typename T>
struct PlaneStrip {
  int64_t column;
  Mask<T> read[kMostSize + 1];
  Mask<T> written[2];
};

// Planes of a box. A pair of planes, whose rows fill half a vector, is done together: the second one stands in the
// second half.
template <typename T>
struct PlaneRows {
  const PlaneSlice<T>* slice;
  int64_t slices;
  int64_t source_row;
  int64_t source_rows;
  int64_t source_other;  // to the other plane of a pair
  int64_t top, left;     // what position 0 reads first
  const T* bias;         // a vector
  T* target;
  int64_t target_row;
  int64_t target_rows;
  int64_t target_other;
  int64_t first, last;  // rows of positions
  bool fetched;         // rows are fetched ahead of use
  const PlaneStrip<T>* strip;
  int64_t strips;
  int64_t inner_first, inner_last;  // columns that are done two vectors at once, all inside
};

template <typename T, bool kPair>
TORCHBP_INLINE Vector<T> weight_at(const T* weight, int64_t at) {
  if constexpr (kPair)
    return load(weight + at * kLanes<T>);
  else
    return weight[at] - Vector<T>{};  // as a sum, it would be computed: -0 + 0 is 0
}

// The vector that a tap reads in a row, or those of a tap and its right neighbour.
template <typename T, int kStep, bool kMasked, bool kPair>
TORCHBP_INLINE void read_columns(const T* from, int64_t other, const Mask<T>* mask, Vector<T> (&x)[kStep]) {
  if constexpr (kStep == 1) {
    if (!kMasked)
      x[0] = load(from);
    else if (kPair)
      x[0] = first_halves<T>(load_masked<T>(from, mask[0]), load_masked<T>(from + other, mask[0]));
    else
      x[0] = load_masked<T>(from, mask[0]);
  } else {
    const T* next = from + (kPair ? other : kLanes<T>);
    const Vector<T> a = kMasked ? load_masked<T>(from, mask[0]) : load(from);
    const Vector<T> b = kMasked ? load_masked<T>(next, mask[1]) : load(next);
    x[0] = every_other<T, 0>(a, b);
    x[1] = every_other<T, 1>(a, b);
  }
}

// kTaps columns of the kernel from column k, one or two; their weights stay in registers.
template <typename T, int kSize, int kStep, int kTaps, int kRows, int kVectors, bool kPair, bool kWhole>
TORCHBP_INLINE void plane_columns(const PlaneRows<T>& plane, int64_t y, const T* row, const T* weight,
                                  const Mask<T>* mask, Vector<T> (&sum)[kRows][kVectors]) {
  Vector<T> scale[kTaps][kSize];
  Mask<T> read[kStep] = {};
  if (kVectors == 1)
    for (int k = 0; k < kStep; ++k) read[k] = mask[k];
#pragma GCC unroll 2
  for (int k = 0; k < kTaps; ++k)
#pragma GCC unroll 8
    for (int i = 0; i < kSize; ++i) scale[k][i] = weight_at<T, kPair>(weight, k * kSize + i);
#pragma GCC unroll 32
  for (int j = 0; j < kStep * (kRows - 1) + kSize; ++j, row += plane.source_row) {
    if (!kWhole && static_cast<uint64_t>(y + j) >= static_cast<uint64_t>(plane.source_rows)) continue;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      Vector<T> x[kStep];
      read_columns<T, kStep, kVectors == 1, kPair>(row + v * kStep * kLanes<T>, plane.source_other, read, x);
#pragma GCC unroll 2
      for (int k = 0; k < kTaps; ++k)
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
          if (j - kStep * r >= 0 && j - kStep * r < kSize) sum[r][v] += x[k] * scale[k][j - kStep * r];
    }
  }
}

template <typename T, int kSize, int kStep, int kRows, int kVectors, bool kPair, bool kWhole>
TORCHBP_INLINE void plane_tile(const PlaneRows<T>& plane, int64_t h, int64_t w, const PlaneStrip<T>* strip) {
  constexpr int64_t lanes = kLanes<T>;
  constexpr int64_t taps = kSize * (kPair ? lanes : 1);
  const Vector<T> bias = load(plane.bias);
  Vector<T> sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[r][v] = bias;
  const int64_t y = kStep * h + plane.top;
  for (int64_t slice = 0; slice < plane.slices; ++slice) {
    const T* row = plane.slice[slice].source + y * plane.source_row + kStep * w + plane.left;
    const T* weight = plane.slice[slice].weight;
    const Mask<T>* mask = kVectors == 1 ? strip->read : nullptr;
#pragma GCC unroll 1
    for (int k = 0; k + kStep <= kSize; k += kStep, weight += kStep * taps, mask += kVectors == 1 ? kStep : 0)
      plane_columns<T, kSize, kStep, kStep, kRows, kVectors, kPair, kWhole>(plane, y, row + k, weight, mask, sum);
    if (kStep == 2)
      plane_columns<T, kSize, kStep, 1, kRows, kVectors, kPair, kWhole>(plane, y, row + kSize - 1, weight, mask, sum);
  }
  if (plane.fetched) {
    const T* row = plane.slice->source + (y + kStep * kRows + kSize - kStep) * plane.source_row + kStep * w;
#pragma GCC unroll 16
    for (int j = 0; j < kStep * kRows; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < kStep * kVectors; ++v) __builtin_prefetch(row + j * plane.source_row + v * lanes, 0, 3);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    T* to = plane.target + (h + r) * plane.target_row + w;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const Vector<T> row = kStep == 2 ? mended<T>(sum[r][v]) : sum[r][v];
      if (kVectors > 1) {
        store(to + v * lanes, row);
      } else {
        store_masked(to, row, strip->written[0]);
        if (kPair) store_masked(to + plane.target_other, second_half<T>(row), strip->written[0]);
      }
    }
  }
}

template <typename T, int kSize, int kStep, int kRows, bool kPair, bool kWhole>
TORCHBP_INLINE void plane_tile_row(const PlaneRows<T>& plane, int64_t h) {
  if constexpr (!kPair && (kRows < 7 || TORCHBP_VECTOR_BYTES == 64))
    for (int64_t w = plane.inner_first; w < plane.inner_last; w += 2 * kLanes<T>)
      plane_tile<T, kSize, kStep, kRows, 2, false, kWhole>(plane, h, w, nullptr);
  for (int64_t i = 0; i < plane.strips; ++i)
    plane_tile<T, kSize, kStep, kRows, 1, kPair, kWhole>(plane, h, plane.strip[i].column, plane.strip + i);
}

// Tile by tile; the last rows overlap those before.
template <typename T, int kSize, int kStep, int kRows, bool kPair>
void plane_tiles(const PlaneRows<T>& given) {
  const PlaneRows<T> plane = given;
  for (int64_t at = plane.first; at < plane.last; at += kRows) {
    const int64_t h = smaller(at, plane.last - kRows), y = kStep * h + plane.top;
    if (y >= 0 && y + kStep * (kRows - 1) + kSize <= plane.source_rows)
      plane_tile_row<T, kSize, kStep, kRows, kPair, true>(plane, h);
    else
      plane_tile_row<T, kSize, kStep, kRows, kPair, false>(plane, h);
  }
}

template <typename T, int kSize, int kStep, bool kPair>
void plane_product(const PlaneRows<T>& plane) {
  const int64_t rows = plane.last - plane.first;
  const bool many = TORCHBP_VECTOR_BYTES == 64 || plane.inner_first == plane.inner_last;
  if (many && rows >= 7 && (rows + 6) / 7 * 7 <= (rows + 3) / 4 * 4)
    plane_tiles<T, kSize, kStep, 7, kPair>(plane);
  else if (rows >= 4)
    plane_tiles<T, kSize, kStep, 4, kPair>(plane);
  else
    plane_tiles<T, kSize, kStep, 1, kPair && TORCHBP_VECTOR_BYTES == 64>(plane);
}

// The gradient of the input of stride 2: position q has the targets 2 q and 2 q + 1 along both axes. Target
// 2 q + residue meets source q + o with tap residue + kSize / 2 - 2 o.
template <int kSize>
struct Spread {
  static constexpr int kReach = (kSize + 1) / 2;     // sources that a position meets
  static constexpr int kLeast = -((kSize - 1) / 4);  // the first of them

  static constexpr int tap(int residue, int source) { return residue + kSize / 2 - 2 * (source + kLeast); }
  static constexpr bool meets(int residue, int source) {
    return source >= 0 && source < kReach && tap(residue, source) >= 0 && tap(residue, source) < kSize;
  }
};

template <typename T, int kSize, int kRows, bool kInside, bool kPair>
TORCHBP_INLINE void spread_tile(const PlaneRows<T>& plane, int64_t h, int64_t w, const PlaneStrip<T>* strip) {
  constexpr int64_t lanes = kLanes<T>;
  typedef Spread<kSize> To;
  const Vector<T> bias = load(plane.bias);
  Vector<T> sum[kRows][2][2];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sum[r][i / 2][i % 2] = bias;
  const int64_t y = h + To::kLeast;
  const T* row = plane.slice->source + y * plane.source_row + w + To::kLeast;
  const T* weight = plane.slice->weight;
#pragma GCC unroll 4
  for (int k = 0; k < To::kReach; ++k) {
    Vector<T> scale[2][kSize];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
#pragma GCC unroll 8
      for (int tap = 0; tap < kSize; ++tap)
        if (To::meets(i, k)) scale[i][tap] = weight_at<T, kPair>(weight, To::tap(i, k) * kSize + tap);
    const T* from = row + k;
    Mask<T> read[1] = {};
    if (!kInside) read[0] = strip->read[k];
#pragma GCC unroll 16
    for (int j = 0; j < kRows - 1 + To::kReach; ++j, from += plane.source_row) {
      if (static_cast<uint64_t>(y + j) >= static_cast<uint64_t>(plane.source_rows)) continue;
      Vector<T> x[1];
      read_columns<T, 1, !kInside, kPair>(from, plane.source_other, read, x);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
          if (To::meets(i / 2, j - r) && To::meets(i % 2, k))
            sum[r][i / 2][i % 2] += x[0] * scale[i % 2][To::tap(i / 2, j - r)];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 2 * kRows; ++i) {
    if (2 * h + i >= plane.target_rows) continue;
    T* to = plane.target + (2 * h + i) * plane.target_row + 2 * w;
    const Vector<T> first = first_of_pairs(sum[i / 2][i % 2][0], sum[i / 2][i % 2][1]);
    const Vector<T> second = rest_of_pairs(sum[i / 2][i % 2][0], sum[i / 2][i % 2][1]);
    if (kInside) {
      store(to, first);
      store(to + lanes, second);
    } else {
      store_masked(to, first, strip->written[0]);
      store_masked(to + (kPair ? plane.target_other : lanes), second, strip->written[kPair ? 0 : 1]);
    }
  }
}

template <typename T, int kSize, int kRows, bool kPair>
void spread_tiles(const PlaneRows<T>& given) {
  const PlaneRows<T> plane = given;
  for (int64_t at = plane.first; at < plane.last; at += kRows) {
    const int64_t h = smaller(at, plane.last - kRows);
    if constexpr (!kPair)
      for (int64_t w = plane.inner_first; w < plane.inner_last; w += kLanes<T>)
        spread_tile<T, kSize, kRows, true, false>(plane, h, w, nullptr);
    for (int64_t i = 0; i < plane.strips; ++i)
      spread_tile<T, kSize, kRows, false, kPair>(plane, h, plane.strip[i].column, plane.strip + i);
  }
}

template <typename T, int kSize, bool kPair>
void spread_product(const PlaneRows<T>& plane) {
  constexpr int kRows = TORCHBP_VECTOR_BYTES == 64 ? 4 : 2;
  if (plane.last - plane.first >= kRows)
    spread_tiles<T, kSize, kRows, kPair>(plane);
  else
    spread_tiles<T, kSize, 1, kPair>(plane);
}

template <typename T>
using PlaneFunction = void (*)(const PlaneRows<T>&);

template <typename T, int kSize, bool kPair>
PlaneFunction<T> plane_function(bool spread, int64_t step) {
  if (spread) return spread_product<T, kSize, kPair>;
  return step == 2 ? plane_product<T, kSize, 2, kPair> : plane_product<T, kSize, 1, kPair>;
}

template <typename T>
PlaneFunction<T> plane_function(const GatherPlan& plan, int64_t step) {
  if constexpr (kLanes<T> == 16)
    if (plan.paired)
      return plan.square == 7   ? plane_function<T, 7, true>(plan.spread, step)
             : plan.square == 5 ? plane_function<T, 5, true>(plan.spread, step)
                                : plane_function<T, 3, true>(plan.spread, step);
  return plan.square == 7   ? plane_function<T, 7, false>(plan.spread, step)
         : plan.square == 5 ? plane_function<T, 5, false>(plan.spread, step)
                            : plane_function<T, 3, false>(plan.spread, step);
}

// How the columns of a box are covered: two vectors at once inside, strips with masks elsewhere.
template <typename T>
void set_strips(const DepthwiseProblem& whole, const GatherPlan& plan, const Box& box, PlaneStrip<T>* strip,
                PlaneRows<T>& plane) {
  constexpr int64_t lanes = kLanes<T>;
  const GatherProblem& problem = whole.phase[0];
  const int64_t step = problem.step[3], columns = box.size(2), read = problem.source_size[3];
  const int64_t reach = plan.reach.most[2] - plan.reach.least[2];
  const int64_t width = plan.spread ? lanes : 2 * lanes;
  const int64_t spread = plan.spread ? 2 : 1;
  const int64_t written = smaller(whole.target_size[3], spread * box.last[2]) - spread * box.first[2];
  plane.strip = strip;
  plane.strips = 0;
  plane.inner_first = plane.inner_last = 0;
  for (int64_t at = 0; at < columns;) {
    const int64_t left = step * at + plane.left;
    if (left >= 0 && left + step * (width - 1) + reach < read && spread * (at + width) <= written) {
      if (plane.inner_first == plane.inner_last) plane.inner_first = at;
      at += width;
      plane.inner_last = at;
      continue;
    }
    PlaneStrip<T>& one = strip[plane.strips++];
    one.column = larger(0, smaller(at, columns - lanes));
    const int64_t from = step * one.column + plane.left, half = plan.paired ? lanes / 2 : lanes;
    for (int64_t k = 0; k <= reach; ++k) {
      const int64_t first = -from - k, last = read - from - k;
      if (step == 1) {
        one.read[k] = mask_of<T>(first, smaller(last, half));
      } else if (k % 2 == 0) {
        one.read[k] = mask_of<T>(first, last);
        one.read[k + 1] = plan.paired ? one.read[k] : mask_of<T>(first - lanes, last - lanes);
      }
    }
    const int64_t rest = written - spread * one.column;
    one.written[0] = mask_of<T>(0, rest);
    one.written[1] = mask_of<T>(0, rest - lanes);
    at += lanes;
  }
}

template <typename T>
void gather_planes(const DepthwiseProblem& whole, const GatherPlan& plan, const T* source, const T* packed, T* target,
                   int64_t task) {
  const GatherProblem& problem = whole.phase[0];
  const Box box = box_at(problem.grid, plan, task % plan.boxes);
  task /= plan.boxes;
  const int64_t tasks_of_image = (plan.channels + plan.planes_of_task - 1) / plan.planes_of_task;
  const int64_t image = task / tasks_of_image, channel = task % tasks_of_image * plan.planes_of_task;
  const int64_t last_channel = smaller(plan.channels, channel + plan.planes_of_task);
  const int64_t depths = plan.reach.most[0] - plan.reach.least[0] + 1;
  const PlaneFunction<T> product = plane_function<T>(plan, problem.step[3]);
  PlaneSlice<T> slices[kMostSize];
  PlaneStrip<T> strips[kMostStrips];
  PlaneRows<T> plane;
  plane.slice = slices;
  plane.source_row = problem.source_stride[2];
  plane.source_rows = problem.source_size[2];
  plane.top = plan.reach.least[1];
  plane.left = problem.step[3] * box.first[2] + plan.reach.least[2];
  plane.target_row = whole.target_stride[2];
  plane.target_rows = whole.target_size[2];
  plane.fetched = plan.fetched;
  plane.first = box.first[1];
  plane.last = box.last[1];
  set_strips(whole, plan, box, strips, plane);
  const int64_t together = plan.paired ? 2 : 1, weights = plane_weights<T>(plan);
  const T* image_source = source + image * problem.source_stride[0];
  T* image_target = target + image * whole.target_stride[0] + whole.period[2] * box.first[2];
  const T* planes = packed;
  for (int64_t p = 0; p < whole.phases; ++p) planes += phase_size<T>(whole.phase[p]);
  for (int64_t c = channel; c < last_channel; c += together) {
    // An odd last plane is its own partner.
    const int64_t other = smaller(c + together, last_channel) - 1;
    const T* own = planes + c / together * plane_size<T>(plan);
    // Products with padding would be NaN.
    if (own[weights + kLanes<T>] != T(0)) {
      for (int64_t one = c; one <= other; ++one) gather_far(whole, source, packed, target, image, one, box);
      continue;
    }
    plane.bias = own + weights;
    const T* from = image_source + c / plan.target_per_source * problem.source_channel_stride;
    T* to = image_target + c * problem.target_channel_stride;
    plane.source_other = (other / plan.target_per_source - c / plan.target_per_source) * problem.source_channel_stride;
    plane.target_other = (other - c) * problem.target_channel_stride;
    for (int64_t d = box.first[0]; d < box.last[0]; ++d) {
      const int64_t z = problem.step[1] * d + plan.reach.least[0];
      plane.slices = 0;
      for (int64_t at = larger(0, -z); at < smaller(depths, problem.source_size[1] - z); ++at)
        slices[plane.slices++] = {from + (z + at) * problem.source_stride[1], own + at * (weights / depths)};
      plane.target = to + d * whole.target_stride[1];
      product(plane);
    }
  }
}

template <typename T>
int64_t packed_size(const DepthwiseProblem& problem) {
  const GatherPlan plan = gather_plan<T>(problem);
  int64_t size = 0;
  for (int64_t p = 0; p < problem.phases; ++p) size += phase_size<T>(problem.phase[p]);
  return plan.by_planes ? size + (plan.channels + 1) / (plan.paired ? 2 : 1) * plane_size<T>(plan) : size;
}

template <typename T>
void pack(const DepthwiseProblem& problem, const T* weight, const T* bias, T* packed) {
  const GatherPlan plan = gather_plan<T>(problem);
  T* at = packed;
  for (int64_t p = 0; p < problem.phases; ++p) {
    pack_phase(problem.phase[p], weight, bias, at);
    at += phase_size<T>(problem.phase[p]);
  }
  if (plan.by_planes) pack_planes(problem, plan, packed, at);
}

template <typename T>
int64_t tasks(const DepthwiseProblem& problem) {
  return gather_tasks(problem, gather_plan<T>(problem));
}

template <typename T>
int64_t workspace(const DepthwiseProblem& problem) {
  const GatherPlan plan = gather_plan<T>(problem);
  if (!plan.fits) return 0;
  if (plan.by_planes) return 0;
  return elements_for<T, PhasePlan<T>>(problem.phases) + elements_for<T, LiveEntry>(plan.live) +
         (plan.source_elements * plan.source_per_target + plan.target_elements) * kLanes<T>;
}

template <typename T>
int64_t task_products(const DepthwiseProblem& problem) {
  const GatherPlan plan = gather_plan<T>(problem);
  int64_t taps = 0;
  for (int64_t p = 0; p < problem.phases; ++p) taps += 2 + problem.phase[p].taps * plan.source_per_target;
  const int64_t lanes = plan.by_planes ? plan.planes_of_task : plan.blocks_of_task * kLanes<T>;
  return plan.fits ? taps * positions_of(plan) * lanes : INT64_MAX;
}

template <typename T>
void gather_box(const DepthwiseProblem& whole, const GatherPlan& plan, const PhasePlan<T>* phases, const T* source,
                const T* packed, T* target, LiveEntry* live, T* buffer, int64_t task) {
  constexpr int64_t lanes = kLanes<T>;
  const GatherProblem& first = whole.phase[0];
  const int64_t tasks_of_image = plan.blocks / plan.blocks_of_task;
  const int64_t block = task % tasks_of_image * plan.blocks_of_task;
  task /= tasks_of_image;
  const Box box = box_at(first.grid, plan, task % plan.boxes);
  const int64_t image = task / plan.boxes;
  const int64_t channel = block_first<T>(plan.channels, block);

  source += image * first.source_stride[0];
  target += image * whole.target_stride[0];

  // Where the elements of a lane block stand: in the tensor, or in the buffer.
  int64_t source_stride[kSpatial], target_stride[kSpatial], source_start = 0, sibling = 0;
  if (plan.source_in_place) {
    for (int d = 0; d < kSpatial; ++d) source_stride[d] = first.source_stride[d + 1];
    source += channel;
  } else {
    const Box read = source_box(first, plan.reach, box);
    source_start = buffer_strides<T>(read, source_stride);
    sibling = read.size(0) * source_stride[0];
    for (int64_t s = 0; s < plan.source_per_target; ++s) {
      const auto rows = lane_block<T>(source, first.source_channel_stride, plan.channels, channel,
                                      plan.source_per_target, plan.target_per_source, s);
      read_box<T>(rows, read, first.source_stride + 1, buffer + s * sibling);
    }
    source = buffer;
    buffer += plan.source_elements * plan.source_per_target * lanes;
  }
  Box written;
  for (int d = 0; d < kSpatial; ++d) {
    written.first[d] = box.first[d] * whole.period[d];
    written.last[d] = smaller(whole.target_size[d + 1], box.last[d] * whole.period[d]);
  }
  T* base = target;
  int64_t target_start = 0;
  if (plan.target_in_place) {
    for (int d = 0; d < kSpatial; ++d) target_stride[d] = whole.target_stride[d + 1];
    base += channel;
  } else {
    target_start = buffer_strides<T>(written, target_stride);
    base = buffer;
  }

  for (int64_t p = 0; p < whole.phases; ++p) {
    const GatherProblem& problem = whole.phase[p];
    const Entries& entries = phases[p].entries;
    const int64_t* residue = whole.residue + p * kSpatial;
    LaneRow<T> row;
    row.entry = live;
    row.source = source;
    row.pixel = source_stride[2];
    row.columns = problem.source_size[3];
    row.step = problem.step[3];
    row.block_size = phases[p].weight_block;
    row.weight = packed + phases[p].weight + block * row.block_size;
    row.tap_step = entries.order * lanes;
    row.target_pixel = whole.period[2] * target_stride[2];
    row.channels = plan.blocks_of_task == 1 ? lanes : plan.channels;
    row.blocks = plan.blocks_of_task;
    row.first = box.first[2];
    row.last = smaller(box.last[2], problem.grid[3]);
    row.inside_first = phases[p].inside_first;
    row.inside_last = phases[p].inside_last;
    row.streamed = plan.streamed;
    if (row.first >= row.last) continue;
    for (int64_t d = box.first[0]; d < smaller(box.last[0], problem.grid[1]); ++d)
      for (int64_t h = box.first[1]; h < smaller(box.last[1], problem.grid[2]); ++h) {
        row.entries = 0;
        for (int64_t e = 0; e < entries.count; ++e) {
          const Entry entry = entry_at(problem, entries, e);
          if (!inside(problem, entry, d, h)) continue;
          const int64_t z = problem.step[1] * d + entry.shift[0], y = problem.step[2] * h + entry.shift[1];
          for (int64_t s = 0; s < plan.source_per_target; ++s)
            live[row.entries++] = {source_start + z * source_stride[0] + y * source_stride[1] + s * sibling,
                                   entry.shift[2], (1 + s * problem.taps + entry.tap) * lanes};
        }
        row.target = base + target_start + (d * whole.period[0] + residue[0]) * target_stride[0] +
                     (h * whole.period[1] + residue[1]) * target_stride[1] + residue[2] * target_stride[2];
        for (int64_t i = 0; i < 2; ++i) {
          const int64_t z = problem.step[1] * d, y = problem.step[2] * h + plan.reach.most[1] + 1 + i;
          const bool wanted = plan.fetched && p == 0 && i < problem.step[2] && y < problem.source_size[2];
          row.ahead[i] = wanted ? z * source_stride[0] + y * source_stride[1] : 0;
        }
        phases[p].run(row);
      }
  }
  if (plan.target_in_place) return;
  const auto rows = lane_block<T>(target, first.target_channel_stride, plan.channels, channel, 1, 1, 0);
  const Range wanted = {block * lanes - channel, smaller(lanes, plan.channels)};
  visit_box(written, whole.target_stride + 1, [&](int64_t offset, int64_t at, int64_t count) {
    write_lanes(rows, wanted, offset, whole.target_stride[3], count, base + at * lanes);
  });
}

template <typename T>
void gather(const DepthwiseProblem& problem, const T* source, const T* packed, T* target, T* workspace, int64_t first,
            int64_t last) {
  GatherPlan plan = gather_plan<T>(problem);
  const GatherProblem& shape = problem.phase[0];
  if (!plan.fits) {
    const Box all = {{0, 0, 0}, {shape.grid[1], shape.grid[2], shape.grid[3]}};
    for (int64_t task = first; task < last; ++task)
      gather_far(problem, source, packed, target, task / plan.channels, task % plan.channels, all);
    return;
  }
  if (plan.by_planes) {
    for (int64_t task = first; task < last; ++task) gather_planes(problem, plan, source, packed, target, task);
    return;
  }
  plan.streamed = plan.streamed && reinterpret_cast<uintptr_t>(target) % TORCHBP_VECTOR_BYTES == 0;
  PhasePlan<T>* phases = reinterpret_cast<PhasePlan<T>*>(workspace);
  workspace += elements_for<T, PhasePlan<T>>(problem.phases);
  LiveEntry* live = reinterpret_cast<LiveEntry*>(workspace);
  workspace += elements_for<T, LiveEntry>(plan.live);
  int64_t weight = 0;
  for (int64_t p = 0; p < problem.phases; ++p) {
    phases[p] = phase_plan<T>(problem.phase[p], weight);
    weight += phase_size<T>(problem.phase[p]);
  }
  for (int64_t task = first; task < last; ++task)
    gather_box(problem, plan, phases, source, packed, target, live, workspace, task);
#if TORCHBP_VECTOR_BYTES == 64
  if (plan.streamed) _mm_sfence();
#endif
}

// ---------------------------------------------------------------------------------------------
// Correlation

struct CorrelationPlan : BoxPlan {
  Reach reach;
  int64_t channels;  // of the weight: source times gradient channels
  bool source_in_place;
  bool gradient_in_place;
  bool fits;
  int64_t blocks;
  int64_t blocks_of_task;
  int64_t units;  // boxes of all images
  int64_t slices;
  int64_t units_of_slice;
  int64_t source_elements;
  int64_t gradient_elements;
  bool fetched;    // ahead of use
  bool by_planes;  // lanes are columns
};

// Whether lanes are better columns than channels: the sums of a 3x3 kernel stay in registers.
template <typename T>
bool correlates_planes(const CorrelationProblem& problem, const Reach& reach) {
  const int64_t step = problem.step[3];
  if (problem.source_stride[3] != 1 || problem.gradient_stride[3] != 1 || problem.taps != kSquare * kSquare)
    return false;
  if (problem.grid[1] != 1 || reach.least[0] != 0 || reach.most[0] != 0 || step > 2 || problem.step[2] != step)
    return false;
  for (int d = 1; d < kSpatial; ++d)
    if (reach.most[d] - reach.least[d] + 1 != kSquare) return false;
  const int64_t right = step * (problem.grid[3] - 1) + reach.most[2] - problem.source_size[3];
  return -reach.least[2] <= kMostSize && right <= kMostSize && 2 * problem.grid[3] > kLanes<T>;
}

template <typename T>
CorrelationPlan correlation_plan(const CorrelationProblem& problem) {
  CorrelationPlan plan;
  plan.channels = problem.groups * problem.source_channels * problem.gradient_channels;
  const bool enough = plan.channels >= kLanes<T>;
  plan.source_in_place = enough && problem.source_channel_stride == 1 && problem.gradient_channels == 1;
  plan.gradient_in_place = enough && problem.gradient_channel_stride == 1 && problem.source_channels == 1;
  plan.blocks = block_count<T>(plan.channels);
  plan.blocks_of_task = plan.source_in_place && plan.gradient_in_place ? plan.blocks : 1;
  plan.reach = reach_of(&problem, 1);
  for (int d = 0; d < kSpatial; ++d) plan.size[d] = problem.grid[d + 1];
  set_boxes(problem.grid, plan);
  plan.by_planes = correlates_planes<T>(problem, plan.reach);
  if (plan.by_planes) plan.blocks_of_task = 1;
  const int64_t parallel = plan.blocks / larger(1, plan.blocks_of_task);
  const auto bytes = [&] {
    if (plan.by_planes) return int64_t{0};
    plan.source_elements = plan.source_in_place ? 0 : source_elements(problem, plan.reach, plan);
    plan.gradient_elements = plan.gradient_in_place ? 0 : positions_of(plan);
    return (plan.source_elements + plan.gradient_elements) * TORCHBP_VECTOR_BYTES;
  };
  while (bytes() > kBufferBytes && halve(problem.grid, plan, 64)) {
  }
  // In place, all blocks of a box are done in turn: it should stay in the cache, and be large enough to keep
  // the sums in registers for a while.
  while (plan.blocks_of_task > 1 && positions_of(plan) > kLeastPositions && halve(problem.grid, plan, 64)) {
  }
  while (plan.by_planes && problem.grid[0] * plan.boxes * parallel < kEnoughTasks &&
         positions_of(plan) > kLeastPositions && halve(problem.grid, plan, 64)) {
  }
  plan.fits = bytes() <= kBufferLimit;
  int64_t source_bytes = plan.channels * sizeof(T);
  for (int axis = 0; axis < kAxes; ++axis) source_bytes *= problem.source_size[axis];
  plan.fetched = plan.by_planes ? source_bytes > kNearBytes : plan.blocks_of_task > 1 && source_bytes > kFarBytes;
  plan.units = problem.grid[0] * plan.boxes;
  plan.slices = larger(1, smaller(plan.units, (kEnoughTasks + parallel - 1) / larger(1, parallel)));
  plan.units_of_slice = (plan.units + plan.slices - 1) / plan.slices;
  plan.slices = larger(1, (plan.units + plan.units_of_slice - 1) / larger(1, plan.units_of_slice));
  return plan;
}

template <typename T>
int64_t correlation_size(const CorrelationProblem& problem) {
  return correlation_plan<T>(problem).blocks * problem.taps * kLanes<T>;
}

template <typename T>
bool correlation_fits(const CorrelationProblem& problem) {
  return correlation_plan<T>(problem).fits;
}

template <typename T>
int64_t correlation_slices(const CorrelationProblem& problem) {
  return correlation_plan<T>(problem).slices;
}

template <typename T>
int64_t correlation_tasks(const CorrelationProblem& problem) {
  const CorrelationPlan plan = correlation_plan<T>(problem);
  return plan.slices * (plan.blocks / plan.blocks_of_task);
}

// Per row of a box: the gradient's element, and for each entry the source's, or kOutside.
constexpr int64_t kOutside = INT64_MIN;

template <typename T>
int64_t row_elements(const CorrelationProblem& problem, const CorrelationPlan& plan) {
  const int64_t places = plan.size[0] * plan.size[1] * (1 + problem.taps) + problem.taps;
  return elements_for<T, int64_t>(places);
}

template <typename T>
int64_t correlation_workspace(const CorrelationProblem& problem) {
  const CorrelationPlan plan = correlation_plan<T>(problem);
  if (plan.by_planes) return kLanes<T> * problem.taps * kLanes<T>;
  return row_elements<T>(problem, plan) + (plan.source_elements + plan.gradient_elements) * kLanes<T>;
}

template <typename T>
int64_t correlation_task_products(const CorrelationProblem& problem) {
  const CorrelationPlan plan = correlation_plan<T>(problem);
  return plan.units_of_slice * positions_of(plan) * (2 + problem.taps) * plan.blocks_of_task * kLanes<T>;
}

// Several rows of a box against several entries, for one block of lanes.
template <typename T>
struct LaneRows {
  int64_t rows;
  const int64_t* gradient_at;  // [rows]
  const int64_t* source_at;    // [rows][entries], of column 0
  int64_t entries;
  const int64_t* column;  // of the entries, for position 0
  const T* source;
  int64_t pixel;
  int64_t columns;
  int64_t step;
  const T* gradient;
  int64_t gradient_pixel;
  int64_t first;  // positions [first, last)
  int64_t last;
  int64_t gradient_ahead;  // to what will be read next, in elements; 0 for nothing
  int64_t source_ahead;    // ... from the row of the last entry
};

template <typename T, int kWidth, int kStep, int kEntries, int kTile, bool kInside>
TORCHBP_INLINE void correlate_tile(const LaneRows<T>& rows, const int64_t* at, const T* gradient, int64_t q,
                                   Vector<T> (&sum)[kEntries][kWidth]) {
  const int64_t unit = kWidth == 1 ? rows.step : 1;
  Vector<T> g[kTile];
#pragma GCC unroll 4
  for (int r = 0; r < kTile; ++r) g[r] = load(gradient + (q + r) * rows.gradient_pixel);
  if (kInside && rows.source_ahead != 0 && at[kEntries - 1] != kOutside) {
    const T* from = rows.source + at[kEntries - 1] + (rows.step * q + rows.column[kEntries - 1]) * rows.pixel;
#pragma GCC unroll 8
    for (int j = 0; j < kTile * kStep; ++j) __builtin_prefetch(from + rows.source_ahead + j * unit * rows.pixel, 0, 2);
#pragma GCC unroll 4
    for (int r = 0; r < kTile; ++r)
      __builtin_prefetch(gradient + rows.gradient_ahead + (q + r) * rows.gradient_pixel, 0, 2);
  }
#pragma GCC unroll 5
  for (int e = 0; e < kEntries; ++e) {
    if (at[e] == kOutside) continue;
    const int64_t column = rows.step * q + rows.column[e];
    const T* from = rows.source + at[e] + column * rows.pixel;
#pragma GCC unroll 16
    for (int j = 0; j < (kTile - 1) * kStep + kWidth; ++j) {
      if (kInside || static_cast<uint64_t>(column + j * unit) < static_cast<uint64_t>(rows.columns)) {
        const Vector<T> x = load(from + j * unit * rows.pixel);
#pragma GCC unroll 4
        for (int r = 0; r < kTile; ++r) {
          const int k = j - r * kStep;
          if (k >= 0 && k < kWidth) sum[e][k] += x * g[r];
        }
      }
    }
  }
}

// sums[entry][tap of the entry][lanes], added to what is there.
template <typename T, int kWidth, int kStep, int kEntries>
void correlate_rows(const LaneRows<T>& rows, T* sums) {
  constexpr int kTile = 4;
  Vector<T> sum[kEntries][kWidth];
#pragma GCC unroll 5
  for (int e = 0; e < kEntries; ++e)
#pragma GCC unroll 8
    for (int k = 0; k < kWidth; ++k) sum[e][k] = Vector<T>{};
  int64_t inside_first = rows.first, inside_last = rows.last;
  for (int e = 0; e < kEntries; ++e) {
    inside_first = larger(inside_first, divide_up(-rows.column[e], rows.step));
    inside_last = smaller(inside_last, divide_down(rows.columns - kWidth - rows.column[e], rows.step) + 1);
  }
  inside_first = smaller(inside_first, rows.last);
  for (int64_t row = 0; row < rows.rows; ++row) {
    const int64_t* at = rows.source_at + row * rows.entries;
    const T* gradient = rows.gradient + rows.gradient_at[row];
    int64_t q = rows.first;
    for (; q < inside_first; ++q) correlate_tile<T, kWidth, kStep, kEntries, 1, false>(rows, at, gradient, q, sum);
    for (; q + kTile <= inside_last; q += kTile)
      correlate_tile<T, kWidth, kStep, kEntries, kTile, true>(rows, at, gradient, q, sum);
    for (; q < rows.last; ++q) correlate_tile<T, kWidth, kStep, kEntries, 1, false>(rows, at, gradient, q, sum);
  }
#pragma GCC unroll 5
  for (int e = 0; e < kEntries; ++e)
#pragma GCC unroll 8
    for (int k = 0; k < kWidth; ++k) {
      T* to = sums + (e * kWidth + k) * kLanes<T>;
      store<T>(to, load(to) + sum[e][k]);
    }
}

// As many entries at once as leave registers for a tile.
template <int kWidth>
constexpr int entries_at_once() {
#if TORCHBP_VECTOR_BYTES == 64
  return kWidth == 7 ? 3 : (kWidth == 3 ? 3 : 5);
#else
  return kWidth == 7 ? 1 : (kWidth == 5 ? 2 : (kWidth == 3 ? 3 : 5));
#endif
}

template <typename T, int kWidth, int kStep>
void correlate_entries(const LaneRows<T>& all, int64_t entries, T* sums) {
  constexpr int many = entries_at_once<kWidth>();
  LaneRows<T> rows = all;
  for (int64_t e = 0; e < entries;) {
    const int64_t now = entries - e >= many ? many : 1;
    rows.source_ahead = e + now == entries ? all.source_ahead : 0;
    if (now == many) {
      correlate_rows<T, kWidth, kStep, many>(rows, sums);
      rows.source_at += many;
      rows.column += many;
      sums += many * kWidth * kLanes<T>;
      e += many;
    } else {
      correlate_rows<T, kWidth, kStep, 1>(rows, sums);
      rows.source_at += 1;
      rows.column += 1;
      sums += kWidth * kLanes<T>;
      e += 1;
    }
  }
}

template <typename T>
using EntriesFunction = void (*)(const LaneRows<T>&, int64_t, T*);

template <typename T>
EntriesFunction<T> entries_function(const Entries& entries) {
  const bool two = entries.step == 2;
  switch (entries.width) {
    case 7:
      return two ? correlate_entries<T, 7, 2> : correlate_entries<T, 7, 1>;
    case 5:
      return two ? correlate_entries<T, 5, 2> : correlate_entries<T, 5, 1>;
    case 3:
      return two ? correlate_entries<T, 3, 2> : correlate_entries<T, 3, 1>;
    default:
      return correlate_entries<T, 1, 1>;
  }
}

// Runs pieces of the rows one after another: sums that go on for longer lose accuracy.
template <typename T>
void correlate_chains(const LaneRows<T>& all, int64_t entries, EntriesFunction<T> run, T* sums) {
  constexpr int64_t kChain = 256;  // positions
  const int64_t columns = all.last - all.first, pieces = (columns + kChain - 1) / kChain;
  const int64_t rows_at_once = larger(1, kChain / larger(1, columns));
  LaneRows<T> rows = all;
  for (int64_t row = 0; row < all.rows; row += rows_at_once) {
    rows.rows = smaller(rows_at_once, all.rows - row);
    rows.gradient_at = all.gradient_at + row;
    rows.source_at = all.source_at + row * all.entries;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      rows.first = all.first + piece * columns / pieces;
      rows.last = all.first + (piece + 1) * columns / pieces;
      run(rows, entries, sums);
    }
  }
}

template <typename T>
void correlate_slice(const CorrelationProblem& problem, const CorrelationPlan& plan, const T* source, const T* gradient,
                     T* partial, T* workspace, int64_t task) {
  constexpr int64_t lanes = kLanes<T>;
  const Entries entries = entries_of(problem, false);
  const EntriesFunction<T> run = entries_function<T>(entries);
  const int64_t parallel = plan.blocks / plan.blocks_of_task;
  const int64_t block = task % parallel * plan.blocks_of_task, slice = task / parallel;
  const int64_t channel = block_first<T>(plan.channels, block);
  partial += (slice * plan.blocks + block) * problem.taps * lanes;
  for (int64_t i = 0; i < plan.blocks_of_task * problem.taps * lanes; ++i) partial[i] = T(0);

  int64_t* column = reinterpret_cast<int64_t*>(workspace);
  int64_t* gradient_at = column + problem.taps;
  int64_t* source_at = gradient_at + plan.size[0] * plan.size[1];
  T* source_buffer = workspace + row_elements<T>(problem, plan);
  T* gradient_buffer = source_buffer + plan.source_elements * lanes;
  for (int64_t e = 0; e < entries.count; ++e) column[e] = entry_at(problem, entries, e).shift[2];

  LaneRows<T> rows;
  rows.gradient_at = gradient_at;
  rows.source_at = source_at;
  rows.entries = entries.count;
  rows.column = column;
  rows.columns = problem.source_size[3];
  rows.step = problem.step[3];
  const int64_t last_unit = smaller(plan.units, (slice + 1) * plan.units_of_slice);
  for (int64_t unit = slice * plan.units_of_slice; unit < last_unit; ++unit) {
    const Box box = box_at(problem.grid, plan, unit % plan.boxes);
    const T* x = source + unit / plan.boxes * problem.source_stride[0];
    const T* g = gradient + unit / plan.boxes * problem.gradient_stride[0];
    int64_t source_stride[kSpatial], gradient_stride[kSpatial], source_start = 0, gradient_start = 0;
    if (plan.source_in_place) {
      for (int d = 0; d < kSpatial; ++d) source_stride[d] = problem.source_stride[d + 1];
    } else {
      const Box read = source_box(problem, plan.reach, box);
      source_start = buffer_strides<T>(read, source_stride);
      const auto block_rows =
          lane_block<T>(x, problem.source_channel_stride, plan.channels, channel, 1, problem.gradient_channels, 0);
      read_box<T>(block_rows, read, problem.source_stride + 1, source_buffer);
      x = source_buffer;
    }
    if (plan.gradient_in_place) {
      for (int d = 0; d < kSpatial; ++d) gradient_stride[d] = problem.gradient_stride[d + 1];
    } else {
      gradient_start = buffer_strides<T>(box, gradient_stride);
      const auto block_rows =
          lane_block<T>(g, problem.gradient_channel_stride, plan.channels, channel, 1, problem.source_channels, 0);
      read_box<T>(block_rows, box, problem.gradient_stride + 1, gradient_buffer);
      g = gradient_buffer;
    }
    rows.rows = 0;
    for (int64_t d = box.first[0]; d < box.last[0]; ++d)
      for (int64_t h = box.first[1]; h < box.last[1]; ++h, ++rows.rows) {
        gradient_at[rows.rows] = gradient_start + d * gradient_stride[0] + h * gradient_stride[1];
        int64_t* at = source_at + rows.rows * entries.count;
        for (int64_t e = 0; e < entries.count; ++e) {
          const Entry entry = entry_at(problem, entries, e);
          const int64_t z = problem.step[1] * d + entry.shift[0], y = problem.step[2] * h + entry.shift[1];
          at[e] = inside(problem, entry, d, h) ? source_start + z * source_stride[0] + y * source_stride[1] : kOutside;
        }
      }
    rows.pixel = source_stride[2];
    rows.gradient_pixel = gradient_stride[2];
    rows.first = box.first[2];
    rows.last = box.last[2];
    const bool more = plan.fetched && box.last[1] < problem.grid[2];
    rows.gradient_ahead = more ? box.size(1) * gradient_stride[1] : 0;
    rows.source_ahead = more ? box.size(1) * problem.step[2] * source_stride[1] : 0;
    for (int64_t b = 0; b < plan.blocks_of_task; ++b) {
      const int64_t first = block_first<T>(plan.channels, block + b);
      rows.source = plan.source_in_place ? x + first : x;
      rows.gradient = plan.gradient_in_place ? g + first : g;
      correlate_chains(rows, entries.count, run, partial + b * problem.taps * lanes);
    }
  }
}

// ---------------------------------------------------------------------------------------------
// 3x3 kernels on contiguous images: lanes are columns, whose sums are added at the end.

// A tile of one vector of columns at an end of the rows.
template <typename T>
struct SumStrip {
  int64_t column;
  Mask<T> read[kSquare + 1];
  Mask<T> gradient;
};

template <typename T>
struct SumRows {
  const T* source;  // what position 0 reads first
  int64_t source_row;
  int64_t source_rows;
  int64_t top;
  const T* gradient;
  int64_t gradient_row;
  int64_t first, last;
  int64_t inner_first, inner_last;
  int64_t strips;
  SumStrip<T> strip[kMostStrips];
  bool fetched;
};

template <typename T, int kStep, int kRows, bool kInside, bool kWhole>
TORCHBP_INLINE void sum_tile(const SumRows<T>& plane, int64_t h, int64_t w, const SumStrip<T>* strip,
                             Vector<T> (&sum)[kSquare][kSquare]) {
  const T* from = plane.gradient + h * plane.gradient_row + w;
  const int64_t y = kStep * h + plane.top;
  const T* row = plane.source + y * plane.source_row + kStep * w;
  if (plane.fetched) {
#pragma GCC unroll 16
    for (int j = 0; j < kStep * kRows; ++j)
#pragma GCC unroll 2
      for (int v = 0; v < kStep; ++v)
        __builtin_prefetch(row + (kStep * kRows + kSquare - kStep + j) * plane.source_row + v * kLanes<T>, 0, 3);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) __builtin_prefetch(from + (kRows + r) * plane.gradient_row, 0, 3);
  }
  Vector<T> g[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r, from += plane.gradient_row) {
    g[r] = kInside ? load(from) : load_masked<T>(from, strip->gradient);
    if (kStep == 2) g[r] = taking_turns<T>(g[r]);
  }
#pragma GCC unroll 16
  for (int j = 0; j < kStep * (kRows - 1) + kSquare; ++j, row += plane.source_row) {
    if (!kWhole && static_cast<uint64_t>(y + j) >= static_cast<uint64_t>(plane.source_rows)) continue;
#pragma GCC unroll 4
    for (int k = 0; k < kSquare; k += kStep) {
      Vector<T> x[kStep];
      read_columns<T, kStep, !kInside, false>(row + k, 0, kInside ? nullptr : strip->read + k, x);
#pragma GCC unroll 2
      for (int s = 0; s < kStep; ++s)
#pragma GCC unroll 4
        for (int i = 0; i < kSquare; ++i)
          if (k + s < kSquare && j >= i && (j - i) % kStep == 0 && (j - i) / kStep < kRows)
            sum[i][k + s] += x[s] * g[(j - i) / kStep];
    }
  }
}

template <typename T, int kStep, int kRows, bool kWhole>
TORCHBP_INLINE void sum_row(const SumRows<T>& plane, int64_t h, Vector<T> (&sum)[kSquare][kSquare]) {
  for (int64_t w = plane.inner_first; w < plane.inner_last; w += kLanes<T>)
    sum_tile<T, kStep, kRows, true, kWhole>(plane, h, w, nullptr, sum);
  for (int64_t i = 0; i < plane.strips; ++i)
    sum_tile<T, kStep, kRows, false, kWhole>(plane, h, plane.strip[i].column, plane.strip + i, sum);
}

template <typename T, int kStep, int kRows>
TORCHBP_INLINE int64_t sum_rows(const SumRows<T>& plane, int64_t h, Vector<T> (&sum)[kSquare][kSquare]) {
  for (; h + kRows <= plane.last; h += kRows) {
    const int64_t y = kStep * h + plane.top;
    if (y >= 0 && y + kStep * (kRows - 1) + kSquare <= plane.source_rows)
      sum_row<T, kStep, kRows, true>(plane, h, sum);
    else
      sum_row<T, kStep, kRows, false>(plane, h, sum);
  }
  return h;
}

// Adds to sums[rows][columns of the kernel][lanes].
template <typename T, int kStep>
void sum_plane(const SumRows<T>& plane, T* sums) {
  Vector<T> sum[kSquare][kSquare];
#pragma GCC unroll 16
  for (int i = 0; i < kSquare * kSquare; ++i) sum[i / kSquare][i % kSquare] = Vector<T>{};
  const int64_t h = sum_rows<T, kStep, 4>(plane, plane.first, sum);
  sum_rows<T, kStep, 1>(plane, h, sum);
#pragma GCC unroll 16
  for (int i = 0; i < kSquare * kSquare; ++i)
    store<T>(sums + i * kLanes<T>, load(sums + i * kLanes<T>) + sum[i / kSquare][i % kSquare]);
}

template <typename T>
void set_strips(const CorrelationProblem& problem, const Box& box, SumRows<T>& plane, int64_t left) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t step = problem.step[3], columns = box.size(2), read = problem.source_size[3];
  plane.strips = 0;
  plane.inner_first = plane.inner_last = 0;
  for (int64_t at = 0; at < columns; at += lanes) {
    const int64_t first = step * at + left;
    if (first >= 0 && first + step * lanes + kSquare - 1 <= read && at + lanes <= columns) {
      if (plane.inner_first == plane.inner_last) plane.inner_first = at;
      plane.inner_last = at + lanes;
      continue;
    }
    SumStrip<T>& strip = plane.strip[plane.strips++];
    strip.column = at;
    strip.gradient = mask_of<T>(0, columns - at);
    for (int64_t k = 0; k < kSquare; k += step) {
      // Columns of the source that exist and meet a gradient.
      const int64_t from = -first - k, to = smaller(read - first - k, step * (columns - at));
      for (int64_t v = 0; v < step; ++v) strip.read[k + v] = mask_of<T>(from - v * lanes, to - v * lanes);
    }
  }
}

// The sum for one channel and one box; no product meets padding.
template <typename T>
void correlate_far(const CorrelationProblem& problem, const Box& box, const T* source, const T* gradient, int64_t tap,
                   T& sum) {
  const int64_t* at = problem.tap_offset + tap * kSpatial;
  const Range valid = valid_range(problem.grid[3], problem.step[3], at[2], problem.source_size[3]);
  for (int64_t h = box.first[1]; h < box.last[1]; ++h) {
    if (!inside(problem, {{at[0], at[1], at[2]}, tap}, 0, h)) continue;
    const T* x = source + (problem.step[2] * h + at[1]) * problem.source_stride[2] + at[2];
    const T* g = gradient + h * problem.gradient_stride[2];
    for (int64_t w = larger(box.first[2], valid.first); w < smaller(box.last[2], valid.last); ++w)
      sum += x[problem.step[3] * w] * g[w];
  }
}

template <typename T>
void correlate_planes(const CorrelationProblem& problem, const CorrelationPlan& plan, const T* source,
                      const T* gradient, T* partial, T* workspace, int64_t task) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t block = task % plan.blocks, slice = task / plan.blocks, sums = problem.taps * lanes;
  const int64_t first = block * lanes, last = smaller(plan.channels, first + lanes);
  partial += task * sums;
  for (int64_t i = 0; i < sums; ++i) partial[i] = T(0);
  for (int64_t i = 0; i < (last - first) * sums; ++i) workspace[i] = T(0);
  SumRows<T> plane;
  plane.source_row = problem.source_stride[2];
  plane.source_rows = problem.source_size[2];
  plane.top = plan.reach.least[1];
  plane.gradient_row = problem.gradient_stride[2];
  plane.fetched = plan.fetched;
  const int64_t first_unit = slice * plan.units_of_slice,
                last_unit = smaller(plan.units, first_unit + plan.units_of_slice);
  const auto source_of = [&](int64_t unit, int64_t c) {
    return source + unit / plan.boxes * problem.source_stride[0] +
           c / problem.gradient_channels * problem.source_channel_stride;
  };
  const auto gradient_of = [&](int64_t unit, int64_t c) {
    return gradient + unit / plan.boxes * problem.gradient_stride[0] +
           c / problem.source_channels * problem.gradient_channel_stride;
  };
  for (int64_t unit = first_unit; unit < last_unit; ++unit) {
    const Box box = box_at(problem.grid, plan, unit % plan.boxes);
    const int64_t left = problem.step[3] * box.first[2] + plan.reach.least[2];
    if (plan.boxes > 1 || unit == first_unit) set_strips(problem, box, plane, left);
    plane.first = box.first[1];
    plane.last = box.last[1];
    for (int64_t c = first; c < last; ++c) {
      plane.source = source_of(unit, c) + left;
      plane.gradient = gradient_of(unit, c) + box.first[2];
      if (problem.step[3] == 2)
        sum_plane<T, 2>(plane, workspace + (c - first) * sums);
      else
        sum_plane<T, 1>(plane, workspace + (c - first) * sums);
    }
  }
  for (int64_t c = first; c < last; ++c)
    for (int64_t tap = 0; tap < problem.taps; ++tap) {
      const int64_t* at = problem.tap_offset + tap * kSpatial;
      const int64_t place = (at[1] - plan.reach.least[1]) * kSquare + at[2] - plan.reach.least[2];
      const T* own = workspace + (c - first) * sums + place * lanes;
      T sum = T(0);
      for (int64_t l = 0; l < lanes; ++l) sum += own[l];
      // A product with padding may have been NaN.
      if (sum * T(0) != T(0)) {
        sum = T(0);
        for (int64_t unit = first_unit; unit < last_unit; ++unit)
          correlate_far(problem, box_at(problem.grid, plan, unit % plan.boxes), source_of(unit, c),
                        gradient_of(unit, c), tap, sum);
      }
      partial[tap * lanes + c - block_first<T>(plan.channels, block)] = sum;
    }
}

template <typename T>
void correlate(const CorrelationProblem& problem, const T* source, const T* gradient, T* partial, T* workspace,
               int64_t first, int64_t last) {
  const CorrelationPlan plan = correlation_plan<T>(problem);
  for (int64_t task = first; task < last; ++task)
    if (plan.by_planes)
      correlate_planes(problem, plan, source, gradient, partial, workspace, task);
    else
      correlate_slice(problem, plan, source, gradient, partial, workspace, task);
}

template <typename T>
int64_t correlation_blocks(const CorrelationProblem& problem) {
  return correlation_plan<T>(problem).blocks;
}

template <typename T>
void correlation_sum(const CorrelationProblem& problem, const T* partial, T* weight_gradient, int64_t block) {
  constexpr int64_t lanes = kLanes<T>;
  const CorrelationPlan plan = correlation_plan<T>(problem);
  const int64_t first = block_first<T>(plan.channels, block), size = plan.blocks * problem.taps * lanes;
  partial += block * problem.taps * lanes;
  for (int64_t tap = 0; tap < problem.taps; ++tap) {
    T total[kLanes<T>];
    Vector<T> sum = load(partial + tap * lanes);
    for (int64_t slice = 1; slice < plan.slices; ++slice) sum += load(partial + slice * size + tap * lanes);
    store(total, sum);
    // Channels that the block before has, too, are its.
    for (int64_t c = block * lanes; c < smaller(plan.channels, first + lanes); ++c)
      weight_gradient[c * problem.taps + tap] = total[c - first];
  }
}

template <typename T>
DepthwiseKernels<T> kernels_of() {
  return {
      packed_size<T>,
      pack<T>,
      tasks<T>,
      workspace<T>,
      task_products<T>,
      gather<T>,
      correlation_fits<T>,
      correlation_slices<T>,
      correlation_size<T>,
      correlation_tasks<T>,
      correlation_workspace<T>,
      correlation_task_products<T>,
      correlate<T>,
      correlation_blocks<T>,
      correlation_sum<T>,
  };
}

}  // namespace

DepthwiseKernels<float> depthwise_float() { return kernels_of<float>(); }
DepthwiseKernels<double> depthwise_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
