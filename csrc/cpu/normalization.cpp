// Batch normalisation, with the batch's statistics or given ones, group, layer and root-mean-square normalisation, and
// their gradients.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "arguments.h"
#include "dispatch.h"

namespace torchbp {
namespace {

using at::Tensor;

// Below so many elements a task is not worth a thread.
constexpr int64_t kGrain = 32768;
// The elements of a piece of a run that is too long for one task.
constexpr int64_t kPiece = 16384;
// So many independent tasks occupy the threads of a machine; fewer are cut further.
constexpr int64_t kTasks = 16;
constexpr int64_t kMostSlices = 32;
// Planes below this length are columns of their own instead, which takes no sums across a vector.
constexpr int64_t kShort = 32;
// Weighted rows from this length on, if there are few, are cut; those beyond the second are always.
constexpr int64_t kLong = 2048;
constexpr int64_t kLongest = 65536;

int64_t clamp(int64_t value, int64_t low, int64_t high) { return std::max(low, std::min(value, high)); }

template <typename Task>
void parallel(int64_t tasks, int64_t elements_per_task, const Task& task) {
  at::parallel_for(0, tasks, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements_per_task)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) task(i);
                   });
}

// Sets of elements with statistics of their own, each cut into units: first(set, unit) sums, combine(set) joins the
// sums in order, second(set, unit) maps. Where there are sets enough, one is done from beginning to end, so that
// second finds in the cache what first has read.
template <typename First, typename Combine, typename Second>
void in_two_passes(int64_t sets, int64_t units, int64_t elements_per_set, const First& first, const Combine& combine,
                   const Second& second) {
  if (units == 1 || sets >= kTasks || sets * elements_per_set <= kGrain) {
    parallel(sets, elements_per_set, [&](int64_t set) {
      for (int64_t unit = 0; unit < units; ++unit) first(set, unit);
      combine(set);
      for (int64_t unit = 0; unit < units; ++unit) second(set, unit);
    });
    return;
  }
  const int64_t elements = elements_per_set / units;
  parallel(sets * units, elements, [&](int64_t i) { first(i / units, i % units); });
  for (int64_t set = 0; set < sets; ++set) combine(set);
  parallel(sets * units, elements, [&](int64_t i) { second(i / units, i % units); });
}

// Rows of elements cut into units: pieces of every row if rows are long, else ranges of rows.
struct Cut {
  int64_t rows, length;
  int64_t pieces;    // per row
  int64_t per_unit;  // rows
  int64_t units;

  Cut(int64_t rows_, int64_t length_, int64_t wanted) : rows(rows_), length(length_) {
    pieces = wanted == 1 ? 1 : up(length, kPiece);
    per_unit = pieces > 1 ? 1 : up(rows, std::min(rows, wanted));
    units = pieces > 1 ? rows * pieces : up(rows, per_unit);
  }
  int64_t row(int64_t unit) const { return pieces > 1 ? unit / pieces : unit * per_unit; }
  int64_t offset(int64_t unit) const { return pieces > 1 ? unit % pieces * kPiece : 0; }
  Runs runs(int64_t unit, int64_t stride) const {
    return {pieces > 1 ? 1 : std::min(per_unit, rows - row(unit)), stride,
            std::min(pieces > 1 ? kPiece : length, length - offset(unit))};
  }
};

// A vector of parameters in the type of arithmetic; where it is absent, so many times the same value.
template <typename A>
class Values {
 public:
  Values(const std::optional<Tensor>& given, int64_t count, A otherwise) {
    if (given.has_value()) {
      dense_ = given->to(c10::CppTypeToScalarType<A>::value).contiguous();
      data_ = dense_.const_data_ptr<A>();
    } else {
      filled_.assign(static_cast<size_t>(count), otherwise);
      data_ = filled_.data();
    }
  }
  A operator[](int64_t i) const { return data_[i]; }
  const A* data() const { return data_; }

 private:
  Tensor dense_;
  std::vector<A> filled_;
  const A* data_;
};

Moments join(const Moments& a, double count, const Moments& b, double further) {
  const double total = count + further, difference = b.mean - a.mean;
  return {(count * a.mean + further * b.mean) / total,
          a.squares + b.squares + difference * difference * (count * further / total)};
}

// The same for each column, into the first; returns how many elements each then counts.
double join_columns(double* mean, double* squares, double count, const double* further_mean,
                    const double* further_squares, double further, int64_t columns) {
  const double total = count + further, kept = count / total, added = further / total, joint = count * added;
  for (int64_t i = 0; i < columns; ++i) {
    const double difference = further_mean[i] - mean[i];
    squares[i] += further_squares[i] + difference * difference * joint;
    mean[i] = kept * mean[i] + added * further_mean[i];
  }
  return total;
}

template <typename T>
const T* pointer(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* writable(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// Calls compute with a value of the type in memory.
template <typename Compute>
void for_type(const Tensor& tensor, const Compute& compute) {
  if (tensor.scalar_type() == at::kFloat)
    compute(float());
  else if (tensor.scalar_type() == at::kDouble)
    compute(double());
  else if (tensor.scalar_type() == at::kBFloat16)
    compute(BFloat16());
  else
    TORCH_CHECK(false, "normalisation: input must be real and floating-point, but got ", tensor.scalar_type());
}

// Half of float's exponent: no loops of its own.
bool converted(const Tensor& tensor) { return tensor.scalar_type() == at::kHalf; }

at::TensorOptions statistics_options(const Tensor& input) {
  const bool narrow = input.scalar_type() == at::kBFloat16;
  return input.options().memory_format(std::nullopt).dtype(narrow ? at::kFloat : input.scalar_type());
}

void check_vector(const char* op, const char* name, const std::optional<Tensor>& vector, int64_t size) {
  if (!vector.has_value()) return;
  TORCH_CHECK(vector->dim() == 1 && vector->size(0) == size, op, ": ", name, " must have shape [", size, "], but got ",
              vector->sizes());
  TORCH_CHECK(vector->device().is_cpu(), op, ": ", name, " must be a CPU tensor, but got ", vector->device());
}

// A result like `dense`, or of no elements where it is not wanted.
Tensor empty_if(bool wanted, const Tensor& dense) {
  return wanted ? at::empty_like(dense) : at::empty({0}, dense.options().memory_format(std::nullopt));
}

void check_gradient(const char* op, const Tensor& grad_output, const Tensor& input) {
  TORCH_CHECK(grad_output.sizes() == input.sizes(), op, ": grad_output must have input's shape, ", input.sizes(),
              ", but got ", grad_output.sizes());
  TORCH_CHECK(grad_output.scalar_type() == input.scalar_type(), op, ": grad_output must have input's dtype, ",
              input.scalar_type(), ", but got ", grad_output.scalar_type());
}

// --------------------------------------------------------------------------------------------------------------------
// Per channel

// How a (N, C, *) tensor is read: as planes x[N][C][inner], or as rows x[rows][columns], where channels-last and
// (N, C) tensors have a column per channel, or several rows side by side if channels are few, and short planes have
// a column per element. Columns are done in chunks of channels where that leaves whole stretches to read.
struct Channels {
  at::MemoryFormat format;
  int64_t batch, count, inner;  // count channels
  bool planes;
  int64_t rows, columns;  // columns of all chunks
  int64_t spread;         // columns of a channel that are neighbours
  int64_t chunks, chunk;  // and the columns of a chunk
  int64_t left;           // rows that do not fill one of several side by side
  double elements;        // per channel

  Channels(const char* op, const Tensor& input) {
    TORCH_CHECK(input.dim() >= 2, op, ": input must have shape (N, C, *), but got ", input.sizes());
    format = input.suggest_memory_format();
    batch = input.size(0);
    count = input.size(1);
    inner = batch * count == 0 ? 0 : input.numel() / (batch * count);
    elements = static_cast<double>(batch * inner);
    const bool last = format != at::MemoryFormat::Contiguous || inner == 1;
    planes = !last && inner >= kShort;
    spread = last ? 1 : inner;
    rows = last ? batch * inner : batch;
    columns = count * spread;
    chunks = 1;
    chunk = columns;
    left = 0;
    if (planes || input.numel() == 0) return;
    if (last && count < 32 && rows >= 256) {
      int64_t beside = 64;
      while (beside > 1 && (beside / 2) * count % 64 == 0) beside /= 2;
      left = rows % beside;
      rows /= beside;
      columns = chunk = beside * count;
    } else if (!last) {
      const int64_t channels = std::max<int64_t>(1, 512 / spread);
      chunks = up(count, channels);
      chunk = std::min(count, channels) * spread;
    }
  }
  int64_t channel(int64_t column) const { return spread > 1 ? column / spread : column % count; }
  int64_t chunk_begin(int64_t index) const { return index * chunk; }
  int64_t chunk_size(int64_t index) const { return std::min(chunk, columns - index * chunk); }
  int64_t first_channel(int64_t index) const { return spread > 1 ? index * chunk / spread : 0; }
  int64_t last_channel(int64_t index) const {
    return spread == 1 ? count : (index * chunk + chunk_size(index)) / spread;
  }
  // The cut of what a set has: of a channel's planes, or of a chunk's rows.
  Cut cut() const {
    if (planes) return {batch, inner, count >= kTasks ? 1 : up(2 * kTasks, count)};
    return {rows, chunk,
            0 == rows ? 1 : clamp(chunks >= kTasks ? 1 : rows * columns / kGrain, 1, std::min(rows, kMostSlices))};
  }
};

// The sums per channel that backward starts from, and the maps of both directions.
template <typename T>
class PerChannel {
 public:
  using A = Compute<T>;

  PerChannel(const Channels& shape)
      : shape_(shape), kernel_(normalization_kernels<T>()), cut_(row_cut()), maps_(static_cast<size_t>(shape.count)) {
    if (!shape.planes) column_maps_.resize(4 * static_cast<size_t>(shape.columns));
  }

  RowMap<A>& map(int64_t channel) { return maps_[channel]; }

  // combine(channel, moments) chooses the map of a channel.
  template <typename Combine>
  void forward(const T* x, const Combine& combine, T* out) {
    const int64_t stride = shape_.count * shape_.inner, units = cut_.units;
    if (shape_.planes) {
      std::vector<Moments> found(static_cast<size_t>(shape_.count * units));
      in_two_passes(
          shape_.count, units, shape_.batch * shape_.inner,
          [&](int64_t c, int64_t unit) {
            found[c * units + unit] = kernel_.moments(x + at(c, unit), cut_.runs(unit, stride));
          },
          [&](int64_t c) {
            Moments all = found[c * units];
            double count = elements(0);
            for (int64_t unit = 1; unit < units; count += elements(unit), ++unit)
              all = join(all, count, found[c * units + unit], elements(unit));
            combine(c, all);
          },
          [&](int64_t c, int64_t unit) { apply(nullptr, x, c, unit, out); });
      return;
    }
    const int64_t columns = shape_.columns, total = columns * units;
    std::vector<double> mean(static_cast<size_t>(total)), squares(static_cast<size_t>(total));
    in_two_passes(
        shape_.chunks, units, shape_.rows * shape_.chunk,
        [&](int64_t k, int64_t unit) {
          const Runs runs = column_runs(k, unit);
          const Scratch<A> workspace(3 * runs.length);
          const int64_t to = unit * columns + shape_.chunk_begin(k);
          kernel_.column_moments(x + column_at(k, unit), runs, &mean[to], &squares[to], workspace.data());
        },
        [&](int64_t k) {
          const int64_t begin = shape_.chunk_begin(k), end = begin + shape_.chunk_size(k);
          double rows = static_cast<double>(cut_.runs(0, 0).rows);
          for (int64_t unit = 1; unit < units; ++unit)
            rows = join_columns(&mean[begin], &squares[begin], rows, &mean[unit * columns + begin],
                                &squares[unit * columns + begin], static_cast<double>(cut_.runs(unit, 0).rows),
                                end - begin);
          for (int64_t c = shape_.first_channel(k); c < shape_.last_channel(k); ++c) {
            const int64_t first = shape_.spread > 1 ? c * shape_.spread : c,
                          step = shape_.spread > 1 ? 1 : shape_.count;
            const int64_t stop = shape_.spread > 1 ? first + shape_.spread : columns;
            Moments all = {mean[first], squares[first]};
            double count = rows;
            for (int64_t i = first + step; i < stop; i += step, count += rows)
              all = join(all, count, {mean[i], squares[i]}, rows);
            for (int64_t row = 0; row < shape_.left; ++row, ++count)
              all = join(all, count, {static_cast<double>(value(x[shape_.rows * columns + row * shape_.count + c])), 0},
                         1);
            combine(c, all);
          }
          spread_maps(k);
        },
        [&](int64_t k, int64_t unit) { apply(nullptr, x, k, unit, out); });
    apply_left(nullptr, x, out);
  }

  // combine(channel, sums of g and of g * (x - centre)) chooses the map, of which the centre is known before. With
  // x null only out is made, with a map known before; with out null only the sums.
  template <typename Combine>
  void backward(const T* g, const T* x, bool known, const Combine& combine, T* out) {
    const int64_t stride = shape_.count * shape_.inner, units = cut_.units;
    const auto nothing = [](int64_t, int64_t) {};
    if (shape_.planes) {
      std::vector<Sums> found(static_cast<size_t>(shape_.count * units));
      const auto first = [&](int64_t c, int64_t unit) {
        if (x)
          found[c * units + unit] =
              kernel_.products(g + at(c, unit), x + at(c, unit), map(c).centre, cut_.runs(unit, stride));
        if (known && out) apply(g, nullptr, c, unit, out);
      };
      const auto join_sums = [&](int64_t c) {
        Sums all{0, 0};
        for (int64_t unit = 0; unit < units; ++unit) {
          all.gradient += found[c * units + unit].gradient;
          all.product += found[c * units + unit].product;
        }
        if (x) combine(c, all);
      };
      if (known || !out)
        in_two_passes(shape_.count, units, shape_.batch * shape_.inner, first, join_sums, nothing);
      else
        in_two_passes(shape_.count, units, shape_.batch * shape_.inner, first, join_sums,
                      [&](int64_t c, int64_t unit) { apply(g, x, c, unit, out); });
      return;
    }
    const int64_t columns = shape_.columns, total = columns * units;
    std::vector<double> gradient(x ? static_cast<size_t>(total) : 0), product(gradient.size());
    for (int64_t k = 0; k < shape_.chunks; ++k) spread_maps(k);
    const auto first = [&](int64_t k, int64_t unit) {
      const Runs runs = column_runs(k, unit);
      const int64_t from = column_at(k, unit), begin = shape_.chunk_begin(k), to = unit * columns + begin;
      if (x) {
        const Scratch<A> workspace(2 * runs.length);
        kernel_.column_products(g + from, x + from, column_map(kCentre) + begin, runs, &gradient[to], &product[to],
                                workspace.data());
      }
      if (known && out) apply(g, nullptr, k, unit, out);
    };
    const auto join_sums = [&](int64_t k) {
      if (!x) return;
      const int64_t begin = shape_.chunk_begin(k), end = begin + shape_.chunk_size(k);
      for (int64_t unit = 1; unit < units; ++unit)
        for (int64_t i = begin; i < end; ++i) {
          gradient[i] += gradient[unit * columns + i];
          product[i] += product[unit * columns + i];
        }
      for (int64_t c = shape_.first_channel(k); c < shape_.last_channel(k); ++c) {
        const int64_t start = shape_.spread > 1 ? c * shape_.spread : c, step = shape_.spread > 1 ? 1 : shape_.count;
        const int64_t stop = shape_.spread > 1 ? start + shape_.spread : columns;
        Sums all{0, 0};
        for (int64_t i = start; i < stop; i += step) {
          all.gradient += gradient[i];
          all.product += product[i];
        }
        for (int64_t row = 0; row < shape_.left; ++row) {
          const int64_t i = shape_.rows * columns + row * shape_.count + c;
          const double value_g = value(g[i]);
          all.gradient += value_g;
          all.product += value_g * (static_cast<double>(value(x[i])) - static_cast<double>(map(c).centre));
        }
        combine(c, all);
      }
      if (!known) spread_maps(k);
    };
    if (known || !out)
      in_two_passes(shape_.chunks, units, shape_.rows * shape_.chunk, first, join_sums, nothing);
    else
      in_two_passes(shape_.chunks, units, shape_.rows * shape_.chunk, first, join_sums,
                    [&](int64_t k, int64_t unit) { apply(g, x, k, unit, out); });
    if (out) apply_left(g, known ? nullptr : x, out);
  }

  // out = (x - centre) * scale + shift, with maps known.
  void only_apply(const T* x, T* out) {
    const int64_t sets = shape_.planes ? shape_.count : shape_.chunks, units = cut_.units;
    for (int64_t k = 0; k < shape_.chunks && !shape_.planes; ++k) spread_maps(k);
    parallel(sets * units, shape_.batch * shape_.inner * shape_.count / (sets * units),
             [&](int64_t i) { apply(nullptr, x, i % sets, i / sets, out); });
    if (!shape_.planes) apply_left(nullptr, x, out);
  }

 private:
  enum Part { kCentre, kScale, kShift, kSlope };

  Cut row_cut() const { return shape_.cut(); }
  static float value(float v) { return v; }
  static double value(double v) { return v; }
  static float value(BFloat16 v) { return static_cast<float>(c10::BFloat16(v.bits, c10::BFloat16::from_bits())); }
  static void assign(float& to, float v) { to = v; }
  static void assign(double& to, double v) { to = v; }
  static void assign(BFloat16& to, float v) { to.bits = c10::BFloat16(v).x; }

  int64_t at(int64_t channel, int64_t unit) const {
    return (cut_.row(unit) * shape_.count + channel) * shape_.inner + cut_.offset(unit);
  }
  double elements(int64_t unit) const {
    const Runs runs = cut_.runs(unit, 0);
    return static_cast<double>(runs.rows * runs.length);
  }
  Runs column_runs(int64_t k, int64_t unit) const {
    const int64_t begin = unit * cut_.per_unit;
    return {std::min(cut_.per_unit, shape_.rows - begin), shape_.columns, shape_.chunk_size(k)};
  }
  int64_t column_at(int64_t k, int64_t unit) const {
    return unit * cut_.per_unit * shape_.columns + shape_.chunk_begin(k);
  }
  A* column_map(Part part) { return column_maps_.data() + part * shape_.columns; }

  void spread_maps(int64_t k) {
    A *centre = column_map(kCentre), *scale = column_map(kScale), *shift = column_map(kShift),
      *slope = column_map(kSlope);
    const auto one = [&](int64_t i, int64_t c) {
      const RowMap<A>& from = map(c);
      centre[i] = from.centre;
      scale[i] = from.scale;
      shift[i] = from.shift;
      slope[i] = from.slope;
    };
    const int64_t begin = shape_.chunk_begin(k), end = begin + shape_.chunk_size(k);
    if (shape_.spread > 1) {
      for (int64_t i = begin, c = begin / shape_.spread; i < end; ++c)
        for (int64_t j = 0; j < shape_.spread; ++j, ++i) one(i, c);
    } else {
      for (int64_t i = begin; i < end;)
        for (int64_t c = 0; c < shape_.count; ++c, ++i) one(i, c);
    }
  }

  // Of the unit of a channel, or of a chunk of columns.
  void apply(const T* g, const T* x, int64_t set, int64_t unit, T* out) {
    if (shape_.planes) {
      const RowMap<A>& m = map(set);
      const int64_t i = at(set, unit);
      kernel_.apply(g ? g + i : nullptr, x ? x + i : nullptr, m.slope, m.centre, m.scale, m.shift,
                    cut_.runs(unit, shape_.count * shape_.inner), out + i);
      return;
    }
    const int64_t i = column_at(set, unit), c = shape_.chunk_begin(set);
    kernel_.column_apply(g ? g + i : nullptr, x ? x + i : nullptr, column_map(kSlope) + c, column_map(kCentre) + c,
                         column_map(kScale) + c, column_map(kShift) + c, column_runs(set, unit), out + i);
  }

  // The rows that do not fill one of several side by side.
  void apply_left(const T* g, const T* x, T* out) {
    for (int64_t row = 0; row < shape_.left; ++row)
      for (int64_t c = 0; c < shape_.count; ++c) {
        const int64_t i = shape_.rows * shape_.columns + row * shape_.count + c;
        const RowMap<A>& m = map(c);
        A y = g ? value(g[i]) * m.slope : A(0);
        if (x) y += (value(x[i]) - m.centre) * m.scale + m.shift;
        assign(out[i], y);
      }
  }

  const Channels& shape_;
  const NormalizationKernels<T>& kernel_;
  const Cut cut_;
  std::vector<RowMap<A>> maps_;
  std::vector<A> column_maps_;
};

// (x - mean) * scale + bias, with the centre rounded and the shift making up for it, unless that were zero by infinity.
template <typename A>
RowMap<A> channel_map(double mean, double scale, double bias) {
  const A centre = static_cast<A>(mean);
  const double rest = std::isfinite(scale) ? (static_cast<double>(centre) - mean) * scale : 0;
  return {centre, static_cast<A>(scale), static_cast<A>(bias + rest), A(0)};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& input, const std::optional<Tensor>& weight,
                                              const std::optional<Tensor>& bias, double eps) {
  constexpr const char* op = "batch_norm";
  const Channels shape(op, input);
  check_vector(op, "weight", weight, shape.count);
  check_vector(op, "bias", bias, shape.count);
  if (converted(input)) {
    auto [output, mean, variance] = batch_norm(input.to(at::kFloat), weight, bias, eps);
    return {output.to(input.scalar_type()), mean, variance};
  }
  const Tensor dense = input.contiguous(shape.format);
  const Tensor output = at::empty_like(dense);
  const auto options = statistics_options(input);
  if (input.numel() == 0) return {output, at::zeros({shape.count}, options), at::zeros({shape.count}, options)};
  const Tensor mean = at::empty({shape.count}, options), variance = at::empty({shape.count}, options);
  for_type(input, [&](auto type) {
    using T = decltype(type);
    using A = Compute<T>;
    const Values<A> weights(weight, shape.count, 1), biases(bias, shape.count, 0);
    A *to_mean = mean.data_ptr<A>(), *to_variance = variance.data_ptr<A>();
    PerChannel<T> layer(shape);
    layer.forward(
        pointer<T>(dense),
        [&](int64_t c, const Moments& found) {
          const double spread = found.squares / shape.elements;
          to_mean[c] = static_cast<A>(found.mean);
          to_variance[c] = static_cast<A>(spread);
          layer.map(c) =
              channel_map<A>(found.mean, static_cast<double>(weights[c]) / std::sqrt(spread + eps), biases[c]);
        },
        writable<T>(output));
  });
  return {output, mean, variance};
}

// With n elements per channel, r = (variance + eps)^(-1/2), c = x - mean:
// gw = r sum(g c), gb = sum(g), gx = w r (g - gb / n - c r² sum(g c) / n).
std::tuple<Tensor, Tensor, Tensor> batch_norm_gradients(const Tensor& grad_output, const Tensor& input,
                                                        const std::optional<Tensor>& weight, const Tensor& mean,
                                                        const Tensor& variance, double eps, bool input_gradient) {
  constexpr const char* op = "batch_norm_gradients";
  const Channels shape(op, input);
  check_vector(op, "weight", weight, shape.count);
  check_vector(op, "mean", mean, shape.count);
  check_vector(op, "variance", variance, shape.count);
  check_gradient(op, grad_output, input);
  if (converted(input)) {
    auto [gx, gw, gb] = batch_norm_gradients(grad_output.to(at::kFloat), input.to(at::kFloat), weight, mean, variance,
                                             eps, input_gradient);
    return {gx.to(input.scalar_type()), gw, gb};
  }
  const Tensor dense = input.contiguous(shape.format), gradient = grad_output.contiguous(shape.format);
  const Tensor grad_input = empty_if(input_gradient, dense);
  const auto options = statistics_options(input);
  if (input.numel() == 0) return {grad_input, at::zeros({shape.count}, options), at::zeros({shape.count}, options)};
  const Tensor grad_weight = at::empty({shape.count}, options), grad_bias = at::empty({shape.count}, options);
  for_type(input, [&](auto type) {
    using T = decltype(type);
    using A = Compute<T>;
    const Values<A> weights(weight, shape.count, 1), means(mean, shape.count, 0), spreads(variance, shape.count, 0);
    A *to_weight = grad_weight.data_ptr<A>(), *to_bias = grad_bias.data_ptr<A>();
    PerChannel<T> layer(shape);
    for (int64_t c = 0; c < shape.count; ++c) layer.map(c).centre = means[c];
    layer.backward(
        pointer<T>(gradient), pointer<T>(dense), false,
        [&](int64_t c, const Sums& sums) {
          const double r = 1 / std::sqrt(static_cast<double>(spreads[c]) + eps);
          const double wr = static_cast<double>(weights[c]) * r;
          to_bias[c] = static_cast<A>(sums.gradient);
          to_weight[c] = static_cast<A>(r * sums.product);
          layer.map(c) = {means[c], static_cast<A>(-wr * r * r * sums.product / shape.elements),
                          static_cast<A>(-wr * sums.gradient / shape.elements), static_cast<A>(wr)};
        },
        input_gradient ? writable<T>(grad_input) : nullptr);
  });
  return {grad_input, grad_weight, grad_bias};
}

Tensor channel_affine(const Tensor& input, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                      const Tensor& mean, const Tensor& variance, double eps) {
  constexpr const char* op = "channel_affine";
  const Channels shape(op, input);
  check_vector(op, "weight", weight, shape.count);
  check_vector(op, "bias", bias, shape.count);
  check_vector(op, "mean", mean, shape.count);
  check_vector(op, "variance", variance, shape.count);
  if (converted(input))
    return channel_affine(input.to(at::kFloat), weight, bias, mean, variance, eps).to(input.scalar_type());
  const Tensor dense = input.contiguous(shape.format);
  const Tensor output = at::empty_like(dense);
  if (input.numel() == 0) return output;
  for_type(input, [&](auto type) {
    using T = decltype(type);
    using A = Compute<T>;
    const Values<A> weights(weight, shape.count, 1), biases(bias, shape.count, 0), means(mean, shape.count, 0),
        spreads(variance, shape.count, 0);
    PerChannel<T> layer(shape);
    for (int64_t c = 0; c < shape.count; ++c)
      layer.map(c) = channel_map<A>(
          means[c], static_cast<double>(weights[c]) / std::sqrt(static_cast<double>(spreads[c]) + eps), biases[c]);
    layer.only_apply(pointer<T>(dense), writable<T>(output));
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> channel_affine_gradients(const Tensor& grad_output,
                                                            const std::optional<Tensor>& input,
                                                            const std::optional<Tensor>& weight, const Tensor& mean,
                                                            const Tensor& variance, double eps, bool input_gradient) {
  constexpr const char* op = "channel_affine_gradients";
  const Channels shape(op, grad_output);
  check_vector(op, "weight", weight, shape.count);
  check_vector(op, "mean", mean, shape.count);
  check_vector(op, "variance", variance, shape.count);
  if (input.has_value()) check_gradient(op, grad_output, *input);
  if (converted(grad_output)) {
    std::optional<Tensor> wide;
    if (input.has_value()) wide = input->to(at::kFloat);
    auto [gx, gw, gb] =
        channel_affine_gradients(grad_output.to(at::kFloat), wide, weight, mean, variance, eps, input_gradient);
    return {gx.to(grad_output.scalar_type()), gw, gb};
  }
  const Tensor gradient = grad_output.contiguous(shape.format);
  const auto options = statistics_options(grad_output);
  const int64_t vectors = input.has_value() ? shape.count : 0;
  const Tensor grad_input = empty_if(input_gradient, gradient);
  const Tensor grad_weight = at::zeros({vectors}, options), grad_bias = at::zeros({vectors}, options);
  if (grad_output.numel() == 0) return {grad_input, grad_weight, grad_bias};
  for_type(grad_output, [&](auto type) {
    using T = decltype(type);
    using A = Compute<T>;
    const Values<A> weights(weight, shape.count, 1), means(mean, shape.count, 0), spreads(variance, shape.count, 0);
    A *to_weight = grad_weight.data_ptr<A>(), *to_bias = grad_bias.data_ptr<A>();
    const auto inverse = [&](int64_t c) { return 1 / std::sqrt(static_cast<double>(spreads[c]) + eps); };
    PerChannel<T> layer(shape);
    for (int64_t c = 0; c < shape.count; ++c)
      layer.map(c) = {means[c], A(0), A(0), static_cast<A>(static_cast<double>(weights[c]) * inverse(c))};
    const Tensor dense = input.has_value() ? input->contiguous(shape.format) : Tensor();
    layer.backward(
        pointer<T>(gradient), input.has_value() ? pointer<T>(dense) : nullptr, true,
        [&](int64_t c, const Sums& sums) {
          to_weight[c] = static_cast<A>(inverse(c) * sums.product);
          to_bias[c] = static_cast<A>(sums.gradient);
        },
        input_gradient ? writable<T>(grad_input) : nullptr);
  });
  return {grad_input, grad_weight, grad_bias};
}

// --------------------------------------------------------------------------------------------------------------------
// Per group

// x as x[samples][groups][channels][inner], or with channels last x[samples][inner][groups][channels].
struct Groups {
  at::MemoryFormat format;
  int64_t samples, count, channels, inner;
  int64_t vectors;  // channels of all groups, the size of weight and bias
  bool last;

  Groups(const char* op, const Tensor& input, at::IntArrayRef sizes) {
    TORCH_CHECK(sizes.size() == 4, op, ": sizes must be samples, groups, channels and positions, but got ", sizes);
    int64_t product = 1;
    for (const int64_t size : sizes) {
      TORCH_CHECK(size >= 0, op, ": sizes must not be negative, but got ", sizes);
      product = checked_product(op, "sizes", product, size);
    }
    TORCH_CHECK(product == input.numel(), op, ": sizes must have as many elements as input, ", input.numel(),
                ", but got ", sizes);
    samples = sizes[0];
    count = sizes[1];
    channels = sizes[2];
    inner = sizes[3];
    vectors = checked_product(op, "sizes", count, channels);
    format = inner == 1 ? at::MemoryFormat::Contiguous : input.suggest_memory_format();
    last = format != at::MemoryFormat::Contiguous;
    if (last)
      TORCH_CHECK(input.size(0) == samples && input.size(1) == vectors, op,
                  ": sizes must be those of a channels-last input of shape ", input.sizes(), ", but got ", sizes);
  }
  int64_t length() const { return channels * inner; }  // elements of a group
  bool weighted() const { return !last && inner < kShort; }
  bool cut() const {
    return length() > kLongest || (length() >= kLong && samples < 64 && samples * count * length() > kGrain);
  }
};

// Values per channel, one for each of its positions.
template <typename A>
std::vector<A> per_element(const Values<A>& values, const Groups& shape) {
  std::vector<A> result(static_cast<size_t>(shape.vectors * shape.inner));
  for (int64_t c = 0, i = 0; c < shape.vectors; ++c)
    for (int64_t k = 0; k < shape.inner; ++k, ++i) result[i] = values[c];
  return result;
}

// Rows with a weight per element. Without mean zero stands for it, and variance is the mean square.
template <typename T>
void weighted_forward(const Groups& shape, const T* x, const Compute<T>* weight, const Compute<T>* bias, double eps,
                      T* out, Compute<T>* mean, Compute<T>* variance) {
  using A = Compute<T>;
  const NormalizationKernels<T>& kernel = normalization_kernels<T>();
  const int64_t length = shape.length(), row = shape.count * length;
  if (!shape.cut()) {
    const int64_t per_task = clamp(kPiece / std::max<int64_t>(1, row), 1, shape.samples);
    parallel(up(shape.samples, per_task), per_task * row, [&](int64_t task) {
      const int64_t begin = task * per_task, rows = std::min(per_task, shape.samples - begin);
      kernel.weighted_forward(x + begin * row, weight, bias, eps, shape.count, {rows, row, length}, out + begin * row,
                              mean ? mean + begin * shape.count : nullptr, variance + begin * shape.count);
    });
    return;
  }
  const Cut cut(1, length, 2);
  const int64_t sets = shape.samples * shape.count;
  std::vector<Moments> found(static_cast<size_t>(sets * cut.units));
  std::vector<RowMap<A>> maps(static_cast<size_t>(sets));
  in_two_passes(
      sets, cut.units, length,
      [&](int64_t set, int64_t unit) {
        const T* from = x + set * length + cut.offset(unit);
        const Runs runs = cut.runs(unit, length);
        found[set * cut.units + unit] =
            mean ? kernel.moments(from, runs) : Moments{0, kernel.products(from, from, A(0), runs).product};
      },
      [&](int64_t set) {
        Moments all = found[set * cut.units];
        double count = static_cast<double>(cut.runs(0, 0).length);
        for (int64_t unit = 1; unit < cut.units; ++unit) {
          const double further = static_cast<double>(cut.runs(unit, 0).length);
          all = join(all, count, found[set * cut.units + unit], further);
          count += further;
        }
        const double spread = all.squares / count;
        if (mean) mean[set] = static_cast<A>(all.mean);
        variance[set] = static_cast<A>(spread);
        maps[set] = forward_map<A>(all.mean, 1 / std::sqrt(spread + eps));
      },
      [&](int64_t set, int64_t unit) {
        const int64_t at = set * length + cut.offset(unit), in_row = set % shape.count * length + cut.offset(unit);
        kernel.weighted_apply(x + at, weight + in_row, bias + in_row, maps[set], cut.runs(unit, 0).length, out + at);
      });
}

// gw and gb per element of a row, count * length each. As in the two below, what is null is not wanted.
template <typename T>
void weighted_backward(const Groups& shape, const T* g, const T* x, const Compute<T>* weight, const Compute<T>* mean,
                       const Compute<T>* variance, double eps, T* out, double* grad_weight, double* grad_bias) {
  using A = Compute<T>;
  const NormalizationKernels<T>& kernel = normalization_kernels<T>();
  const int64_t length = shape.length(), row = shape.count * length;
  if (!shape.cut()) {
    const int64_t slices = clamp(std::min(shape.samples / 16, shape.samples * row / kGrain), 1, kMostSlices);
    const int64_t per_slice = up(shape.samples, slices);
    std::vector<double> sums(grad_weight ? static_cast<size_t>(2 * slices * row) : 0);
    parallel(slices, per_slice * row, [&](int64_t slice) {
      const int64_t begin = slice * per_slice, rows = std::min(per_slice, shape.samples - begin);
      if (rows <= 0) return;
      const Scratch<A> workspace(2 * length);
      double* to = grad_weight ? sums.data() + 2 * slice * row : nullptr;
      kernel.weighted_backward(g + begin * row, x + begin * row, weight, mean ? mean + begin * shape.count : nullptr,
                               variance + begin * shape.count, eps, shape.count, {rows, row, length},
                               out ? out + begin * row : nullptr, to, to ? to + row : nullptr, workspace.data());
    });
    for (int64_t slice = 0; grad_weight && slice < slices; ++slice)
      for (int64_t i = 0; i < row; ++i) {
        grad_weight[i] += sums[2 * slice * row + i];
        grad_bias[i] += sums[2 * slice * row + row + i];
      }
    return;
  }
  const Cut cut(1, length, 2);
  const int64_t sets = shape.samples * shape.count;
  std::vector<Sums> found(static_cast<size_t>(sets * cut.units));
  std::vector<RowMap<A>> maps(static_cast<size_t>(sets));
  parallel(out ? sets * cut.units : 0, length / cut.units, [&](int64_t i) {
    const int64_t set = i / cut.units, unit = i % cut.units, at = set * length + cut.offset(unit);
    found[i] = kernel.weighted_products(g + at, x + at, weight + set % shape.count * length + cut.offset(unit),
                                        mean ? mean[set] : A(0), cut.runs(unit, 0).length);
  });
  for (int64_t set = 0; set < sets; ++set) {
    Sums all{0, 0};
    for (int64_t unit = 0; unit < cut.units; ++unit) {
      all.gradient += found[set * cut.units + unit].gradient;
      all.product += found[set * cut.units + unit].product;
    }
    if (!mean) all.gradient = 0;
    maps[set] =
        gradient_map<A>(mean ? mean[set] : A(0), 1 / std::sqrt(static_cast<double>(variance[set]) + eps), all, length);
  }
  constexpr int64_t columns = 1024;
  const int64_t ranges = up(length, columns);
  parallel(shape.count * ranges, shape.samples * columns, [&](int64_t i) {
    const int64_t group = i / ranges, begin = i % ranges * columns, at = group * length + begin;
    const int64_t size = std::min(columns, length - begin);
    const Scratch<A> workspace(2 * size);
    kernel.weighted_gradients(g + at, x + at, weight + at, maps.data() + group, shape.count, {shape.samples, row, size},
                              out ? out + at : nullptr, grad_weight ? grad_weight + at : nullptr,
                              grad_weight ? grad_bias + at : nullptr, workspace.data());
  });
}

// Groups of planes.
template <typename T>
void plane_forward(const Groups& shape, const T* x, const Values<Compute<T>>& weight, const Values<Compute<T>>& bias,
                   double eps, T* out, Compute<T>* mean, Compute<T>* variance) {
  using A = Compute<T>;
  const NormalizationKernels<T>& kernel = normalization_kernels<T>();
  const int64_t length = shape.length(), sets = shape.samples * shape.count;
  const Cut cut(shape.channels, shape.inner, sets >= kTasks ? 1 : shape.channels);
  std::vector<Moments> found(static_cast<size_t>(sets * cut.units));
  std::vector<double> means(static_cast<size_t>(sets)), inverses(static_cast<size_t>(sets));
  in_two_passes(
      sets, cut.units, length,
      [&](int64_t set, int64_t unit) {
        Runs runs = cut.runs(unit, shape.inner);
        runs = {1, shape.inner, runs.rows * runs.length};  // neighbouring planes are one run
        found[set * cut.units + unit] =
            kernel.moments(x + set * length + cut.row(unit) * shape.inner + cut.offset(unit), runs);
      },
      [&](int64_t set) {
        Moments all = found[set * cut.units];
        double count = 0;
        for (int64_t unit = 0; unit < cut.units; ++unit) {
          const Runs runs = cut.runs(unit, 0);
          const double further = static_cast<double>(runs.rows * runs.length);
          if (unit > 0) all = join(all, count, found[set * cut.units + unit], further);
          count += further;
        }
        const double spread = all.squares / count;
        mean[set] = static_cast<A>(all.mean);
        variance[set] = static_cast<A>(spread);
        means[set] = all.mean;
        inverses[set] = 1 / std::sqrt(spread + eps);
      },
      [&](int64_t set, int64_t unit) {
        const Runs runs = cut.runs(unit, shape.inner);
        const int64_t first = cut.row(unit), c = set % shape.count * shape.channels + first;
        const int64_t at = set * length + first * shape.inner + cut.offset(unit);
        c10::SmallVector<RowMap<A>, 64> maps(static_cast<size_t>(runs.rows));
        for (int64_t k = 0; k < runs.rows; ++k)
          maps[k] = channel_map<A>(means[set], static_cast<double>(weight[c + k]) * inverses[set], bias[c + k]);
        kernel.plane_apply(nullptr, x + at, maps.data(), runs.rows, runs.length, out + at);
      });
}

// The gradients of a group from its channels' sums; adds to gw and gb, vectors of all channels.
template <typename A>
struct GroupGradient {
  const Groups& shape;
  const Values<A>& weight;
  double mean, inverse;
  Sums sums{0, 0};  // of gradient * weight

  void add(int64_t channel, const Sums& of_channel) {
    sums.gradient += static_cast<double>(weight[channel]) * of_channel.gradient;
    sums.product += static_cast<double>(weight[channel]) * of_channel.product;
  }
  // Gives set(channel, map) the maps of `count` channels.
  template <typename Set>
  void for_maps(int64_t first, int64_t count, const Set& set) const {
    RowMap<A> map = gradient_map<A>(mean, inverse, sums, shape.length());
    for (int64_t channel = first; channel < first + count; ++channel) {
      map.slope = static_cast<A>(static_cast<double>(weight[channel]) * inverse);
      set(channel, map);
    }
  }
};

template <typename T>
void plane_backward(const Groups& shape, const T* g, const T* x, const Values<Compute<T>>& weight,
                    const Compute<T>* mean, const Compute<T>* variance, double eps, T* out, double* grad_weight,
                    double* grad_bias) {
  using A = Compute<T>;
  const NormalizationKernels<T>& kernel = normalization_kernels<T>();
  const int64_t length = shape.length(), sets = shape.samples * shape.count;
  const int64_t pieces = sets >= kTasks ? 1 : up(shape.inner, kPiece), size = up(shape.inner, pieces);
  // Where planes are not cut, a unit is as many of them as a task is worth.
  const int64_t together = pieces > 1 ? 1 : clamp(kPiece / shape.inner, 1, shape.channels);
  const int64_t units = up(shape.channels, together) * pieces, places = shape.channels * pieces;
  std::vector<Sums> found(static_cast<size_t>(sets * places));
  std::vector<RowMap<A>> maps(static_cast<size_t>(sets * shape.channels));
  struct Part {
    int64_t channel, planes, length, at;
  };
  const auto part = [&](int64_t set, int64_t unit) {
    const int64_t channel = unit / pieces * together, begin = unit % pieces * size;
    return Part{channel, std::min(together, shape.channels - channel),
                std::max<int64_t>(0, std::min(size, shape.inner - begin)),
                set * length + channel * shape.inner + begin};
  };
  in_two_passes(
      sets, units, length,
      [&](int64_t set, int64_t unit) {
        const Part p = part(set, unit);
        kernel.plane_products(g + p.at, x + p.at, mean[set], p.planes, p.length,
                              &found[set * places + p.channel * pieces + unit % pieces]);
      },
      [&](int64_t set) {
        const double inverse = 1 / std::sqrt(static_cast<double>(variance[set]) + eps);
        GroupGradient<A> group{shape, weight, static_cast<double>(mean[set]), inverse};
        const int64_t first = set % shape.count * shape.channels;
        for (int64_t k = 0; k < shape.channels; ++k) {
          Sums& all = found[set * places + k * pieces];
          for (int64_t piece = 1; piece < pieces; ++piece) {
            all.gradient += found[set * places + k * pieces + piece].gradient;
            all.product += found[set * places + k * pieces + piece].product;
          }
          group.add(first + k, all);
        }
        group.for_maps(first, shape.channels, [&](int64_t channel, const RowMap<A>& map) {
          maps[set * shape.channels + channel - first] = map;
        });
      },
      [&](int64_t set, int64_t unit) {
        if (!out) return;
        const Part p = part(set, unit);
        kernel.plane_apply(g + p.at, x + p.at, &maps[set * shape.channels + p.channel], p.planes, p.length, out + p.at);
      });
  for (int64_t set = 0; grad_weight && set < sets; ++set) {
    const double inverse = 1 / std::sqrt(static_cast<double>(variance[set]) + eps);
    for (int64_t k = 0; k < shape.channels; ++k) {
      const Sums& sums = found[set * places + k * pieces];
      grad_weight[set % shape.count * shape.channels + k] += inverse * sums.product;
      grad_bias[set % shape.count * shape.channels + k] += sums.gradient;
    }
  }
}

// Channels last: a sample is rows of channels, the positions, cut into slices if samples are few.
Cut position_cut(const Groups& shape) {
  const int64_t wanted = shape.samples >= kTasks ? 1 : up(2 * kTasks, std::max<int64_t>(1, shape.samples));
  const int64_t slices = clamp(std::min(wanted, shape.inner * shape.vectors / kGrain), 1, shape.inner);
  Cut cut(shape.inner, 1, slices);  // of length 1: never cut into pieces
  return cut;
}

template <typename A>
struct ColumnMaps {
  std::vector<A> values;
  int64_t size;
  ColumnMaps(int64_t sets, int64_t columns) : values(static_cast<size_t>(4 * sets * columns)), size(columns) {}
  A* part(int64_t set, int64_t which) { return values.data() + (set * 4 + which) * size; }
  void assign(int64_t set, int64_t column, const RowMap<A>& map) {
    part(set, 0)[column] = map.slope;
    part(set, 1)[column] = map.centre;
    part(set, 2)[column] = map.scale;
    part(set, 3)[column] = map.shift;
  }
};

template <typename T>
void last_forward(const Groups& shape, const T* x, const Values<Compute<T>>& weight, const Values<Compute<T>>& bias,
                  double eps, T* out, Compute<T>* mean, Compute<T>* variance) {
  using A = Compute<T>;
  const NormalizationKernels<T>& kernel = normalization_kernels<T>();
  const int64_t columns = shape.vectors, sample = columns * shape.inner;
  const Cut cut = position_cut(shape);
  std::vector<double> found(static_cast<size_t>(2 * shape.samples * cut.units * columns));
  ColumnMaps<A> maps(shape.samples, columns);
  const auto at = [&](int64_t n, int64_t unit) { return n * sample + cut.row(unit) * columns; };
  const auto runs = [&](int64_t unit) { return Runs{cut.runs(unit, 0).rows, columns, columns}; };
  in_two_passes(
      shape.samples, cut.units, sample,
      [&](int64_t n, int64_t unit) {
        const Scratch<A> workspace(3 * columns);
        double* to = found.data() + 2 * (n * cut.units + unit) * columns;
        kernel.column_moments(x + at(n, unit), runs(unit), to, to + columns, workspace.data());
      },
      [&](int64_t n) {
        double* means = found.data() + 2 * n * cut.units * columns;
        double* squares = means + columns;
        double rows = static_cast<double>(runs(0).rows);
        for (int64_t unit = 1; unit < cut.units; ++unit)
          rows = join_columns(means, squares, rows, means + 2 * unit * columns, squares + 2 * unit * columns,
                              static_cast<double>(runs(unit).rows), columns);
        for (int64_t group = 0; group < shape.count; ++group) {
          const int64_t begin = group * shape.channels, end = begin + shape.channels;
          double middle = 0, all = 0;
          for (int64_t c = begin; c < end; ++c) middle += means[c];
          middle /= static_cast<double>(shape.channels);
          for (int64_t c = begin; c < end; ++c) all += squares[c] + rows * (means[c] - middle) * (means[c] - middle);
          const double spread = all / static_cast<double>(shape.length()), inverse = 1 / std::sqrt(spread + eps);
          mean[n * shape.count + group] = static_cast<A>(middle);
          variance[n * shape.count + group] = static_cast<A>(spread);
          for (int64_t c = begin; c < end; ++c)
            maps.assign(n, c, channel_map<A>(middle, static_cast<double>(weight[c]) * inverse, bias[c]));
        }
      },
      [&](int64_t n, int64_t unit) {
        kernel.column_apply(nullptr, x + at(n, unit), nullptr, maps.part(n, 1), maps.part(n, 2), maps.part(n, 3),
                            runs(unit), out + at(n, unit));
      });
}

template <typename T>
void last_backward(const Groups& shape, const T* g, const T* x, const Values<Compute<T>>& weight,
                   const Compute<T>* mean, const Compute<T>* variance, double eps, T* out, double* grad_weight,
                   double* grad_bias) {
  using A = Compute<T>;
  const NormalizationKernels<T>& kernel = normalization_kernels<T>();
  const int64_t columns = shape.vectors, sample = columns * shape.inner;
  const Cut cut = position_cut(shape);
  std::vector<double> found(static_cast<size_t>(2 * shape.samples * cut.units * columns));
  ColumnMaps<A> maps(shape.samples, columns);
  for (int64_t n = 0; n < shape.samples; ++n)
    for (int64_t c = 0; c < columns; ++c) maps.part(n, 1)[c] = mean[n * shape.count + c / shape.channels];
  const auto at = [&](int64_t n, int64_t unit) { return n * sample + cut.row(unit) * columns; };
  const auto runs = [&](int64_t unit) { return Runs{cut.runs(unit, 0).rows, columns, columns}; };
  in_two_passes(
      shape.samples, cut.units, sample,
      [&](int64_t n, int64_t unit) {
        const Scratch<A> workspace(2 * columns);
        double* to = found.data() + 2 * (n * cut.units + unit) * columns;
        kernel.column_products(g + at(n, unit), x + at(n, unit), maps.part(n, 1), runs(unit), to, to + columns,
                               workspace.data());
      },
      [&](int64_t n) {
        double* all = found.data() + 2 * n * cut.units * columns;
        for (int64_t unit = 1; unit < cut.units; ++unit)
          for (int64_t i = 0; i < 2 * columns; ++i) all[i] += all[2 * unit * columns + i];
        for (int64_t k = 0; k < shape.count; ++k) {
          const int64_t set = n * shape.count + k, begin = k * shape.channels;
          const double inverse = 1 / std::sqrt(static_cast<double>(variance[set]) + eps);
          GroupGradient<A> group{shape, weight, static_cast<double>(mean[set]), inverse};
          for (int64_t c = begin; c < begin + shape.channels; ++c) group.add(c, {all[c], all[columns + c]});
          group.for_maps(begin, shape.channels,
                         [&](int64_t channel, const RowMap<A>& map) { maps.assign(n, channel, map); });
        }
      },
      [&](int64_t n, int64_t unit) {
        if (!out) return;
        kernel.column_apply(g + at(n, unit), x + at(n, unit), maps.part(n, 0), maps.part(n, 1), maps.part(n, 2),
                            maps.part(n, 3), runs(unit), out + at(n, unit));
      });
  for (int64_t n = 0; grad_weight && n < shape.samples; ++n) {
    const double* all = found.data() + 2 * n * cut.units * columns;
    for (int64_t group = 0; group < shape.count; ++group) {
      const double inverse = 1 / std::sqrt(static_cast<double>(variance[n * shape.count + group]) + eps);
      for (int64_t c = group * shape.channels; c < (group + 1) * shape.channels; ++c) {
        grad_weight[c] += all[columns + c] * inverse;
        grad_bias[c] += all[c];
      }
    }
  }
}

std::tuple<Tensor, Tensor, Tensor> group_norm(const Tensor& input, at::IntArrayRef sizes,
                                              const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                                              double eps) {
  constexpr const char* op = "group_norm";
  const Groups shape(op, input, sizes);
  check_vector(op, "weight", weight, shape.vectors);
  check_vector(op, "bias", bias, shape.vectors);
  if (converted(input)) {
    auto [output, mean, variance] = group_norm(input.to(at::kFloat), sizes, weight, bias, eps);
    return {output.to(input.scalar_type()), mean, variance};
  }
  const Tensor dense = input.contiguous(shape.format);
  const Tensor output = at::empty_like(dense);
  const auto options = statistics_options(input);
  if (input.numel() == 0)
    return {output, at::zeros({shape.samples, shape.count}, options), at::zeros({shape.samples, shape.count}, options)};
  const Tensor mean = at::empty({shape.samples, shape.count}, options);
  const Tensor variance = at::empty({shape.samples, shape.count}, options);
  for_type(input, [&](auto type) {
    using T = decltype(type);
    using A = Compute<T>;
    const Values<A> weights(weight, shape.vectors, 1), biases(bias, shape.vectors, 0);
    const T* x = pointer<T>(dense);
    T* out = writable<T>(output);
    A *to_mean = mean.data_ptr<A>(), *to_variance = variance.data_ptr<A>();
    if (shape.last)
      last_forward(shape, x, weights, biases, eps, out, to_mean, to_variance);
    else if (!shape.weighted())
      plane_forward(shape, x, weights, biases, eps, out, to_mean, to_variance);
    else if (shape.inner == 1)
      weighted_forward(shape, x, weights.data(), biases.data(), eps, out, to_mean, to_variance);
    else
      weighted_forward(shape, x, per_element(weights, shape).data(), per_element(biases, shape).data(), eps, out,
                       to_mean, to_variance);
  });
  return {output, mean, variance};
}

// With n elements per group, r = (variance + eps)^(-1/2), c = x - mean, h = g w: gw = sum(g c r), gb = sum(g),
// gx = r (h - sum(h) / n - c r² sum(h c) / n).
std::tuple<Tensor, Tensor, Tensor> group_norm_gradients(const Tensor& grad_output, const Tensor& input,
                                                        at::IntArrayRef sizes, const std::optional<Tensor>& weight,
                                                        const Tensor& mean, const Tensor& variance, double eps,
                                                        bool input_gradient, bool vector_gradients) {
  constexpr const char* op = "group_norm_gradients";
  const Groups shape(op, input, sizes);
  check_vector(op, "weight", weight, shape.vectors);
  for (const Tensor& statistic : {mean, variance})
    TORCH_CHECK(statistic.sizes() == at::IntArrayRef({shape.samples, shape.count}), op,
                ": mean and variance must have shape [", shape.samples, ", ", shape.count, "], but got ",
                statistic.sizes());
  check_gradient(op, grad_output, input);
  if (converted(input)) {
    auto [gx, gw, gb] = group_norm_gradients(grad_output.to(at::kFloat), input.to(at::kFloat), sizes, weight, mean,
                                             variance, eps, input_gradient, vector_gradients);
    return {gx.to(input.scalar_type()), gw, gb};
  }
  const Tensor dense = input.contiguous(shape.format), gradient = grad_output.contiguous(shape.format);
  const Tensor grad_input = empty_if(input_gradient, dense);
  const int64_t vectors = vector_gradients ? shape.vectors : 0;
  const auto options = statistics_options(input);
  if (input.numel() == 0) return {grad_input, at::zeros({vectors}, options), at::zeros({vectors}, options)};
  const Tensor grad_weight = at::empty({vectors}, options), grad_bias = at::empty({vectors}, options);
  if (!(input_gradient || vector_gradients)) return {grad_input, grad_weight, grad_bias};
  for_type(input, [&](auto type) {
    using T = decltype(type);
    using A = Compute<T>;
    const Values<A> weights(weight, shape.vectors, 1), means(mean, 0, 0), spreads(variance, 0, 0);
    const T *x = pointer<T>(dense), *g = pointer<T>(gradient);
    T* out = input_gradient ? writable<T>(grad_input) : nullptr;
    const int64_t spread = shape.weighted() ? shape.inner : 1;
    std::vector<double> sums_w(static_cast<size_t>(vectors * spread)), sums_b(sums_w.size());
    double *gw = vector_gradients ? sums_w.data() : nullptr, *gb = sums_b.data();
    if (shape.last)
      last_backward(shape, g, x, weights, means.data(), spreads.data(), eps, out, gw, gb);
    else if (!shape.weighted())
      plane_backward(shape, g, x, weights, means.data(), spreads.data(), eps, out, gw, gb);
    else if (shape.inner == 1)
      weighted_backward(shape, g, x, weights.data(), means.data(), spreads.data(), eps, out, gw, gb);
    else
      weighted_backward(shape, g, x, per_element(weights, shape).data(), means.data(), spreads.data(), eps, out, gw,
                        gb);
    A *to_weight = grad_weight.data_ptr<A>(), *to_bias = grad_bias.data_ptr<A>();
    for (int64_t c = 0; c < vectors; ++c) {
      double w = 0, b = 0;
      for (int64_t k = 0; k < spread; ++k) {
        w += gw[c * spread + k];
        b += gb[c * spread + k];
      }
      to_weight[c] = static_cast<A>(w);
      to_bias[c] = static_cast<A>(b);
    }
  });
  return {grad_input, grad_weight, grad_bias};
}

// Rows and elements of a row, as groups of one element each.
Groups rows_of(const char* op, const Tensor& input, at::IntArrayRef sizes) {
  TORCH_CHECK(sizes.size() == 2, op, ": sizes must be rows and elements of a row, but got ", sizes);
  return {op, input, {sizes[0], 1, sizes[1], 1}};
}

std::tuple<Tensor, Tensor> rms_norm(const Tensor& input, at::IntArrayRef sizes, const std::optional<Tensor>& weight,
                                    double eps) {
  constexpr const char* op = "rms_norm";
  const Groups shape = rows_of(op, input, sizes);
  check_vector(op, "weight", weight, shape.vectors);
  if (converted(input)) {
    auto [output, mean_square] = rms_norm(input.to(at::kFloat), sizes, weight, eps);
    return {output.to(input.scalar_type()), mean_square};
  }
  const Tensor dense = input.contiguous();
  const Tensor output = at::empty_like(dense);
  if (input.numel() == 0)
    return {output.contiguous(input.suggest_memory_format()), at::zeros({shape.samples}, statistics_options(input))};
  const Tensor mean_square = at::empty({shape.samples}, statistics_options(input));
  for_type(input, [&](auto type) {
    using T = decltype(type);
    using A = Compute<T>;
    const Values<A> weights(weight, shape.vectors, 1), biases(std::nullopt, shape.vectors, 0);
    weighted_forward<T>(shape, pointer<T>(dense), weights.data(), biases.data(), eps, writable<T>(output), nullptr,
                        mean_square.data_ptr<A>());
  });
  return {output.contiguous(input.suggest_memory_format()), mean_square};
}

// With n elements per row, r = (mean_square + eps)^(-1/2), h = g w: gw = sum(g x r), gx = r (h - x r² sum(h x) / n).
std::tuple<Tensor, Tensor> rms_norm_gradients(const Tensor& grad_output, const Tensor& input, at::IntArrayRef sizes,
                                              const std::optional<Tensor>& weight, const Tensor& mean_square,
                                              double eps, bool input_gradient, bool weight_gradient) {
  constexpr const char* op = "rms_norm_gradients";
  const Groups shape = rows_of(op, input, sizes);
  check_vector(op, "weight", weight, shape.vectors);
  check_vector(op, "mean_square", mean_square, shape.samples);
  check_gradient(op, grad_output, input);
  if (converted(input)) {
    auto [gx, gw] = rms_norm_gradients(grad_output.to(at::kFloat), input.to(at::kFloat), sizes, weight, mean_square,
                                       eps, input_gradient, weight_gradient);
    return {gx.to(input.scalar_type()), gw};
  }
  const Tensor dense = input.contiguous(), gradient = grad_output.contiguous();
  const Tensor grad_input = empty_if(input_gradient, dense);
  const int64_t vectors = weight_gradient ? shape.vectors : 0;
  const Tensor grad_weight = at::zeros({vectors}, statistics_options(input));
  if (input.numel() == 0 || !(input_gradient || weight_gradient)) return {grad_input, grad_weight};
  for_type(input, [&](auto type) {
    using T = decltype(type);
    using A = Compute<T>;
    const Values<A> weights(weight, shape.vectors, 1), squares(mean_square, 0, 0);
    std::vector<double> sums_w(static_cast<size_t>(vectors)), sums_b(sums_w.size());
    weighted_backward<T>(shape, pointer<T>(gradient), pointer<T>(dense), weights.data(), nullptr, squares.data(), eps,
                         input_gradient ? writable<T>(grad_input) : nullptr, vectors ? sums_w.data() : nullptr,
                         sums_b.data());
    A* to_weight = grad_weight.data_ptr<A>();
    for (int64_t i = 0; i < vectors; ++i) to_weight[i] = static_cast<A>(sums_w[i]);
  });
  return {grad_input, grad_weight};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) {
  m.impl("batch_norm", batch_norm);
  m.impl("batch_norm_gradients", batch_norm_gradients);
  m.impl("channel_affine", channel_affine);
  m.impl("channel_affine_gradients", channel_affine_gradients);
  m.impl("group_norm", group_norm);
  m.impl("group_norm_gradients", group_norm_gradients);
  m.impl("rms_norm", rms_norm);
  m.impl("rms_norm_gradients", rms_norm_gradients);
}

}  // namespace torchbp
