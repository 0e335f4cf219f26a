// Convolutions whose windows do not overlap are products of matrices, windows by elements of a window. Contiguous
// images give vectors of windows: rows of the image are split into a row for every tap on the way in, and joined on the
// way out. Channels last a window's rows are consecutive elements, read and written where they stand. One register tile
// serves all: rows are windows or elements of a broadcast operand, vectors are consecutive elements of the other.
#include "patches.h"

#include "lanes.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

constexpr int64_t kPositions = 256;  // windows of a block
constexpr int64_t kColumns = 1024;   // ... of single elements side by side
constexpr int64_t kBlockBytes = 512 << 10;
constexpr int64_t kLeastTasks = 8;
constexpr int64_t kGroupBytes = 256 << 10;  // of panels that stay in the second-level cache
constexpr int64_t kWindowChain = 128;       // terms of a window that are summed at once
constexpr int64_t kFewElements = 12;        // of a target: the built-in's are dot products with sums in every lane,
constexpr int64_t kShortChain = 16;         // whose errors these chains have
constexpr int64_t kSumPositions = 64;       // windows that are summed at once
constexpr int64_t kFewWindows = 1024;       // half as many where these are all: the built-in's errors are small there
constexpr int64_t kSumColumns = 256;        // windows of single elements whose vectors are made at once
constexpr int64_t kMostSumBytes = 4 << 20;
constexpr int64_t kTaskElements = 256;  // elements of a window that a task sums
constexpr int64_t kEnoughTasks = 16;    // fewer are also split over slices of the windows, as the shape says
constexpr int64_t kSliceBlocks = 8;     // that pay for a slice

// ---------------------------------------------------------------------------------------------
// Where elements stand

// An image as windows of lines of `run` consecutive elements.
struct Side {
  int64_t lines[kSpatial], line_stride[kSpatial], run;
  int64_t image, depth, row, column;  // from one window to the next
  int64_t all_lines() const { return lines[0] * lines[1] * lines[2]; }
  int64_t elements() const { return all_lines() * run; }
  int64_t line(int64_t index) const {
    return index / (lines[1] * lines[2]) * line_stride[0] + index / lines[2] % lines[1] * line_stride[1] +
           index % lines[2] * line_stride[2];
  }
};

Side side_of(const PatchProblem& p, int64_t channels, const int64_t* size, const int64_t* kernel,
             const int64_t* stride) {
  const int64_t pixel = p.channels_last ? channels : 1, row = size[2] * pixel, plane = size[1] * row;
  const int64_t blocks = p.channels_last ? 1 : channels, block = size[0] * plane;
  return {{blocks, kernel[0], kernel[1]},
          {block, plane, row},
          kernel[2] * pixel,
          blocks * block,
          stride[0] * plane,
          stride[1] * row,
          stride[2] * pixel};
}

constexpr int64_t kOne[kSpatial] = {1, 1, 1};

Side windows_of(const PatchProblem& p) { return side_of(p, p.channels, p.size, p.kernel, p.stride); }
Side values_of(const PatchProblem& p) { return side_of(p, p.outputs, p.grid, kOne, kOne); }

// Whether the windows of contiguous images are single elements side by side, so that both sides are rows of positions.
bool has_rows(const PatchProblem& p) {
  return !p.channels_last && p.size[0] * p.size[1] == 1 && p.kernel[2] == 1 && p.stride[2] == 1;
}

// Blocks of rows of windows, or of parts of rows; those of contiguous images do not go beyond an image.
struct Blocks {
  int64_t images, image_rows;  // rows of an image
  int64_t rows, columns, row_blocks, column_blocks, count;
};

Blocks blocks_of(const PatchProblem& p, int64_t positions, int64_t least_blocks) {
  Blocks b = {};
  b.images = p.channels_last ? 1 : p.batch;
  b.image_rows = p.batch / b.images * p.grid[0] * p.grid[1];
  b.column_blocks = up(p.grid[2], positions);
  b.columns = up(p.grid[2], b.column_blocks);
  b.column_blocks = up(p.grid[2], b.columns);
  const int64_t most = smaller(larger(1, positions / b.columns), up(b.images * b.image_rows, least_blocks));
  b.row_blocks = up(b.image_rows, most);
  b.rows = up(b.image_rows, b.row_blocks);
  b.row_blocks = up(b.image_rows, b.rows);
  b.count = b.images * b.row_blocks * b.column_blocks;
  return b;
}

struct Block {
  int64_t row, rows, column, columns;
  int64_t positions() const { return rows * columns; }
};

Block block_at(const PatchProblem& p, const Blocks& b, int64_t index) {
  const int64_t column = index % b.column_blocks * b.columns, rest = index / b.column_blocks;
  const int64_t row = rest % b.row_blocks * b.rows;
  return {rest / b.row_blocks * b.image_rows + row, smaller(b.rows, b.image_rows - row), column,
          smaller(b.columns, p.grid[2] - column)};
}

// Where the rows of a block begin.
void places_of(const PatchProblem& p, const Side& side, const Block& block, int64_t* place) {
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t row = block.row + i, slab = row / p.grid[1];
    place[i] = slab / p.grid[0] * side.image + slab % p.grid[0] * side.depth + row % p.grid[1] * side.row +
               block.column * side.column;
  }
}

template <typename T>
int64_t place_elements(const Blocks& b, int64_t lines = 0) {
  return up((2 * b.rows + lines) * static_cast<int64_t>(sizeof(int64_t)), kCacheLine) * kCacheLine /
         static_cast<int64_t>(sizeof(T));
}

// ---------------------------------------------------------------------------------------------
// Rows of taps that lie side by side, split into a row for every tap, and joined

template <int kRun, typename T>
TORCHBP_INLINE void split(Vector<T>* v) {
#pragma GCC unroll 4
  for (int round = 1; round < kRun; round *= 2) {
    Vector<T> turned[kRun];
#pragma GCC unroll 8
    for (int i = 0; i < kRun / 2; ++i) {
      turned[i] = even_places(v[2 * i], v[2 * i + 1]);
      turned[i + kRun / 2] = odd_places(v[2 * i], v[2 * i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRun; ++i) v[i] = turned[i];
  }
}

template <int kRun, typename T>
TORCHBP_INLINE void join(Vector<T>* v) {
#pragma GCC unroll 4
  for (int round = 1; round < kRun; round *= 2) {
    Vector<T> turned[kRun];
#pragma GCC unroll 8
    for (int i = 0; i < kRun / 2; ++i) {
      turned[2 * i] = first_of_pairs(v[i], v[i + kRun / 2]);
      turned[2 * i + 1] = rest_of_pairs(v[i], v[i + kRun / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRun; ++i) v[i] = turned[i];
  }
}

// How taps lie in a row: kRun to a window, every kStep elements. Without a step, which is a power of two, they are
// split and joined one by one.
template <int kRun, int kStep>
struct Taps {
  static constexpr int run = kRun, step = kStep;
};

// Calls body(Taps) for the rows of a side, with a run of zero for those without vectors.
template <typename Body>
TORCHBP_INLINE void with_taps(const Side& side, const Body& body) {
  if (side.run == 1 && side.column == 2) return body(Taps<1, 2>{});
  switch (side.column == side.run ? side.run : 0) {
    case 1:
      return body(Taps<1, 1>{});
    case 2:
      return body(Taps<2, 2>{});
    case 3:
      return body(Taps<3, 0>{});
    case 4:
      return body(Taps<4, 4>{});
    case 16:
      return body(Taps<16, 16>{});
    default:
      return body(Taps<0, 0>{});
  }
}

// to[tap][window] of `count` windows. A vector may be stored beyond the end of a row, where the next one is stored.
template <int kRun, int kStep, typename T>
TORCHBP_INLINE void split_row(const T* from, int64_t count, T* to, int64_t pitch) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t i = 0; i < count; i += lanes, from += kStep * lanes) {
    const int64_t left = (count - i - 1) * kStep + kRun;
    Vector<T> v[kStep];
    if (left >= kStep * lanes) {
#pragma GCC unroll 16
      for (int r = 0; r < kStep; ++r) v[r] = load(from + r * lanes);
    } else {
      for (int r = 0; r < kStep; ++r) v[r] = load_first(from + r * lanes, larger(0, smaller(lanes, left - r * lanes)));
    }
    split<kStep, T>(v);
#pragma GCC unroll 16
    for (int r = 0; r < kRun; ++r) store(to + r * pitch + i, v[r]);
  }
}

// The same one by one.
template <int kRun, typename T>
void split_row(const Side& side, const T* __restrict__ from, int64_t count, T* __restrict__ to, int64_t pitch) {
  const int64_t run = kRun > 0 ? kRun : side.run, step = kRun > 0 ? kRun : side.column;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t r = 0; r < run; ++r) to[r * pitch + i] = from[i * step + r];
}

// to[line][tap][window] of a block, with rows `pitch` apart, in the order of memory. A last vector ends with zeros, for
// what was in the buffer may be slow to multiply.
template <typename T>
void fill(const Side& side, const Block& block, const int64_t* place, const T* source, int64_t first_line,
          int64_t last_line, T* buffer, int64_t pitch) {
  const bool whole = side.column == 1 && place[block.rows - 1] - place[0] == (block.rows - 1) * block.columns;
  const int64_t rows = whole ? 1 : block.rows, columns = whole ? block.positions() : block.columns;
  with_taps(side, [&](auto taps) {
    T* to = buffer;
    for (int64_t line = first_line; line < last_line; line += side.lines[2], to += side.lines[2] * side.run * pitch) {
      const T* from = source + side.line(line);
      for (int64_t i = 0; i < side.lines[2] * side.run; ++i)
        store(to + i * pitch + block.positions() / kLanes<T> * kLanes<T>, Vector<T>{});
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t h = 0; h < side.lines[2]; ++h) {
          const T* row = from + place[r] + h * side.line_stride[2];
          T* at = to + h * side.run * pitch + r * columns;
          if constexpr (taps.step > 0)
            split_row<taps.run, taps.step>(row, columns, at, pitch);
          else
            split_row<taps.run>(side, row, columns, at, pitch);
        }
    }
  });
}

template <typename T>
int64_t pitch_of(const Blocks& b) {
  return (up(b.rows * b.columns, kLanes<T>) + 1) * kLanes<T>;
}

// ---------------------------------------------------------------------------------------------
// The register tile

// left[line][row][k] and right[line * depth + k][vector].
template <typename T>
struct Factors {
  const T* left;
  int64_t left_row, left_step;
  const int64_t* line;
  int64_t lines, depth;
  const T* right;
  int64_t right_step, right_vector;
};

// What sums start from, and where they go: rows apart or, joined, in pairs, `line` for every pair and `first` for every
// vector.
template <typename T>
struct Sums {
  const T* start;
  int64_t start_row, start_vector;
  T* to;
  int64_t to_row, to_vector;
  T* const* line;
  const int64_t* first;
  int64_t last;  // elements of the last vector, where it is not whole
};

// to[row][vector] = start[row][vector] + sum over lines and k of left[line][row][k] * right[line, k][vector]
template <typename T, int kTileRows, int kWide, bool kPairs>
__attribute__((noinline)) void multiply(const Factors<T>& f, const Sums<T>& s) {
  constexpr int kGroup = 3, kGroups = (kTileRows + kGroup - 1) / kGroup;
  Vector<T> sum[kTileRows][kWide];
#pragma GCC unroll 12
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) sum[r][v] = Vector<T>{};
  const int64_t row = f.left_row, step = f.left_step, right_step = f.right_step, right_vector = f.right_vector;
  const T* right = f.right;
  if constexpr (!kPairs) {  // what is written is fetched meanwhile
#pragma GCC unroll 12
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) __builtin_prefetch(s.to + r * s.to_row + v * s.to_vector, 1);
  }
  for (int64_t line = 0; line < f.lines; ++line) {
    const T* left[kGroups];
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) left[g] = f.left + f.line[line] + g * kGroup * row;
    for (int64_t k = f.depth; k > 0; --k) {
      Vector<T> column[kWide];
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) column[v] = load(right + v * right_vector);
#pragma GCC unroll 12
      for (int r = 0; r < kTileRows; ++r) {
        const T scalar = left[r / kGroup][r % kGroup * row];
#pragma GCC unroll 2
        for (int v = 0; v < kWide; ++v) sum[r][v] += column[v] * scalar;
      }
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) left[g] += step;
      right += right_step;
    }
  }
  const auto [start, start_row, start_vector, to, to_row, to_vector, pair, first, last] = s;
  if (!kPairs && last > 0) {
#pragma GCC unroll 12
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) {
        const T* from = start + r * start_row + v * start_vector;
        T* at = to + r * to_row + v * to_vector;
        if (v < kWide - 1)
          store<T>(at, sum[r][v] + load(from));
        else
          store_first<T>(at, sum[r][v] + load_first(from, last), last);
      }
    return;
  }
#pragma GCC unroll 12
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) sum[r][v] += load(start + r * start_row + v * start_vector);
#pragma GCC unroll 12
  for (int r = 0; r < kTileRows; r += kPairs ? 2 : 1)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) {
      if constexpr (kPairs) {
        T* at = pair[r / 2] + first[v];
        store(at, first_of_pairs(sum[r][v], sum[r + 1][v]));
        store(at + kLanes<T>, rest_of_pairs(sum[r][v], sum[r + 1][v]));
      } else {
        store(to + r * to_row + v * to_vector, sum[r][v]);
      }
    }
}

template <typename T, int kTileRows, int kWide, bool kPairs>
void multiply_rows(int64_t rows, const Factors<T>& f, const Sums<T>& s) {
  constexpr int kFewer = kPairs ? 2 : 1;
  if constexpr (kTileRows > kFewer) {
    if (rows < kTileRows) return multiply_rows<T, kTileRows - kFewer, kWide, kPairs>(rows, f, s);
  }
  multiply<T, kTileRows, kWide, kPairs>(f, s);
}

template <typename T>
void multiply(int64_t rows, int64_t vectors, const Factors<T>& f, const Sums<T>& s) {
  constexpr int kMost = static_cast<int>(kRows);
  if (s.line != nullptr)
    vectors == 1 ? multiply_rows<T, kMost, 1, true>(rows, f, s) : multiply_rows<T, kMost, 2, true>(rows, f, s);
  else
    vectors == 1 ? multiply_rows<T, kMost, 1, false>(rows, f, s) : multiply_rows<T, kMost, 2, false>(rows, f, s);
}

// Pieces of a sum over lines of depth terms, each of no more than so many terms.
struct Pieces {
  int64_t lines, depth, together, chain;
};

Pieces pieces_of(int64_t lines, int64_t depth, int64_t terms) {
  return {lines, depth, larger(1, terms / depth), up(depth, up(depth, terms))};
}

// Calls body(line, lines, k, depth) for each.
template <typename Body>
TORCHBP_INLINE void for_pieces(const Pieces& p, const Body& body) {
  for (int64_t line = 0; line < p.lines; line += p.together)
    for (int64_t k = 0; k < p.depth; k += p.chain)
      body(line, smaller(p.together, p.lines - line), k, smaller(p.chain, p.depth - k));
}

int64_t chain_of(const Side& target, int64_t chain) { return target.elements() < kFewElements ? kShortChain : chain; }

// Adds to what is there.
template <typename T>
void add_to(Sums<T>& s) {
  s.start = s.to;
  s.start_row = s.to_row;
  s.start_vector = s.to_vector;
}

constexpr int64_t kNoLine[1] = {0};

// ---------------------------------------------------------------------------------------------
// Values of windows, and windows of values

Side source_of(const PatchProblem& p, bool to_windows) { return to_windows ? values_of(p) : windows_of(p); }
Side target_of(const PatchProblem& p, bool to_windows) { return to_windows ? windows_of(p) : values_of(p); }

template <typename T>
Blocks gather_blocks(const PatchProblem& p, bool to_windows) {
  if (p.channels_last) {
    const int64_t share = up(up(p.batch * p.grid[0] * p.grid[1] * p.grid[2], kLeastTasks), kRows) * kRows;
    return blocks_of(p, smaller(kPositions, share), kLeastTasks);
  }
  const int64_t bytes = source_of(p, to_windows).elements() * static_cast<int64_t>(sizeof(T));
  const int64_t most = has_rows(p) ? kColumns : kPositions;
  return blocks_of(p, smaller(most, larger(2 * kLanes<T>, kBlockBytes / bytes)), kLeastTasks);
}

template <typename T>
int64_t line_vectors(const Side& side) {
  return up(side.run, kLanes<T>);
}

template <typename T>
int64_t target_vectors(const Side& target) {
  return target.all_lines() * line_vectors<T>(target);
}

// Of contiguous images, lines of the target whose elements are computed together.
struct Group {
  int64_t first, last;
};

constexpr int64_t kMostLines = 12;
int64_t group_size(const Side& target) { return target.run * larger(1, kMostLines / target.run); }
int64_t groups_of(const Side& target) { return up(target.elements(), group_size(target)); }
Group group_at(const Side& target, int64_t index) {
  const int64_t lines = target.all_lines(), groups = groups_of(target);
  return {index * lines / groups, (index + 1) * lines / groups};
}

// Channels last a panel is a row of starts, then [source element][target element] for two vectors; otherwise it has the
// starts of the elements of a group, each as a vector, then [source element][target element].
template <typename T>
int64_t panels(const PatchProblem& p, bool to_windows) {
  const Side target = target_of(p, to_windows);
  return p.channels_last ? up(target_vectors<T>(target), kVectors) : groups_of(target);
}

template <typename T>
int64_t panel_size(const PatchProblem& p, bool to_windows) {
  const int64_t depth = source_of(p, to_windows).elements();
  return p.channels_last ? kPanel<T> * (depth + 1) : group_size(target_of(p, to_windows)) * (depth + kLanes<T>);
}

// to[k][row] of some rows, no more than a vector has lanes; zero in what room there is beyond them.
template <typename T>
void pack_transposed(const T* from, int64_t stride, int64_t rows, int64_t depth, T* to, int64_t step, int64_t room) {
  constexpr int64_t lanes = kLanes<T>;
  alignas(64) T square[lanes * lanes];
  for (int64_t k = 0; k < depth; k += lanes) {
    const int64_t many = smaller(lanes, depth - k);
    to_lanes(from + k, stride, rows, many, square);
    for (int64_t i = 0; i < many; ++i) store_first<T>(to + (k + i) * step, load(square + i * lanes), room);
  }
}

template <typename T>
void pack(const PatchProblem& p, bool to_windows, const T* weight, const T* bias, T* packed, int64_t panel) {
  constexpr int64_t lanes = kLanes<T>;
  const Side source = source_of(p, to_windows), target = target_of(p, to_windows);
  const int64_t size = windows_of(p).elements(), taps = size / p.channels, depth = source.elements();
  packed += panel * panel_size<T>(p, to_windows);
  const auto start = [&](int64_t element) {
    if (bias == nullptr) return T(0);
    if (!to_windows) return bias[element];
    return bias[p.channels_last ? element % p.channels : element / taps];
  };
  if (!p.channels_last) {
    const Group group = group_at(target, panel);
    const int64_t width = group_size(target), first = group.first * target.run;
    const int64_t many = (group.last - group.first) * target.run;
    T* to = packed + width * lanes;
    for (int64_t i = 0; i < many; ++i)
      for (int64_t lane = 0; lane < lanes; ++lane) packed[i * lanes + lane] = start(first + i);
    if (to_windows)
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t i = 0; i < many; ++i) to[k * width + i] = weight[k * size + first + i];
    else
      for (int64_t i = 0; i < many; i += lanes)
        pack_transposed(weight + (first + i) * size, size, smaller(lanes, many - i), depth, to + i, width,
                        smaller(lanes, width - i));
    return;
  }
  const int64_t of_line = line_vectors<T>(target), target_stride = to_windows ? 1 : size;
  const int64_t source_stride = to_windows ? size : 1;
  for (int64_t v = 0; v < kVectors; ++v) {
    const int64_t vector = panel * kVectors + v, at = vector % of_line * lanes;
    if (vector >= target.all_lines() * of_line) return;
    const int64_t count = smaller(lanes, target.run - at), element = vector / of_line * target.run + at;
    T* to = packed + v * lanes;
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane] = lane < count ? start(element + lane) : T(0);
    to += kPanel<T>;
    const T* from = weight + element * target_stride;
    if (target_stride == 1) {
      for (int64_t k = 0; k < depth; ++k) store<T>(to + k * kPanel<T>, load_first(from + k * source_stride, count));
    } else {
      pack_transposed(from, target_stride, count, depth, to, kPanel<T>, lanes);
    }
  }
}

template <typename T>
int64_t gather_tasks(const PatchProblem& p, bool to_windows) {
  return gather_blocks<T>(p, to_windows).count;
}

// Consecutive windows of a block, for vectors of a tile: the row and the column of the first one and where it stands.
struct Span {
  int64_t count;
  bool whole;  // no vector goes beyond a row
  int64_t row[kVectors], column[kVectors], first[kVectors];
};

template <typename T>
Span span_of(int64_t at, int64_t count, int64_t columns, int64_t column_stride, const int64_t* place) {
  Span span = {count, true, {}, {}, {}};
  for (int64_t v = 0; v * kLanes<T> < count; ++v) {
    const int64_t window = at + v * kLanes<T>, row = window / columns, column = window % columns;
    span.whole = span.whole && count - v * kLanes<T> >= kLanes<T> && column + kLanes<T> <= columns;
    span.row[v] = row;
    span.column[v] = column;
    span.first[v] = place[row] + column * column_stride;
  }
  return span;
}

// Lanes first .. last - 1, every kEvery-th of them.
template <typename T, int kEvery>
TORCHBP_INLINE Mask<T> lanes_between(int64_t first, int64_t last) {
  const auto clamped = [](int64_t lane) { return first_lanes<T>(larger(0, smaller(kLanes<T>, lane))); };
  Mask<T> mask = static_cast<Mask<T>>(clamped(last) & ~clamped(first));
#if TORCHBP_VECTOR_BYTES == 64
  if constexpr (kEvery == 2) mask &= 0x5555;
#else
  if constexpr (kEvery == 2) mask &= (lane_numbers<T>() & 1) == 0;
#endif
  return mask;
}

// Writes a tile's rows of taps, joined; what lies between the taps is left alone.
template <int kRun, int kStep, typename T>
TORCHBP_INLINE void join_rows(const T* rows, const Span& span, int64_t columns, const int64_t* place, T* to) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t i = 0; i < span.count; i += lanes) {
    Vector<T> v[kStep];
#pragma GCC unroll 16
    for (int r = 0; r < kStep; ++r) v[r] = load(rows + (r < kRun ? r : 0) * kPanel<T> + i);
    join<kStep, T>(v);
    if (kRun == kStep && span.whole) {
#pragma GCC unroll 16
      for (int r = 0; r < kStep; ++r) store(to + span.first[i / lanes] + r * lanes, v[r]);
      continue;
    }
    const int64_t many = smaller(lanes, span.count - i);
    int64_t row = span.row[i / lanes], column = span.column[i / lanes];
    for (int64_t done = 0; done < many; ++row, column = 0) {
      const int64_t end = smaller(many, done + columns - column);
      T* out = to + place[row] + (column - done) * kStep;
#pragma GCC unroll 16
      for (int r = 0; r < kStep; ++r)
        store_masked(out + r * lanes, v[r],
                     lanes_between<T, kStep / kRun>(done * kStep - r * lanes, end * kStep - r * lanes));
      done = end;
    }
  }
}

// The same one by one.
template <int kRun, typename T>
void join_rows(const Side& side, const T* __restrict__ rows, const Span& span, int64_t columns, const int64_t* place,
               T* __restrict__ to) {
  const int64_t run = kRun > 0 ? kRun : side.run, step = kRun > 0 ? kRun : side.column;
  int64_t row = span.row[0], column = span.column[0];
  for (int64_t done = 0; done < span.count; ++row, column = 0) {
    const int64_t many = smaller(span.count - done, columns - column);
    T* out = to + place[row] + column * step;
    for (int64_t i = 0; i < many; ++i)
      for (int64_t r = 0; r < run; ++r) out[i * step + r] = rows[r * kPanel<T> + done + i];
    done += many;
  }
}

template <typename T>
int64_t gather_workspace(const PatchProblem& p, bool to_windows) {
  const Side source = source_of(p, to_windows);
  const Blocks b = gather_blocks<T>(p, to_windows);
  const int64_t positions = b.rows * b.columns;
  if (p.channels_last) {
    const int64_t numbers = source.all_lines() + 2 * target_vectors<T>(target_of(p, to_windows));
    return place_elements<T>(b, numbers) + kRows * kPanel<T>;
  }
  if (has_rows(p)) return place_elements<T>(b) + source.elements() * up(positions, kPanel<T>) * kPanel<T>;
  return place_elements<T>(b) + source.elements() * pitch_of<T>(b) + group_size(target_of(p, to_windows)) * kPanel<T> +
         up(positions, kPanel<T>) * static_cast<int64_t>(sizeof(Span) / sizeof(T));
}

// The block of a task, and where its rows begin on both sides; `end` is what follows in the workspace.
struct Passage {
  Side from, to;
  Blocks blocks;
  Block block;
  int64_t *from_place, *to_place, *end;
};

template <typename T>
Passage passage_of(const PatchProblem& p, bool to_windows, T* workspace, int64_t task) {
  Passage passage = {
      source_of(p, to_windows), target_of(p, to_windows), gather_blocks<T>(p, to_windows), {}, {}, {}, {}};
  passage.block = block_at(p, passage.blocks, task);
  passage.from_place = reinterpret_cast<int64_t*>(workspace);
  passage.to_place = passage.from_place + passage.blocks.rows;
  passage.end = passage.to_place + passage.blocks.rows;
  places_of(p, passage.from, passage.block, passage.from_place);
  places_of(p, passage.to, passage.block, passage.to_place);
  return passage;
}

// A vector of the target channels last: where it stands in a window or value, and how many of its lanes do.
struct TargetVector {
  int64_t place, count;
};

template <typename T>
void list_vectors(const Side& target, TargetVector* vector) {
  for (int64_t line = 0; line < target.all_lines(); ++line)
    for (int64_t element = 0; element < target.run; element += kLanes<T>)
      *vector++ = {target.line(line) + element, smaller(kLanes<T>, target.run - element)};
}

// Channels last: rows of the tile are windows. Panels that stay in the second-level cache are run through for every
// tile, so that its windows are read, and its values written, while they are in the first-level cache.
template <typename T>
void gather_pixels(const PatchProblem& p, bool to_windows, const T* source, const T* packed, T* target, T* workspace,
                   int64_t task) {
  constexpr int64_t lanes = kLanes<T>;
  const Passage passage = passage_of(p, to_windows, workspace, task);
  const Side &from = passage.from, &to = passage.to;
  const Block& block = passage.block;
  const int64_t lines = from.all_lines(), vectors = target_vectors<T>(to), size = panel_size<T>(p, to_windows);
  int64_t* line_at = passage.end;
  TargetVector* listed = reinterpret_cast<TargetVector*>(line_at + lines);
  T* product = workspace + place_elements<T>(passage.blocks, lines + 2 * vectors);
  const int64_t together = larger(1, kGroupBytes / (size * static_cast<int64_t>(sizeof(T)))) * kVectors;
  const int64_t step = up(block.columns, up(block.columns, kRows));
  // Where windows follow each other, those of the next tile are fetched meanwhile, a share with every panel.
  const int64_t share = lines == 1 ? up(step * from.column, up(vectors, kVectors)) : 0;
  const Pieces pieces = pieces_of(lines, from.run, chain_of(to, kWindowChain));
  for (int64_t line = 0; line < lines; ++line) line_at[line] = from.line(line);
  list_vectors<T>(to, listed);
  for (int64_t begin = 0; begin < vectors; begin += together)
    for (int64_t row = 0; row < block.rows; ++row)
      for (int64_t first = 0; first < block.columns; first += step) {
        const int64_t many = smaller(step, block.columns - first);
        const T* windows = source + passage.from_place[row] + first * from.column;
        T* values = target + passage.to_place[row] + first * to.column;
        for (int64_t vector = begin; vector < smaller(vectors, begin + together); vector += kVectors) {
          const T* panel = packed + vector / kVectors * size;
          const int64_t wide = smaller(kVectors, vectors - vector);
          const TargetVector &one = listed[vector], &last = listed[vector + wide - 1];
          const bool whole = one.count == lanes && last.count == lanes;
          Sums<T> sums = {panel, 0, lanes, product, kPanel<T>, lanes, nullptr, nullptr, 0};
          if (whole) {
            sums.to = values + one.place;
            sums.to_row = to.column;
            sums.to_vector = last.place - one.place;
          }
          const T* right = panel + kPanel<T>;
          const T* next = windows + step * from.column + vector / kVectors * share;
          for (int64_t i = 0; begin == 0 && i < share; i += kCacheLine / static_cast<int64_t>(sizeof(T)))
            __builtin_prefetch(next + i);
          for_pieces(pieces, [&](int64_t line, int64_t of_piece, int64_t k, int64_t depth) {
            multiply<T>(many, wide,
                        {windows + k, from.column, 1, line_at + line, of_piece, depth, right, kPanel<T>, lanes}, sums);
            add_to(sums);
            right += of_piece * depth * kPanel<T>;
          });
          if (whole) continue;
          for (int64_t i = 0; i < many; ++i) {
            store_first<T>(values + i * to.column + one.place, load(product + i * kPanel<T>), one.count);
            if (wide > 1)
              store_first<T>(values + i * to.column + last.place, load(product + i * kPanel<T> + lanes), last.count);
          }
        }
      }
}

// Contiguous: vectors of the tile are windows.
template <typename T>
void gather_planes(const PatchProblem& p, bool to_windows, const T* source, const T* packed, T* target, T* workspace,
                   int64_t task) {
  constexpr int64_t lanes = kLanes<T>;
  const Passage passage = passage_of(p, to_windows, workspace, task);
  const Side &from = passage.from, &to = passage.to;
  const Blocks& b = passage.blocks;
  const Block& block = passage.block;
  const int64_t *from_place = passage.from_place, *to_place = passage.to_place;
  T* rows = workspace + place_elements<T>(b);
  const int64_t depth = from.elements(), pitch = pitch_of<T>(b), count = block.positions();
  T* product = rows + depth * pitch;
  Span* spans = reinterpret_cast<Span*>(product + group_size(to) * kPanel<T>);
  fill<T>(from, block, from_place, source, 0, from.all_lines(), rows, pitch);
  const int64_t width = group_size(to), groups = groups_of(to);
  const Pieces pieces = pieces_of(1, depth, chain_of(to, kChain));
  const int64_t pair = to.run == 2 && to.column == 2 ? 2 : 1;  // rows that are joined in registers
  const int64_t columns = to_windows ? block.columns : count;  // values of an image follow each other
  for (int64_t q = 0; q < count; q += kPanel<T>)
    spans[q / kPanel<T>] = span_of<T>(q, smaller(kPanel<T>, count - q), columns, to.column, to_place);
  for (int64_t index = 0; index < groups; ++index, packed += panel_size<T>(p, to_windows)) {
    const auto [line, last_line] = group_at(to, index);
    const int64_t many = (last_line - line) * to.run;
    const int64_t step = up(many, pair * up(many, kRows)) * pair;
    T* line_at[kMostLines];
    for (int64_t i = line; i < last_line; ++i) line_at[i - line] = target + to.line(i);
    for (int64_t q = 0; q < count; q += kPanel<T>) {
      const Span& span = spans[q / kPanel<T>];
      const int64_t wide = span.count > lanes ? kVectors : 1;
      const bool in_place = !to_windows && span.whole;
      const bool joins = span.whole && pair == 2;
      for (int64_t first = 0; first < many; first += step) {
        Sums<T> sums = {
            packed + first * lanes, lanes, 0, product + first * kPanel<T>, kPanel<T>, lanes, nullptr, nullptr, 0};
        if (in_place) {
          sums.to = line_at[first] + span.first[0];
          sums.to_row = to.line_stride[0];
        }
        for_pieces(pieces, [&](int64_t, int64_t, int64_t k, int64_t terms) {
          if (joins && k + terms == depth) {
            sums.line = line_at + first / 2;
            sums.first = span.first;
          }
          multiply<T>(smaller(step, many - first), wide,
                      {packed + width * lanes + k * width + first, 1, width, kNoLine, 1, terms, rows + k * pitch + q,
                       pitch, lanes},
                      sums);
          add_to(sums);
        });
      }
      if (in_place || joins) continue;
      with_taps(to, [&](auto taps) {
        for (int64_t i = line; i < last_line; ++i) {
          const T* joined = product + (i - line) * to.run * kPanel<T>;
          if constexpr (taps.step > 0)
            join_rows<taps.run, taps.step>(joined, span, columns, to_place, line_at[i - line]);
          else
            join_rows<taps.run>(to, joined, span, columns, to_place, line_at[i - line]);
        }
      });
    }
  }
}

// Contiguous windows of single elements side by side: vectors of the tile are consecutive elements of a row on both
// sides. The source is copied as [two vectors of windows][element][window].
template <typename T>
void gather_rows(const PatchProblem& p, bool to_windows, const T* source, const T* packed, T* target, T* workspace,
                 int64_t task) {
  constexpr int64_t lanes = kLanes<T>;
  const Passage passage = passage_of(p, to_windows, workspace, task);
  const Side &from = passage.from, &to = passage.to;
  const int64_t depth = from.elements(), count = passage.block.positions(), whole = count / kPanel<T> * kPanel<T>;
  const int64_t width = group_size(to), groups = groups_of(to), size = depth * kPanel<T>;
  const Pieces pieces = pieces_of(1, depth, chain_of(to, kChain));
  T* columns = workspace + place_elements<T>(passage.blocks);
  for (int64_t k = 0; k < depth; ++k) {
    const T* row = source + passage.from_place[0] + k * from.line_stride[0];
    T* at = columns + k * kPanel<T>;
    for (int64_t q = 0; q < whole; q += kPanel<T>, at += size)
      for (int64_t v = 0; v < kPanel<T>; v += lanes) store(at + v, load(row + q + v));
    for (int64_t q = whole; q < count; q += lanes, at += lanes)
      store<T>(at, load_first(row + q, smaller(lanes, count - q)));
  }
  target += passage.to_place[0];
  for (int64_t index = 0; index < groups; ++index, packed += panel_size<T>(p, to_windows)) {
    const auto [first_row, last_row] = group_at(to, index);
    const int64_t many = last_row - first_row, step = up(many, up(many, kRows));
    for (int64_t row = 0; row < many; row += step) {
      const T* left = packed + width * lanes + row;
      const T* right = columns;
      for (int64_t q = 0; q < count; q += kPanel<T>, right += size) {
        const int64_t present = smaller(kPanel<T>, count - q), wide = up(present, lanes);
        Sums<T> sums = {packed + row * lanes, lanes, 0,       target + (first_row + row) * to.line_stride[0] + q,
                        to.line_stride[0],    lanes, nullptr, nullptr,
                        present % lanes};
        for_pieces(pieces, [&](int64_t, int64_t, int64_t k, int64_t terms) {
          multiply<T>(smaller(step, many - row), wide,
                      {left + k * width, 1, width, kNoLine, 1, terms, right + k * kPanel<T>, kPanel<T>, lanes}, sums);
          add_to(sums);
        });
      }
    }
  }
}

template <typename T>
void gather(const PatchProblem& p, bool to_windows, const T* source, const T* packed, T* target, T* workspace,
            int64_t task) {
  if (p.channels_last)
    gather_pixels(p, to_windows, source, packed, target, workspace, task);
  else if (has_rows(p))
    gather_rows(p, to_windows, source, packed, target, workspace, task);
  else
    gather_planes(p, to_windows, source, packed, target, workspace, task);
}

// ---------------------------------------------------------------------------------------------
// The weight gradient, summed as [element of a window][output]

// Of rows on both sides the shorter ones are made vectors: the sums are [output][channel] where those are the channels.
bool is_turned(const PatchProblem& p) { return has_rows(p) && p.channels < p.outputs; }

PatchProblem turned(PatchProblem p) {
  if (!is_turned(p)) return p;
  const int64_t channels = p.channels;
  p.channels = p.outputs;
  p.outputs = channels;
  return p;
}

struct SumPlan : Blocks {
  int64_t lines, line_blocks;  // lines of a window of a task
  int64_t slices, slice_blocks;
  int64_t width;  // outputs, whole vectors
  bool in_place;  // the values
};

template <typename T>
SumPlan sum_plan(const PatchProblem& original) {
  const PatchProblem p = turned(original);
  const Side windows = windows_of(p);
  SumPlan plan = {};
  plan.width = up(p.outputs, kLanes<T>) * kLanes<T>;
  const int64_t height = windows.lines[2];
  const int64_t bytes = larger(plan.width, height * windows.run) * static_cast<int64_t>(sizeof(T));
  const bool few = p.batch * p.grid[0] * p.grid[1] * p.grid[2] <= kFewWindows;
  const int64_t most = has_rows(p) ? kSumColumns : few ? kSumPositions / 2 : kSumPositions;
  static_cast<Blocks&>(plan) = blocks_of(p, smaller(most, larger(kLanes<T>, kMostSumBytes / bytes)), 1);
  const int64_t planes = windows.all_lines() / height;
  plan.lines = larger(1, kTaskElements / (height * windows.run));
  plan.line_blocks = up(planes, plan.lines);
  plan.lines = up(planes, plan.line_blocks);
  plan.line_blocks = up(planes, plan.lines);
  plan.lines *= height;
  plan.slices = smaller(up(plan.count, kSliceBlocks), up(kEnoughTasks, plan.line_blocks));
  plan.slice_blocks = up(plan.count, plan.slices);
  plan.slices = up(plan.count, plan.slice_blocks);
  plan.in_place = p.channels_last && plan.width == p.outputs;
  return plan;
}

template <typename T>
int64_t correlation_slices(const PatchProblem& p) {
  return sum_plan<T>(p).slices;
}

template <typename T>
int64_t correlation_size(const PatchProblem& p) {
  return windows_of(turned(p)).elements() * sum_plan<T>(p).width;
}

template <typename T>
int64_t correlation_tasks(const PatchProblem& p) {
  const SumPlan plan = sum_plan<T>(p);
  return plan.slices * plan.line_blocks;
}

template <typename T>
int64_t correlation_workspace(const PatchProblem& p) {
  const SumPlan plan = sum_plan<T>(p);
  return place_elements<T>(plan) + (plan.in_place ? 0 : plan.rows * plan.columns * plan.width) +
         (p.channels_last || has_rows(p) ? 0 : plan.lines * windows_of(p).run * pitch_of<T>(plan));
}

template <typename T>
void correlate(const PatchProblem& original, const T* source, const T* gradient, T* partial, T* workspace,
               int64_t task) {
  constexpr int64_t lanes = kLanes<T>;
  if (is_turned(original)) {
    const T* other = source;
    source = gradient;
    gradient = other;
  }
  const SumPlan plan = sum_plan<T>(original);
  const PatchProblem p = turned(original);
  const Side windows = windows_of(p), values = values_of(p);
  const int64_t slice = task / plan.line_blocks, line = task % plan.line_blocks * plan.lines;
  const int64_t lines = smaller(plan.lines, windows.all_lines() - line), run = windows.run;
  int64_t* window_place = reinterpret_cast<int64_t*>(workspace);
  int64_t* value_place = window_place + plan.rows;
  T* vectors = workspace + place_elements<T>(plan);
  T* rows = vectors + (plan.in_place ? 0 : plan.rows * plan.columns * plan.width);
  const int64_t pitch = pitch_of<T>(plan), segments = p.channels_last ? lines : 1;
  const int64_t segment = lines / segments * run, step = up(segment, up(segment, kRows));
  partial += (slice * windows.elements() + line * run) * plan.width;
  alignas(64) const T zero[lanes] = {};
  const int64_t begin = slice * plan.slice_blocks, end = smaller(plan.count, begin + plan.slice_blocks);
  for (int64_t index = begin; index < end; ++index) {
    const Block block = block_at(p, plan, index);
    const int64_t count = block.positions();
    places_of(p, windows, block, window_place);
    places_of(p, values, block, value_place);
    const T* values_at = gradient + value_place[0];
    Factors<T> factors = {};
    factors.right = vectors;
    factors.right_step = lanes;
    factors.right_vector = count * lanes;
    if (plan.in_place) {
      factors.right = values_at;
      factors.right_step = p.outputs;
      factors.right_vector = lanes;
    } else {
      for (int64_t v = 0; v < p.outputs; v += lanes) {
        const int64_t present = smaller(lanes, p.outputs - v);
        if (p.channels_last)
          for (int64_t i = 0; i < count; ++i)
            store<T>(vectors + v * count + i * lanes, load_first(values_at + i * p.outputs + v, present));
        else
          to_lanes(values_at + v * values.line_stride[0], values.line_stride[0], present, count, vectors + v * count,
                   v + lanes < p.outputs);
      }
    }
    if (p.channels_last) {
      factors.left_row = 1;
      factors.left_step = windows.column;
      factors.line = window_place;
      factors.lines = block.rows;
    } else {
      factors.left_row = pitch;
      factors.left_step = 1;
      factors.line = kNoLine;
      factors.lines = 1;
    }
    const T* left = rows;
    if (has_rows(p)) {
      factors.left_row = windows.line_stride[0];
      left = source + window_place[0] + line * factors.left_row;
    } else if (!p.channels_last) {
      fill<T>(windows, block, window_place, source, line, line + lines, rows, pitch);
    }
    const T* right = factors.right;
    const int64_t depth = p.channels_last ? block.columns : count;
    for_pieces(pieces_of(1, depth, kChain), [&](int64_t, int64_t, int64_t k, int64_t terms) {
      factors.depth = terms;
      for (int64_t s = 0; s < segments; ++s)
        for (int64_t first = 0; first < segment; first += step) {
          factors.left = (p.channels_last ? source + windows.line(line + s) + first : left + first * factors.left_row) +
                         k * factors.left_step;
          for (int64_t v = 0; v < plan.width; v += kPanel<T>) {
            factors.right = right + v / lanes * factors.right_vector + k * factors.right_step;
            T* to = partial + (s * segment + first) * plan.width + v;
            Sums<T> sums = {zero, 0, 0, to, plan.width, lanes, nullptr, nullptr, 0};
            if (index > begin || k > 0) add_to(sums);
            multiply<T>(smaller(step, segment - first), smaller(kVectors, (plan.width - v) / lanes), factors, sums);
          }
        }
    });
  }
}

template <typename T>
int64_t correlation_blocks(const PatchProblem& p) {
  return up(turned(p).outputs, kLanes<T>);
}

// Adds the slices for a vector of outputs, or of channels where those are the vectors.
template <typename T>
void correlation_sum(const PatchProblem& p, T* partial, T* weight_gradient, int64_t block) {
  constexpr int64_t lanes = kLanes<T>;
  const SumPlan plan = sum_plan<T>(p);
  const int64_t elements = windows_of(turned(p)).elements(), size = elements * plan.width, first = block * lanes;
  partial += first;
  for (int64_t slice = 1; slice < plan.slices; ++slice)
    for (int64_t i = 0; i < size; i += plan.width)
      store<T>(partial + i, load(partial + i) + load(partial + slice * size + i));
  if (is_turned(p))
    for (int64_t output = 0; output < p.outputs; ++output)
      store_first<T>(weight_gradient + output * p.channels + first, load(partial + output * plan.width),
                     smaller(lanes, p.channels - first));
  else
    from_lanes(partial, plan.width, elements, weight_gradient + first * elements, elements,
               smaller(lanes, p.outputs - first));
}

template <typename T>
PatchKernels<T> kernels_of() {
  return {
      panels<T>,
      panel_size<T>,
      pack<T>,
      gather_tasks<T>,
      gather_workspace<T>,
      gather<T>,
      correlation_slices<T>,
      correlation_size<T>,
      correlation_tasks<T>,
      correlation_workspace<T>,
      correlate<T>,
      correlation_blocks<T>,
      correlation_sum<T>,
  };
}

}  // namespace

PatchKernels<float> patches_float() { return kernels_of<float>(); }
PatchKernels<double> patches_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
