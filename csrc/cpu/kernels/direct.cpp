// Convolution as products of matrices, pixels x source channels times source channels x target channels, one for every
// tap. The lanes of every vector are channels. A block of source pixels is copied once, with its padding, as
// [channel block][plane][row][column][lane]: there is a plane for every residue of the pixels modulo the step, so that
// neighbouring outputs read neighbouring vectors, and no output is computed that is not wanted. Sums stay in registers
// over the taps and channels of a piece of the weight that fits the first-level cache; the sums of pieces are added.
#include "direct.h"

#include "lanes.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

constexpr int64_t kBlockBytes = 512 << 10;  // of a block of source pixels
constexpr int64_t kMostBytes = 8 << 20;     // of one that cannot be smaller
constexpr int64_t kPositions = 1024;        // outputs of a block
constexpr int64_t kLeastColumns = 8 * kRows;
constexpr int64_t kPieceBytes = 24 << 10;  // of the weight

// ---------------------------------------------------------------------------------------------
// Blocks of positions, and the source pixels that they read

struct Blocks {
  int64_t least[kSpatial], most[kSpatial];          // tap offsets along each axis
  int64_t slots;                                    // depths that the taps of one output reach
  int64_t residues[2];                              // of the pixels modulo the step
  int64_t excess[2];                                // rows and columns of a plane beyond those of the outputs
  int64_t images, rows, columns;                    // of a block
  int64_t image_blocks, row_blocks, column_blocks;  // per image and depth
  int64_t count;
  int64_t pitch;          // columns of a plane
  int64_t plane;          // vectors of a plane
  int64_t channel_block;  // vectors of all planes of a channel block
  int64_t image;          // vectors of an image
};

// Strides of the tensor of positions.
int64_t* other_strides(GatherProblem& problem) { return problem.target_stride; }
int64_t* other_strides(CorrelationProblem& problem) { return problem.gradient_stride; }

// Along an axis without padding, with step one and a single tap, positions and pixels follow each other alike: two
// such axes are one where memory allows.
template <typename Problem>
Problem merged(Problem problem) {
  int64_t* other = other_strides(problem);
  if (problem.taps != 1) return problem;
  for (int d = 0; d < kSpatial; ++d)
    if (problem.tap_offset[d] != 0 || problem.step[d + 1] != 1) return problem;
  for (int axis = 1; axis < kAxes; ++axis)
    if (problem.source_size[axis] != problem.grid[axis]) return problem;
  const int last = kAxes - 1;
  for (int axis = last - 1; axis >= 0; --axis) {
    if (problem.grid[axis] != 1) {
      const int64_t size = problem.grid[last];
      const bool follows =
          problem.source_stride[axis] == size * problem.source_stride[last] && other[axis] == size * other[last];
      if (size != 1 && !follows) return problem;
      if (size == 1) {
        problem.source_stride[last] = problem.source_stride[axis];
        other[last] = other[axis];
      }
      problem.grid[last] *= problem.grid[axis];
      problem.source_size[last] = problem.grid[last];
      problem.grid[axis] = problem.source_size[axis] = 1;
    }
  }
  return problem;
}

// Blocks of at most so many positions, unless a row has to be longer, whose pixels of `channels` take at most so many
// bytes, if possible.
template <typename T, typename Problem>
Blocks blocks_of(const Problem& problem, int64_t channels, int64_t positions, int64_t bytes) {
  constexpr int64_t lanes = kLanes<T>;
  Blocks b = {};
  int64_t extent[kSpatial];
  for (int d = 0; d < kSpatial; ++d) {
    b.least[d] = b.most[d] = problem.tap_offset[d];
    for (int64_t tap = 1; tap < problem.taps; ++tap) {
      b.least[d] = smaller(b.least[d], problem.tap_offset[tap * kSpatial + d]);
      b.most[d] = larger(b.most[d], problem.tap_offset[tap * kSpatial + d]);
    }
    extent[d] = b.most[d] - b.least[d];
  }
  b.slots = extent[0] + 1;
  for (int d = 0; d < 2; ++d) {
    b.residues[d] = smaller(problem.step[d + 2], extent[d + 1] + 1);
    b.excess[d] = extent[d + 1] / problem.step[d + 2];
  }
  const int64_t vector_bytes = up(channels, lanes) * TORCHBP_VECTOR_BYTES;
  // Far-reaching taps make all this huge: sizes are compared by division.
  const int64_t room = larger(1, bytes / vector_bytes), far = int64_t{1} << 20;
  if (extent[0] >= far || extent[1] >= far || extent[2] >= far) return b;
  const int64_t planes = b.slots * b.residues[0] * b.residues[1];
  const int64_t line = planes * (1 + b.excess[0]);
  b.columns = smaller(problem.grid[3], larger(smaller(positions, kLeastColumns), room / line - b.excess[1]));
  b.columns = smaller(b.columns, larger(positions, kLeastColumns));
  b.column_blocks = up(problem.grid[3], b.columns);
  b.columns = up(problem.grid[3], b.column_blocks);
  b.column_blocks = up(problem.grid[3], b.columns);
  b.pitch = b.columns + b.excess[1];
  b.rows = b.images = 1;
  // Where taps reach far fewer rows would read the same pixels again and again.
  int64_t rows = room / (planes * b.pitch) - b.excess[0];
  if (rows < b.excess[0]) rows = 2 * b.excess[0];
  if (b.column_blocks == 1) b.rows = larger(1, smaller(smaller(problem.grid[2], positions / b.columns), rows));
  b.row_blocks = up(problem.grid[2], b.rows);
  b.rows = up(problem.grid[2], b.row_blocks);
  b.row_blocks = up(problem.grid[2], b.rows);
  b.plane = (b.rows + b.excess[0]) * b.pitch;
  b.channel_block = planes * b.plane;
  if (b.row_blocks * b.column_blocks == 1)
    b.images = larger(1, smaller(smaller(problem.grid[0], positions / (b.rows * b.columns)), room / b.channel_block));
  b.image_blocks = up(problem.grid[0], b.images);
  b.images = up(problem.grid[0], b.image_blocks);
  b.image_blocks = up(problem.grid[0], b.images);
  b.count = b.image_blocks * problem.grid[1] * b.row_blocks * b.column_blocks;
  b.image = up(channels, lanes) * b.channel_block;
  return b;
}

// Whether the pixels of a block take bounded memory.
bool is_bounded(const Blocks& b) {
  return b.count > 0 && b.image <= kMostBytes / TORCHBP_VECTOR_BYTES / b.images &&
         b.slots * b.residues[0] * b.residues[1] <= 4096;
}

template <typename Problem>
int64_t place_of(const Problem& problem, const Blocks& b, int64_t tap) {
  const int64_t* at = problem.tap_offset + tap * kSpatial;
  const int64_t h = at[1] - b.least[1], w = at[2] - b.least[2];
  const int64_t step_h = problem.step[2], step_w = problem.step[3];
  const int64_t plane = ((at[0] - b.least[0]) * b.residues[0] + h % step_h) * b.residues[1] + w % step_w;
  return plane * b.plane + h / step_h * b.pitch + w / step_w;
}

// A block's first position and its size.
struct Block {
  int64_t image, depth, row, column;
  int64_t images, rows, columns;
};

template <typename Problem>
Block block_at(const Problem& problem, const Blocks& b, int64_t index) {
  Block block;
  block.column = index % b.column_blocks * b.columns;
  index /= b.column_blocks;
  block.row = index % b.row_blocks * b.rows;
  index /= b.row_blocks;
  block.depth = index % problem.grid[1];
  block.image = index / problem.grid[1] * b.images;
  block.images = smaller(b.images, problem.grid[0] - block.image);
  block.rows = smaller(b.rows, problem.grid[2] - block.row);
  block.columns = smaller(b.columns, problem.grid[3] - block.column);
  return block;
}

// A tap and where the pixels of a block's first position begin for it.
struct Tap {
  int64_t index, place;
};

// Copies those of some taps that meet more than padding at some of the positions first .. last - 1 of a row.
int64_t taps_that_meet(const GatherProblem& problem, const Block& block, int64_t row, int64_t first, int64_t last,
                       const Tap* taps, int64_t count, Tap* used) {
  const int64_t z = problem.step[1] * block.depth, y = problem.step[2] * (block.row + row);
  const int64_t left = problem.step[3] * (block.column + first), right = problem.step[3] * (block.column + last - 1);
  int64_t many = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t* at = problem.tap_offset + taps[i].index * kSpatial;
    const bool meets = z + at[0] >= 0 && z + at[0] < problem.source_size[1] && y + at[1] >= 0 &&
                       y + at[1] < problem.source_size[2] && right + at[2] >= 0 &&
                       left + at[2] < problem.source_size[3];
    used[many] = taps[i];
    many += meets;
  }
  return many;
}

// Whether all taps do.
bool all_taps_meet(const GatherProblem& problem, const Blocks& b, const Block& block, int64_t row, int64_t first,
                   int64_t last) {
  const int64_t z = problem.step[1] * block.depth, y = problem.step[2] * (block.row + row);
  const int64_t left = problem.step[3] * (block.column + first), right = problem.step[3] * (block.column + last - 1);
  return z + b.least[0] >= 0 && z + b.most[0] < problem.source_size[1] && y + b.least[1] >= 0 &&
         y + b.most[1] < problem.source_size[2] && right + b.least[2] >= 0 && left + b.most[2] < problem.source_size[3];
}

template <typename T>
void clear_vectors(T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) store(to + i * kLanes<T>, Vector<T>{});
}

// to[pixel][lane] of pixels `increment` apart.
template <typename T>
void copy_lanes(const T* from, int64_t increment, int64_t channel_stride, int64_t channels, int64_t count, bool more,
                T* scratch, T* to) {
  constexpr int64_t lanes = kLanes<T>;
  if (channel_stride == 1 && channels == lanes) {
    for (int64_t i = 0; i < count; ++i) store(to + i * lanes, load(from + i * increment));
  } else if (channel_stride == 1) {
    for (int64_t i = 0; i < count; ++i) store<T>(to + i * lanes, load_first(from + i * increment, channels));
  } else if (increment == 1) {
    to_lanes(from, channel_stride, channels, count, to, more);
  } else if (increment == 2) {
    for (int64_t i = 0; i < count; i += lanes) {
      const int64_t many = smaller(lanes, count - i);
      to_lanes(from + 2 * i, channel_stride, channels, 2 * many - 1, scratch, more);
      for (int64_t j = 0; j < many; ++j) store(to + (i + j) * lanes, load(scratch + 2 * j * lanes));
    }
  } else {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < lanes; ++c)
        to[i * lanes + c] = c < channels ? from[i * increment + c * channel_stride] : T(0);
  }
}

// Copies the pixels that a block's outputs read. Channels that lie together are read together. Rows that are nothing
// but padding are not read.
template <typename T, typename Problem>
void fill(const Problem& problem, const Blocks& b, const Block& block, const T* source, int64_t channels, T* scratch,
          T* buffer) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t step_h = problem.step[2], step_w = problem.step[3], stride = problem.source_stride[3];
  const int64_t rows = block.rows + b.excess[0], columns = block.columns + b.excess[1];
  const bool together = problem.source_channel_stride == 1;
  for (int64_t image = 0; image < block.images; ++image)
    for (int64_t c0 = 0; c0 < channels; c0 += together ? channels : lanes) {
      const int64_t last = together ? channels : smaller(channels, c0 + lanes);
      const T* from_image = source + (block.image + image) * problem.source_stride[0];
      T* plane = buffer + (image * b.image + c0 / lanes * b.channel_block) * lanes;
      for (int64_t slot = 0; slot < b.slots; ++slot) {
        const int64_t z = problem.step[1] * block.depth + b.least[0] + slot;
        for (int64_t h = 0; h < b.residues[0]; ++h)
          for (int64_t w = 0; w < b.residues[1]; ++w, plane += b.plane * lanes) {
            const int64_t shift = step_w * block.column + b.least[2] + w;
            const Range valid = valid_range(columns, step_w, shift, problem.source_size[3]);
            for (int64_t r = 0; r < rows; ++r) {
              const int64_t y = step_h * (block.row + r) + b.least[1] + h;
              if (z < 0 || z >= problem.source_size[1] || y < 0 || y >= problem.source_size[2]) continue;
              T* to = plane + r * b.pitch * lanes;
              const int64_t begin = valid.first, end = valid.last;
              const T* from = from_image + z * problem.source_stride[1] + y * problem.source_stride[2] +
                              (step_w * begin + shift) * stride;
              for (int64_t c = c0; c < last; c += lanes) {
                T* at = to + (c - c0) * b.channel_block;
                clear_vectors(at, begin);
                clear_vectors(at + end * lanes, columns - end);
              }
              if (together && end > begin) {
                const int64_t whole = channels / lanes * lanes, step = step_w * stride;
                for (int64_t x = begin; x < end; ++x, from += step) {
                  T* at = to + x * lanes;
                  for (int64_t c = 0; c < whole; c += lanes) store(at + c * b.channel_block, load(from + c));
                  if (whole < channels)
                    store<T>(at + whole * b.channel_block, load_first(from + whole, channels - whole));
                }
              } else if (end > begin) {
                copy_lanes(from + c0 * problem.source_channel_stride, step_w * stride, problem.source_channel_stride,
                           last - c0, end - begin, last < channels, scratch, to + begin * lanes);
              }
            }
          }
      }
    }
}

template <typename T>
constexpr int64_t kScratch = 2 * kLanes<T> * kLanes<T>;

// ---------------------------------------------------------------------------------------------
// The gathered product

template <typename T>
Blocks gather_blocks(const GatherProblem& problem) {
  return blocks_of<T>(problem, problem.source_channels, kPositions, kBlockBytes);
}

template <typename T>
bool fits(const GatherProblem& problem) {
  return problem.taps > 0 && problem.taps <= 4096 && is_bounded(gather_blocks<T>(merged(problem)));
}

template <typename T>
int64_t packed_panels(const GatherProblem& problem) {
  return problem.groups * up(problem.target_channels, kPanel<T>);
}

template <typename T>
int64_t packed_panel_size(const GatherProblem& problem) {
  return problem.taps * problem.source_channels * kPanel<T>;
}

template <typename T>
int64_t panel_width(const GatherProblem& problem, int64_t panel) {
  return problem.target_channels - panel * kPanel<T> <= kLanes<T> ? kLanes<T> : kPanel<T>;
}

// A panel lies as [tap][source channel][target channel].
template <typename T>
void pack_weight(const GatherProblem& problem, const T* weight, T* packed, int64_t panel_of_all) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t panels = up(problem.target_channels, kPanel<T>), channels = problem.source_channels;
  const int64_t group = panel_of_all / panels, panel = panel_of_all % panels, width = panel_width<T>(problem, panel);
  const int64_t taps = problem.taps, lane_stride = problem.weight_target_stride;
  packed += panel_of_all * packed_panel_size<T>(problem);
  weight += group * problem.weight_group_stride + panel * kPanel<T> * lane_stride;
  bool dense = problem.weight_source_stride == taps && taps <= lanes;
  for (int64_t tap = 0; tap < taps; ++tap) dense = dense && problem.tap_weight[tap] == tap;
  alignas(64) T lane[lanes * lanes * lanes];
  for (int64_t v = 0; v < width; v += lanes) {
    const int64_t present = smaller(lanes, problem.target_channels - panel * kPanel<T> - v);
    const T* from = weight + v * lane_stride;
    T* to = packed + v;
    if (dense && lane_stride != 1) {  // taps and channels that follow each other in memory are transposed together
      for (int64_t c = 0; c < channels; c += lanes) {
        const int64_t many = smaller(lanes, channels - c);
        to_lanes(from + c * taps, lane_stride, present, many * taps, lane);
        for (int64_t i = 0; i < many; ++i)
          for (int64_t tap = 0; tap < taps; ++tap)
            store(to + (tap * channels + c + i) * width, load(lane + (i * taps + tap) * lanes));
      }
      continue;
    }
    if (problem.weight_source_stride == 1 && lane_stride != 1) {
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t c = 0; c < channels; c += lanes) {
          const int64_t many = smaller(lanes, channels - c);
          to_lanes(from + problem.tap_weight[tap] + c, lane_stride, present, many, lane);
          for (int64_t i = 0; i < many; ++i) store(to + (tap * channels + c + i) * width, load(lane + i * lanes));
        }
      continue;
    }
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t c = 0; c < channels; ++c, to += width) {
        const T* at = from + problem.tap_weight[tap] + c * problem.weight_source_stride;
        if (lane_stride == 1) {
          store<T>(to, load_first(at, present));
        } else {
          for (int64_t k = 0; k < lanes; ++k) to[k] = k < present ? at[k * lane_stride] : T(0);
        }
      }
  }
}

// Sums of pixels, `step` apart: what they start from, and where they go.
template <typename T>
struct Sums {
  const T* start;
  int64_t start_step;
  T* to;
  int64_t to_step;
};

// to[pixel][v] = start[pixel][v] + sum over taps and channels of source[place + pixel][channel] *
// weight[index][channel][v].
template <typename T, int kPixels, int kWide>
void multiply(const T* __restrict__ source, const Tap* tap, int64_t taps, int64_t block_stride, int64_t channels,
              const T* __restrict__ weight, int64_t tap_stride, const Sums<T>& sums) {
  constexpr int64_t lanes = kLanes<T>;
  Vector<T> sum[kPixels][kWide];
#pragma GCC unroll 12
  for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) sum[r][v] = Vector<T>{};
  for (const Tap* end = tap + taps; tap < end; ++tap) {
    const T* from = source + tap->place * lanes;
    const T* by = weight + tap->index * tap_stride;
    for (int64_t c = 0; c < channels; c += lanes, from += block_stride) {
      const int64_t count = smaller(lanes, channels - c);
      for (int64_t lane = 0; lane < count; ++lane, by += kWide * lanes) {
        Vector<T> column[kWide];
#pragma GCC unroll 2
        for (int v = 0; v < kWide; ++v) column[v] = load(by + v * lanes);
#pragma GCC unroll 12
        for (int r = 0; r < kPixels; ++r) {
          const T scalar = from[r * lanes + lane];
#pragma GCC unroll 2
          for (int v = 0; v < kWide; ++v) sum[r][v] += column[v] * scalar;
        }
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v)
      store<T>(sums.to + r * sums.to_step + v * lanes, load(sums.start + r * sums.start_step + v * lanes) + sum[r][v]);
}

template <typename T, int kPixels, int kWide, typename... Arguments>
void multiply_pixels(int64_t pixels, const Arguments&... arguments) {
  if constexpr (kPixels > 1) {
    if (pixels < kPixels) return multiply_pixels<T, kPixels - 1, kWide>(pixels, arguments...);
  }
  multiply<T, kPixels, kWide>(arguments...);
}

struct Split {
  int64_t parts;  // of the panels
};

template <typename T>
int64_t parts_of(const GatherProblem& problem, const Blocks& b, int64_t threads) {
  const int64_t blocks = b.count * problem.groups, panels = up(problem.target_channels, kPanel<T>);
  // Few blocks are split between the threads, although each part copies the source.
  return blocks < 4 * threads ? smaller(panels, threads) : 1;
}

template <typename T>
int64_t gather_tasks(const GatherProblem& problem, int64_t threads) {
  const Blocks b = gather_blocks<T>(merged(problem));
  return b.count * problem.groups * parts_of<T>(problem, b, threads);
}

// All taps, and those of a tile.
template <typename T>
int64_t tap_elements(const GatherProblem& problem) {
  const int64_t bytes = 2 * problem.taps * static_cast<int64_t>(sizeof(Tap));
  return up(bytes, kCacheLine) * kCacheLine / static_cast<int64_t>(sizeof(T));
}

template <typename T>
int64_t gather_workspace(const GatherProblem& problem) {
  const Blocks b = gather_blocks<T>(merged(problem));
  return tap_elements<T>(problem) + b.images * (b.image * kLanes<T> + b.rows * b.columns * kPanel<T>)+kScratch<T> +
         kPanel<T>;
}

// Where the sums of a row of a block begin.
template <typename T>
T* position(const GatherProblem& problem, const Block& block, int64_t image, int64_t row, T* target) {
  return target + (block.image + image) * problem.target_stride[0] + block.depth * problem.target_stride[1] +
         (block.row + row) * problem.target_stride[2] + block.column * problem.target_stride[3];
}

// Writes the products of a block for one panel.
template <typename T>
void write_block(const GatherProblem& problem, const Blocks& b, const Block& block, const T* product, int64_t width,
                 int64_t channels, T* target) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t stride = problem.target_stride[3], channel = problem.target_channel_stride;
  // Complete rows that follow each other are one.
  const bool whole = b.column_blocks == 1 && problem.target_stride[2] == block.columns * stride;
  const int64_t rows = whole ? 1 : block.rows, columns = whole ? block.rows * block.columns : block.columns;
  for (int64_t image = 0; image < block.images; ++image)
    for (int64_t row = 0; row < rows; ++row) {
      const T* from = product + (image * b.rows + row) * b.columns * width;
      T* to = position(problem, block, image, row, target);
      for (int64_t v = 0; v < channels; v += lanes) {
        const int64_t present = smaller(lanes, channels - v);
        T* at = to + v * channel;
        if (channel == 1 && present == lanes) {
          for (int64_t i = 0; i < columns; ++i) store(at + i * stride, load(from + i * width + v));
        } else if (channel != 1 && stride == 1) {
          from_lanes(from + v, width, columns, at, channel, present);
        } else {
          alignas(64) T tile[lanes * lanes];
          for (int64_t i = 0; i < columns; i += lanes) {
            const int64_t many = smaller(lanes, columns - i);
            from_lanes(from + i * width + v, width, many, tile, lanes, present);
            for (int64_t k = 0; k < present; ++k)
              for (int64_t j = 0; j < many; ++j) at[(i + j) * stride + k * channel] = tile[k * lanes + j];
          }
        }
      }
    }
}

template <typename T>
void gather(const GatherProblem& original, int64_t threads, const T* source, const T* packed, const T* bias, T* target,
            T* workspace, int64_t task) {
  constexpr int64_t lanes = kLanes<T>;
  const GatherProblem problem = merged(original);
  const Blocks b = gather_blocks<T>(problem);
  const int64_t parts = parts_of<T>(problem, b, threads), part = task % parts;
  task /= parts;
  const Block block = block_at(problem, b, task % b.count);
  const int64_t group = task / b.count, channels = problem.source_channels, taps = problem.taps;
  Tap* all = reinterpret_cast<Tap*>(workspace);
  Tap* used = all + taps;
  T* start = workspace + tap_elements<T>(problem);
  T* scratch = start + kPanel<T>;
  T* buffer = scratch + kScratch<T>;
  T* product = buffer + b.images * b.image * lanes;
  for (int64_t tap = 0; tap < taps; ++tap) all[tap] = {tap, place_of(problem, b, tap)};
  fill(problem, b, block, source + group * channels * problem.source_channel_stride, channels, scratch, buffer);

  const int64_t panels = up(problem.target_channels, kPanel<T>), pieces = up(block.columns, kRows);
  for (int64_t panel = part * panels / parts; panel < (part + 1) * panels / parts; ++panel) {
    const int64_t width = panel_width<T>(problem, panel), first_channel = panel * kPanel<T>;
    const int64_t wanted = smaller(kPanel<T>, problem.target_channels - first_channel);
    const T* matrix = packed + (group * panels + panel) * packed_panel_size<T>(problem);
    for (int64_t k = 0; k < width; ++k)
      start[k] = bias && k < wanted ? bias[group * problem.target_channels + first_channel + k] : T(0);
    const int64_t chain = smaller(kChain, kPieceBytes / (width * static_cast<int64_t>(sizeof(T))));
    const int64_t channel_step = smaller(channels, up(up(channels, up(channels, chain)), lanes) * lanes);
    const int64_t tap_step = channel_step < channels ? 1 : larger(1, smaller(taps, chain / channels));
    T* out = target + (group * problem.target_channels + first_channel) * problem.target_channel_stride;
    const bool in_place = problem.target_channel_stride == 1 && wanted == width;  // for the last piece's sums
    for (int64_t tap = 0; tap < taps; tap += tap_step)
      for (int64_t c = 0; c < channels; c += channel_step) {
        const int64_t many = smaller(tap_step, taps - tap), depth = smaller(channel_step, channels - c);
        const bool begins = tap == 0 && c == 0, ends = tap + many == taps && c + depth == channels;
        for (int64_t image = 0; image < block.images; ++image)
          for (int64_t row = 0; row < block.rows; ++row)
            for (int64_t piece = 0; piece < pieces; ++piece) {
              const int64_t first = piece * block.columns / pieces, last = (piece + 1) * block.columns / pieces;
              const T* from = buffer + (image * b.image + c / lanes * b.channel_block + row * b.pitch + first) * lanes;
              T* own = product + ((image * b.rows + row) * b.columns + first) * width;
              Sums<T> sums = {begins ? start : own, begins ? 0 : width, own, width};
              if (ends && in_place) {
                sums.to = position(problem, block, image, row, out) + first * problem.target_stride[3];
                sums.to_step = problem.target_stride[3];
              }
              const Tap* by = all + tap;
              int64_t meeting = many;
              if (!all_taps_meet(problem, b, block, row, first, last)) {
                meeting = taps_that_meet(problem, block, row, first, last, by, many, used);
                by = used;
                if (meeting == 0 && !begins && !(ends && in_place)) continue;
              }
              if (width == lanes)
                multiply_pixels<T, kRows, 1>(last - first, from, by, meeting, b.channel_block * lanes, depth,
                                             matrix + c * width, channels * width, sums);
              else
                multiply_pixels<T, kRows, kVectors>(last - first, from, by, meeting, b.channel_block * lanes, depth,
                                                    matrix + c * width, channels * width, sums);
            }
      }
    if (!in_place) write_block(problem, b, block, product, width, wanted, out);
  }
}

// ---------------------------------------------------------------------------------------------
// The correlation that gives the weight gradient: for every tap, sum over positions of gradient x source, for a block
// of gradient channels times a block of source channels whose sums stay in the second-level cache.

constexpr int64_t kSumBytes = 512 << 10;
constexpr int64_t kDeepPositions = 128;  // whose pixels stay in the first-level cache
constexpr int64_t kSumChannels = 64;
constexpr int64_t kEnoughTasks = 16;  // fewer are also split over slices of the positions, as the shape says
constexpr int64_t kSliceBlocks = 8;   // blocks of positions that pay for a slice

// With few source channels, which would leave most lanes empty, the vectors are gradient channels and the rows are
// pairs of a source channel and a tap, read from planes of single elements.
constexpr int64_t kFewChannels = 12;
constexpr int64_t kFewPositions = 512;

struct SumPlan : Blocks {
  bool few;
  int64_t row_blocks_of_sum, column_blocks_of_sum;  // of gradient and of source channels
  int64_t height, width;                            // channels of a block, whole vectors
  int64_t slices, slice_blocks;
};

template <typename T>
SumPlan sum_plan(const CorrelationProblem& problem) {
  constexpr int64_t lanes = kLanes<T>;
  SumPlan plan = {};
  const int64_t size = static_cast<int64_t>(sizeof(T));
  // As many channels as the sums allow: the pixels of the others are read once for each block.
  plan.few = problem.source_channels < kFewChannels && problem.gradient_channels >= problem.source_channels;
  plan.width = smaller(up(problem.source_channels, lanes) * lanes, 2 * kSumChannels);
  if (plan.few) plan.width = problem.source_channels;
  const int64_t room = kSumBytes / (larger(1, problem.taps) * plan.width * size);
  plan.height = smaller(up(problem.gradient_channels, lanes) * lanes, larger(kSumChannels, room / lanes * lanes));
  if (problem.taps * plan.width * plan.height * size > 2 * kSumBytes)
    plan.width = smaller(plan.width, larger(lanes, kSumChannels));
  plan.column_blocks_of_sum = up(problem.source_channels, plan.width);
  if (plan.few) {
    const int64_t vectors = up(problem.gradient_channels, lanes);
    plan.height = up(vectors, up(vectors, kSumVectors)) * lanes;
  }
  plan.row_blocks_of_sum = up(problem.gradient_channels, plan.height);
  static_cast<Blocks&>(plan) =
      blocks_of<T>(problem, plan.width, plan.few ? kFewPositions : kDeepPositions, kBlockBytes);
  if (plan.count == 0) return plan;
  if (!plan.few && plan.rows < plan.excess[0])  // what is read again costs more than what leaves the cache
    static_cast<Blocks&>(plan) = blocks_of<T>(problem, plan.width, 2 * plan.excess[0] * plan.columns, kBlockBytes);
  const int64_t tasks = problem.groups * plan.row_blocks_of_sum * plan.column_blocks_of_sum;
  plan.slices = smaller(up(plan.count, kSliceBlocks), up(kEnoughTasks, tasks));
  plan.slice_blocks = up(plan.count, plan.slices);
  plan.slices = up(plan.count, plan.slice_blocks);
  if (plan.few) plan.image = plan.width * plan.channel_block;  // elements
  return plan;
}

template <typename T>
bool correlation_fits(const CorrelationProblem& problem) {
  if (problem.taps == 0 || problem.taps > 512) return false;
  return is_bounded(sum_plan<T>(merged(problem)));
}

template <typename T>
int64_t correlation_slices(const CorrelationProblem& problem) {
  return sum_plan<T>(merged(problem)).slices;
}

template <typename T>
int64_t correlation_tasks(const CorrelationProblem& problem) {
  const SumPlan plan = sum_plan<T>(merged(problem));
  return plan.slices * problem.groups * plan.row_blocks_of_sum * plan.column_blocks_of_sum;
}

// Where the taps, or the rows of few channels, begin.
template <typename T>
int64_t place_elements(const CorrelationProblem& problem, const SumPlan& plan) {
  const int64_t bytes = problem.taps * (plan.few ? plan.width : 1) * static_cast<int64_t>(sizeof(int64_t));
  return up(bytes, kCacheLine) * kCacheLine / static_cast<int64_t>(sizeof(T));
}

template <typename T>
int64_t correlation_workspace(const CorrelationProblem& problem) {
  const SumPlan plan = sum_plan<T>(merged(problem));
  const int64_t lanes = plan.few ? 1 : kLanes<T>;
  return problem.taps * plan.width * plan.height + plan.images * plan.image * lanes +
         plan.rows * plan.columns * plan.height + kScratch<T> + place_elements<T>(problem, plan);
}

// Copies the gradient of one image of a block, `positions` vectors for each vector of channels.
template <typename T>
void fill_gradient(const CorrelationProblem& problem, const Block& block, int64_t image, const T* gradient,
                   int64_t channels, T* scratch, T* to) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t stride = problem.gradient_stride[3], positions = block.rows * block.columns;
  gradient += (block.image + image) * problem.gradient_stride[0] + block.depth * problem.gradient_stride[1] +
              block.row * problem.gradient_stride[2] + block.column * stride;
  // Complete rows that follow each other are one.
  const bool whole = problem.gradient_stride[2] == block.columns * stride;
  const int64_t rows = whole ? 1 : block.rows, columns = whole ? positions : block.columns;
  for (int64_t m = 0; m < channels; m += lanes)
    for (int64_t row = 0; row < rows; ++row)
      copy_lanes(gradient + m * problem.gradient_channel_stride + row * problem.gradient_stride[2], stride,
                 problem.gradient_channel_stride, smaller(lanes, channels - m), columns, m + lanes < channels, scratch,
                 to + m * positions + row * columns * lanes);
}

// As fill, for planes of single elements.
template <typename T>
void fill_planes(const CorrelationProblem& problem, const SumPlan& b, const Block& block, const T* source,
                 int64_t channels, T* buffer) {
  const int64_t step_h = problem.step[2], step_w = problem.step[3], step = step_w * problem.source_stride[3];
  const int64_t rows = block.rows + b.excess[0], columns = block.columns + b.excess[1];
  for (int64_t image = 0; image < block.images; ++image)
    for (int64_t c = 0; c < channels; ++c) {
      T* plane = buffer + image * b.image + c * b.channel_block;
      for (int64_t slot = 0; slot < b.slots; ++slot) {
        const int64_t z = problem.step[1] * block.depth + b.least[0] + slot;
        for (int64_t h = 0; h < b.residues[0]; ++h)
          for (int64_t w = 0; w < b.residues[1]; ++w, plane += b.plane) {
            const int64_t shift = step_w * block.column + b.least[2] + w;
            const Range valid = valid_range(columns, step_w, shift, problem.source_size[3]);
            for (int64_t r = 0; r < rows; ++r) {
              const int64_t y = step_h * (block.row + r) + b.least[1] + h;
              T* __restrict__ to = plane + r * b.pitch;
              const bool inside = z >= 0 && z < problem.source_size[1] && y >= 0 && y < problem.source_size[2];
              const int64_t begin = inside ? valid.first : columns, end = inside ? valid.last : columns;
              const T* from = source + (block.image + image) * problem.source_stride[0] +
                              c * problem.source_channel_stride + z * problem.source_stride[1] +
                              y * problem.source_stride[2] + shift * problem.source_stride[3];
              for (int64_t x = 0; x < begin; ++x) to[x] = T(0);
              for (int64_t x = begin; x < end; ++x) to[x] = from[x * step];
              for (int64_t x = end; x < columns; ++x) to[x] = T(0);
            }
          }
      }
    }
}

// Rows of a register tile. Nine, where registers allow, are all taps of a 3 x 3 kernel.
template <typename T>
constexpr int kFewRows = kSumRows<T> < 4 ? 4 : static_cast<int>(kSumRows<T>);
template <typename T>
constexpr int kMoreRows = TORCHBP_VECTOR_BYTES == 64 ? 9 : kFewRows<T>;

// The sums of one image of a block, [source channel][tap][gradient channel].
template <typename T, int kTileRows>
void accumulate_few(const SumPlan& plan, const Block& block, const T* planes, const int64_t* place, int64_t rows,
                    const T* grads, int64_t vectors, bool add, T* sum) {
  const int64_t vector_stride = block.rows * block.columns * kLanes<T>;
  T dropped[kSumVectors * kLanes<T>] = {};
  for (int64_t row = 0; row < rows; row += kTileRows) {
    const T* from[kTileRows];
    T* to[kTileRows];
    for (int r = 0; r < kTileRows; ++r) {  // rows too many repeat the last and are dropped
      const int64_t at = smaller(rows - 1, row + r);
      from[r] = planes + place[at];
      to[r] = row + r < rows ? sum + at * plan.height : dropped;
    }
    if (vectors == 3)
      accumulate_planes<T, kTileRows, 3>(from, plan.pitch, grads, vector_stride, block.rows, block.columns, add, to);
    else if (vectors == 2)
      accumulate_planes<T, kTileRows, 2>(from, plan.pitch, grads, vector_stride, block.rows, block.columns, add, to);
    else
      accumulate_planes<T, kTileRows, 1>(from, plan.pitch, grads, vector_stride, block.rows, block.columns, add, to);
  }
}

// Those of the rows, and the columns, of a block where a tap meets more than padding.
struct Meeting {
  int64_t first_row, last_row, first, last;
};

Meeting positions_that_meet(const CorrelationProblem& problem, const Block& block, int64_t row, int64_t last_row,
                            int64_t tap) {
  const int64_t* at = problem.tap_offset + tap * kSpatial;
  const int64_t z = problem.step[1] * block.depth + at[0];
  const Range all = valid_range(last_row, problem.step[2], problem.step[2] * block.row + at[1], problem.source_size[2]);
  const Range rows = {larger(row, all.first), larger(larger(row, all.first), all.last)};
  const Range columns =
      valid_range(block.columns, problem.step[3], problem.step[3] * block.column + at[2], problem.source_size[3]);
  if (z < 0 || z >= problem.source_size[1] || rows.first == rows.last || columns.first == columns.last) return {};
  return {rows.first, rows.last, columns.first, columns.last};
}

template <typename T>
void correlate(const CorrelationProblem& original, const T* source, const T* gradient, T* partial, T* workspace,
               int64_t task) {
  constexpr int64_t lanes = kLanes<T>;
  const CorrelationProblem problem = merged(original);
  const SumPlan plan = sum_plan<T>(problem);
  const int64_t c0 = task % plan.column_blocks_of_sum * plan.width;
  task /= plan.column_blocks_of_sum;
  const int64_t m0 = task % plan.row_blocks_of_sum * plan.height;
  task /= plan.row_blocks_of_sum;
  const int64_t group = task % problem.groups, slice = task / problem.groups, taps = problem.taps;
  const int64_t channels = smaller(plan.width, problem.source_channels - c0);
  const int64_t targets = smaller(plan.height, problem.gradient_channels - m0);
  const int64_t columns = up(channels, lanes) * lanes, rows = up(targets, kSumRows<T>) * kSumRows<T>;
  int64_t* place = reinterpret_cast<int64_t*>(workspace);
  for (int64_t row = 0; row < taps * (plan.few ? channels : 1); ++row)
    place[row] = row / taps * plan.channel_block + place_of(problem, plan, row % taps);
  T* sum = workspace + place_elements<T>(problem, plan);
  T* scratch = sum + taps * plan.width * plan.height;
  T* pixels = scratch + kScratch<T>;
  T* grads = pixels + plan.images * plan.image * (plan.few ? 1 : lanes);
  source += (group * problem.source_channels + c0) * problem.source_channel_stride;
  gradient += (group * problem.gradient_channels + m0) * problem.gradient_channel_stride;
  const int64_t begin = slice * plan.slice_blocks, end = smaller(plan.count, begin + plan.slice_blocks);
  bool add = false;
  for (int64_t index = begin; index < end; ++index) {
    const Block block = block_at(problem, plan, index);
    const int64_t positions = block.rows * block.columns, step = larger(1, kDeepPositions / block.columns);
    if (plan.few)
      fill_planes(problem, plan, block, source, channels, pixels);
    else
      fill(problem, plan, block, source, channels, scratch, pixels);
    for (int64_t image = 0; image < block.images; ++image) {
      fill_gradient(problem, block, image, gradient, targets, scratch, grads);
      if (plan.few) {
        const int64_t all = channels * taps;
        const bool more = up(all, kMoreRows<T>) * kMoreRows<T> < up(all, kFewRows<T>) * kFewRows<T>;
        (more ? accumulate_few<T, kMoreRows<T>>
              : accumulate_few<T, kFewRows<T>>)(plan, block, pixels + image * plan.image, place, all, grads,
                                                up(targets, lanes), add, sum);
      } else {
        for (int64_t row = 0; row < block.rows; row += step)
          for (int64_t tap = 0; tap < taps; ++tap) {
            const auto [first_row, last_row, first, last] =
                positions_that_meet(problem, block, row, smaller(block.rows, row + step), tap);
            const bool adds = add || row > 0;
            if (adds && first_row == last_row) continue;
            accumulate_block(grads + (first_row * block.columns + first) * lanes,
                             pixels + (image * plan.image + place[tap] + first_row * plan.pitch + first) * lanes,
                             block.columns * lanes, plan.pitch * lanes, positions * lanes, plan.channel_block * lanes,
                             last_row - first_row, last - first, rows, columns, adds,
                             sum + tap * plan.width * plan.height, plan.width);
          }
      }
      add = true;
    }
  }
  partial += (slice * problem.groups + group) * problem.gradient_channels * taps * problem.source_channels;
  for (int64_t m = 0; m < targets; ++m)
    for (int64_t tap = 0; tap < taps; ++tap) {
      T* to = partial + ((m0 + m) * taps + tap) * problem.source_channels + c0;
      if (plan.few)
        for (int64_t c = 0; c < channels; ++c) to[c] = sum[(c * taps + tap) * plan.height + m];
      else
        for (int64_t c = 0; c < channels; ++c) to[c] = sum[(tap * plan.height + m) * plan.width + c];
    }
}

template <typename T>
DirectKernels<T> kernels_of() {
  return {
      fits<T>,
      packed_panels<T>,
      packed_panel_size<T>,
      pack_weight<T>,
      gather_tasks<T>,
      gather_workspace<T>,
      gather<T>,
      correlation_fits<T>,
      correlation_slices<T>,
      correlation_tasks<T>,
      correlation_workspace<T>,
      correlate<T>,
  };
}

}  // namespace

DirectKernels<float> direct_float() { return kernels_of<float>(); }
DirectKernels<double> direct_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
