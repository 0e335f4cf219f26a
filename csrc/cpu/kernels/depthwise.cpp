// Depthwise convolution. The lanes of a vector are channels: a channels-last tensor is read and written in
// place, any other box by box through a buffer [positions][lanes] that is filled by transposing blocks of
// rows. So no product meets padding, whatever the layout, and no tap needs a shuffle. Only for 3x3
// kernels of stride 1 on contiguous images of some width are neighbouring columns better lanes.
#include "depthwise.h"

#include "vector.h"

#if TORCHBP_VECTOR_BYTES == 64
#include <immintrin.h>
#endif

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

template <typename T>
constexpr int64_t kLanes = Lanes<T>::count;

// A box and its halo stay in the second-level cache, if they can be made so small.
constexpr int64_t kBufferBytes = 192 * 1024;
// Beyond this the taps reach too far for a buffer.
constexpr int64_t kBufferLimit = 16 * 1024 * 1024;
// A problem with fewer tasks than this is split into smaller boxes: the split depends on the shape only.
constexpr int64_t kEnoughTasks = 16;
constexpr int64_t kLeastPositions = 128;
// A larger source is fetched from memory ahead of its use.
constexpr int64_t kFarBytes = 2 * 1024 * 1024;
// A larger target is no longer in any cache when it is read next: it is written past them.
constexpr int64_t kStreamedBytes = 32 * 1024 * 1024;

// ---------------------------------------------------------------------------------------------
// Transposing blocks of lanes.

#if defined(__clang__) || __GNUC__ >= 12
#define TORCHBP_SHUFFLE __builtin_shufflevector
#endif

// The elements of two vectors in turn: the first halves of both, and the second halves.
template <typename T>
TORCHBP_INLINE void interleave(Vector<T>& a, Vector<T>& b) {
  const Vector<T> x = a, y = b;
#ifdef TORCHBP_SHUFFLE
  if constexpr (kLanes<T> == 16) {
    a = TORCHBP_SHUFFLE(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    b = TORCHBP_SHUFFLE(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return;
  } else if constexpr (kLanes<T> == 8) {
    a = TORCHBP_SHUFFLE(x, y, 0, 8, 1, 9, 2, 10, 3, 11);
    b = TORCHBP_SHUFFLE(x, y, 4, 12, 5, 13, 6, 14, 7, 15);
    return;
  } else if constexpr (kLanes<T> == 4) {
    a = TORCHBP_SHUFFLE(x, y, 0, 4, 1, 5);
    b = TORCHBP_SHUFFLE(x, y, 2, 6, 3, 7);
    return;
  } else if constexpr (kLanes<T> == 2) {
    a = TORCHBP_SHUFFLE(x, y, 0, 2);
    b = TORCHBP_SHUFFLE(x, y, 1, 3);
    return;
  }
#endif
  for (int64_t i = 0; i < kLanes<T> / 2; ++i) {
    a[2 * i] = x[i];
    a[2 * i + 1] = y[i];
    b[2 * i] = x[kLanes<T> / 2 + i];
    b[2 * i + 1] = y[kLanes<T> / 2 + i];
  }
}

// rows[i][j] becomes rows[j][i]. Interleaving the two halves of the rows rotates the bits of (i, j) by one.
template <typename T>
TORCHBP_INLINE void transpose(Vector<T> (&rows)[kLanes<T>]) {
  constexpr int half = kLanes<T> / 2;
#pragma GCC unroll 4
  for (int round = 1; round < kLanes<T>; round *= 2) {
    Vector<T> turned[kLanes<T>];
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      turned[2 * i] = rows[i];
      turned[2 * i + 1] = rows[i + half];
      interleave<T>(turned[2 * i], turned[2 * i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i) rows[i] = turned[i];
  }
}

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
int64_t packed_size(const GatherProblem& problem) {
  return block_count<T>(problem.groups * problem.target_channels) * weight_block<T>(problem);
}

// [blocks][bias, then source channels of a target x taps][lanes]
template <typename T>
void pack(const GatherProblem& problem, const T* weight, const T* bias, T* packed) {
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

constexpr int64_t kSquare = 3;

// Whether lanes are better columns than channels.
template <typename T>
bool by_planes(const DepthwiseProblem& problem, const GatherPlan& plan) {
  const GatherProblem& first = problem.phase[0];
  bool fits = problem.phases == 1 && plan.source_per_target == 1 && first.taps == kSquare * kSquare;
  fits = fits && first.source_stride[3] == 1 && first.target_stride[3] == 1 && first.grid[1] == 1;
  for (int d = 0; d < kSpatial; ++d) {
    const int64_t reach = d == 0 ? 1 : kSquare;
    fits = fits && first.step[d + 1] == 1 && plan.reach.most[d] - plan.reach.least[d] + 1 == reach;
  }
  return fits && plan.reach.least[0] == 0 && first.grid[2] >= 4 && 4 * first.grid[3] >= 3 * kLanes<T>;
}

template <typename T>
int64_t plane_pitch(const BoxPlan& plan) {
  return larger(plan.size[2], kLanes<T>) + kSquare - 1;
}

template <typename T>
int64_t plane_elements(const BoxPlan& plan) {
  return (plan.size[1] - 1 + kSquare) * plane_pitch<T>(plan);
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
  plan.by_planes = !(plan.source_in_place && plan.target_in_place) && by_planes<T>(problem, plan);
  const auto bytes = [&] {
    if (plan.by_planes) return plane_elements<T>(plan) * static_cast<int64_t>(sizeof(T));
    plan.source_elements = plan.source_in_place ? 0 : source_elements(first, plan.reach, plan);
    plan.target_elements = plan.target_in_place ? 0 : target_elements<T>(problem, plan);
    return (plan.source_elements * plan.source_per_target + plan.target_elements) * TORCHBP_VECTOR_BYTES;
  };
  while (bytes() > kBufferBytes && halve(first.grid, plan, 64)) {
  }
  const int64_t outer = first.grid[0] * (plan.blocks / plan.blocks_of_task);
  while (outer * plan.boxes < kEnoughTasks && positions_of(plan) * plan.blocks_of_task > kLeastPositions &&
         halve(first.grid, plan, 64)) {
  }
  plan.fits = bytes() <= kBufferLimit;
  int64_t source_bytes = plan.channels * sizeof(T), target_bytes = source_bytes;
  bool aligned = plan.channels % kLanes<T> == 0;
  for (int axis = 0; axis < kAxes; ++axis) {
    source_bytes *= first.source_size[axis];
    target_bytes *= problem.target_size[axis];
    aligned = aligned && (problem.target_size[axis] == 1 || problem.target_stride[axis] % kLanes<T> == 0);
  }
  plan.fetched = plan.source_in_place && source_bytes > kFarBytes;
  plan.streamed = plan.target_in_place && aligned && target_bytes > kStreamedBytes;
  return plan;
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

template <typename T, typename Item>
int64_t elements_for(int64_t count) {
  return (count * static_cast<int64_t>(sizeof(Item)) + 63) / 64 * 64 / static_cast<int64_t>(sizeof(T));
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
    packed += packed_size<T>(problem);
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
// 3x3 kernels of stride 1 on contiguous images: a plane's rows are copied with their padding, at a fixed pitch. A
// row of the buffer that is loaded serves several rows of the target.

// The first `count` lanes, fewer than all.
template <typename T>
TORCHBP_INLINE void store_some(T* to, const Vector<T>& v, int64_t count) {
#if TORCHBP_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1 << count) - 1), reinterpret_cast<const __m512&>(v));
  else
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1 << count) - 1), reinterpret_cast<const __m512d&>(v));
#else
  for (int64_t i = 0; i < count; ++i) to[i] = v[i];
#endif
}

template <typename T>
TORCHBP_INLINE void copy_row(const T* from, T* to, int64_t count) {
  if (count >= kLanes<T>) {
    for (int64_t i = 0; i < count; i += kLanes<T>) {
      const int64_t at = smaller(i, count - kLanes<T>);
      store(to + at, load(from + at));
    }
    return;
  }
#if TORCHBP_VECTOR_BYTES == 64
  if (count <= 0) return;
  Vector<T> v;
  if constexpr (sizeof(T) == 4)
    reinterpret_cast<__m512&>(v) = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << count) - 1), from);
  else
    reinterpret_cast<__m512d&>(v) = _mm512_maskz_loadu_pd(static_cast<__mmask8>((1 << count) - 1), from);
  store_some<T>(to, v, count);
#else
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
#endif
}

template <typename T>
struct PlaneRows {
  const T* buffer;
  int64_t pitch;
  const T* weight;  // [kSquare][kSquare]
  T bias;
  T* target;
  int64_t target_row;
  int64_t rows;
  int64_t columns;
};

template <typename T, int kRows, int kVectors>
TORCHBP_INLINE void plane_tile(const PlaneRows<T>& plane, int64_t h, int64_t w) {
  Vector<T> sum[kRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[r][v] = Vector<T>{} + plane.bias;
  const T* row = plane.buffer + h * plane.pitch + w;
#pragma GCC unroll 8
  for (int j = 0; j < kRows - 1 + kSquare; ++j, row += plane.pitch) {
#pragma GCC unroll 4
    for (int k = 0; k < kSquare; ++k) {
      Vector<T> x[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) x[v] = load(row + k + v * kLanes<T>);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const int i = j - r;
        if (i >= 0 && i < kSquare) {
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) sum[r][v] += x[v] * plane.weight[i * kSquare + k];
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    T* to = plane.target + (h + r) * plane.target_row + w;
    if (kVectors == 1 && plane.columns < kLanes<T>) {
      store_some<T>(to, sum[r][0], plane.columns);
    } else {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) store(to + v * kLanes<T>, sum[r][v]);
    }
  }
}

template <typename T, int kRows, int kVectors>
void plane_tiles(const PlaneRows<T>& plane) {
  constexpr int64_t width = kVectors * kLanes<T>;
  for (int64_t h = 0; h < plane.rows; h += kRows)
    for (int64_t w = 0; w < plane.columns; w += width)
      plane_tile<T, kRows, kVectors>(plane, smaller(h, plane.rows - kRows),
                                     larger(0, smaller(w, plane.columns - width)));
}

template <typename T>
void plane_product(const PlaneRows<T>& plane) {
  if (plane.rows < 4)
    plane_tiles<T, 1, 1>(plane);
  else if (plane.columns < 2 * kLanes<T>)
    plane_tiles<T, 4, 1>(plane);
  else
    plane_tiles<T, 4, 2>(plane);
}

// False if a weight is not finite: its products with padding would be NaN.
template <typename T>
bool gather_planes(const DepthwiseProblem& whole, const GatherPlan& plan, const T* source, const T* packed, T* target,
                   T* buffer, int64_t image, int64_t block, const Box& box) {
  const GatherProblem& problem = whole.phase[0];
  const int64_t channel = block_first<T>(plan.channels, block);
  const T* weight = packed + block * weight_block<T>(problem);
  Vector<T> probe = Vector<T>{};
  for (int64_t i = 1; i <= problem.taps; ++i) probe += load(weight + i * kLanes<T>) * T(0);
  for (int64_t l = 0; l < kLanes<T>; ++l)
    if (probe[l] != T(0)) return false;

  const int64_t pitch = plane_pitch<T>(plan), rows = box.size(1) - 1 + kSquare;
  const int64_t top = box.first[1] + plan.reach.least[1], left = box.first[2] + plan.reach.least[2];
  for (int64_t i = 0; i < rows * pitch; ++i) buffer[i] = T(0);
  const int64_t first = larger(0, left), last = smaller(problem.source_size[3], left + box.size(2) - 1 + kSquare);
  const int64_t h_first = larger(0, top), h_last = smaller(problem.source_size[2], top + rows);
  T scales[kSquare * kSquare];
  PlaneRows<T> plane;
  plane.buffer = buffer;
  plane.pitch = pitch;
  plane.weight = scales;
  plane.target_row = problem.target_stride[2];
  plane.rows = box.size(1);
  plane.columns = box.size(2);
  for (int64_t c = block * kLanes<T>; c < smaller(plan.channels, (block + 1) * kLanes<T>); ++c) {
    const T* from =
        source + image * problem.source_stride[0] + c / plan.target_per_source * problem.source_channel_stride + first;
    for (int64_t h = h_first; h < h_last; ++h)
      copy_row(from + h * problem.source_stride[2], buffer + (h - top) * pitch + first - left, last - first);
    const T* own = weight + c - channel;
    plane.bias = own[0];
    for (int64_t tap = 0; tap < problem.taps; ++tap) {
      const int64_t* at = problem.tap_offset + tap * kSpatial;
      scales[(at[1] - plan.reach.least[1]) * kSquare + at[2] - plan.reach.least[2]] = own[(1 + tap) * kLanes<T>];
    }
    plane.target = target + image * problem.target_stride[0] + c * problem.target_channel_stride +
                   box.first[1] * problem.target_stride[2] + box.first[2];
    plane_product(plane);
  }
  return true;
}

template <typename T>
int64_t tasks(const DepthwiseProblem& problem) {
  const GatherPlan plan = gather_plan<T>(problem);
  const int64_t images = problem.phase[0].grid[0];
  return plan.fits ? images * plan.boxes * (plan.blocks / plan.blocks_of_task) : images * plan.channels;
}

template <typename T>
int64_t workspace(const DepthwiseProblem& problem) {
  const GatherPlan plan = gather_plan<T>(problem);
  if (!plan.fits) return 0;
  if (plan.by_planes) return plane_elements<T>(plan);
  return elements_for<T, PhasePlan<T>>(problem.phases) + elements_for<T, LiveEntry>(plan.live) +
         (plan.source_elements * plan.source_per_target + plan.target_elements) * kLanes<T>;
}

template <typename T>
int64_t task_products(const DepthwiseProblem& problem) {
  const GatherPlan plan = gather_plan<T>(problem);
  int64_t taps = 0;
  for (int64_t p = 0; p < problem.phases; ++p) taps += 2 + problem.phase[p].taps * plan.source_per_target;
  return plan.fits ? taps * positions_of(plan) * plan.blocks_of_task * kLanes<T> : INT64_MAX;
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
    source_stride[2] = lanes;
    source_stride[1] = read.size(2) * lanes;
    source_stride[0] = read.size(1) * source_stride[1];
    sibling = read.size(0) * source_stride[0];
    for (int d = 0; d < kSpatial; ++d) source_start -= read.first[d] * source_stride[d];
    for (int64_t s = 0; s < plan.source_per_target; ++s) {
      const auto rows = lane_block<T>(source, first.source_channel_stride, plan.channels, channel,
                                      plan.source_per_target, plan.target_per_source, s);
      T* to = buffer + s * sibling;
      visit_box(read, first.source_stride + 1, [&](int64_t offset, int64_t at, int64_t count) {
        read_lanes(rows, offset, first.source_stride[3], count, to + at * lanes);
      });
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
    target_stride[2] = lanes;
    target_stride[1] = written.size(2) * lanes;
    target_stride[0] = written.size(1) * target_stride[1];
    for (int d = 0; d < kSpatial; ++d) target_start -= written.first[d] * target_stride[d];
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
    for (int64_t task = first; task < last; ++task) {
      const Box box = box_at(shape.grid, plan, task % plan.boxes);
      const int64_t block = task / plan.boxes % plan.blocks, image = task / plan.boxes / plan.blocks;
      if (gather_planes(problem, plan, source, packed, target, workspace, image, block, box)) continue;
      for (int64_t c = block * kLanes<T>; c < smaller(plan.channels, (block + 1) * kLanes<T>); ++c)
        gather_far(problem, source, packed, target, image, c, box);
    }
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
    weight += packed_size<T>(problem.phase[p]);
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
  bool fetched;  // ahead of use
};

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
  const auto bytes = [&] {
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
  plan.fits = bytes() <= kBufferLimit;
  int64_t source_bytes = plan.channels * sizeof(T);
  for (int axis = 0; axis < kAxes; ++axis) source_bytes *= problem.source_size[axis];
  plan.fetched = plan.blocks_of_task > 1 && source_bytes > kFarBytes;
  plan.units = problem.grid[0] * plan.boxes;
  const int64_t parallel = plan.blocks / plan.blocks_of_task;
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
    for (int k = 0; k < kWidth; ++k) sum[e][k] = load(sums + (e * kWidth + k) * kLanes<T>);
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
    for (int k = 0; k < kWidth; ++k) store(sums + (e * kWidth + k) * kLanes<T>, sum[e][k]);
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
      source_stride[2] = lanes;
      source_stride[1] = read.size(2) * lanes;
      source_stride[0] = read.size(1) * source_stride[1];
      for (int d = 0; d < kSpatial; ++d) source_start -= read.first[d] * source_stride[d];
      const auto block_rows =
          lane_block<T>(x, problem.source_channel_stride, plan.channels, channel, 1, problem.gradient_channels, 0);
      visit_box(read, problem.source_stride + 1, [&](int64_t offset, int64_t at, int64_t count) {
        read_lanes(block_rows, offset, problem.source_stride[3], count, source_buffer + at * lanes);
      });
      x = source_buffer;
    }
    if (plan.gradient_in_place) {
      for (int d = 0; d < kSpatial; ++d) gradient_stride[d] = problem.gradient_stride[d + 1];
    } else {
      gradient_stride[2] = lanes;
      gradient_stride[1] = box.size(2) * lanes;
      gradient_stride[0] = box.size(1) * gradient_stride[1];
      for (int d = 0; d < kSpatial; ++d) gradient_start -= box.first[d] * gradient_stride[d];
      const auto block_rows =
          lane_block<T>(g, problem.gradient_channel_stride, plan.channels, channel, 1, problem.source_channels, 0);
      visit_box(box, problem.gradient_stride + 1, [&](int64_t offset, int64_t at, int64_t count) {
        read_lanes(block_rows, offset, problem.gradient_stride[3], count, gradient_buffer + at * lanes);
      });
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
      run(rows, entries.count, partial + b * problem.taps * lanes);
    }
  }
}

template <typename T>
void correlate(const CorrelationProblem& problem, const T* source, const T* gradient, T* partial, T* workspace,
               int64_t first, int64_t last) {
  const CorrelationPlan plan = correlation_plan<T>(problem);
  for (int64_t task = first; task < last; ++task)
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
