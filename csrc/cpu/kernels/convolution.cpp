// Convolution loops: a packed matrix product whose panels are gathered straight from the tensor
// (no im2col buffer), and the correlation that gives the weight gradient.
#include "convolution.h"

#include "lanes.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

template <typename T>
constexpr int64_t kColumns = 2 * Lanes<T>::count;

// Depth of a packed panel: a column panel of this depth stays in the first-level cache.
constexpr int64_t kDepth = 256;
// Micro-tiles of one task: enough rows and columns to pay for the packing, small enough for the
// second-level cache.
constexpr int64_t kRowPanels = 16;
constexpr int64_t kColumnPanels = 12;
// A problem with fewer tasks than this is also split over the target channels, or over slices of the
// positions: the split depends on the shape only.
constexpr int64_t kEnoughTasks = 16;

template <typename T>
constexpr int64_t kPositions = kColumnPanels * kColumns<T>;

// ---------------------------------------------------------------------------------------------
// Micro-kernel: tile[r][v] (+)= sum over k of a[k][r] * b[k][v], all sums in registers. The vector operand
// is a packed panel, or rows of a buffer found through offsets.

template <typename T>
struct PackedColumns {
  const T* panel;
  TORCHBP_INLINE const T* row(int64_t k) const { return panel + k * kColumns<T>; }
};

template <typename T>
struct BufferColumns {
  const T* base;
  const int32_t* offset;
  TORCHBP_INLINE const T* row(int64_t k) const { return base + offset[k]; }
};

template <typename T, int kTileRows, int kVectors, typename Columns>
__attribute__((noinline)) void multiply(int64_t depth, const T* __restrict__ a, Columns b, T* __restrict__ tile,
                                        bool add) {
  Vector<T> sum[kTileRows][kVectors];
#pragma GCC unroll 12
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[r][v] = Vector<T>{};
  for (int64_t k = 0; k < depth; ++k) {
    Vector<T> column[kVectors];
    const T* row = b.row(k);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) column[v] = load(row + v * Lanes<T>::count);
#pragma GCC unroll 12
    for (int r = 0; r < kTileRows; ++r) {
      const T scalar = a[k * kRows + r];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[r][v] += column[v] * scalar;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      T* to = tile + r * kColumns<T> + v * Lanes<T>::count;
      store<T>(to, add ? load(to) + sum[r][v] : sum[r][v]);
    }
}

template <typename T, int kTileRows, typename Columns>
void multiply_rows(int64_t rows, int64_t columns, int64_t depth, const T* a, Columns b, T* tile, bool add) {
  if constexpr (kTileRows > 1) {
    if (rows < kTileRows) return multiply_rows<T, kTileRows - 1>(rows, columns, depth, a, b, tile, add);
  }
  if (columns <= Lanes<T>::count) return multiply<T, kTileRows, 1>(depth, a, b, tile, add);
  multiply<T, kTileRows, 2>(depth, a, b, tile, add);
}

template <typename T, typename Columns>
TORCHBP_INLINE void multiply_tile(int64_t rows, int64_t columns, int64_t depth, const T* a, Columns b, T* tile,
                                  bool add = false) {
  multiply_rows<T, kRows>(rows, columns, depth, a, b, tile, add);
}

// ---------------------------------------------------------------------------------------------
// Positions

struct Position {
  int64_t q[kAxes];
};

Position position_at(const int64_t* grid, int64_t flat) {
  Position p;
  for (int axis = kAxes - 1; axis >= 0; --axis) {
    p.q[axis] = flat % grid[axis];
    flat /= grid[axis];
  }
  return p;
}

// Rows of consecutive positions along the width axis: calls visit(index of the first position inside
// the block, position, length).
template <typename Visit>
TORCHBP_INLINE void visit_rows(const int64_t* grid, int64_t first, int64_t count, Visit visit) {
  Position p = position_at(grid, first);
  for (int64_t done = 0; done < count;) {
    const int64_t length = smaller(count - done, grid[kAxes - 1] - p.q[kAxes - 1]);
    visit(done, p, length);
    done += length;
    p.q[kAxes - 1] = 0;
    for (int axis = kAxes - 2; axis >= 0; --axis) {
      if (++p.q[axis] < grid[axis]) break;
      p.q[axis] = 0;
    }
  }
}

template <typename Problem>
int64_t count_positions(const Problem& problem) {
  int64_t count = 1;
  for (int axis = 0; axis < kAxes; ++axis) count *= problem.grid[axis];
  return count;
}

// offset[i]: where position first + i finds its source element for one tap, or -1 in the padding.
template <typename Problem>
void source_offsets(const Problem& problem, int64_t tap, int64_t first, int64_t count, int64_t* offset) {
  const int64_t* shift = problem.tap_offset + tap * kSpatial;
  const int64_t width = kAxes - 1;
  const Range valid =
      valid_range(problem.grid[width], problem.step[width], shift[kSpatial - 1], problem.source_size[width]);
  const int64_t increment = problem.step[width] * problem.source_stride[width];
  visit_rows(problem.grid, first, count, [&](int64_t done, const Position& p, int64_t length) {
    int64_t* row = offset + done;
    int64_t base = p.q[0] * problem.source_stride[0];
    bool inside = true;
    for (int axis = 1; axis < width; ++axis) {
      const int64_t at = problem.step[axis] * p.q[axis] + shift[axis - 1];
      inside = inside && at >= 0 && at < problem.source_size[axis];
      base += at * problem.source_stride[axis];
    }
    const int64_t from = p.q[width], to = from + length;
    int64_t q = from;
    const int64_t start = inside ? smaller(to, larger(from, valid.first)) : to;
    const int64_t stop = inside ? smaller(to, larger(start, valid.last)) : to;
    for (; q < start; ++q) row[q - from] = -1;
    int64_t at = base + shift[kSpatial - 1] * problem.source_stride[width] + q * increment;
    for (; q < stop; ++q, at += increment) row[q - from] = at;
    for (; q < to; ++q) row[q - from] = -1;
  });
}

template <typename T>
TORCHBP_INLINE T read_or_zero(const T* source, int64_t offset) {
  return offset < 0 ? T(0) : source[offset];
}

// ---------------------------------------------------------------------------------------------
// Packing. Operands of the matrix product are stored as panels of `width` (kRows or kColumns):
// panel[k][i], depth index k = tap * channels + channel.

// The panel index runs over positions.
template <typename T, typename Problem>
void pack_positions(const Problem& problem, const T* source, int64_t first, int64_t count, int64_t k_begin,
                    int64_t k_end, int64_t width, int64_t* offset, T* packed) {
  const int64_t channels = problem.source_channels, depth = k_end - k_begin;
  const int64_t stride = problem.source_channel_stride;
  for (int64_t k = k_begin; k < k_end;) {
    const int64_t tap = k / channels, channel = k % channels;
    const int64_t many = smaller(channels - channel, k_end - k);
    source_offsets(problem, tap, first, count, offset);
    const T* from = source + channel * stride;
    for (int64_t i0 = 0; i0 < count; i0 += width) {
      const int64_t n = smaller(width, count - i0);
      const int64_t* at = offset + i0;
      T* to = packed + i0 * depth + (k - k_begin) * width;
      bool consecutive = n == width && at[0] >= 0 && width % Lanes<T>::count == 0;
      for (int64_t i = 1; consecutive && i < n; ++i) consecutive = at[i] == at[0] + i;
      if (consecutive) {
        for (int64_t c = 0; c < many; ++c)
          for (int64_t i = 0; i < width; i += Lanes<T>::count)
            store(to + c * width + i, load(from + at[0] + c * stride + i));
      } else {
        for (int64_t c = 0; c < many; ++c) {
          const T* row = from + c * stride;
          for (int64_t i = 0; i < n; ++i) to[c * width + i] = read_or_zero(row, at[i]);
          for (int64_t i = n; i < width; ++i) to[c * width + i] = T(0);
        }
      }
    }
    k += many;
  }
}

// The panel index runs over (tap, source channel); the depth runs over positions.
template <typename T>
void pack_columns(const CorrelationProblem& problem, const T* source, int64_t first, int64_t depth, int64_t column,
                  int64_t columns, int64_t* offset, T* packed) {
  constexpr int64_t width = kColumns<T>;
  const int64_t channels = problem.source_channels, stride = problem.source_channel_stride;
  int64_t tap_of_offset = -1;
  for (int64_t j = 0; j < columns;) {
    const int64_t tap = (column + j) / channels, channel = (column + j) % channels;
    const int64_t panel = j / width, lane = j % width;
    const int64_t many = smaller(smaller(channels - channel, columns - j), width - lane);
    if (tap != tap_of_offset) source_offsets(problem, tap, first, depth, offset);
    tap_of_offset = tap;
    T* to = packed + panel * width * depth + lane;
    const T* from = source + channel * stride;
    if (many == 1) {
      for (int64_t k = 0; k < depth; ++k) to[k * width] = read_or_zero(from, offset[k]);
    } else {
      for (int64_t k = 0; k < depth; ++k) {
        if (offset[k] < 0) {
          for (int64_t c = 0; c < many; ++c) to[k * width + c] = T(0);
        } else {
          const T* row = from + offset[k];
          if (stride == 1)
            for (int64_t c = 0; c < many; ++c) to[k * width + c] = row[c];
          else
            for (int64_t c = 0; c < many; ++c) to[k * width + c] = row[c * stride];
        }
      }
    }
    j += many;
  }
  const int64_t last = columns % width;
  if (last != 0) {
    T* to = packed + (columns / width) * width * depth;
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t i = last; i < width; ++i) to[k * width + i] = T(0);
  }
}

// The panel index runs over the channels of the gradient; the depth runs over positions.
template <typename T>
void pack_gradient(const CorrelationProblem& problem, const T* gradient, int64_t first, int64_t depth, int64_t channel,
                   int64_t channels, int64_t* offset, T* packed) {
  const int64_t width = kAxes - 1;
  visit_rows(problem.grid, first, depth, [&](int64_t done, const Position& p, int64_t length) {
    int64_t at = 0;
    for (int axis = 0; axis < kAxes; ++axis) at += p.q[axis] * problem.gradient_stride[axis];
    for (int64_t i = 0; i < length; ++i) offset[done + i] = at + i * problem.gradient_stride[width];
  });
  const int64_t stride = problem.gradient_channel_stride;
  for (int64_t r0 = 0; r0 < channels; r0 += kRows) {
    const int64_t n = smaller(kRows, channels - r0);
    const T* from = gradient + (channel + r0) * stride;
    T* to = packed + r0 * depth;
    for (int64_t k = 0; k < depth; ++k) {
      const T* row = from + offset[k];
      for (int64_t r = 0; r < n; ++r) to[k * kRows + r] = row[r * stride];
      for (int64_t r = n; r < kRows; ++r) to[k * kRows + r] = T(0);
    }
  }
}

// ---------------------------------------------------------------------------------------------
// The gathered product. Whichever axis is contiguous in the target becomes the vector axis: positions
// for a contiguous target, channels for a channels-last one.

bool channels_are_columns(const GatherProblem& problem) {
  return problem.target_channel_stride == 1 && problem.target_channels > 1 && problem.taps == 1;
}

template <typename T>
int64_t weight_panel_width(const GatherProblem& problem) {
  return channels_are_columns(problem) ? kColumns<T> : kRows;
}

template <typename T>
int64_t packed_weight_size(const GatherProblem& problem) {
  const int64_t width = weight_panel_width<T>(problem);
  const int64_t panels = (problem.target_channels + width - 1) / width;
  return panels * width * problem.taps * problem.source_channels;
}

template <typename T>
void pack_weight(const GatherProblem& problem, const T* weight, T* packed, int64_t group) {
  const int64_t width = weight_panel_width<T>(problem), channels = problem.source_channels;
  const T* from = weight + group * problem.weight_group_stride;
  for (int64_t m0 = 0; m0 < problem.target_channels; m0 += width) {
    const int64_t n = smaller(width, problem.target_channels - m0);
    for (int64_t tap = 0; tap < problem.taps; ++tap)
      for (int64_t c = 0; c < channels; ++c, packed += width) {
        const T* row =
            from + problem.tap_weight[tap] + c * problem.weight_source_stride + m0 * problem.weight_target_stride;
        for (int64_t i = 0; i < n; ++i) packed[i] = row[i * problem.weight_target_stride];
        for (int64_t i = n; i < width; ++i) packed[i] = T(0);
      }
  }
}

// The direct product, for contiguous targets and kernels of more than one tap: a block of rows of every
// source channel is copied once into a buffer with its padding, split into one plane per residue modulo
// the step, so that each tap reads its positions as consecutive elements at a fixed offset. Positions are
// counted along the buffer's pitch, which lets a tile run across rows; the few columns that fall into the
// pitch's excess are computed and dropped.
struct BufferPlan {
  bool fits;
  int64_t least[kSpatial];   // smallest tap offset along each axis
  int64_t excess[kSpatial];  // how far the taps reach beyond a position: in slots for the depth, in steps otherwise
  int64_t rows;              // output rows of a block
  int64_t row_blocks;
  int64_t pitch;
  int64_t plane;    // elements of one residue's plane
  int64_t channel;  // elements of one source channel
};

constexpr int64_t kBufferBudget = 48 * 1024;  // elements that stay in the second-level cache
constexpr int64_t kBufferLimit = 512 * 1024;  // beyond it the packed product is better

template <typename Problem>
BufferPlan buffer_plan(const Problem& problem, int64_t source_channels) {
  BufferPlan plan = {};
  if (problem.taps == 0 || source_channels == 0) return plan;
  int64_t most[kSpatial];
  for (int d = 0; d < kSpatial; ++d) plan.least[d] = most[d] = problem.tap_offset[d];
  for (int64_t tap = 1; tap < problem.taps; ++tap)
    for (int d = 0; d < kSpatial; ++d) {
      plan.least[d] = smaller(plan.least[d], problem.tap_offset[tap * kSpatial + d]);
      most[d] = larger(most[d], problem.tap_offset[tap * kSpatial + d]);
    }
  plan.excess[0] = most[0] - plan.least[0];
  for (int d = 1; d < kSpatial; ++d) plan.excess[d] = (most[d] - plan.least[d]) / problem.step[d + 1];
  const int64_t height = problem.grid[2];
  plan.pitch = problem.grid[3] + plan.excess[2];
  // Far taps or long steps would make the buffer mostly padding.
  if (plan.pitch > 2 * problem.grid[3] + 16 || plan.excess[0] > 64 || plan.excess[1] > 64 || problem.step[2] > 64 ||
      problem.step[3] > 64)
    return plan;
  const int64_t planes = (plan.excess[0] + 1) * problem.step[2] * problem.step[3] * source_channels;
  if (planes > kBufferLimit / plan.pitch || planes * plan.pitch * (1 + plan.excess[1]) > kBufferLimit) return plan;
  plan.fits = true;
  plan.rows = larger(1, smaller(height, kBufferBudget / (planes * plan.pitch) - plan.excess[1]));
  return plan;
}

// Fixes the number of rows in a block and what follows from it.
template <typename Problem>
void set_rows(const Problem& problem, int64_t rows, BufferPlan& plan) {
  const int64_t height = problem.grid[2];
  plan.row_blocks = (height + rows - 1) / rows;
  plan.rows = (height + plan.row_blocks - 1) / plan.row_blocks;
  plan.plane = (plan.rows + plan.excess[1]) * plan.pitch;
  plan.channel = (plan.excess[0] + 1) * problem.step[2] * problem.step[3] * plan.plane;
}

// Where the tap's element for the block's first position stands in a channel of the buffer.
template <typename Problem>
int64_t tap_place(const Problem& problem, const BufferPlan& plan, int64_t tap) {
  const int64_t* at = problem.tap_offset + tap * kSpatial;
  const int64_t h = at[1] - plan.least[1], w = at[2] - plan.least[2];
  const int64_t residue =
      ((at[0] - plan.least[0]) * problem.step[2] + h % problem.step[2]) * problem.step[3] + w % problem.step[3];
  return residue * plan.plane + h / problem.step[2] * plan.pitch + w / problem.step[3];
}

struct DirectPlan : BufferPlan {
  int64_t channels;  // target channels of a block
  int64_t channel_blocks;
};

DirectPlan direct_plan(const GatherProblem& problem) {
  DirectPlan plan = {};
  if (problem.taps < 2 || channels_are_columns(problem)) return plan;
  static_cast<BufferPlan&>(plan) = buffer_plan(problem, problem.source_channels);
  if (!plan.fits) return plan;
  const int64_t outer = problem.groups * problem.grid[0] * problem.grid[1], height = problem.grid[2];
  int64_t rows = plan.rows;
  if (outer * ((height + rows - 1) / rows) < kEnoughTasks) {
    const int64_t blocks = smaller(height, (kEnoughTasks + outer - 1) / larger(1, outer));
    rows = smaller(rows, larger(4, (height + blocks - 1) / blocks));
  }
  set_rows(problem, rows, plan);
  plan.channels = problem.target_channels;
  if (outer * plan.row_blocks < kEnoughTasks) plan.channels = smaller(plan.channels, kRowPanels * kRows);
  plan.channel_blocks = (problem.target_channels + plan.channels - 1) / plan.channels;
  return plan;
}

template <typename T>
int64_t direct_workspace(const GatherProblem& problem, const DirectPlan& plan) {
  const int64_t offsets = (problem.taps * problem.source_channels * 4 + 7) / static_cast<int64_t>(sizeof(T)) + 1;
  return offsets + problem.source_channels * plan.channel + kColumns<T>;
}

// Copies the rows that outputs (depth, row..) of one image read, padding included.
template <typename T, typename Problem>
void fill_buffer(const Problem& problem, const BufferPlan& plan, int64_t channels, const T* source, int64_t depth,
                 int64_t row, T* buffer) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t stride = problem.source_stride[3], increment = problem.step[3] * stride;
  const int64_t rows = plan.rows + plan.excess[1];
  const bool together = problem.source_channel_stride == 1 && problem.step[3] == 1;
  int64_t many = 1;  // channels that are copied together
  for (int64_t c = 0; c < channels; c += many) {
    many = together && channels - c >= lanes ? lanes : 1;
    T* line = buffer + c * plan.channel;
    for (int64_t slot = 0; slot <= plan.excess[0]; ++slot) {
      const int64_t z = problem.step[1] * depth + plan.least[0] + slot;
      for (int64_t ph = 0; ph < problem.step[2]; ++ph)
        for (int64_t pw = 0; pw < problem.step[3]; ++pw) {
          const int64_t shift = plan.least[2] + pw;
          const Range valid = valid_range(plan.pitch, problem.step[3], shift, problem.source_size[3]);
          for (int64_t r = 0; r < rows; ++r, line += plan.pitch) {
            const int64_t y = problem.step[2] * (row + r) + plan.least[1] + ph;
            const bool inside = z >= 0 && z < problem.source_size[1] && y >= 0 && y < problem.source_size[2];
            const int64_t begin = inside ? valid.first : plan.pitch, end = inside ? valid.last : plan.pitch;
            const int64_t count = end - begin;
            for (int64_t k = 0; k < many; ++k) {
              T* to = line + k * plan.channel;
              for (int64_t i = 0; i < begin; ++i) to[i] = T(0);
              for (int64_t i = end; i < plan.pitch; ++i) to[i] = T(0);
            }
            if (count <= 0) continue;
            const T* from = source + c * problem.source_channel_stride + z * problem.source_stride[1] +
                            y * problem.source_stride[2] + (problem.step[3] * begin + shift) * stride;
            T* __restrict__ to = line + begin;
            if (many == lanes)
              from_lanes(from, increment, count, to, plan.channel, lanes);
            else if (increment == 1)
              for (int64_t i = 0; i < count; ++i) to[i] = from[i];
            else
              for (int64_t i = 0; i < count; ++i) to[i] = from[i * increment];
          }
        }
    }
  }
}

template <typename T>
TORCHBP_INLINE void write_run(const T* from, int64_t count, T start, T* to) {
  constexpr int64_t lanes = Lanes<T>::count;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store<T>(to + i, load(from + i) + start);
  if (i < count) store_first<T>(to + i, load(from + i) + start, count - i);
}

template <typename T>
void gather_direct(const GatherProblem& problem, const DirectPlan& plan, const T* source, const T* packed_weight,
                   const T* bias, T* target, T* workspace, int64_t task) {
  const int64_t channel_block = task % plan.channel_blocks;
  task /= plan.channel_blocks;
  const int64_t row = task % plan.row_blocks * plan.rows;
  task /= plan.row_blocks;
  const int64_t depth = task % problem.grid[1];
  task /= problem.grid[1];
  const int64_t image = task % problem.grid[0], group = task / problem.grid[0];

  const int64_t channels = problem.source_channels, terms = problem.taps * channels;
  int32_t* offset = reinterpret_cast<int32_t*>(workspace);
  T* buffer = workspace + direct_workspace<T>(problem, plan) - (channels * plan.channel + kColumns<T>);
  for (int64_t tap = 0; tap < problem.taps; ++tap) {
    const int64_t first = tap_place(problem, plan, tap);
    for (int64_t c = 0; c < channels; ++c) offset[tap * channels + c] = static_cast<int32_t>(first + c * plan.channel);
  }
  fill_buffer(problem, plan, channels,
              source + image * problem.source_stride[0] + group * channels * problem.source_channel_stride, depth, row,
              buffer);

  target += image * problem.target_stride[0] + depth * problem.target_stride[1] + row * problem.target_stride[2] +
            group * problem.target_channels * problem.target_channel_stride;
  packed_weight += group * packed_weight_size<T>(problem);
  if (bias) bias += group * problem.target_channels;
  const int64_t width = problem.grid[3], stride = problem.target_stride[3];
  const int64_t rows = smaller(plan.rows, problem.grid[2] - row), positions = rows * plan.pitch - plan.excess[2];
  const int64_t m_begin = channel_block * plan.channels;
  const int64_t m_end = smaller(problem.target_channels, m_begin + plan.channels);
  T tile[kRows * kColumns<T> + Lanes<T>::count];
  // Tiles end with their row where that takes hardly more of them than going through the excess does.
  const bool by_rows = 16 * up(width, kColumns<T>) * kColumns<T> <= 17 * plan.pitch;
  for (int64_t m0 = m_begin; m0 < m_end; m0 += kRows) {
    const int64_t many = smaller(kRows, m_end - m0);
    int64_t h = 0, w = 0;  // of the tile's first column
    for (int64_t p0 = 0; p0 < positions;) {
      const int64_t columns = smaller(kColumns<T>, by_rows ? width - w : positions - p0);
      for (int64_t k = 0; k < terms; k += kChain)
        multiply_tile(many, columns, smaller(kChain, terms - k), packed_weight + m0 * terms + k * kRows,
                      BufferColumns<T>{buffer + p0, offset + k}, tile, k > 0);
      for (int64_t i = 0; i < columns;) {
        const int64_t run = smaller(columns - i, width - w);
        for (int64_t r = 0; r < many && run > 0; ++r) {
          const T* from = tile + r * kColumns<T> + i;
          T* to = target + (m0 + r) * problem.target_channel_stride + h * problem.target_stride[2] + w * stride;
          const T start = bias ? bias[m0 + r] : T(0);
          if (stride == 1)
            write_run(from, run, start, to);
          else
            for (int64_t j = 0; j < run; ++j) to[j * stride] = from[j] + start;
        }
        const int64_t passed = smaller(columns - i, plan.pitch - w);
        i += passed;
        w += passed;
        if (w == plan.pitch) {
          w = 0;
          ++h;
        }
      }
      p0 += columns;
      if (by_rows && w == width) {
        p0 += plan.pitch - width;
        w = 0;
        ++h;
      }
    }
  }
}

struct GatherTasks {
  int64_t positions;  // per block
  int64_t position_blocks;
  int64_t channels;  // per block
  int64_t channel_blocks;
};

template <typename T>
GatherTasks gather_split(const GatherProblem& problem) {
  GatherTasks split;
  const bool swapped = channels_are_columns(problem);
  split.positions = swapped ? kRowPanels * kRows : kPositions<T>;
  split.position_blocks = (count_positions(problem) + split.positions - 1) / split.positions;
  split.channels = problem.target_channels;
  split.channel_blocks = 1;
  if (problem.groups * split.position_blocks < kEnoughTasks) {
    split.channels = smaller(problem.target_channels, swapped ? kPositions<T> : kRowPanels * kRows);
    split.channel_blocks = (problem.target_channels + split.channels - 1) / split.channels;
  }
  return split;
}

template <typename T>
int64_t gather_tasks(const GatherProblem& problem) {
  const DirectPlan plan = direct_plan(problem);
  if (plan.fits) return problem.groups * problem.grid[0] * problem.grid[1] * plan.row_blocks * plan.channel_blocks;
  const GatherTasks split = gather_split<T>(problem);
  return problem.groups * split.position_blocks * split.channel_blocks;
}

// A workspace holds two arrays of offsets, one per position of a block, and the packed positions.
constexpr int64_t kOffsets = 1024;
static_assert(kRowPanels * kRows <= kOffsets && kPositions<float> <= kOffsets && kDepth <= kOffsets, "");

template <typename T>
int64_t offset_elements() {
  return kOffsets * static_cast<int64_t>(sizeof(int64_t) / sizeof(T));
}

template <typename T>
int64_t gather_workspace(const GatherProblem& problem) {
  const DirectPlan plan = direct_plan(problem);
  if (plan.fits) return direct_workspace<T>(problem, plan);
  const int64_t depth = smaller(kDepth, larger(1, problem.taps * problem.source_channels));
  return 2 * offset_elements<T>() + gather_split<T>(problem).positions * depth;
}

// Adds a tile to the target. Rows and columns are addressed by offsets; consecutive columns are
// written as a run.
template <typename T>
TORCHBP_INLINE void store_tile(const T* tile, int64_t rows, int64_t columns, T* target, int64_t row_stride,
                               const int64_t* row_offset, int64_t column_stride, const int64_t* column_offset, bool run,
                               bool add, const T* row_bias, const T* column_bias) {
  for (int64_t r = 0; r < rows; ++r) {
    T* to = target + (row_offset ? row_offset[r] : r * row_stride);
    const T* from = tile + r * kColumns<T>;
    const T bias = row_bias ? row_bias[r] : T(0);
    if (run) {
      if (column_offset) to += column_offset[0];
      if (add)
        for (int64_t i = 0; i < columns; ++i) to[i] += from[i];
      else if (column_bias)
        for (int64_t i = 0; i < columns; ++i) to[i] = from[i] + column_bias[i];
      else
        for (int64_t i = 0; i < columns; ++i) to[i] = from[i] + bias;
    } else {
      for (int64_t i = 0; i < columns; ++i) {
        T& element = to[column_offset ? column_offset[i] : i * column_stride];
        const T start = add ? element : (column_bias ? column_bias[i] : bias);
        element = start + from[i];
      }
    }
  }
}

template <typename T>
void gather(const GatherProblem& problem, const T* source, const T* packed_weight, const T* bias, T* target,
            T* workspace, int64_t task) {
  const DirectPlan plan = direct_plan(problem);
  if (plan.fits) return gather_direct(problem, plan, source, packed_weight, bias, target, workspace, task);
  const GatherTasks split = gather_split<T>(problem);
  const int64_t channel_block = task % split.channel_blocks;
  task /= split.channel_blocks;
  const int64_t position_block = task % split.position_blocks;
  const int64_t group = task / split.position_blocks;

  int64_t* source_offset = reinterpret_cast<int64_t*>(workspace);
  int64_t* target_offset = source_offset + kOffsets;
  T* packed = workspace + 2 * offset_elements<T>();

  const int64_t first = position_block * split.positions;
  const int64_t count = smaller(split.positions, count_positions(problem) - first);
  const int64_t m_begin = channel_block * split.channels;
  const int64_t m_end = smaller(problem.target_channels, m_begin + split.channels);
  const int64_t depth = problem.taps * problem.source_channels;
  const bool swapped = channels_are_columns(problem);
  const int64_t position_width = swapped ? kRows : kColumns<T>;
  const int64_t channel_width = swapped ? kColumns<T> : kRows;

  source += group * problem.source_channels * problem.source_channel_stride;
  target += group * problem.target_channels * problem.target_channel_stride;
  packed_weight += group * packed_weight_size<T>(problem);
  if (bias) bias += group * problem.target_channels;

  visit_rows(problem.grid, first, count, [&](int64_t done, const Position& p, int64_t length) {
    int64_t at = 0;
    for (int axis = 0; axis < kAxes; ++axis) at += p.q[axis] * problem.target_stride[axis];
    for (int64_t i = 0; i < length; ++i) target_offset[done + i] = at + i * problem.target_stride[kAxes - 1];
  });

  T tile[kRows * kColumns<T>];
  int64_t k = 0;
  do {  // also once for a product of depth zero, which still writes the bias
    const int64_t k_end = smaller(depth, k + kDepth);
    pack_positions(problem, source, first, count, k, k_end, position_width, source_offset, packed);
    // The panel of the vector operand stays in the first-level cache through the inner loop.
    const int64_t outer_begin = swapped ? m_begin : 0, outer_end = swapped ? m_end : count;
    const int64_t inner_begin = swapped ? 0 : m_begin, inner_end = swapped ? count : m_end;
    const int64_t outer_step = kColumns<T>, inner_step = kRows;
    for (int64_t outer = outer_begin; outer < outer_end; outer += outer_step) {
      for (int64_t inner = inner_begin; inner < inner_end; inner += inner_step) {
        const int64_t i0 = swapped ? inner : outer, m0 = swapped ? outer : inner;
        const int64_t positions = smaller(position_width, count - i0);
        const int64_t channels = smaller(channel_width, m_end - m0);
        const T* position_panel = packed + i0 * (k_end - k);
        const T* channel_panel = packed_weight + m0 * depth + k * channel_width;
        T* to = target + m0 * problem.target_channel_stride;
        const T* tile_bias = bias ? bias + m0 : nullptr;
        if (swapped) {
          multiply_tile(positions, channels, k_end - k, position_panel, PackedColumns<T>{channel_panel}, tile);
          store_tile<T>(tile, positions, channels, to, 0, target_offset + i0, 1, nullptr, true, k > 0, nullptr,
                        tile_bias);
        } else {
          multiply_tile(channels, positions, k_end - k, channel_panel, PackedColumns<T>{position_panel}, tile);
          const bool run = target_offset[i0 + positions - 1] - target_offset[i0] == positions - 1;
          store_tile<T>(tile, channels, positions, to, problem.target_channel_stride, nullptr, 0, target_offset + i0,
                        run, k > 0, tile_bias, nullptr);
        }
      }
    }
    k = k_end;
  } while (k < depth);
}

// ---------------------------------------------------------------------------------------------
// The correlation that gives the weight gradient: rows are gradient channels, columns are (tap,
// source channel), the depth runs over positions.

// For tensors that are contiguous along the width, each element of the weight gradient is a dot product of
// a row of the gradient with a shifted row of the buffered source. Rows of the gradient are copied to the
// buffer's pitch, with zeros in its excess, so that a dot product runs over a whole block of rows.

constexpr int64_t kFewChannels = 8;
constexpr int kDotRows = 3;     // gradient channels of a tile
constexpr int kDotColumns = 4;  // (source channel, tap) pairs of a tile

struct DotPlan : BufferPlan {
  int64_t slices;        // of the images
  int64_t images;        // per slice
  int64_t row_channels;  // gradient channels of a block
  int64_t row_channel_blocks;
  int64_t source_channels;  // of a block
  int64_t source_channel_blocks;
};

DotPlan dot_plan(const CorrelationProblem& problem) {
  DotPlan plan = {};
  // With many source channels the packed product is faster: its operands are read once per tile.
  if (problem.source_channels > kFewChannels || problem.gradient_channels == 0) return plan;
  plan.source_channels = smaller(problem.source_channels, 32);
  plan.row_channels = smaller(problem.gradient_channels, 32 * kDotRows);
  static_cast<BufferPlan&>(plan) = buffer_plan(problem, plan.source_channels);
  if (!plan.fits) return plan;
  set_rows(problem, plan.rows, plan);
  plan.row_channel_blocks = (problem.gradient_channels + plan.row_channels - 1) / plan.row_channels;
  plan.source_channel_blocks = (problem.source_channels + plan.source_channels - 1) / larger(1, plan.source_channels);
  const int64_t blocks = larger(1, problem.groups * plan.row_channel_blocks * plan.source_channel_blocks);
  plan.slices = larger(1, smaller(problem.grid[0], (kEnoughTasks + blocks - 1) / blocks));
  plan.images = (problem.grid[0] + plan.slices - 1) / plan.slices;
  plan.slices = larger(1, (problem.grid[0] + plan.images - 1) / larger(1, plan.images));
  return plan;
}

template <typename T>
int64_t dot_block(const DotPlan& plan) {
  const int64_t lanes = Lanes<T>::count;
  return (plan.rows * plan.pitch + lanes - 1) / lanes * lanes;
}

template <typename T>
int64_t dot_workspace(const CorrelationProblem&, const DotPlan& plan) {
  return plan.source_channels * plan.channel + Lanes<T>::count + plan.row_channels * dot_block<T>(plan);
}

// sum[r][c] += dot(a[r], b[c]) over `count` elements, a multiple of the lanes.
template <typename T, int kRowsOfTile, int kColumnsOfTile>
void dot_tile(int64_t count, const T* const* a, const T* const* b, T* const* sum, const int64_t* column) {
  constexpr int64_t lanes = Lanes<T>::count;
  Vector<T> total[kRowsOfTile][kColumnsOfTile];
#pragma GCC unroll 3
  for (int r = 0; r < kRowsOfTile; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kColumnsOfTile; ++c) total[r][c] = Vector<T>{};
  for (int64_t i = 0; i < count; i += lanes) {
    Vector<T> left[kRowsOfTile];
#pragma GCC unroll 3
    for (int r = 0; r < kRowsOfTile; ++r) left[r] = load(a[r] + i);
#pragma GCC unroll 4
    for (int c = 0; c < kColumnsOfTile; ++c) {
      const Vector<T> right = load(b[c] + i);
#pragma GCC unroll 3
      for (int r = 0; r < kRowsOfTile; ++r) total[r][c] += left[r] * right;
    }
  }
  for (int r = 0; r < kRowsOfTile; ++r)
    for (int c = 0; c < kColumnsOfTile; ++c) {
      T lane[Lanes<T>::count];
      store(lane, total[r][c]);
#pragma GCC unroll 4
      for (int64_t half = lanes / 2; half >= 1; half /= 2)
        for (int64_t i = 0; i < half; ++i) lane[i] += lane[i + half];
      sum[r][column[c]] += lane[0];
    }
}

template <typename T, int kRowsOfTile>
void dot_rows(int columns, int64_t count, const T* const* a, const T* const* b, T* const* sum, const int64_t* column) {
  switch (columns) {
    case 4:
      return dot_tile<T, kRowsOfTile, 4>(count, a, b, sum, column);
    case 3:
      return dot_tile<T, kRowsOfTile, 3>(count, a, b, sum, column);
    case 2:
      return dot_tile<T, kRowsOfTile, 2>(count, a, b, sum, column);
    default:
      return dot_tile<T, kRowsOfTile, 1>(count, a, b, sum, column);
  }
}

template <typename T>
void correlate_rows(const CorrelationProblem& problem, const DotPlan& plan, const T* source, const T* gradient,
                    T* partial, T* workspace, int64_t task) {
  const int64_t c_begin = task % plan.source_channel_blocks * plan.source_channels;
  task /= plan.source_channel_blocks;
  const int64_t m_begin = task % plan.row_channel_blocks * plan.row_channels;
  task /= plan.row_channel_blocks;
  const int64_t group = task % problem.groups, slice = task / problem.groups;
  const int64_t channels = smaller(plan.source_channels, problem.source_channels - c_begin);
  const int64_t rows_wanted = smaller(plan.row_channels, problem.gradient_channels - m_begin);
  const int64_t terms = problem.taps * problem.source_channels, block = dot_block<T>(plan);

  T* buffer = workspace;
  T* rows_of = buffer + plan.source_channels * plan.channel + Lanes<T>::count;
  source += (group * problem.source_channels + c_begin) * problem.source_channel_stride;
  gradient += (group * problem.gradient_channels + m_begin) * problem.gradient_channel_stride;
  partial += ((slice * problem.groups + group) * problem.gradient_channels + m_begin) * terms;
  for (int64_t m = 0; m < rows_wanted; ++m)
    for (int64_t tap = 0; tap < problem.taps; ++tap)
      for (int64_t c = 0; c < channels; ++c) partial[m * terms + tap * problem.source_channels + c_begin + c] = T(0);
  // The vectors at a block's end may read past the last channel: those products meet zeros of the
  // gradient, but must not meet a NaN.
  for (int64_t i = 0; i < Lanes<T>::count; ++i) buffer[plan.source_channels * plan.channel + i] = T(0);

  const int64_t width = problem.grid[3], stride = problem.gradient_stride[3];
  const int64_t last_image = smaller(problem.grid[0], (slice + 1) * plan.images);
  for (int64_t image = slice * plan.images; image < last_image; ++image)
    for (int64_t depth = 0; depth < problem.grid[1]; ++depth)
      for (int64_t row = 0; row < problem.grid[2]; row += plan.rows) {
        const int64_t rows = smaller(plan.rows, problem.grid[2] - row);
        fill_buffer(problem, plan, channels, source + image * problem.source_stride[0], depth, row, buffer);
        for (int64_t m = 0; m < rows_wanted; ++m) {
          const T* from = gradient + m * problem.gradient_channel_stride + image * problem.gradient_stride[0] +
                          depth * problem.gradient_stride[1] + row * problem.gradient_stride[2];
          T* to = rows_of + m * block;
          for (int64_t h = 0; h < rows; ++h, from += problem.gradient_stride[2], to += plan.pitch) {
            if (stride == 1)
              for (int64_t i = 0; i < width; ++i) to[i] = from[i];
            else
              for (int64_t i = 0; i < width; ++i) to[i] = from[i * stride];
            for (int64_t i = width; i < plan.pitch; ++i) to[i] = T(0);
          }
          for (T* end = rows_of + (m + 1) * block; to < end; ++to) *to = T(0);
        }
        const int64_t count = (rows * plan.pitch + Lanes<T>::count - 1) / Lanes<T>::count * Lanes<T>::count;
        for (int64_t m = 0; m < rows_wanted; m += kDotRows) {
          const int64_t many = smaller(kDotRows, rows_wanted - m);
          const T* a[kDotRows];
          T* sum[kDotRows];
          for (int64_t r = 0; r < many; ++r) {
            a[r] = rows_of + (m + r) * block;
            sum[r] = partial + (m + r) * terms;
          }
          const T* b[kDotColumns];
          int64_t column[kDotColumns];
          int filled = 0;
          for (int64_t c = 0; c < channels; ++c)
            for (int64_t tap = 0; tap < problem.taps; ++tap) {
              b[filled] = buffer + c * plan.channel + tap_place(problem, plan, tap);
              column[filled++] = tap * problem.source_channels + c_begin + c;
              if (filled < kDotColumns && !(c == channels - 1 && tap == problem.taps - 1)) continue;
              if (many == 3)
                dot_rows<T, 3>(filled, count, a, b, sum, column);
              else if (many == 2)
                dot_rows<T, 2>(filled, count, a, b, sum, column);
              else
                dot_rows<T, 1>(filled, count, a, b, sum, column);
              filled = 0;
            }
        }
      }
}

struct CorrelationTasks {
  int64_t row_blocks;
  int64_t column_blocks;
  int64_t slices;
  int64_t slice_positions;
};

template <typename T>
CorrelationTasks correlation_split(const CorrelationProblem& problem) {
  CorrelationTasks split;
  const int64_t rows = kRowPanels * kRows, columns = kPositions<T>;
  split.row_blocks = (problem.gradient_channels + rows - 1) / rows;
  split.column_blocks = (problem.taps * problem.source_channels + columns - 1) / columns;
  const int64_t tasks = larger(1, problem.groups * split.row_blocks * split.column_blocks);
  const int64_t panels = (count_positions(problem) + kDepth - 1) / kDepth;
  split.slices = larger(1, smaller(panels, (kEnoughTasks + tasks - 1) / tasks));
  split.slice_positions = larger(1, (panels + split.slices - 1) / split.slices) * kDepth;
  split.slices = larger(1, (count_positions(problem) + split.slice_positions - 1) / split.slice_positions);
  return split;
}

template <typename T>
int64_t correlation_slices(const CorrelationProblem& problem) {
  const DotPlan plan = dot_plan(problem);
  if (plan.fits) return plan.slices;
  return correlation_split<T>(problem).slices;
}

template <typename T>
int64_t correlation_tasks(const CorrelationProblem& problem) {
  const DotPlan plan = dot_plan(problem);
  if (plan.fits) return plan.slices * problem.groups * plan.row_channel_blocks * plan.source_channel_blocks;
  const CorrelationTasks split = correlation_split<T>(problem);
  return split.slices * problem.groups * split.row_blocks * split.column_blocks;
}

template <typename T>
int64_t correlation_workspace(const CorrelationProblem& problem) {
  const DotPlan plan = dot_plan(problem);
  if (plan.fits) return dot_workspace<T>(problem, plan);
  return offset_elements<T>() + kDepth * (kRowPanels * kRows + kPositions<T>);
}

template <typename T>
void correlate(const CorrelationProblem& problem, const T* source, const T* gradient, T* partial, T* workspace,
               int64_t task) {
  const DotPlan plan = dot_plan(problem);
  if (plan.fits) return correlate_rows(problem, plan, source, gradient, partial, workspace, task);
  const CorrelationTasks split = correlation_split<T>(problem);
  const int64_t column_block = task % split.column_blocks;
  task /= split.column_blocks;
  const int64_t row_block = task % split.row_blocks;
  task /= split.row_blocks;
  const int64_t group = task % problem.groups;
  const int64_t slice = task / problem.groups;

  int64_t* offset = reinterpret_cast<int64_t*>(workspace);
  T* packed_rows = workspace + offset_elements<T>();
  T* packed_columns = packed_rows + kDepth * kRowPanels * kRows;

  const int64_t all_columns = problem.taps * problem.source_channels;
  const int64_t row = row_block * kRowPanels * kRows, column = column_block * kPositions<T>;
  const int64_t rows = smaller(problem.gradient_channels - row, kRowPanels * kRows);
  const int64_t columns = smaller(all_columns - column, kPositions<T>);
  const int64_t first = slice * split.slice_positions;
  const int64_t last = smaller(count_positions(problem), first + split.slice_positions);

  source += group * problem.source_channels * problem.source_channel_stride;
  gradient += group * problem.gradient_channels * problem.gradient_channel_stride;
  partial += (slice * problem.groups + group) * problem.gradient_channels * all_columns;

  T tile[kRows * kColumns<T>];
  int64_t p = first;
  do {  // also once without positions, which still writes zeros
    const int64_t depth = larger(0, smaller(kDepth, last - p));
    pack_gradient(problem, gradient, p, depth, row, rows, offset, packed_rows);
    pack_columns(problem, source, p, depth, column, columns, offset, packed_columns);
    for (int64_t j = 0; j < columns; j += kColumns<T>)
      for (int64_t i = 0; i < rows; i += kRows) {
        const int64_t tile_rows = smaller(kRows, rows - i), tile_columns = smaller(kColumns<T>, columns - j);
        multiply_tile(tile_rows, tile_columns, depth, packed_rows + i * depth,
                      PackedColumns<T>{packed_columns + j * depth}, tile);
        store_tile<T>(tile, tile_rows, tile_columns, partial + (row + i) * all_columns + column + j, all_columns,
                      nullptr, 1, nullptr, true, p > first, nullptr, nullptr);
      }
    p += kDepth;
  } while (p < last);
}

template <typename T>
ConvolutionKernels<T> kernels_of() {
  return {
      packed_weight_size<T>, pack_weight<T>,       gather_tasks<T>,          gather_workspace<T>, gather<T>,
      correlation_slices<T>, correlation_tasks<T>, correlation_workspace<T>, correlate<T>,
  };
}

}  // namespace

ConvolutionKernels<float> convolution_float() { return kernels_of<float>(); }
ConvolutionKernels<double> convolution_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
