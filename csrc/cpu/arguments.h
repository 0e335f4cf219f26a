// What the operators of every family share: argument checks, the view of 1 to 3 spatial dimensions
// as 3, and the loop over tasks.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/table.h"
#include "workspace.h"

namespace torchbp {

using Sizes = std::array<int64_t, kSpatial>;

// The list for all three spatial dimensions, absent leading ones filled in.
inline Sizes spatial(at::IntArrayRef list, int64_t absent) {
  Sizes full;
  full.fill(absent);
  for (size_t i = 0; i < list.size(); ++i) full[kSpatial - list.size() + i] = list[i];
  return full;
}

inline void check_list(const char* op, const char* name, at::IntArrayRef list, int64_t dimensions, int64_t minimum) {
  TORCH_CHECK(static_cast<int64_t>(list.size()) == dimensions, op, ": ", name, " must have ", dimensions,
              " values, one per spatial dimension, but got ", list);
  for (const int64_t value : list)
    TORCH_CHECK(value >= minimum, op, ": ", name, " must be at least ", minimum, " everywhere, but got ", list);
}

// An (N, C, *spatial) tensor with 1 to 3 spatial dimensions; returns how many.
inline int64_t check_batched(const char* op, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.dim() >= 3 && tensor.dim() <= 2 + kSpatial, op, ": ", name,
              " must have a batch, a channel and 1 to 3 spatial dimensions, but got shape ", tensor.sizes());
  return tensor.dim() - 2;
}

inline int64_t checked_product(const char* op, const char* what, int64_t a, int64_t b) {
  int64_t product = 0;
  TORCH_CHECK(!__builtin_mul_overflow(a, b, &product), op, ": ", what, " is too large: ", a, " times ", b);
  return product;
}

inline int64_t checked_sum(const char* op, const char* what, int64_t a, int64_t b) {
  int64_t sum = 0;
  TORCH_CHECK(!__builtin_add_overflow(a, b, &sum), op, ": ", what, " is too large: ", a, " plus ", b);
  return sum;
}

// The quotient of positive numbers, rounded up.
inline int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Channels last for tensors (N, C, *spatial) of so many dimensions, 4 or 5.
inline at::MemoryFormat channels_last_format(int64_t dimensions) {
  return dimensions == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
}

// dilation * (kernel - 1) + 1: what a dilated window covers.
inline int64_t window_extent(const char* op, int64_t kernel, int64_t dilation) {
  return checked_sum(op, "dilation", checked_product(op, "dilation", dilation, kernel - 1), 1);
}

// input + 2 * padding - extent, the room in which a window moves; negative where it does not fit.
inline int64_t window_room(const char* op, int64_t input, int64_t kernel, int64_t padding, int64_t dilation) {
  const int64_t padded = checked_sum(op, "padding", input, checked_product(op, "padding", padding, 2));
  return padded - window_extent(op, kernel, dilation);
}

// How kernels name a type in memory.
template <typename T>
struct InKernels {
  typedef T Type;
};
template <>
struct InKernels<at::BFloat16> {
  typedef BFloat16 Type;
};

// The half-width types without loops of their own are computed in float and rounded once.
inline bool computes_in_float(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
}

// A workspace of so many elements.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t elements) : workspace_(bytes(elements)) {}
  T* data() const { return static_cast<T*>(workspace_.data()); }
  void renew() const { workspace_.renew(); }

 private:
  static size_t bytes(int64_t elements) {
    TORCH_CHECK(static_cast<size_t>(elements) <= std::numeric_limits<size_t>::max() / 2 / sizeof(T),
                "a kernel's workspace is too large: ", elements, " elements");
    return static_cast<size_t>(elements) * sizeof(T);
  }
  const Workspace workspace_;
};

// Runs task(index, workspace) for every index below `tasks`, each thread with a workspace of its own.
template <typename T, typename Task>
void run_tasks(int64_t tasks, int64_t workspace_elements, const Task& task) {
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    const Scratch<T> workspace(workspace_elements);
    for (int64_t i = begin; i < end; ++i) {
      if (i > begin) workspace.renew();
      task(i, workspace.data());
    }
  });
}

// Runs body(begin, end, workspace) over parts of the tasks, each thread with workspace bytes of its own. Where the
// elements are few, fewer threads share them.
template <typename Body>
void run_ranges(int64_t tasks, int64_t elements, int64_t workspace_bytes, const Body& body) {
  constexpr int64_t kWorth = 16384;  // elements that are worth waking another thread
  const int64_t per_task = std::max<int64_t>(1, elements / std::max<int64_t>(1, tasks));
  at::parallel_for(0, tasks, std::max<int64_t>(1, kWorth / per_task), [&](int64_t begin, int64_t end) {
    const Scratch<char> workspace(workspace_bytes);
    body(begin, end, workspace.data());
  });
}

// Pointwise maps are cut into chunks, as the number of their elements says.
constexpr int64_t kChunk = 1 << 15;

inline int64_t chunks(int64_t elements) { return up(elements, kChunk); }

// Runs chunk(begin, end) for each of them.
template <typename Chunk>
void run_chunks(int64_t elements, const Chunk& chunk) {
  at::parallel_for(0, chunks(elements), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) chunk(i * kChunk, std::min(elements, (i + 1) * kChunk));
  });
}

// The tensor, copied if it does not lie in memory as `like` does.
inline at::Tensor laid_out_as(const at::Tensor& tensor, const at::Tensor& like) {
  if (tensor.strides() == like.strides()) return tensor;
  return at::empty_like(like, like.options().dtype(tensor.scalar_type())).copy_(tensor);
}

}  // namespace torchbp
