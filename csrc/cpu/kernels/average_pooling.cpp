// Average pooling over windows given by tables, and its adjoint.
//
// Contiguous tensors: the rows of a window are added first, in vectors along the width, then the columns. The
// adjoint gathers: every row of inputs adds the rows of outputs whose windows cover it.
#include "planes.h"
#include "pooling.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

// Vectors that are summed side by side.
constexpr int64_t kBlock = 4;

constexpr int64_t kAhead = 1024;  // elements by which what is summed is fetched before, also beyond the row

template <typename T>
TORCHBP_INLINE int64_t whole_vectors(int64_t count) {
  return (count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// The sums of vectors as one vector, in a fixed order.
template <typename T>
TORCHBP_INLINE Vector<T> fold(Vector<T>* sums) {
#pragma GCC unroll 4
  for (int64_t half = kLanes<T> / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int64_t i = 0; i < half; ++i)
      sums[i] = first_of_pairs(sums[i], sums[i + half]) + rest_of_pairs(sums[i], sums[i + half]);
  return sums[0];
}

// Sums, lane by lane, of the vectors that consecutive elements make; the last one filled up with zeros.
template <typename S>
TORCHBP_INLINE Vector<Compute<S>> lane_sums(const S* from, int64_t count, const S* limit) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  Vector<T> sum = {};
  int64_t i = 0;
  if (count >= kBlock * lanes) {
    Vector<T> sums[kBlock] = {};
    for (; i + kBlock * lanes <= count; i += kBlock * lanes)
      for (int64_t b = 0; b < kBlock; ++b) {
        __builtin_prefetch(from + i + b * lanes + kAhead, 0, 3);
        sums[b] += load_values(from + i + b * lanes);
      }
    sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  for (; i + lanes <= count; i += lanes) sum += load_values(from + i);
  if (i == count) return sum;
  if constexpr (sizeof(S) == sizeof(T)) return sum + load_first<T>(from + i, count - i);
  const Vector<T> last = load_before<S, true>(from + i, limit);
  return sum + (lane_numbers<T>() < static_cast<Integer<T>>(count - i) ? last : Vector<T>{});
}

// The sum of consecutive elements in a fixed order: lane by lane where there are many.
template <typename S>
TORCHBP_INLINE Compute<S> total(const S* from, int64_t count) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  T sum = T(0);
  int64_t i = 0;
  if (count >= 2 * lanes) {
    i = count - count % lanes;
    Vector<T> sums[lanes] = {lane_sums(from, i, from + i)};
    sum = fold<T>(sums)[0];
  }
  for (; i < count; ++i) sum += value_of(from[i]);
  return sum;
}

// Whether every plane of a contiguous tensor has one window, which is the plane, and planes are short: then as many
// planes as a vector has lanes are one task.
template <typename T>
TORCHBP_INLINE bool whole_planes(const AverageProblem<T>& p) {
  constexpr int64_t kShort = 4096;
  const bool row = p.inner == 1 && p.input[0] == 1 && p.input[1] == 1 && p.input[2] <= kShort;
  return row && volume(p.output) == 1 && p.start[2][0] == 0 && p.end[2][0] == p.input[2] && p.padding == 0;
}

template <typename T>
TORCHBP_INLINE bool side_by_side(const AverageProblem<T>& p) {
  const bool slides = p.step == 1 || p.step == 2;
  const bool narrow = slides ? 2 * p.output[2] <= kLanes<T> : smaller(p.input[2], p.output[2] * 2) < 2 * kLanes<T>;
  return narrow && planes_fit<T>(p, 48 << 10);
}

// Planes that are averaged side by side, as one image with the planes as its channels.
template <typename T>
TORCHBP_INLINE AverageProblem<T> image_of(const AverageProblem<T>& p) {
  AverageProblem<T> image = p;
  image.outer = 1;
  image.inner = kLanes<T>;
  return image;
}

template <typename T>
int64_t tasks_of(const AverageProblem<T>& p, const int64_t* size) {
  return whole_planes(p) || side_by_side<T>(p) ? (p.outer + kLanes<T> - 1) / kLanes<T> : band_tasks(p.outer, size);
}

template <typename T>
int64_t images_workspace(const AverageProblem<T>& p) {
  const int64_t elements = image_size<T>(volume(p.input)) + image_size<T>(volume(p.output));
  return elements * static_cast<int64_t>(sizeof(T));
}

// Turns planes of `from` elements into images, calls run(image, result) and turns the results into planes.
template <typename S, typename Run>
void run_images(const S* input, int64_t from, S* output, int64_t to, int64_t outer, int64_t begin, int64_t end,
                void* workspace, const Run& run) {
  typedef Compute<S> T;
  T* source = static_cast<T*>(workspace);
  T* target = source + image_size<T>(from);
  const S* limit = input + outer * from;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task * kLanes<T>, planes = smaller(kLanes<T>, outer - first);
    planes_to_image(planes, from, input + first * from, limit, source);
    run(static_cast<const T*>(source), target);
    image_to_planes(planes, to, target, output + first * to);
  }
}

// The sum of vectors at `count` places.
template <typename S, bool kChecked>
TORCHBP_INLINE Vector<Compute<S>> total_at(const S* from, int64_t rows, int64_t row_stride, int64_t columns,
                                           int64_t column_stride, const S* limit) {
  Vector<Compute<S>> sum = {};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t w = 0; w < columns; ++w)
      sum += load_before<S, kChecked>(from + r * row_stride + w * column_stride, limit);
  return sum;
}

// ---------------------------------------------------------------------------------------------
// Forward

template <typename T>
int64_t forward_tasks(const AverageProblem<T>& p) {
  return tasks_of(p, p.output);
}

// Zeros around a row of sums, so that what of a window is not there adds nothing.
template <typename T>
TORCHBP_INLINE int64_t margin(const AverageProblem<T>& p) {
  return p.step == 1 || p.step == 2 ? p.kernel + kLanes<T> : 0;
}

// A row of sums, with room to read whole vectors behind it.
template <typename T>
int64_t forward_workspace(const AverageProblem<T>& p) {
  if (side_by_side<T>(p)) return images_workspace(p);
  return p.inner == 1 ? (p.input[2] + 2 * margin(p) + 4 * kLanes<T>)*static_cast<int64_t>(sizeof(T)) : 0;
}

// Outputs whose windows along the width have all their columns inside the input.
template <typename T>
TORCHBP_INLINE Range whole_windows(const AverageProblem<T>& p) {
  if (p.step != 1 && p.step != 2) return {0, 0};
  const Range first = valid_range(p.output[2], p.step, -p.padding, p.input[2]);
  const Range last = valid_range(p.output[2], p.step, p.kernel - 1 - p.padding, p.input[2]);
  return {first.first, larger(first.first, smaller(first.last, last.last))};
}

// Averages of windows of `kernel` columns, kStep apart, of a row of sums.
template <typename F, typename S, int kStep, bool kChecked>
TORCHBP_INLINE void average_run(const F* sums, const F* limit, int64_t count, int64_t kernel, const Compute<S>* scale,
                                Compute<S> factor, S* to, int64_t room) {
  typedef Compute<S> T;
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const F* at = sums + i * kStep;
    Vector<T> sum = {};
    for (int64_t k = 0; k < kernel; k += kStep) {
      const Vector<T> low = load_before<F, kChecked>(at + k, limit);
      if constexpr (kStep == 1) {
        sum += low;
      } else {
        const Vector<T> high = load_before<F, kChecked>(at + k + kLanes<T>, limit);
        sum += even_places(low, high);
        if (k + 1 < kernel) sum += odd_places(low, high);
      }
    }
    store_before(to + i, sum * (load(scale + i) * factor), count - i, room - i);
  }
}

template <typename F, typename S, bool kChecked>
TORCHBP_INLINE void average_any(const F* sums, const F* limit, int64_t count, int64_t kernel, int64_t step,
                                const Compute<S>* scale, Compute<S> factor, S* to, int64_t room) {
  if (step == 1)
    average_run<F, S, 1, kChecked>(sums, limit, count, kernel, scale, factor, to, room);
  else
    average_run<F, S, 2, kChecked>(sums, limit, count, kernel, scale, factor, to, room);
}

// Adds the columns of each window of a row of sums.
template <typename F, typename S>
void average_columns(const AverageProblem<Compute<S>>& p, const Range& whole, const F* sums, const F* limit,
                     Compute<S> factor, S* to, int64_t room) {
  typedef Compute<S> T;
  for (int64_t o = 0; o < p.output[2];) {
    if (o == whole.first && whole.last > whole.first) {
      const F* from = sums + o * p.step - p.padding;
      const int64_t count = whole.last - whole.first;
      const T* scale = p.scale[2] + o;
      if (whole_vectors<T>(count) * p.step + p.kernel + kLanes<T> <= limit - from)
        average_any<F, S, false>(from, limit, count, p.kernel, p.step, scale, factor, to + o, room - o);
      else
        average_any<F, S, true>(from, limit, count, p.kernel, p.step, scale, factor, to + o, room - o);
      o = whole.last;
      continue;
    }
    const int64_t first = p.start[2][o];
    set_value(to + o, total(sums + first, p.end[2][o] - first) * (factor * p.scale[2][o]));
    ++o;
  }
}

// sum = the rows [h0, h1) of the depths [d0, d1) of a plane, over the width.
template <typename S>
TORCHBP_INLINE void add_rows(const AverageProblem<Compute<S>>& p, const S* plane, const S* limit, int64_t d0,
                             int64_t d1, int64_t h0, int64_t h1, Compute<S>* sum) {
  typedef Compute<S> T;
  const int64_t width = p.input[2], depth = p.input[1] * width;
  const S* from = plane + d0 * depth + h0 * width;
  const int64_t read = (d1 - 1 - d0) * depth + (h1 - 1 - h0) * width + whole_vectors<T>(width);
  const bool inside = d1 > d0 && h1 > h0 && read <= limit - from;
  for (int64_t i = 0; i < width; i += kLanes<T>) {
    Vector<T> total = {};
    for (int64_t d = 0; d < d1 - d0; ++d)
      for (int64_t h = 0; h < h1 - h0; ++h)
        total += inside ? load_values(from + d * depth + h * width + i)
                        : load_before<S, true>(from + d * depth + h * width + i, limit);
    store(sum + i, total);
  }
}

template <typename S>
void average_rows(const AverageProblem<Compute<S>>& p, const Band& band, const S* plane, const S* limit, S* to,
                  const S* end, Compute<S>* workspace) {
  typedef Compute<S> T;
  const bool slides = p.step == 1 || p.step == 2;
  const int64_t width = p.input[2], d0 = p.start[0][band.depth], d1 = p.end[0][band.depth], before = margin(p);
  T* sum = workspace + before;
  for (int64_t i = 0; i < before; ++i) workspace[i] = T(0);
  for (int64_t oh = band.first; oh < band.last; ++oh, to += p.output[2]) {
    const int64_t h0 = p.start[1][oh], h1 = p.end[1][oh];
    const T factor = p.scale[0][band.depth] * p.scale[1][oh] * p.factor;
    if (d1 - d0 == 1 && h1 - h0 == 1) {  // a single row stays where it is
      average_columns<S, S>(p, whole_windows(p), plane + (d0 * p.input[1] + h0) * width, limit, factor, to, end - to);
      continue;
    }
    add_rows(p, plane, limit, d0, d1, h0, h1, sum);
    for (int64_t i = 0; i < before; i += kLanes<T>) store(sum + width + i, Vector<T>{});
    average_columns<T, S>(p, slides ? Range{0, p.output[2]} : Range{0, 0}, sum, sum + width + before + 4 * kLanes<T>,
                          factor, to, end - to);
  }
}

// Rows of the input that windows add.
template <typename S>
struct AddedRows {
  const S* from;
  int64_t depths;
  int64_t depth_stride;
  int64_t rows;
  int64_t row_stride;
};

// Sums of a vector of windows along the width that begin at column `first` of the rows: the rows are added, then the
// columns.
template <typename S, int kKernel, int kStep, Reading kReading>
TORCHBP_INLINE Vector<Compute<S>> add_few(const AddedRows<S>& added, int64_t first, const Edge<S>& edge) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  constexpr int kParts = kStep == 1 ? kKernel : 2 * (kKernel - 1);
  constexpr auto offset = [](int part) -> int64_t { return kStep == 1 ? part : part % 2 * lanes + part / 2 * 2; };
  Vector<T> part[kParts] = {};
  for (int64_t d = 0; d < added.depths; ++d)
    for (int64_t h = 0; h < added.rows; ++h) {
      const S* at = added.from + d * added.depth_stride + h * added.row_stride + first;
      for (int i = 0; i < kParts; ++i)
        if constexpr (kReading == kBeyondTensor)
          part[i] += load_inside(at + offset(i), edge.begin, edge.end);
        else
          part[i] += load_values(at + offset(i));
    }
  if constexpr (kReading != kPlain) {
    IntegerVector<T> column;
    for (int64_t lane = 0; lane < lanes; ++lane) column[lane] = static_cast<Integer<T>>(lane);
    const Integer<T> low = static_cast<Integer<T>>(edge.low), high = static_cast<Integer<T>>(edge.high);
    for (int i = 0; i < kParts; ++i) {
      const Integer<T> shift = static_cast<Integer<T>>(offset(i));
      const Vector<T> begun = column + shift >= low ? part[i] : Vector<T>{};
      part[i] = column + shift < high ? begun : Vector<T>{};
    }
  }
  Vector<T> sum;
  if constexpr (kStep == 1) {
    sum = part[0] + part[1];
    if constexpr (kKernel == 3) sum += part[2];
  } else {
    sum = even_places(part[0], part[1]) + odd_places(part[0], part[1]);
    if constexpr (kKernel == 3) sum += even_places(part[2], part[3]);
  }
  return sum;
}

// Rows of outputs whose windows are a few columns wide.
template <typename S, int kKernel, int kStep>
void average_few(const AverageProblem<Compute<S>>& p, const Band& band, const S* plane, const S* begin, const S* limit,
                 S* to, const S* end) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>, reach = (kStep + 1) * lanes + kKernel;
  const int64_t width = p.input[2], outputs = p.output[2], d0 = p.start[0][band.depth];
  AddedRows<S> added = {nullptr, p.end[0][band.depth] - d0, p.input[1] * width, 0, width};
  for (int64_t oh = band.first; oh < band.last; ++oh, to += outputs) {
    const int64_t h0 = p.start[1][oh];
    added.rows = p.end[1][oh] - h0;
    added.from = plane + d0 * added.depth_stride + h0 * width;
    const T factor = p.scale[0][band.depth] * p.scale[1][oh] * p.factor;
    fetch_ahead(added.from, kStep * width);
    const int64_t before = added.from - begin;
    const int64_t after = limit - added.from - (added.depths - 1) * added.depth_stride - (added.rows - 1) * width;
    for (int64_t o = 0; o < outputs; o += lanes) {
      const int64_t first = o * kStep - p.padding,
                    last = (smaller(outputs, o + lanes) - 1) * kStep - p.padding + kKernel;
      const Edge<S> edge = {begin, limit, larger(0, -first), smaller(reach, width - first)};
      Vector<T> sum;
      if (before + first < 0 || first + reach > after)
        sum = add_few<S, kKernel, kStep, kBeyondTensor>(added, first, edge);
      else if (first >= 0 && last <= width)
        sum = add_few<S, kKernel, kStep, kPlain>(added, first, edge);
      else
        sum = add_few<S, kKernel, kStep, kBeyondRow>(added, first, edge);
      store_before(to + o, sum * (load(p.scale[2] + o) * factor), outputs - o, end - to - o);
    }
  }
}

template <typename S>
void average_pixels(const AverageProblem<Compute<S>>& p, const Band& band, const S* image, const S* limit, S* to,
                    const S* end) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  const int64_t inner = p.inner, row_stride = p.input[2] * inner, depth_stride = p.input[1] * row_stride;
  const bool plain = inner % lanes == 0;
  const int64_t d0 = p.start[0][band.depth], d1 = p.end[0][band.depth];
  for (int64_t oh = band.first; oh < band.last; ++oh) {
    const int64_t h0 = p.start[1][oh], rows = p.end[1][oh] - h0;
    const T factor = p.scale[0][band.depth] * p.scale[1][oh] * p.factor;
    for (int64_t ow = 0; ow < p.output[2]; ++ow, to += inner) {
      const int64_t w0 = p.start[2][ow], columns = p.end[2][ow] - w0;
      const S* from = image + d0 * depth_stride + h0 * row_stride + w0 * inner;
      const T weight = factor * p.scale[2][ow];
      int64_t c = 0;
      for (; c + kBlock * lanes <= inner; c += kBlock * lanes) {
        Vector<T> sum[kBlock] = {};
        for (int64_t d = 0; d < d1 - d0; ++d)
          for (int64_t h = 0; h < rows; ++h)
            for (int64_t w = 0; w < columns; ++w) {
              const S* pixel = from + d * depth_stride + h * row_stride + w * inner + c;
              for (int64_t b = 0; b < kBlock; ++b) sum[b] += load_values(pixel + b * lanes);
            }
        for (int64_t b = 0; b < kBlock; ++b) store_values(to + c + b * lanes, sum[b] * weight);
      }
      for (; c < inner; c += lanes) {
        Vector<T> sum = {};
        for (int64_t d = 0; d < d1 - d0; ++d)
          sum += plain ? total_at<S, false>(from + d * depth_stride + c, rows, row_stride, columns, inner, limit)
                       : total_at<S, true>(from + d * depth_stride + c, rows, row_stride, columns, inner, limit);
        store_before(to + c, sum * weight, inner - c, end - to - c);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------
// Adjoint

template <typename T>
int64_t adjoint_tasks(const AverageProblem<T>& p) {
  return tasks_of(p, p.input);
}

template <typename T>
int64_t adjoint_workspace(const AverageProblem<T>& p) {
  if (side_by_side<T>(p)) return images_workspace(p);
  const int64_t line = p.output[2] + 2 * margin(p) + 4 * kLanes<T>;
  return p.inner == 1 ? (line + p.input[2] + kLanes<T>)*static_cast<int64_t>(sizeof(T)) : 0;
}

// What input kStep * j + phase gets, for a vector of j: the sums of the windows that cover it.
template <typename T, int kKernel, int kStep>
TORCHBP_INLINE Vector<T> spread_phase(const AverageProblem<T>& p, const T* sums, int64_t phase) {
  const int64_t kernel = kKernel ? kKernel : p.kernel;
  Vector<T> sum = {};
  for (int64_t k = kernel - 1; k >= 0; --k) {
    const int64_t distance = phase + p.padding - k;
    if (kStep == 2 && (distance & 1)) continue;
    sum += load(sums + divide_down(distance, kStep));
  }
  return sum;
}

template <typename S, int kKernel, int kStep>
void spread_run(const AverageProblem<Compute<S>>& p, const Compute<S>* sums, S* to, int64_t room, bool stream) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  const int64_t width = p.input[2];
  for (int64_t i = 0; i < width; i += kStep * lanes) {
    const Vector<T> even = spread_phase<T, kKernel, kStep>(p, sums + i / kStep, 0);
    if constexpr (kStep == 1) {
      store_result(to + i, even, width - i, room - i, stream);
    } else {
      const Vector<T> odd = spread_phase<T, kKernel, 2>(p, sums + i / 2, 1);
      store_result(to + i, first_of_pairs(even, odd), width - i, room - i, stream);
      if (i + lanes < width)
        store_result(to + i + lanes, rest_of_pairs(even, odd), width - i - lanes, room - i - lanes, stream);
    }
  }
}

// Spreads a row of sums over the columns of its windows.
template <typename S>
void spread_columns(const AverageProblem<Compute<S>>& p, const Compute<S>* sums, Compute<S>* row, S* to, int64_t room,
                    bool stream) {
  typedef Compute<S> T;
  if (p.step == 1 && p.kernel == 3) return spread_run<S, 3, 1>(p, sums, to, room, stream);
  if (p.step == 1) return spread_run<S, 0, 1>(p, sums, to, room, stream);
  if (p.step == 2 && p.kernel == 2) return spread_run<S, 2, 2>(p, sums, to, room, stream);
  if (p.step == 2 && p.kernel == 3) return spread_run<S, 3, 2>(p, sums, to, room, stream);
  if (p.step == 2) return spread_run<S, 0, 2>(p, sums, to, room, stream);
  if (p.output[2] == 1 && p.start[2][0] == 0 && p.end[2][0] == p.input[2]) {
    for (int64_t i = 0; i < p.input[2]; i += kLanes<T>)
      store_result(to + i, Vector<T>{} + sums[0], p.input[2] - i, room - i, stream);
    return;
  }
  for (int64_t i = 0; i < p.input[2]; ++i) row[i] = T(0);
  for (int64_t o = 0; o < p.output[2]; ++o)
    for (int64_t i = p.start[2][o]; i < p.end[2][o]; ++i) row[i] += sums[o];
  for (int64_t i = 0; i < p.input[2]; i += kLanes<T>) store_before(to + i, load(row + i), p.input[2] - i, room - i);
}

template <typename S>
void spread_rows(const AverageProblem<Compute<S>>& p, const Band& band, const S* plane, const S* limit, S* to,
                 const S* end, Compute<S>* workspace, bool stream) {
  typedef Compute<S> T;
  const int64_t width = p.output[2], before = margin(p);
  T* sums = workspace + before;
  T* row = sums + width + before + 4 * kLanes<T>;
  for (int64_t i = -before; i < width + before + 4 * kLanes<T>; ++i) sums[i] = T(0);
  const int64_t d0 = p.cover_first[0][band.depth], d1 = p.cover_end[0][band.depth];
  int64_t last_h0 = -1, last_h1 = -1;
  for (int64_t ih = band.first; ih < band.last; ++ih, to += p.input[2]) {
    const int64_t h0 = p.cover_first[1][ih], h1 = p.cover_end[1][ih];
    if (h0 != last_h0 || h1 != last_h1) {
      for (int64_t i = 0; i < width; i += kLanes<T>) {
        Vector<T> sum = {};
        for (int64_t d = d0; d < d1; ++d)
          for (int64_t h = h0; h < h1; ++h)
            sum += load_before<S, true>(plane + (d * p.output[1] + h) * width + i, limit) *
                   (p.scale[0][d] * p.scale[1][h] * p.factor);
        store(sums + i, sum * load(p.scale[2] + i));
      }
      store(sums + width, Vector<T>{});
    }
    last_h0 = h0;
    last_h1 = h1;
    spread_columns(p, sums, row, to, end - to, stream);
  }
}

template <typename S>
void spread_pixels(const AverageProblem<Compute<S>>& p, const Band& band, const S* image, const S* limit, S* to,
                   const S* end, bool stream) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  const int64_t inner = p.inner, d0 = p.cover_first[0][band.depth], d1 = p.cover_end[0][band.depth];
  for (int64_t ih = band.first; ih < band.last; ++ih) {
    const int64_t h0 = p.cover_first[1][ih], h1 = p.cover_end[1][ih];
    for (int64_t iw = 0; iw < p.input[2]; ++iw, to += inner) {
      const int64_t w0 = p.cover_first[2][iw], w1 = p.cover_end[2][iw];
      const auto visit = [&](const auto& body) {
        for (int64_t d = d0; d < d1; ++d)
          for (int64_t h = h0; h < h1; ++h) {
            const T factor = p.scale[0][d] * p.scale[1][h] * p.factor;
            for (int64_t w = w0; w < w1; ++w)
              body(image + ((d * p.output[1] + h) * p.output[2] + w) * inner, factor * p.scale[2][w]);
          }
      };
      int64_t c = 0;
      for (; c + kBlock * lanes <= inner; c += kBlock * lanes) {
        Vector<T> sum[kBlock] = {};
        visit([&](const S* pixel, T weight) {
          for (int64_t b = 0; b < kBlock; ++b) sum[b] += load_values(pixel + c + b * lanes) * weight;
        });
        for (int64_t b = 0; b < kBlock; ++b) store_result(to + c + b * lanes, sum[b], lanes, lanes, stream);
      }
      for (; c < inner; c += lanes) {
        Vector<T> sum = {};
        if (inner % lanes == 0)
          visit([&](const S* pixel, T weight) { sum += load_values(pixel + c) * weight; });
        else
          visit([&](const S* pixel, T weight) { sum += load_before<S, true>(pixel + c, limit) * weight; });
        store_result(to + c, sum, inner - c, end - to - c, stream);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------
// Both

// Planes with one window: their averages, or the averages' share for every element.
template <typename S, bool kAdjoint>
void run_whole_planes(const AverageProblem<Compute<S>>& p, const S* from, S* to, int64_t begin, int64_t end) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  const int64_t size = p.input[2], last = smaller(p.outer, end * lanes);
  const T weight = p.scale[0][0] * p.scale[1][0] * p.scale[2][0] * p.factor;
  for (int64_t first = begin * lanes; first < last; first += lanes) {
    const int64_t planes = smaller(lanes, last - first);
    if constexpr (kAdjoint) {
      for (int64_t plane = first; plane < first + planes; ++plane) {
        const Vector<T> value = Vector<T>{} + value_of(from[plane]) * weight;
        for (int64_t i = 0; i < size; i += lanes)
          store_before(to + plane * size + i, value, size - i, (last - plane) * size - i);
      }
    } else {
      Vector<T> sums[lanes];
      if (size < kBlock * lanes) fetch_ahead(from + first * size, planes * size);
      for (int64_t i = 0; i < lanes; ++i)  // missing planes repeat the last
        sums[i] = lane_sums(from + (first + smaller(i, planes - 1)) * size, size, from + p.outer * size);
      store_before(to + first, fold<T>(sums) * weight, planes, last - first);
    }
  }
}

// Averages, or their adjoint, for bands of the rows that are written.
template <typename S, bool kAdjoint>
void run(const AverageProblem<Compute<S>>& p, const S* from, S* to, int64_t begin, int64_t end, void* workspace) {
  typedef Compute<S> T;
  const int64_t* read = kAdjoint ? p.output : p.input;
  const int64_t* written = kAdjoint ? p.input : p.output;
  const auto pixels = [](bool stream, const auto&... arguments) {
    if constexpr (kAdjoint)
      spread_pixels(arguments..., stream);
    else
      average_pixels(arguments...);
  };
  if (whole_planes(p)) return run_whole_planes<S, kAdjoint>(p, from, to, begin, end);
  if (side_by_side<T>(p)) {
    const AverageProblem<T> image = image_of(p);
    return run_images(from, volume(read), to, volume(written), p.outer, begin, end, workspace,
                      [&](const T* source, T* target) {
                        const T* limit = source + volume(read) * kLanes<T>;
                        const T* room = target + volume(written) * kLanes<T>;
                        for (int64_t depth = 0; depth < written[0]; ++depth)
                          pixels(false, image, Band{0, depth, 0, written[1]}, source, limit,
                                 target + depth * written[1] * written[2] * kLanes<T>, room);
                      });
  }
  const int64_t plane = volume(read) * p.inner;
  const auto row = [&](const Band& band, int64_t h) {
    return to + ((band.outer * written[0] + band.depth) * written[1] + h) * written[2] * p.inner;
  };
  const Band last = band_of(p.outer, written, end - 1);
  const S* limit = from + p.outer * plane;
  const S* room = row(last, last.last);
  const bool stream = kAdjoint && streams(to, p.outer * volume(written) * p.inner, p.inner > 1 ? p.inner : written[2]);
  for (int64_t task = begin; task < end; ++task) {
    const Band band = band_of(p.outer, written, task);
    const S* source = from + band.outer * plane;
    S* target = row(band, band.first);
    if (p.inner > 1)
      pixels(stream, p, band, source, limit, target, room);
    else if constexpr (kAdjoint)
      spread_rows(p, band, source, limit, target, room, static_cast<T*>(workspace), stream);
    else if (p.step == 1 && p.kernel == 3)
      average_few<S, 3, 1>(p, band, source, from, limit, target, room);
    else if (p.step == 2 && p.kernel == 2)
      average_few<S, 2, 2>(p, band, source, from, limit, target, room);
    else if (p.step == 2 && p.kernel == 3)
      average_few<S, 3, 2>(p, band, source, from, limit, target, room);
    else
      average_rows(p, band, source, limit, target, room, static_cast<T*>(workspace));
  }
  end_stream(stream);
}

template <typename S>
AveragePoolKernels<S> kernels_of() {
  typedef Compute<S> T;
  return {forward_tasks<T>, forward_workspace<T>, run<S, false>, adjoint_tasks<T>, adjoint_workspace<T>, run<S, true>};
}

}  // namespace

AveragePoolKernels<float> average_pool_float() { return kernels_of<float>(); }
AveragePoolKernels<double> average_pool_double() { return kernels_of<double>(); }
AveragePoolKernels<BFloat16> average_pool_bfloat16() { return kernels_of<BFloat16>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
