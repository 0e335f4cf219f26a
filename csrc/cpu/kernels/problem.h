// What the problems of all kernels share.
//
// The .cpp files in this folder are compiled once per instruction set with TORCHBP_ISA naming it (baseline,
// avx2, avx512); cpu/ sees the headers without it. To keep instructions of one set out of code that runs on
// another machine, these files use no Tensor and no templates of the standard library.
#pragma once

#include <cstdint>

namespace torchbp {

constexpr int kSpatial = 3;          // every problem has depth, height and width; absent ones have size 1
constexpr int kAxes = kSpatial + 1;  // ... and the batch, as the outermost axis

// Upper half of a float: a type in memory only.
struct BFloat16 {
  uint16_t bits;
};

// A type in memory, and the type it is computed in.
template <typename S>
struct Storage {
  typedef S Compute;
};
template <>
struct Storage<BFloat16> {
  typedef float Compute;
};
template <typename S>
using Compute = typename Storage<S>::Compute;

}  // namespace torchbp
