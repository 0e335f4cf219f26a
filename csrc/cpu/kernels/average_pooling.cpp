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

template <typename T>
TORCHBP_INLINE int64_t whole_vectors(int64_t count) {
  return (count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// The sum of consecutive elements in a fixed order: lane by lane where there are many.
template <typename S>
TORCHBP_INLINE Compute<S> total(const S* from, int64_t count) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  T sum = T(0);
  int64_t i = 0;
  if (count >= 2 * lanes) {
    Vector<T> sums[kBlock] = {};
    for (; i + kBlock * lanes <= count; i += kBlock * lanes)
      for (int64_t b = 0; b < kBlock; ++b) sums[b] += load_values(from + i + b * lanes);
    for (; i + lanes <= count; i += lanes) sums[0] += load_values(from + i);
    const Vector<T> all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (int64_t lane = 0; lane < lanes; ++lane) sum += all[lane];
  }
  for (; i < count; ++i) sum += value_of(from[i]);
  return sum;
}

template <typename T>
TORCHBP_INLINE bool side_by_side(const AverageProblem<T>& p) {
  return smaller(p.input[2], p.output[2] * 2) < 2 * kLanes<T> && planes_fit<T>(p, 48 << 10);
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
  return side_by_side<T>(p) ? (p.outer + kLanes<T> - 1) / kLanes<T> : band_tasks(p.outer, size);
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

// A row of sums, with room to read whole vectors behind it.
template <typename T>
int64_t forward_workspace(const AverageProblem<T>& p) {
  if (side_by_side<T>(p)) return images_workspace(p);
  return p.inner == 1 ? (p.input[2] + 4 * kLanes<T>)*static_cast<int64_t>(sizeof(T)) : 0;
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
template <typename F, typename S, int kKernel, int kStep, bool kChecked>
TORCHBP_INLINE void average_run(const F* sums, const F* limit, int64_t count, int64_t kernel, const Compute<S>* scale,
                                Compute<S> factor, S* to, int64_t room) {
  typedef Compute<S> T;
  if (kKernel) kernel = kKernel;
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
  if (step == 1 && kernel == 3)
    average_run<F, S, 3, 1, kChecked>(sums, limit, count, kernel, scale, factor, to, room);
  else if (step == 1)
    average_run<F, S, 0, 1, kChecked>(sums, limit, count, kernel, scale, factor, to, room);
  else if (kernel == 2)
    average_run<F, S, 2, 2, kChecked>(sums, limit, count, kernel, scale, factor, to, room);
  else if (kernel == 3)
    average_run<F, S, 3, 2, kChecked>(sums, limit, count, kernel, scale, factor, to, room);
  else
    average_run<F, S, 0, 2, kChecked>(sums, limit, count, kernel, scale, factor, to, room);
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
      total += inside ? total_at<S, false>(from + d * depth + i, h1 - h0, width, 1, 0, limit)
                      : total_at<S, true>(from + d * depth + i, h1 - h0, width, 1, 0, limit);
    store(sum + i, total);
  }
}

template <typename S>
void average_rows(const AverageProblem<Compute<S>>& p, const Band& band, const S* plane, const S* limit, S* to,
                  const S* end, Compute<S>* sum) {
  typedef Compute<S> T;
  const Range whole = whole_windows(p);
  const int64_t width = p.input[2], d0 = p.start[0][band.depth], d1 = p.end[0][band.depth];
  for (int64_t oh = band.first; oh < band.last; ++oh, to += p.output[2]) {
    const int64_t h0 = p.start[1][oh], h1 = p.end[1][oh];
    const T factor = p.scale[0][band.depth] * p.scale[1][oh] * p.factor;
    if (d1 - d0 == 1 && h1 - h0 == 1) {  // a single row stays where it is
      average_columns<S, S>(p, whole, plane + (d0 * p.input[1] + h0) * width, limit, factor, to, end - to);
      continue;
    }
    add_rows(p, plane, limit, d0, d1, h0, h1, sum);
    average_columns<T, S>(p, whole, sum, sum + width + 4 * kLanes<T>, factor, to, end - to);
  }
}

template <typename S>
void average_pixels(const AverageProblem<Compute<S>>& p, const Band& band, const S* image, const S* limit, S* to,
                    const S* end) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  const int64_t inner = p.inner, row_stride = p.input[2] * inner, depth_stride = p.input[1] * row_stride;
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
          sum += total_at<S, true>(from + d * depth_stride + c, rows, row_stride, columns, inner, limit);
        store_before(to + c, sum * weight, inner - c, end - to - c);
      }
    }
  }
}

template <typename S>
void forward(const AverageProblem<Compute<S>>& p, const S* input, S* output, int64_t begin, int64_t end,
             void* workspace) {
  typedef Compute<S> T;
  const int64_t row = p.output[2] * p.inner, from = volume(p.input) * p.inner;
  if (side_by_side<T>(p)) {
    const AverageProblem<T> image = image_of(p);
    return run_images(input, from, output, volume(p.output), p.outer, begin, end, workspace,
                      [&](const T* source, T* target) {
                        const T* room = target + volume(p.output) * kLanes<T>;
                        for (int64_t depth = 0; depth < p.output[0]; ++depth)
                          average_pixels(image, {0, depth, 0, p.output[1]}, source, source + from * kLanes<T>,
                                         target + depth * p.output[1] * p.output[2] * kLanes<T>, room);
                      });
  }
  const S* limit = input + p.outer * from;
  const auto first_row = [&](const Band& band, int64_t oh) {
    return output + ((band.outer * p.output[0] + band.depth) * p.output[1] + oh) * row;
  };
  const Band last = band_of(p.outer, p.output, end - 1);
  const S* room = first_row(last, last.last);
  for (int64_t task = begin; task < end; ++task) {
    const Band band = band_of(p.outer, p.output, task);
    const S* plane = input + band.outer * from;
    if (p.inner == 1)
      average_rows(p, band, plane, limit, first_row(band, band.first), room, static_cast<T*>(workspace));
    else
      average_pixels(p, band, plane, limit, first_row(band, band.first), room);
  }
}

// ---------------------------------------------------------------------------------------------
// Adjoint

template <typename T>
int64_t adjoint_tasks(const AverageProblem<T>& p) {
  return tasks_of(p, p.input);
}

// Zeros around the row of sums, so that windows which are not there add nothing.
template <typename T>
TORCHBP_INLINE int64_t margin(const AverageProblem<T>& p) {
  return p.step == 0 ? 0 : p.kernel / p.step + 1 + kLanes<T>;
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
void spread_run(const AverageProblem<Compute<S>>& p, const Compute<S>* sums, S* to, int64_t room) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  const int64_t width = p.input[2];
  for (int64_t i = 0; i < width; i += kStep * lanes) {
    const Vector<T> even = spread_phase<T, kKernel, kStep>(p, sums + i / kStep, 0);
    if constexpr (kStep == 1) {
      store_before(to + i, even, width - i, room - i);
    } else {
      const Vector<T> odd = spread_phase<T, kKernel, 2>(p, sums + i / 2, 1);
      store_before(to + i, first_of_pairs(even, odd), width - i, room - i);
      if (i + lanes < width)
        store_before(to + i + lanes, rest_of_pairs(even, odd), width - i - lanes, room - i - lanes);
    }
  }
}

// Spreads a row of sums over the columns of its windows.
template <typename S>
void spread_columns(const AverageProblem<Compute<S>>& p, const Compute<S>* sums, Compute<S>* row, S* to, int64_t room) {
  typedef Compute<S> T;
  if (p.step == 1 && p.kernel == 3) return spread_run<S, 3, 1>(p, sums, to, room);
  if (p.step == 1) return spread_run<S, 0, 1>(p, sums, to, room);
  if (p.step == 2 && p.kernel == 2) return spread_run<S, 2, 2>(p, sums, to, room);
  if (p.step == 2 && p.kernel == 3) return spread_run<S, 3, 2>(p, sums, to, room);
  if (p.step == 2) return spread_run<S, 0, 2>(p, sums, to, room);
  if (p.output[2] == 1 && p.start[2][0] == 0 && p.end[2][0] == p.input[2]) {
    for (int64_t i = 0; i < p.input[2]; i += kLanes<T>)
      store_before(to + i, Vector<T>{} + sums[0], p.input[2] - i, room - i);
    return;
  }
  for (int64_t i = 0; i < p.input[2]; ++i) row[i] = T(0);
  for (int64_t o = 0; o < p.output[2]; ++o)
    for (int64_t i = p.start[2][o]; i < p.end[2][o]; ++i) row[i] += sums[o];
  for (int64_t i = 0; i < p.input[2]; i += kLanes<T>) store_before(to + i, load(row + i), p.input[2] - i, room - i);
}

template <typename S>
void spread_rows(const AverageProblem<Compute<S>>& p, const Band& band, const S* plane, const S* limit, S* to,
                 const S* end, Compute<S>* workspace) {
  typedef Compute<S> T;
  const int64_t width = p.output[2], before = margin(p);
  T* sums = workspace + before;
  T* row = sums + width + before + 4 * kLanes<T>;
  for (int64_t i = -before; i < 0; ++i) sums[i] = T(0);
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
      for (int64_t i = width; i < width + before + 4 * kLanes<T>; ++i) sums[i] = T(0);
    }
    last_h0 = h0;
    last_h1 = h1;
    spread_columns(p, sums, row, to, end - to);
  }
}

template <typename S>
void spread_pixels(const AverageProblem<Compute<S>>& p, const Band& band, const S* image, const S* limit, S* to,
                   const S* end) {
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
        for (int64_t b = 0; b < kBlock; ++b) store_values(to + c + b * lanes, sum[b]);
      }
      for (; c < inner; c += lanes) {
        Vector<T> sum = {};
        visit([&](const S* pixel, T weight) { sum += load_before<S, true>(pixel + c, limit) * weight; });
        store_before(to + c, sum, inner - c, end - to - c);
      }
    }
  }
}

template <typename S>
void adjoint(const AverageProblem<Compute<S>>& p, const S* gradient, S* grad_input, int64_t begin, int64_t end,
             void* workspace) {
  typedef Compute<S> T;
  const int64_t row = p.input[2] * p.inner, from = volume(p.output) * p.inner;
  if (side_by_side<T>(p)) {
    const AverageProblem<T> image = image_of(p);
    return run_images(gradient, from, grad_input, volume(p.input), p.outer, begin, end, workspace,
                      [&](const T* source, T* target) {
                        const T* room = target + volume(p.input) * kLanes<T>;
                        for (int64_t depth = 0; depth < p.input[0]; ++depth)
                          spread_pixels(image, {0, depth, 0, p.input[1]}, source, source + from * kLanes<T>,
                                        target + depth * p.input[1] * p.input[2] * kLanes<T>, room);
                      });
  }
  const S* limit = gradient + p.outer * from;
  const auto first_row = [&](const Band& band, int64_t ih) {
    return grad_input + ((band.outer * p.input[0] + band.depth) * p.input[1] + ih) * row;
  };
  const Band last = band_of(p.outer, p.input, end - 1);
  const S* room = first_row(last, last.last);
  for (int64_t task = begin; task < end; ++task) {
    const Band band = band_of(p.outer, p.input, task);
    const S* plane = gradient + band.outer * from;
    if (p.inner == 1)
      spread_rows(p, band, plane, limit, first_row(band, band.first), room, static_cast<T*>(workspace));
    else
      spread_pixels(p, band, plane, limit, first_row(band, band.first), room);
  }
}

template <typename S>
AveragePoolKernels<S> kernels_of() {
  typedef Compute<S> T;
  return {forward_tasks<T>, forward_workspace<T>, forward<S>, adjoint_tasks<T>, adjoint_workspace<T>, adjoint<S>};
}

}  // namespace

AveragePoolKernels<float> average_pool_float() { return kernels_of<float>(); }
AveragePoolKernels<double> average_pool_double() { return kernels_of<double>(); }
AveragePoolKernels<BFloat16> average_pool_bfloat16() { return kernels_of<BFloat16>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
