// Convolution by Winograd's bilinear algorithm (S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and
// S. Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016).
//
// F(m, r) computes m outputs of a correlation with r taps by m + r - 1 products, y = A' [(G g) o (B' d)]: the
// polynomials d and g are evaluated at m + r - 2 points and at infinity, multiplied there, and interpolated (Toom and
// Cook). Longer kernels are sums of short ones, and those of stride 2 of one over the even and one over the odd
// inputs, so that few points are needed, which keeps the rounding errors small. In two dimensions the maps act on rows
// and on columns, and the products of one place of a tile, summed over the channels, are a product of matrices, tiles
// x source channels times source channels x target channels. The weight gradient is the same form read for g:
// w = G' [(A y) o (B' d)], summed over the tiles.
//
// The lanes of every vector are channels. A block of tiles is transformed channel block by channel block, multiplied,
// and transformed back, while it stays in the second-level cache.
#include "winograd.h"

#include "lanes.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

constexpr int64_t kBlockBytes = 640 << 10;  // of a block of transformed tiles
constexpr int64_t kLeastTiles = 6 * kRows;  // of a block, to pay for reading the weight
constexpr int64_t kMostBytes = 8 << 20;     // of a block of more

// ---------------------------------------------------------------------------------------------
// The maps along one axis: source is B', weight is G, target is A', and gradient is A, taps is G'. A tile of kTile
// targets reads kExtent sources and the next one starts kStep sources on. Some of the kPoints products may share a
// weight, `matrix` of kMatrices.

// What holds where every product has a weight of its own and the stride is one.
template <int tile, int taps>
struct Maps {
  static constexpr int kTile = tile, kTaps = taps, kPoints = tile + taps - 1, kMatrices = kPoints;
  static constexpr int kStep = tile, kExtent = kPoints;
  static constexpr int matrix(int point) { return point; }
};

// One tap: nothing to transform.
template <typename T, int tile>
struct Copies : Maps<tile, 1> {
  static constexpr int kMatrices = 1;
  typedef Vector<T> V;
  static constexpr int matrix(int) { return 0; }
  static TORCHBP_INLINE void source(const V* d, V* to) {
#pragma GCC unroll 8
    for (int i = 0; i < tile; ++i) to[i] = d[i];
  }
  static TORCHBP_INLINE void weight(const V* g, V* to) { to[0] = g[0]; }
  static TORCHBP_INLINE void target(const V* m, V* y) { source(m, y); }
  static TORCHBP_INLINE void gradient(const V* y, V* to) { source(y, to); }
  static TORCHBP_INLINE void taps(const V* s, V* g) { g[0] = s[0]; }
};

// F(2, 2) at 0, 1:  B' = (1 -1 0)   G = (1 0)   A' = (1 1 0)
//                        (0  1 0)       (1 1)        (0 1 1)
//                        (0 -1 1)       (0 1)
template <typename T>
struct TwoOfTwo : Maps<2, 2> {
  typedef Vector<T> V;
  static TORCHBP_INLINE void source(const V* d, V* to) {
    to[0] = d[0] - d[1];
    to[1] = d[1];
    to[2] = d[2] - d[1];
  }
  static TORCHBP_INLINE void weight(const V* g, V* to) {
    to[0] = g[0];
    to[1] = g[0] + g[1];
    to[2] = g[1];
  }
  static TORCHBP_INLINE void target(const V* m, V* y) {
    y[0] = m[0] + m[1];
    y[1] = m[1] + m[2];
  }
  static TORCHBP_INLINE void gradient(const V* y, V* to) { weight(y, to); }
  static TORCHBP_INLINE void taps(const V* s, V* g) { target(s, g); }
};

// F(2, 3) at 0, 1, -1:  B' = (1  0 -1  0)   G = (  1   0   0)   A' = (1 1  1 0)
//                            (0  1  1  0)       (1/2 1/2 1/2)        (0 1 -1 1)
//                            (0 -1  1  0)       (1/2 -1/2 1/2)
//                            (0 -1  0  1)       (  0   0   1)
template <typename T>
struct TwoOfThree : Maps<2, 3> {
  typedef Vector<T> V;
  static TORCHBP_INLINE void source(const V* d, V* to) {
    to[0] = d[0] - d[2];
    to[1] = d[2] + d[1];
    to[2] = d[2] - d[1];
    to[3] = d[3] - d[1];
  }
  static TORCHBP_INLINE void weight(const V* g, V* to) {
    const V even = (g[0] + g[2]) * T(0.5), odd = g[1] * T(0.5);
    to[0] = g[0];
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = g[2];
  }
  static TORCHBP_INLINE void target(const V* m, V* y) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) + m[3];
  }
  static TORCHBP_INLINE void gradient(const V* y, V* to) {
    to[0] = y[0];
    to[1] = y[0] + y[1];
    to[2] = y[0] - y[1];
    to[3] = y[1];
  }
  static TORCHBP_INLINE void taps(const V* s, V* g) {
    const V even = (s[1] + s[2]) * T(0.5);
    g[0] = s[0] + even;
    g[1] = (s[1] - s[2]) * T(0.5);
    g[2] = even + s[3];
  }
};

// F(4, 3) at 0, a, -a, b, -b with a = 11/16 and b = 23/16, whose squares p and q have a product near one: of the
// points that are short fractions these lose least to rounding. With P = p + q and Q = pq,
//   B' = (Q    0  -P   0 1 0)   G = (1, 0, 0) / Q                 A' = (1 1   1  1   1 0)
//        (0  -aq  -q   a 1 0)       (1,  a, p) / (2 p (p - q))         (0 a  -a  b  -b 0)
//        (0   aq  -q  -a 1 0)       (1, -a, p) / (2 p (p - q))         (0 p   p  q   q 0)
//        (0  -bp  -p   b 1 0)       (1,  b, q) / (2 q (q - p))         (0 ap -ap bq -bq 1)
//        (0   bp  -p  -b 1 0)       (1, -b, q) / (2 q (q - p))
//        (0    Q   0  -P 0 1)       (0, 0, 1)
template <typename T>
struct FourOfThree : Maps<4, 3> {
  typedef Vector<T> V;
  static constexpr T a = T(11.0 / 16), b = T(23.0 / 16), p = a * a, q = b * b;
  static constexpr T zero = T(1) / (p * q), near = T(1) / (2 * p * (p - q)), far = T(1) / (2 * q * (q - p));
  static TORCHBP_INLINE void source(const V* d, V* to) {
    const V even_q = d[4] - q * d[2], odd_q = d[3] - q * d[1], even_p = d[4] - p * d[2], odd_p = d[3] - p * d[1];
    to[0] = even_q - p * (d[2] - q * d[0]);
    to[1] = even_q + a * odd_q;
    to[2] = even_q - a * odd_q;
    to[3] = even_p + b * odd_p;
    to[4] = even_p - b * odd_p;
    to[5] = (d[5] - p * d[3]) - q * odd_p;
  }
  static TORCHBP_INLINE void weight(const V* g, V* to) {
    const V even_p = (g[0] + p * g[2]) * near, odd_p = g[1] * (a * near);
    const V even_q = (g[0] + q * g[2]) * far, odd_q = g[1] * (b * far);
    to[0] = g[0] * zero;
    to[1] = even_p + odd_p;
    to[2] = even_p - odd_p;
    to[3] = even_q + odd_q;
    to[4] = even_q - odd_q;
    to[5] = g[2];
  }
  static TORCHBP_INLINE void target(const V* m, V* y) {
    const V even_p = m[1] + m[2], odd_p = a * (m[1] - m[2]), even_q = m[3] + m[4], odd_q = b * (m[3] - m[4]);
    y[0] = m[0] + (even_p + even_q);
    y[1] = odd_p + odd_q;
    y[2] = p * even_p + q * even_q;
    y[3] = p * odd_p + (q * odd_q + m[5]);
  }
  static TORCHBP_INLINE void gradient(const V* y, V* to) {
    const V even_p = y[0] + p * y[2], odd_p = a * (y[1] + p * y[3]);
    const V even_q = y[0] + q * y[2], odd_q = b * (y[1] + q * y[3]);
    to[0] = y[0];
    to[1] = even_p + odd_p;
    to[2] = even_p - odd_p;
    to[3] = even_q + odd_q;
    to[4] = even_q - odd_q;
    to[5] = y[3];
  }
  static TORCHBP_INLINE void taps(const V* s, V* g) {
    const V even_p = (s[1] + s[2]) * near, odd_p = (s[1] - s[2]) * near;
    const V even_q = (s[3] + s[4]) * far, odd_q = (s[3] - s[4]) * far;
    g[0] = zero * s[0] + (even_p + even_q);
    g[1] = a * odd_p + b * odd_q;
    g[2] = p * even_p + (q * even_q + s[5]);
  }
};

// Two kernels side by side in the maps' arrays: the points and matrices of the first, then those of the second.
template <typename First, typename Second>
struct Both {
  static_assert(First::kTile == Second::kTile);
  static constexpr int kTaps = First::kTaps + Second::kTaps, kPoints = First::kPoints + Second::kPoints;
  static constexpr int kMatrices = First::kMatrices + Second::kMatrices;
  static constexpr int matrix(int point) {
    return point < First::kPoints ? First::matrix(point) : First::kMatrices + Second::matrix(point - First::kPoints);
  }
  template <typename V>
  static TORCHBP_INLINE void gradient(const V* y, V* to) {
    First::gradient(y, to);
    Second::gradient(y, to + First::kPoints);
  }
  template <typename V>
  static TORCHBP_INLINE void target(const V* m, V* y) {
    V more[Second::kTile];
    First::target(m, y);
    Second::target(m + First::kPoints, more);
#pragma GCC unroll 8
    for (int i = 0; i < Second::kTile; ++i) y[i] += more[i];
  }
};

// The taps of the first kernel, and after them those of the second.
template <typename First, typename Second>
struct Joined : Both<First, Second> {
  static constexpr int kTile = First::kTile, kStep = kTile, kExtent = kTile + First::kTaps + Second::kTaps - 1;
  template <typename V>
  static TORCHBP_INLINE void source(const V* d, V* to) {
    First::source(d, to);
    Second::source(d + First::kTaps, to + First::kPoints);
  }
  template <typename V>
  static TORCHBP_INLINE void weight(const V* g, V* to) {
    First::weight(g, to);
    Second::weight(g + First::kTaps, to + First::kMatrices);
  }
  template <typename V>
  static TORCHBP_INLINE void taps(const V* s, V* g) {
    First::taps(s, g);
    Second::taps(s + First::kMatrices, g + First::kTaps);
  }
};

// Every other one of an array, from `first` on.
template <int count, typename V>
TORCHBP_INLINE void every_other(const V* from, int first, V* to) {
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) to[i] = from[first + 2 * i];
}
template <int count, typename V>
TORCHBP_INLINE void to_every_other(const V* from, int first, V* to) {
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) to[first + 2 * i] = from[i];
}

// Stride 2: the even taps meet the even inputs, the odd taps the odd ones.
template <typename Even, typename Odd>
struct Strided : Both<Even, Odd> {
  static_assert(Even::kTaps == Odd::kTaps || Even::kTaps == Odd::kTaps + 1);
  static constexpr int kTile = Even::kTile, kStep = 2 * kTile, kExtent = Even::kExtent + Odd::kExtent;
  template <typename V>
  static TORCHBP_INLINE void source(const V* d, V* to) {
    V even[Even::kExtent], odd[Odd::kExtent];
    every_other<Even::kExtent>(d, 0, even);
    every_other<Odd::kExtent>(d, 1, odd);
    Even::source(even, to);
    Odd::source(odd, to + Even::kPoints);
  }
  template <typename V>
  static TORCHBP_INLINE void weight(const V* g, V* to) {
    V even[Even::kTaps], odd[Odd::kTaps];
    every_other<Even::kTaps>(g, 0, even);
    every_other<Odd::kTaps>(g, 1, odd);
    Even::weight(even, to);
    Odd::weight(odd, to + Even::kMatrices);
  }
  template <typename V>
  static TORCHBP_INLINE void taps(const V* s, V* g) {
    V even[Even::kTaps], odd[Odd::kTaps];
    Even::taps(s, even);
    Odd::taps(s + Even::kMatrices, odd);
    to_every_other<Even::kTaps>(even, 0, g);
    to_every_other<Odd::kTaps>(odd, 1, g);
  }
};

// The adjoint of stride 2, whose kernel comes reversed: targets in turn from the even and from the odd taps. The first
// target is one of the odd taps where kOddFirst.
template <typename Even, typename Odd, bool kOddFirst>
struct Interleaved : Strided<Even, Odd> {
  static constexpr int kShift = kOddFirst ? 0 : 1;  // of the sources that the odd taps meet
  static constexpr int kTile = 2 * Even::kTile, kStep = Even::kTile;
  static constexpr int kExtent = Even::kExtent > Odd::kExtent + kShift ? Even::kExtent : Odd::kExtent + kShift;
  template <typename V>
  static TORCHBP_INLINE void source(const V* d, V* to) {
    Even::source(d, to);
    Odd::source(d + kShift, to + Even::kPoints);
  }
  template <typename V>
  static TORCHBP_INLINE void target(const V* m, V* y) {
    V even[Even::kTile], odd[Even::kTile];
    Even::target(m, even);
    Odd::target(m + Even::kPoints, odd);
    to_every_other<Even::kTile>(even, kOddFirst ? 1 : 0, y);
    to_every_other<Even::kTile>(odd, kOddFirst ? 0 : 1, y);
  }
};

template <typename T>
using TwoOfFive = Joined<TwoOfThree<T>, TwoOfTwo<T>>;

// Calls call(map of the even taps, map of the odd taps) for the kernel of stride 2.
template <typename T, typename Call>
TORCHBP_INLINE auto with_halves(int64_t taps, const Call& call) {
  if (taps == 3) return call(TwoOfTwo<T>{}, Copies<T, 2>{});
  if (taps == 4) return call(TwoOfTwo<T>{}, TwoOfTwo<T>{});
  return call(TwoOfThree<T>{}, TwoOfTwo<T>{});
}

// Calls call(H{}, W{}) with the maps of the problem's rows and columns.
template <typename T, typename Call>
TORCHBP_INLINE auto with_maps(const WinogradProblem& problem, const Call& call) {
  if (problem.stride == 2)
    return with_halves<T>(problem.taps[1], [&](auto even, auto odd) {
      using Map = Strided<decltype(even), decltype(odd)>;
      return call(Map{}, Map{});
    });
  if (problem.taps[1] == 5) return call(TwoOfFive<T>{}, TwoOfFive<T>{});
  if (problem.taps[0] == 1) return call(Copies<T, 1>{}, FourOfThree<T>{});
  if (problem.tile[0] == 2) return call(TwoOfThree<T>{}, FourOfThree<T>{});
  return call(FourOfThree<T>{}, FourOfThree<T>{});
}

// The same for the first product, which may be the adjoint of a strided one.
template <typename T, typename Call>
TORCHBP_INLINE auto with_gather_maps(const WinogradProblem& problem, const Call& call) {
  if (!problem.interleaved) return with_maps<T>(problem, call);
  return with_halves<T>(problem.taps[1], [&](auto even, auto odd) {
    using First = Interleaved<decltype(even), decltype(odd), true>;
    using Second = Interleaved<decltype(even), decltype(odd), false>;
    return problem.odd_first ? call(First{}, First{}) : call(Second{}, Second{});
  });
}

// What the plans need to know of the maps.
struct Shape {
  int64_t tile[2], step[2], extent[2], points[2];
  int64_t places;    // products of a tile
  int64_t matrices;  // weights
};

template <typename T>
Shape shape_of(const WinogradProblem& problem) {
  return with_gather_maps<T>(problem, [](auto h, auto w) {
    using H = decltype(h);
    using W = decltype(w);
    return Shape{{H::kTile, W::kTile},     {H::kStep, W::kStep},    {H::kExtent, W::kExtent},
                 {H::kPoints, W::kPoints}, H::kPoints * W::kPoints, H::kMatrices * W::kMatrices};
  });
}

template <typename H, typename W>
constexpr int64_t matrix_of(int64_t place) {
  return H::matrix(static_cast<int>(place) / W::kPoints) * W::kMatrices +
         W::matrix(static_cast<int>(place) % W::kPoints);
}

// ---------------------------------------------------------------------------------------------
// Tiles, counted image by image and row by row. Images are the residues modulo the dilation of the planes of volumes.

struct Tiling {
  int64_t height;  // tiles of an image
  int64_t width;
  int64_t count;  // of all images
  int64_t block;  // tiles of a block
  int64_t blocks;
  int64_t run_elements, scratch_elements;  // of a transform's buffers
};

Tiling tiling_of(const WinogradProblem& problem, const Shape& shape) {
  Tiling tiling = {};
  tiling.height = up(up(problem.target_size[0], problem.dilation[0]), shape.tile[0]);
  tiling.width = up(up(problem.target_size[1], problem.dilation[1]), shape.tile[1]);
  tiling.count =
      problem.batch * problem.target_planes * problem.dilation[0] * problem.dilation[1] * tiling.height * tiling.width;
  return tiling;
}

// Tiles of one image that are transformed together: all of a block's, or of one row where rows are long.
struct Segment {
  int64_t image;
  int64_t first;  // in the image
  int64_t count;
  int64_t done;  // tiles of the block before it
};

bool long_rows(const Tiling& tiling) { return 2 * tiling.width > tiling.block; }

template <typename Body>
TORCHBP_INLINE void for_segments(const Tiling& tiling, int64_t first, int64_t count, const Body& body) {
  const int64_t whole = tiling.height * tiling.width;
  for (int64_t done = 0; done < count;) {
    const int64_t at = (first + done) % whole;
    const int64_t room = long_rows(tiling) ? tiling.width - at % tiling.width : whole - at;
    const Segment segment{(first + done) / whole, at, smaller(room, count - done), done};
    body(segment);
    done += segment.count;
  }
}

// Calls body(tile row, first tile of the row, tiles, tiles of the segment before it).
template <typename Body>
TORCHBP_INLINE void for_runs(const Tiling& tiling, const Segment& segment, const Body& body) {
  for (int64_t done = 0; done < segment.count;) {
    const int64_t at = segment.first + done, column = at % tiling.width;
    const int64_t count = smaller(tiling.width - column, segment.count - done);
    body(at / tiling.width, column, count, done);
    done += count;
  }
}

// Pixels [begin, end) of an image along both axes.
struct Box {
  int64_t begin[2];
  int64_t end[2];
  int64_t rows() const { return end[0] - begin[0]; }
  int64_t columns() const { return end[1] - begin[1]; }
};

// The pixels that a segment's tiles cover, where each is `extent` high and wide, and `step` from the one before it.
Box box_of(const Tiling& tiling, const Segment& segment, const int64_t* step, const int64_t* extent,
           const int64_t* origin, const int64_t* size) {
  const int64_t last = segment.first + segment.count - 1;
  const int64_t from[2] = {segment.first / tiling.width, segment.first % tiling.width};
  const int64_t to[2] = {last / tiling.width, last % tiling.width};
  Box box;
  for (int d = 0; d < 2; ++d) {
    const bool whole = d == 1 && from[0] != to[0];
    const int64_t begin = whole ? 0 : from[d] * step[d] + origin[d];
    const int64_t end = whole ? size[d] : to[d] * step[d] + origin[d] + extent[d];
    box.begin[d] = smaller(size[d], larger(0, begin));
    box.end[d] = larger(box.begin[d], smaller(size[d], end));
  }
  return box;
}

// The most pixels of a box.
int64_t box_pixels(const Tiling& tiling, const int64_t* step, const int64_t* extent, const int64_t* size) {
  if (long_rows(tiling)) return extent[0] * (step[1] * smaller(tiling.width, tiling.block) + extent[1]);
  const int64_t rows = smaller(tiling.height, up(tiling.block, tiling.width) + 1);
  return smaller(size[0], rows * step[0] + extent[0]) * size[1];
}

// Room for a run of tiles on its way through a transform, and for the pixels of a segment.
template <typename T>
void set_buffers(const WinogradProblem& problem, const Shape& shape, Tiling& tiling) {
  const int64_t run = smaller(tiling.width, tiling.block);
  tiling.run_elements = shape.points[0] * (run * larger(shape.step[1], shape.tile[1]) + shape.extent[1]) * kLanes<T>;
  int64_t source[2], target[2];
  for (int d = 0; d < 2; ++d) {
    source[d] = up(problem.source_size[d], problem.dilation[d]);
    target[d] = up(problem.target_size[d], problem.dilation[d]);
  }
  const int64_t pixels =
      larger(box_pixels(tiling, shape.step, shape.extent, source), box_pixels(tiling, shape.tile, shape.tile, target));
  tiling.scratch_elements = (pixels + kLanes<T>)*kLanes<T>;
}

// ---------------------------------------------------------------------------------------------
// Pixels as vectors of channels.

// Some channels of an image.
template <typename T>
struct Image {
  T* data;
  int64_t row;  // strides
  int64_t column;
  int64_t channel;
  int64_t channels;
};

// The images of a tensor whose first element is at `data`; strides are of batch, height and width.
template <typename T>
Image<T> image_of(const WinogradProblem& problem, T* data, const int64_t* stride, int64_t channel, int64_t channels) {
  return {data, stride[1] * problem.dilation[0], stride[2] * problem.dilation[1], channel, channels};
}

// A pixel's vector of channels.
template <typename T>
struct Pixels {
  const T* data;
  int64_t row;
  int64_t column;
};

// The pixels of a box of the image, read in place where they are vectors already, else copied to `scratch`.
template <typename T>
Pixels<T> pixels_of(const Image<const T>& image, const Box& box, bool more, T* scratch) {
  constexpr int64_t lanes = kLanes<T>;
  const T* from = image.data + box.begin[0] * image.row + box.begin[1] * image.column;
  if (image.channel == 1 && image.channels == lanes) return {from, image.row, image.column};
  const int64_t columns = box.columns(), rows = box.rows();
  if (image.column == 1 && image.row == columns) {
    to_lanes(from, image.channel, image.channels, rows * columns, scratch, more);
  } else {
    for (int64_t y = 0; y < rows; ++y) {
      const T* row = from + y * image.row;
      T* to = scratch + y * columns * lanes;
      if (image.column == 1) {
        to_lanes(row, image.channel, image.channels, columns, to, more);
      } else {
        for (int64_t x = 0; x < columns; ++x)
          for (int64_t c = 0; c < lanes; ++c)
            to[x * lanes + c] = c < image.channels ? row[x * image.column + c * image.channel] : T(0);
      }
    }
  }
  return {scratch, columns * lanes, lanes};
}

// ---------------------------------------------------------------------------------------------
// Transformed tiles lie as [place][channel block][tile][lane], places kPlaces apart.

template <typename T>
int64_t place_stride(int64_t vectors) {  // not a multiple of a page, which would make places collide in the cache
  return vectors * kLanes<T> + kCacheLine / static_cast<int64_t>(sizeof(T));
}

// Transforms the source's tiles, or the gradient's, of a run. `rows` is a scratch of kPoints rows.
template <typename T, typename H, typename W, bool kGradient>
void transform_run(const Pixels<T>& pixels, const Box& box, const int64_t* origin, const int64_t* size,
                   int64_t tile_row, int64_t tile_column, int64_t count, T* __restrict__ rows, T* __restrict__ to,
                   int64_t stride) {
  constexpr int64_t lanes = kLanes<T>;
  constexpr int kHeight = kGradient ? H::kTile : H::kExtent, kWidth = kGradient ? W::kTile : W::kExtent;
  constexpr int kDown = kGradient ? H::kTile : H::kStep, kAcross = kGradient ? W::kTile : W::kStep;
  const int64_t y0 = tile_row * kDown + origin[0], x0 = tile_column * kAcross + origin[1];
  const int64_t columns = (count - 1) * kAcross + kWidth, pitch = columns * lanes;
  const int64_t begin = smaller(columns, larger(0, -x0)), end = larger(begin, smaller(columns, size[1] - x0));
  alignas(64) static const T zeros[lanes] = {};
  const T* from[kHeight];
  int64_t step[kHeight];
  for (int i = 0; i < kHeight; ++i) {
    const int64_t y = y0 + i;
    const bool inside = y >= 0 && y < size[0];
    from[i] = inside ? pixels.data + (y - box.begin[0]) * pixels.row + (x0 - box.begin[1]) * pixels.column : zeros;
    step[i] = inside ? pixels.column : 0;
  }
  for (int64_t i = 0; i < H::kPoints; ++i) {
    for (int64_t x = 0; x < begin; ++x) store(rows + i * pitch + x * lanes, Vector<T>{});
    for (int64_t x = end; x < columns; ++x) store(rows + i * pitch + x * lanes, Vector<T>{});
  }
  for (int64_t x = begin; x < end; ++x) {
    Vector<T> column[kHeight], mapped[H::kPoints];
#pragma GCC unroll 8
    for (int i = 0; i < kHeight; ++i) column[i] = load(from[i] + x * step[i]);
    if constexpr (kGradient)
      H::gradient(column, mapped);
    else
      H::source(column, mapped);
#pragma GCC unroll 8
    for (int i = 0; i < H::kPoints; ++i) store(rows + i * pitch + x * lanes, mapped[i]);
  }
  for (int64_t tile = 0; tile < count; ++tile, to += lanes) {
    const T* row = rows + tile * kAcross * lanes;
    T* place = to;
#pragma GCC unroll 8
    for (int i = 0; i < H::kPoints; ++i, row += pitch) {
      Vector<T> read[kWidth], mapped[W::kPoints];
#pragma GCC unroll 8
      for (int j = 0; j < kWidth; ++j) read[j] = load(row + j * lanes);
      if constexpr (kGradient)
        W::gradient(read, mapped);
      else
        W::source(read, mapped);
#pragma GCC unroll 8
      for (int j = 0; j < W::kPoints; ++j, place += stride) store(place, mapped[j]);
    }
  }
}

// An image in its tensor.
struct Frame {
  bool present;  // else it is padding
  int64_t offset;
  int64_t size[2];
  int64_t origin[2];  // the pixel at which the target's first tile begins
};

// Where the images of a tensor stand: those of the target, and of the source those that one tap meets.
struct Frames {
  int64_t target_planes;  // of one volume
  int64_t planes, step, first;
  int64_t plane_stride;
  const int64_t *stride, *size, *dilation;  // of batch, height and width; of height and width
  int64_t origin[2];

  Frame find(int64_t image) const {
    const int64_t residues[2] = {image / dilation[1] % dilation[0], image % dilation[1]};
    image /= dilation[0] * dilation[1];
    const int64_t plane = image % target_planes * step + first;
    Frame frame = {};
    frame.present = plane >= 0 && plane < planes;
    frame.offset = image / target_planes * stride[0] + plane * plane_stride;
    for (int d = 0; d < 2; ++d) {
      const int64_t begin = residues[d] + origin[d];
      const int64_t residue = (begin % dilation[d] + dilation[d]) % dilation[d];
      frame.offset += residue * stride[d + 1];
      frame.origin[d] = (begin - residue) / dilation[d];
      frame.size[d] = larger(0, up(size[d] - residue, dilation[d]));
    }
    return frame;
  }
};

Frames source_frames(const WinogradProblem& problem, int64_t tap) {
  return {problem.target_planes,
          problem.source_planes,
          problem.plane_step,
          problem.plane_origin + tap,
          problem.source_plane_stride,
          problem.source_stride,
          problem.source_size,
          problem.dilation,
          {problem.origin[0], problem.origin[1]}};
}

Frames target_frames(const WinogradProblem& problem) {
  return {problem.target_planes, problem.target_planes, 1,     0, problem.target_plane_stride, problem.target_stride,
          problem.target_size,   problem.dilation,      {0, 0}};
}

// Transforms `count` tiles of channels [0, image.channels), `tiles` apart in `to`.
template <typename T, typename H, typename W, bool kGradient>
void transform_tiles(const Tiling& tiling, const Image<const T>& image, const Frames& frames, int64_t first,
                     int64_t count, T* scratch, T* rows, T* to, int64_t tiles, int64_t stride) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t step[2] = {kGradient ? H::kTile : H::kStep, kGradient ? W::kTile : W::kStep};
  const int64_t extent[2] = {kGradient ? H::kTile : H::kExtent, kGradient ? W::kTile : W::kExtent};
  for_segments(tiling, first, count, [&](const Segment& segment) {
    const Frame frame = frames.find(segment.image);
    const Box box = box_of(tiling, segment, step, extent, frame.origin, frame.size);
    for (int64_t c = 0; c < image.channels; c += lanes) {
      T* at = to + c * tiles + segment.done * lanes;
      if (!frame.present) {
        for (int64_t place = 0; place < H::kPoints * W::kPoints; ++place)
          for (int64_t i = 0; i < segment.count * lanes; i += lanes) store(at + place * stride + i, Vector<T>{});
        continue;
      }
      Image<const T> part = image;
      part.data += frame.offset + c * image.channel;
      part.channels = smaller(lanes, image.channels - c);
      const Pixels<T> pixels = pixels_of(part, box, c + lanes < image.channels, scratch);
      for_runs(tiling, segment, [&](int64_t row, int64_t column, int64_t many, int64_t done) {
        transform_run<T, H, W, kGradient>(pixels, box, frame.origin, frame.size, row, column, many, rows,
                                          at + done * lanes, stride);
      });
    }
  });
}

// ---------------------------------------------------------------------------------------------
// The first product

struct Plan : Tiling {
  int64_t panels;    // of target channels, per group
  int64_t parts;     // that the panels are split into, besides the tiles
  int64_t together;  // panels that are multiplied with one place of the tiles while it is in the cache
  bool packed;       // whether the weight is transformed beforehand
  int64_t places;    // of a tile
  int64_t source_stride, target_stride;
};

// What the products are summed over: source channels and, of volumes, those of every plane's tap, whole vectors of
// them.
template <typename T>
int64_t terms_of(const WinogradProblem& problem) {
  if (problem.plane_taps == 1) return problem.source_channels;
  return problem.plane_taps * up(problem.source_channels, kLanes<T>) * kLanes<T>;
}

template <typename T>
Plan plan_of(const WinogradProblem& problem) {
  constexpr int64_t lanes = kLanes<T>;
  Plan plan = {};
  const Shape shape = shape_of<T>(problem);
  static_cast<Tiling&>(plan) = tiling_of(problem, shape);
  plan.places = shape.places;
  const int64_t terms = terms_of<T>(problem), blocks_of_channels = up(terms, lanes);
  const int64_t tile_bytes = plan.places * blocks_of_channels * lanes * static_cast<int64_t>(sizeof(T));
  const int64_t least = larger(kRows, smaller(kLeastTiles, kMostBytes / tile_bytes));
  int64_t most = larger(least, kBlockBytes / tile_bytes / kRows * kRows);
  // A large weight is best transformed where it is used, once: in a single block, if that is possible.
  if (tile_bytes * problem.target_channels > kMostBytes && plan.count <= kMostBytes / tile_bytes) most = plan.count;
  plan.panels = up(problem.target_channels, kPanel<T>);
  plan.blocks = up(plan.count, most);
  // Blocks of equal size, as many as fill the threads, unless they become too small to pay.
  const int64_t threads = larger(1, problem.threads), whole = plan.blocks * problem.groups;
  if (whole % threads != 0 && whole < 8 * threads) plan.blocks = up(up(whole, threads) * threads, problem.groups);
  if (plan.blocks > 1) plan.blocks = larger(up(plan.count, most), smaller(plan.blocks, plan.count / (2 * kRows)));
  plan.block = up(plan.count, plan.blocks);
  plan.blocks = up(plan.count, plan.block);
  plan.parts = smaller(plan.panels, larger(1, up(threads, plan.blocks * problem.groups)));
  const int64_t panel_bytes = shape.matrices * terms * kPanel<T> * static_cast<int64_t>(sizeof(T));
  plan.packed = plan.blocks > 1 || panel_bytes > kMostBytes / 2;
  const int64_t product_bytes = plan.places * plan.block * kPanel<T> * static_cast<int64_t>(sizeof(T));
  plan.together = tile_bytes * plan.block <= 2 * kBlockBytes
                      ? 1
                      : larger(1, smaller(up(plan.panels, plan.parts), kBlockBytes / product_bytes));
  plan.source_stride = place_stride<T>(blocks_of_channels * plan.block);
  plan.target_stride = place_stride<T>(kVectors * plan.block);
  set_buffers<T>(problem, shape, plan);
  return plan;
}

// A panel of the transformed weight lies as [matrix][term][target channel].
template <typename T>
int64_t matrix_stride(const WinogradProblem& problem) {
  return place_stride<T>(terms_of<T>(problem) * kVectors);
}

template <typename T>
int64_t panel_size(const WinogradProblem& problem) {
  return shape_of<T>(problem).matrices * matrix_stride<T>(problem);
}

template <typename T>
int64_t packed_panels(const WinogradProblem& problem) {
  const Plan plan = plan_of<T>(problem);
  return plan.packed ? plan.panels * problem.groups : 0;
}

// The taps of one plane.
template <typename T, typename H, typename W>
void pack_plane(const WinogradProblem& problem, const T* weight, T* packed, int64_t panel_of_all) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t panels = up(problem.target_channels, kPanel<T>);
  const int64_t group = panel_of_all / panels, panel = panel_of_all % panels;
  const int64_t channels = problem.source_channels, stride = matrix_stride<T>(problem);
  const int64_t left = problem.target_channels - panel * kPanel<T>;
  const int64_t width = left <= lanes ? lanes : kPanel<T>;
  const int64_t tap_h = problem.weight_tap_stride[0], tap_w = problem.weight_tap_stride[1];
  const int64_t lane_stride = problem.weight_target_stride;
  weight += group * problem.weight_group_stride + panel * kPanel<T> * lane_stride;
  const int64_t taps = H::kTaps * W::kTaps;
  // What follows each other in memory is transposed together: taps, in either order, and channels.
  const bool reversed = tap_w < 0;
  const bool taps_follow = (reversed ? -tap_w : tap_w) == 1 && tap_h == W::kTaps * tap_w;
  const bool channels_follow = problem.weight_source_stride == 1 && lane_stride != 1;
  const bool dense = taps_follow && problem.weight_source_stride == taps;
  const int64_t chunk = dense || channels_follow ? lanes : 1;
  // So many chunks are fetched ahead: the processor does not follow so many streams by itself.
  constexpr int64_t kAhead = 4;
  // Strides of the buffer [channel][tap][lane], or [tap][channel][lane].
  const int64_t channel_at = channels_follow ? lanes : taps * lanes, tap_at = channels_follow ? lanes * lanes : lanes;
  for (int64_t v = 0; v * lanes < width; ++v) {
    const int64_t present = smaller(lanes, left - v * lanes);
    for (int64_t c0 = 0; c0 < channels; c0 += chunk) {
      const int64_t many = smaller(chunk, channels - c0);
      const T* from = weight + v * lanes * lane_stride + c0 * problem.weight_source_stride;
      alignas(64) T tap[lanes * H::kTaps * W::kTaps * lanes];
      const bool backwards = reversed && taps_follow && !channels_follow && lane_stride != 1;
      if (channels_follow) {
        // Every row of a tap is in a page of its own, which pays for several chunks at a time.
        if (c0 / chunk % kAhead == 0)
          for (int64_t k = 0; k < present; ++k)
            for (int i = 0; i < H::kTaps; ++i)
              for (int j = 0; j < W::kTaps; ++j)
                for (int64_t next = chunk; next <= smaller(kAhead * chunk, channels - c0 - 1); next += chunk)
                  __builtin_prefetch(from + k * lane_stride + i * tap_h + j * tap_w + next, 0, 2);
        for (int i = 0; i < H::kTaps; ++i)
          for (int j = 0; j < W::kTaps; ++j)
            to_lanes(from + i * tap_h + j * tap_w, lane_stride, present, many, tap + (i * W::kTaps + j) * tap_at);
      } else if (lane_stride == 1) {
        for (int i = 0; i < H::kTaps; ++i)
          for (int j = 0; j < W::kTaps; ++j)
            store<T>(tap + (i * W::kTaps + j) * lanes, load_first(from + i * tap_h + j * tap_w, present));
        const T* ahead = from + smaller(kAhead, channels - c0 - 1) * problem.weight_source_stride;
        for (int i = 0; i < H::kTaps; ++i)
          for (int j = 0; j < W::kTaps; ++j) __builtin_prefetch(ahead + i * tap_h + j * tap_w, 0, 2);
      } else if (taps_follow) {
        to_lanes(reversed ? from - (taps - 1) : from, lane_stride, present, many * taps, tap);
      } else {
        for (int64_t k = 0; k < lanes; ++k)
          for (int i = 0; i < H::kTaps; ++i)
            for (int j = 0; j < W::kTaps; ++j)
              tap[(i * W::kTaps + j) * lanes + k] = k < present ? from[k * lane_stride + i * tap_h + j * tap_w] : T(0);
      }
      for (int64_t c = 0; c < many; ++c) {
        Vector<T> half[W::kTaps][H::kMatrices];
#pragma GCC unroll 8
        for (int j = 0; j < W::kTaps; ++j) {
          Vector<T> column[H::kTaps];
#pragma GCC unroll 8
          for (int i = 0; i < H::kTaps; ++i) {
            const int64_t t = i * W::kTaps + j;
            column[i] = load(tap + c * channel_at + (backwards ? taps - 1 - t : t) * tap_at);
          }
          H::weight(column, half[j]);
        }
        T* to = packed + (c0 + c) * width + v * lanes;
#pragma GCC unroll 8
        for (int i = 0; i < H::kMatrices; ++i) {
          Vector<T> row[W::kTaps], mapped[W::kMatrices];
#pragma GCC unroll 8
          for (int j = 0; j < W::kTaps; ++j) row[j] = half[j][i];
          W::weight(row, mapped);
#pragma GCC unroll 8
          for (int j = 0; j < W::kMatrices; ++j) store(to + (i * W::kMatrices + j) * stride, mapped[j]);
        }
      }
    }
  }
}

template <typename T, typename H, typename W>
void pack_panel(const WinogradProblem& problem, const T* weight, T* packed, int64_t panel) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t left = problem.target_channels - panel % up(problem.target_channels, kPanel<T>) * kPanel<T>;
  const int64_t width = left <= lanes ? lanes : kPanel<T>, stride = matrix_stride<T>(problem);
  const int64_t terms = terms_of<T>(problem) / problem.plane_taps, channels = problem.source_channels;
  for (int64_t tap = 0; tap < problem.plane_taps; ++tap) {
    T* to = packed + tap * terms * width;
    pack_plane<T, H, W>(problem, weight + tap * problem.weight_plane_stride, to, panel);
    for (int64_t matrix = 0; matrix < H::kMatrices * W::kMatrices; ++matrix)
      for (int64_t i = channels * width; i < terms * width; i += lanes) store(to + matrix * stride + i, Vector<T>{});
  }
}

// As many chains are summed before their sum is added to that of the channels before them.
constexpr int64_t kSection = 8;

// product[tile][v] = sum over channels of source[channel block][tile][lane] * weight[channel][v], for kTileRows tiles.
// For every channel `ahead_step` elements of what is read next are fetched into the second-level cache.
template <typename T, int kTileRows, int kWide>
void multiply(const T* __restrict__ source, int64_t block_stride, const T* __restrict__ weight, int64_t channels,
              int64_t chain, const T* ahead, int64_t ahead_step, T* __restrict__ product) {
  constexpr int64_t lanes = kLanes<T>;
  alignas(64) T section[kTileRows * kWide * lanes];
  T* to = product;
  int64_t chains = 0;
  for (int64_t c0 = 0; c0 < channels; c0 += chain) {
    Vector<T> sum[kTileRows][kWide];
#pragma GCC unroll 12
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) sum[r][v] = Vector<T>{};
    const int64_t end = smaller(channels, c0 + chain);
    for (int64_t c = c0; c < end; c += lanes, source += block_stride) {
      const int64_t count = smaller(lanes, end - c);
      for (int64_t i = 0; i < count * ahead_step; i += kCacheLine / static_cast<int64_t>(sizeof(T)))
        __builtin_prefetch(ahead + i, 0, 2);
      ahead += count * ahead_step;
      for (int64_t lane = 0; lane < count; ++lane, weight += kWide * lanes) {
        Vector<T> column[kWide];
#pragma GCC unroll 2
        for (int v = 0; v < kWide; ++v) column[v] = load(weight + v * lanes);
#pragma GCC unroll 12
        for (int r = 0; r < kTileRows; ++r) {
          const T scalar = source[r * lanes + lane];
#pragma GCC unroll 2
          for (int v = 0; v < kWide; ++v) sum[r][v] += column[v] * scalar;
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) {
        T* at = to + (r * kWide + v) * lanes;
        store<T>(at, chains == 0 ? sum[r][v] : load(at) + sum[r][v]);
      }
    if (++chains < kSection && c0 + chain < channels) continue;
    if (to != product)
      for (int64_t i = 0; i < kTileRows * kWide * lanes; i += lanes)
        store<T>(product + i, load(product + i) + load(to + i));
    to = section;
    chains = 0;
  }
}

template <typename T, int kTileRows, int kWide>
void multiply_rows(int64_t rows, const T* source, int64_t block_stride, const T* weight, int64_t channels,
                   int64_t chain, const T* ahead, int64_t ahead_step, T* product) {
  if constexpr (kTileRows > 1) {
    if (rows < kTileRows)
      return multiply_rows<T, kTileRows - 1, kWide>(rows, source, block_stride, weight, channels, chain, ahead,
                                                    ahead_step, product);
  }
  multiply<T, kTileRows, kWide>(source, block_stride, weight, channels, chain, ahead, ahead_step, product);
}

// All tiles of one place, in register tiles of equal height. `next` is the matrix that comes next.
template <typename T, int kWide>
void multiply_place(int64_t tiles, int64_t block, const T* source, const T* weight, int64_t channels, int64_t chain,
                    const T* next, T* product) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t pieces = up(tiles, kRows), step = kWide * lanes / pieces;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t first = piece * tiles / pieces, last = (piece + 1) * tiles / pieces;
    multiply_rows<T, kRows, kWide>(last - first, source + first * lanes, block * lanes, weight, channels, chain,
                                   next + piece * step * channels, step, product + first * kWide * lanes);
  }
}

// Transforms the products of a run back: pixels of the vector of target channels at `to`, whose strides are given.
template <typename T, typename H, typename W>
TORCHBP_INLINE void restore_tile(const T* product, int64_t stride, const Vector<T>& bias, int64_t height, int64_t width,
                                 T* to, int64_t row, int64_t column) {
  Vector<T> half[H::kTile][W::kPoints];
#pragma GCC unroll 8
  for (int j = 0; j < W::kPoints; ++j) {
    Vector<T> read[H::kPoints], mapped[H::kTile];
#pragma GCC unroll 8
    for (int i = 0; i < H::kPoints; ++i) read[i] = load(product + (i * W::kPoints + j) * stride);
    H::target(read, mapped);
#pragma GCC unroll 8
    for (int i = 0; i < H::kTile; ++i) half[i][j] = mapped[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < H::kTile; ++i) {
    if (i >= height) break;
    Vector<T> mapped[W::kTile];
    W::target(half[i], mapped);
#pragma GCC unroll 8
    for (int j = 0; j < W::kTile; ++j) {
      if (j >= width) break;
      store<T>(to + i * row + j * column, mapped[j] + bias);
    }
  }
}

// Transforms the products of one vector of target channels back and writes them to the target.
template <typename T, typename H, typename W>
void restore_tiles(const WinogradProblem& problem, const Plan& plan, int64_t first, int64_t count, const T* product,
                   int64_t tile_step, const Image<T>& image, const T* bias, T* scratch) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t tile[2] = {H::kTile, W::kTile};
  Vector<T> start = {};
  if (bias)
    for (int64_t k = 0; k < image.channels; ++k) start[k] = bias[k];
  const bool direct = image.channel == 1 && image.channels == lanes;
  const Frames frames = target_frames(problem);
  for_segments(plan, first, count, [&](const Segment& segment) {
    const Frame frame = frames.find(segment.image);
    const int64_t* size = frame.size;
    T* data = image.data + frame.offset;
    const Box box = box_of(plan, segment, tile, tile, frame.origin, size);
    const int64_t columns = box.columns();
    T* pixels = direct ? data + box.begin[0] * image.row + box.begin[1] * image.column : scratch;
    const int64_t row_step = direct ? image.row : columns * lanes, column_step = direct ? image.column : lanes;
    for_runs(plan, segment, [&](int64_t tile_row, int64_t tile_column, int64_t many, int64_t done) {
      const int64_t y = tile_row * H::kTile, height = smaller(H::kTile, size[0] - y);
      const T* from = product + (segment.done + done) * tile_step;
      for (int64_t t = 0; t < many; ++t, from += tile_step) {
        const int64_t x = (tile_column + t) * W::kTile, width = smaller(W::kTile, size[1] - x);
        T* to = pixels + (y - box.begin[0]) * row_step + (x - box.begin[1]) * column_step;
        if (height == H::kTile && width == W::kTile)
          restore_tile<T, H, W>(from, plan.target_stride, start, H::kTile, W::kTile, to, row_step, column_step);
        else
          restore_tile<T, H, W>(from, plan.target_stride, start, height, width, to, row_step, column_step);
      }
    });
    if (direct) return;
    // Rows that are complete and follow each other in memory are written as one.
    int64_t pending = -1, pending_end = -1;
    const auto write = [&](int64_t y, int64_t rows, int64_t x, int64_t width) {
      const T* from = scratch + ((y - box.begin[0]) * columns + x - box.begin[1]) * lanes;
      T* to = data + y * image.row + x * image.column;
      if (image.column == 1 && (rows == 1 || (width == columns && image.row == width))) {
        from_lanes(from, lanes, rows * width, to, image.channel, image.channels);
        return;
      }
      for (int64_t r = 0; r < rows; ++r, from += columns * lanes, to += image.row) {
        if (image.column == 1) {
          from_lanes(from, lanes, width, to, image.channel, image.channels);
        } else {
          for (int64_t i = 0; i < width; ++i)
            for (int64_t k = 0; k < image.channels; ++k) to[i * image.column + k * image.channel] = from[i * lanes + k];
        }
      }
    };
    for_runs(plan, segment, [&](int64_t tile_row, int64_t tile_column, int64_t many, int64_t) {
      const int64_t y = tile_row * H::kTile, end = smaller(size[0], y + H::kTile);
      if (many == plan.width) {
        if (pending < 0) pending = y;
        pending_end = end;
        return;
      }
      if (pending >= 0) write(pending, pending_end - pending, 0, size[1]);
      pending = -1;
      const int64_t x = tile_column * W::kTile;
      write(y, end - y, x, smaller(size[1], (tile_column + many) * W::kTile) - x);
    });
    if (pending >= 0) write(pending, pending_end - pending, 0, size[1]);
  });
}

template <typename T>
int64_t gather_tasks(const WinogradProblem& problem) {
  const Plan plan = plan_of<T>(problem);
  return problem.groups * plan.blocks * plan.parts;
}

template <typename T>
int64_t gather_workspace(const WinogradProblem& problem) {
  const Plan plan = plan_of<T>(problem);
  return plan.places * (plan.source_stride + plan.together * plan.target_stride) + plan.run_elements +
         plan.scratch_elements + (plan.packed ? 0 : plan.together * panel_size<T>(problem));
}

template <typename T, typename H, typename W>
void gather_as(const WinogradProblem& problem, const T* source, const T* weight, const T* packed, const T* bias,
               T* target, T* workspace, int64_t task) {
  constexpr int64_t lanes = kLanes<T>;
  const Plan plan = plan_of<T>(problem);
  const int64_t part = task % plan.parts;
  task /= plan.parts;
  const int64_t first = task % plan.blocks * plan.block, group = task / plan.blocks;
  const int64_t count = smaller(plan.block, plan.count - first), channels = problem.source_channels;
  T* tiles = workspace;
  T* product = tiles + plan.places * plan.source_stride;
  T* rows = product + plan.together * plan.places * plan.target_stride;
  T* scratch = rows + plan.run_elements;
  T* own = scratch + plan.scratch_elements;

  const auto image = image_of<const T>(problem, source + group * channels * problem.source_channel_stride,
                                       problem.source_stride, problem.source_channel_stride, channels);
  const int64_t terms = terms_of<T>(problem);
  for (int64_t tap = 0; tap < problem.plane_taps; ++tap)
    transform_tiles<T, H, W, false>(plan, image, source_frames(problem, tap), first, count, scratch, rows,
                                    tiles + tap * (terms / problem.plane_taps) * plan.block, plan.block,
                                    plan.source_stride);
  const int64_t size = panel_size<T>(problem), stride = matrix_stride<T>(problem);
  const int64_t last = (part + 1) * plan.panels / plan.parts;
  for (int64_t panel = part * plan.panels / plan.parts; panel < last; panel += plan.together) {
    const int64_t many = smaller(plan.together, last - panel), index = group * plan.panels + panel;
    if (!plan.packed)
      for (int64_t i = 0; i < many; ++i) pack_panel<T, H, W>(problem, weight, own + i * size, index + i);
    const T* matrices = plan.packed ? packed + index * size : own;
    const auto left = [&](int64_t i) { return smaller(kPanel<T>, problem.target_channels - (panel + i) * kPanel<T>); };
    const auto width = [&](int64_t i) { return left(i) <= lanes ? lanes : kPanel<T>; };
    const auto matrix = [&](int64_t i, int64_t place) { return matrices + i * size + matrix_of<H, W>(place) * stride; };
    for (int64_t place = 0; place < plan.places; ++place)
      for (int64_t i = 0; i < many; ++i) {
        const T* from = tiles + place * plan.source_stride;
        const bool more = i + 1 < many;
        const T* next = more || place + 1 < plan.places ? matrix(more ? i + 1 : 0, more ? place : place + 1) : from;
        T* to = product + (i * plan.places + place) * plan.target_stride;
        if (width(i) == lanes)
          multiply_place<T, 1>(count, plan.block, from, matrix(i, place), terms, problem.chain, next, to);
        else
          multiply_place<T, kVectors>(count, plan.block, from, matrix(i, place), terms, problem.chain, next, to);
      }
    for (int64_t i = 0; i < many; ++i)
      for (int64_t m = 0; m < left(i); m += lanes) {
        const int64_t channel = group * problem.target_channels + (panel + i) * kPanel<T> + m;
        const auto to = image_of(problem, target + channel * problem.target_channel_stride, problem.target_stride,
                                 problem.target_channel_stride, smaller(lanes, left(i) - m));
        restore_tiles<T, H, W>(problem, plan, first, count, product + i * plan.places * plan.target_stride + m,
                               width(i), to, bias ? bias + channel : nullptr, scratch);
      }
  }
}

// ---------------------------------------------------------------------------------------------
// The weight gradient: at every place, sum over tiles of gradient x source, for a block of gradient channels times a
// block of source channels whose sums stay in the second-level cache.

constexpr int64_t kBlockChannels = 64;
constexpr int64_t kDeepTiles = 32;    // tiles of a block
constexpr int64_t kEnoughTasks = 16;  // fewer are also split over slices of the tiles, as the shape says
constexpr int64_t kSliceBlocks = 4;   // blocks of tiles of a slice that pay for transforming its sums

struct SumPlan : Tiling {
  int64_t places, matrices;
  int64_t row_blocks, column_blocks;  // of gradient and of source channels
  int64_t rows, columns;              // channels of a block, whole vectors
  int64_t slices, slice_blocks;       // blocks of tiles of a slice
  int64_t gradient_stride, source_stride;
};

template <typename T>
SumPlan sum_plan(const WinogradProblem& problem) {
  constexpr int64_t lanes = kLanes<T>;
  SumPlan plan = {};
  const Shape shape = shape_of<T>(problem);
  static_cast<Tiling&>(plan) = tiling_of(problem, shape);
  plan.places = shape.places;
  plan.matrices = shape.matrices;
  plan.row_blocks = up(problem.target_channels, kBlockChannels);
  plan.column_blocks = up(problem.source_channels, kBlockChannels);
  plan.rows = up(up(problem.target_channels, plan.row_blocks), lanes) * lanes;
  plan.columns = up(up(problem.source_channels, plan.column_blocks), lanes) * lanes;
  plan.row_blocks = up(problem.target_channels, plan.rows);
  plan.column_blocks = up(problem.source_channels, plan.columns);
  plan.block = smaller(plan.count, kDeepTiles);
  plan.blocks = up(plan.count, plan.block);
  plan.block = up(plan.count, plan.blocks);
  plan.blocks = up(plan.count, plan.block);
  const int64_t tasks = problem.groups * plan.row_blocks * plan.column_blocks * problem.plane_taps;
  plan.slices = smaller(up(plan.blocks, kSliceBlocks), up(kEnoughTasks, tasks));
  plan.slice_blocks = up(plan.blocks, plan.slices);
  plan.slices = up(plan.blocks, plan.slice_blocks);
  plan.gradient_stride = place_stride<T>(plan.rows / lanes * plan.block);
  plan.source_stride = place_stride<T>(plan.columns / lanes * plan.block);
  set_buffers<T>(problem, shape, plan);
  return plan;
}

template <typename T>
int64_t correlation_slices(const WinogradProblem& problem) {
  return sum_plan<T>(problem).slices;
}

template <typename T>
int64_t correlation_tasks(const WinogradProblem& problem) {
  const SumPlan plan = sum_plan<T>(problem);
  return plan.slices * problem.groups * plan.row_blocks * plan.column_blocks * problem.plane_taps;
}

template <typename T>
int64_t correlation_workspace(const WinogradProblem& problem) {
  const SumPlan plan = sum_plan<T>(problem);
  return plan.places * (plan.gradient_stride + plan.source_stride) + plan.matrices * plan.rows * plan.columns +
         plan.run_elements + plan.scratch_elements;
}

template <typename T, typename H, typename W>
void correlate_as(const WinogradProblem& problem, const T* source, const T* gradient, T* partial, T* workspace,
                  int64_t task) {
  constexpr int64_t lanes = kLanes<T>;
  const SumPlan plan = sum_plan<T>(problem);
  const int64_t tap = task % problem.plane_taps;
  task /= problem.plane_taps;
  const int64_t c0 = task % plan.column_blocks * plan.columns;
  task /= plan.column_blocks;
  const int64_t m0 = task % plan.row_blocks * plan.rows;
  task /= plan.row_blocks;
  const int64_t group = task % problem.groups, slice = task / problem.groups;
  const int64_t channels = smaller(plan.columns, problem.source_channels - c0);
  const int64_t targets = smaller(plan.rows, problem.target_channels - m0);
  const int64_t columns = up(channels, lanes) * lanes, rows = up(targets, lanes) * lanes;

  T* left = workspace;
  T* right = left + plan.places * plan.gradient_stride;
  T* sum = right + plan.places * plan.source_stride;
  T* run = sum + plan.matrices * plan.rows * plan.columns;
  T* scratch = run + plan.run_elements;
  const auto from =
      image_of<const T>(problem, source + (group * problem.source_channels + c0) * problem.source_channel_stride,
                        problem.source_stride, problem.source_channel_stride, channels);
  const auto grads =
      image_of<const T>(problem, gradient + (group * problem.target_channels + m0) * problem.target_channel_stride,
                        problem.target_stride, problem.target_channel_stride, targets);
  const Frames source_images = source_frames(problem, tap), gradient_images = target_frames(problem);
  const int64_t begin = slice * plan.slice_blocks, end = smaller(plan.blocks, begin + plan.slice_blocks);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * plan.block, count = smaller(plan.block, plan.count - first);
    transform_tiles<T, H, W, false>(plan, from, source_images, first, count, scratch, run, right, plan.block,
                                    plan.source_stride);
    transform_tiles<T, H, W, true>(plan, grads, gradient_images, first, count, scratch, run, left, plan.block,
                                   plan.gradient_stride);
    const int64_t vector_stride = plan.block * lanes;
    for (int64_t place = 0, seen = 0; place < plan.places; ++place) {
      const int64_t matrix = matrix_of<H, W>(place);
      const bool add = block > begin || matrix < seen;
      seen = larger(seen, matrix + 1);
      accumulate_block(left + place * plan.gradient_stride, right + place * plan.source_stride, 0, 0, vector_stride,
                       vector_stride, 1, count, rows, columns, add, sum + matrix * plan.rows * plan.columns,
                       plan.columns);
    }
  }
  const int64_t plane = H::kTaps * W::kTaps, taps = problem.plane_taps * plane, stride = plan.rows * plan.columns;
  partial += (slice * problem.groups + group) * problem.target_channels * taps * problem.source_channels;
  for (int64_t m = 0; m < targets; ++m)
    for (int64_t c = 0; c < channels; c += lanes) {
      const T* at = sum + m * plan.columns + c;
      Vector<T> half[H::kTaps][W::kMatrices];
      for (int j = 0; j < W::kMatrices; ++j) {
        Vector<T> read[H::kMatrices], mapped[H::kTaps];
        for (int i = 0; i < H::kMatrices; ++i) read[i] = load(at + (i * W::kMatrices + j) * stride);
        H::taps(read, mapped);
        for (int i = 0; i < H::kTaps; ++i) half[i][j] = mapped[i];
      }
      T* to = partial + ((m0 + m) * taps + tap * plane) * problem.source_channels + c0 + c;
      const int64_t present = smaller(lanes, channels - c);
      for (int i = 0; i < H::kTaps; ++i) {
        Vector<T> mapped[W::kTaps];
        W::taps(half[i], mapped);
        for (int j = 0; j < W::kTaps; ++j, to += problem.source_channels) {
          if (present == lanes)
            store<T>(to, mapped[j]);
          else
            for (int64_t k = 0; k < present; ++k) to[k] = mapped[j][k];
        }
      }
    }
}

// ---------------------------------------------------------------------------------------------

template <typename T>
void pack_weight(const WinogradProblem& problem, const T* weight, T* packed, int64_t panel) {
  with_maps<T>(problem, [&](auto h, auto w) {
    pack_panel<T, decltype(h), decltype(w)>(problem, weight, packed + panel * panel_size<T>(problem), panel);
  });
}

template <typename T>
void gather(const WinogradProblem& problem, const T* source, const T* weight, const T* packed, const T* bias, T* target,
            T* workspace, int64_t task) {
  with_gather_maps<T>(problem, [&](auto h, auto w) {
    gather_as<T, decltype(h), decltype(w)>(problem, source, weight, packed, bias, target, workspace, task);
  });
}

template <typename T>
void correlate(const WinogradProblem& problem, const T* source, const T* gradient, T* partial, T* workspace,
               int64_t task) {
  with_maps<T>(problem, [&](auto h, auto w) {
    correlate_as<T, decltype(h), decltype(w)>(problem, source, gradient, partial, workspace, task);
  });
}

template <typename T>
WinogradKernels<T> kernels_of() {
  return {
      kLanes<T>,           packed_panels<T>, panel_size<T>,         pack_weight<T>,       gather_tasks<T>,
      gather_workspace<T>, gather<T>,        correlation_slices<T>, correlation_tasks<T>, correlation_workspace<T>,
      correlate<T>,
  };
}

}  // namespace

WinogradKernels<float> winograd_float() { return kernels_of<float>(); }
WinogradKernels<double> winograd_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
