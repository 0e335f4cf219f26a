// Elementary functions of vectors, within two units in the last place. NaN stays NaN; denormal results are kept.
//
// The polynomials are Chebyshev fits of what remains after the argument's reduction, with errors below a tenth of
// a unit; the reductions are the usual ones (Muller, Elementary Functions, chapters 5 and 11).
#pragma once

#include "vector.h"

namespace torchbp {
namespace TORCHBP_ISA {

template <typename T>
struct Format;

template <>
struct Format<float> {
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int32_t kRoundBits = 0x4b400000, kRootHalf = 0x3f3504f3, kSign = INT32_MIN;
  static constexpr float kLogTwoHigh = 0.693145751953125f, kLogTwoLow = 1.42860682030941723e-6f;
  static constexpr float kLeastExponent = -105.0f, kMostExponent = 89.0f, kMostDeviations = 14.5f;
  static constexpr int32_t kUpperHalf = -4096;  // of the mantissa, whose square is exact
};

template <>
struct Format<double> {
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int64_t kRoundBits = 0x4338000000000000, kRootHalf = 0x3fe6a09e667f3bcd, kSign = INT64_MIN;
  static constexpr double kLogTwoHigh = 0.693147180369123816490, kLogTwoLow = 1.90821492927058770002e-10;
  static constexpr double kLeastExponent = -746.0, kMostExponent = 710.0, kMostDeviations = 38.7;
  static constexpr int64_t kUpperHalf = -134217728;
};

template <typename T>
TORCHBP_INLINE Vector<T> broadcast(T value) {
  return Vector<T>{} + value;
}

// x within bounds; NaN stays.
template <typename T>
TORCHBP_INLINE Vector<T> at_least(const Vector<T>& x, T bound) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return reinterpret_cast<Vector<T>>(_mm512_max_ps(_mm512_set1_ps(bound), reinterpret_cast<__m512>(x)));
  else
    return reinterpret_cast<Vector<T>>(_mm512_max_pd(_mm512_set1_pd(bound), reinterpret_cast<__m512d>(x)));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return reinterpret_cast<Vector<T>>(_mm256_max_ps(_mm256_set1_ps(bound), reinterpret_cast<__m256>(x)));
  else
    return reinterpret_cast<Vector<T>>(_mm256_max_pd(_mm256_set1_pd(bound), reinterpret_cast<__m256d>(x)));
#else
  return x < bound ? broadcast<T>(bound) : x;
#endif
}
template <typename T>
TORCHBP_INLINE Vector<T> at_most(const Vector<T>& x, T bound) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return reinterpret_cast<Vector<T>>(_mm512_min_ps(_mm512_set1_ps(bound), reinterpret_cast<__m512>(x)));
  else
    return reinterpret_cast<Vector<T>>(_mm512_min_pd(_mm512_set1_pd(bound), reinterpret_cast<__m512d>(x)));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return reinterpret_cast<Vector<T>>(_mm256_min_ps(_mm256_set1_ps(bound), reinterpret_cast<__m256>(x)));
  else
    return reinterpret_cast<Vector<T>>(_mm256_min_pd(_mm256_set1_pd(bound), reinterpret_cast<__m256d>(x)));
#else
  return x > bound ? broadcast<T>(bound) : x;
#endif
}

// coefficients[0] x^(n-1) + ... + coefficients[n-1]
template <typename T, int kCount>
TORCHBP_INLINE Vector<T> polynomial(const Vector<T>& x, const T (&coefficients)[kCount]) {
  Vector<T> sum = broadcast<T>(coefficients[0]);
  for (int i = 1; i < kCount; ++i) sum = sum * x + coefficients[i];
  return sum;
}

// x * 2^n for whole n; in two steps, so that a denormal result is rounded once.
template <typename T>
TORCHBP_INLINE Vector<T> scale_by_power(const Vector<T>& x, const Vector<T>& shifted) {
#if defined(__AVX512F__)
  const Vector<T> n = shifted - Format<T>::kRound;
  if constexpr (sizeof(T) == 4)
    return (Vector<T>)_mm512_scalef_ps((__m512)x, (__m512)n);
  else
    return (Vector<T>)_mm512_scalef_pd((__m512d)x, (__m512d)n);
#else
  using F = Format<T>;
  const IntegerVector<T> n = (IntegerVector<T>)shifted - F::kRoundBits;
  const IntegerVector<T> half = n >> 1;
  const Vector<T> first = (Vector<T>)((half + F::kBias) << F::kMantissa);
  const Vector<T> second = (Vector<T>)((n - half + F::kBias) << F::kMantissa);
  return x * first * second;
#endif
}

// exp(x) = 2^n exp(r) with |r| <= log(2) / 2, exp(r) = 1 + r + r^2 Q(r).
template <typename T>
struct Exponent {
  Vector<T> r, shifted;

  // x is no larger in size than exp(x) needs to be zero or infinite.
  TORCHBP_INLINE explicit Exponent(const Vector<T>& x) {
    using F = Format<T>;
    shifted = x * T(1.44269504088896340736) + F::kRound;
    const Vector<T> n = shifted - F::kRound;
    r = (x - n * F::kLogTwoHigh) - n * F::kLogTwoLow;
  }

  TORCHBP_INLINE Vector<T> exponential() const {
    Vector<T> q;
    if constexpr (sizeof(T) == 4) {
      constexpr T c[] = {0.00139262508315f, 0.00836323288368f, 0.041666554213f, 0.166665766661f, 0.5f};
      q = polynomial<T>(r, c);
    } else {
      constexpr T c[] = {2.5100472505694996003e-8,   2.7620201591031548792e-7,  2.7557268276905696187e-6,
                         0.000024801521057868205199, 0.00019841269863171556026, 0.0013888888917367080562,
                         0.0083333333333300381973,   0.041666666666623820532,   0.1666666666666666746,
                         0.50000000000000010314};
      q = polynomial<T>(r, c);
    }
    return scale_by_power<T>((q * r * r + r) + T(1), shifted);
  }
};

template <typename T>
TORCHBP_INLINE Vector<T> exponential(const Vector<T>& x) {
  using F = Format<T>;
  return Exponent<T>(at_most<T>(at_least<T>(x, F::kLeastExponent), F::kMostExponent)).exponential();
}

// 1 / (1 + exp(-x))
template <typename T>
TORCHBP_INLINE Vector<T> logistic(const Vector<T>& x) {
  return T(1) / (exponential<T>(-x) + T(1));
}

// log(1 + f) = f - z (f - 2 z^2 P(z^2)) with z = f / (2 + f), P given.
template <typename T, int kCount>
TORCHBP_INLINE Vector<T> log_from(const Vector<T>& f, const T (&coefficients)[kCount]) {
  const Vector<T> z = f / (f + T(2));
  const Vector<T> squared = z * z;
  return f - z * (f - T(2) * squared * polynomial<T>(squared, coefficients));
}

// log(1 + u) for 0 <= u <= 1.
template <typename T>
TORCHBP_INLINE Vector<T> log_one_plus(const Vector<T>& u) {
  if constexpr (sizeof(T) == 4) {
    constexpr T c[] = {0.103938084279f, 0.0873235123272f, 0.111323556045f,
                       0.142851528609f, 0.20000005385f,   0.33333333325f};
    return log_from<T>(u, c);
  } else {
    constexpr T c[] = {0.07366852386263479745,  0.021545430510052780924, 0.043375605050182167872,
                       0.043009546409725771584, 0.047663160338659312432, 0.052628688095692283939,
                       0.05882366219876209888,  0.066666662431060502142, 0.07692307701454340742,
                       0.090909090907813877922, 0.11111111111112177392,  0.14285714285714281075,
                       0.20000000000000000008,  0.33333333333333333333};
    return log_from<T>(u, c);
  }
}

// log(x) of a positive normal number: x = 2^n m with sqrt(1/2) <= m < sqrt(2).
template <typename T>
TORCHBP_INLINE Vector<T> logarithm(const Vector<T>& x) {
  using F = Format<T>;
  const IntegerVector<T> n = ((IntegerVector<T>)x - F::kRootHalf) >> F::kMantissa;
  const Vector<T> m = (Vector<T>)((IntegerVector<T>)x - (n << F::kMantissa));
  const Vector<T> exponent = (Vector<T>)(n + F::kRoundBits) - F::kRound;
  Vector<T> y;
  if constexpr (sizeof(T) == 4) {
    constexpr T c[] = {0.14790492965f, 0.199943788583f, 0.333333425477f};
    y = log_from<T>(m - T(1), c);
  } else {
    constexpr T c[] = {0.065440174254637769151, 0.066343191846334119395, 0.076931223688108333029,
                       0.090908977737605681173, 0.11111111196290522549,  0.14285714285399892516,
                       0.20000000000000441618,  0.33333333333333333232};
    y = log_from<T>(m - T(1), c);
  }
  y = exponent * F::kLogTwoHigh + (y + exponent * F::kLogTwoLow);
  return x == x ? y : x;
}

// tanh(x) = x + x^3 P(x^2) near zero, else the sign of x times 1 - 2 / (exp(2 |x|) + 1).
template <typename T>
TORCHBP_INLINE Vector<T> hyperbolic_tangent(const Vector<T>& x) {
  using F = Format<T>;
  const IntegerVector<T> sign = (IntegerVector<T>)x & F::kSign;
  const Vector<T> size = (Vector<T>)((IntegerVector<T>)x ^ sign);
  const Vector<T> far = T(1) - T(2) / (exponential<T>(size + size) + T(1));
  const Vector<T> squared = x * x;
  Vector<T> p;
  if constexpr (sizeof(T) == 4) {
    constexpr T c[] = {0.000142792788f, -0.000923500846f, 0.00320680340f, -0.00869784759f,
                       0.0218295488f,   -0.0539634148f,   0.133333107f,   -0.333333332f};
    p = polynomial<T>(squared, c);
  } else {
    constexpr T c[] = {
        2.515502365938210575e-8,    -2.6330772232959334619e-7,   1.3791814499083341601e-6,  -4.9877603175203466704e-6,
        0.000014606131676715378477, -0.000038389607893147333132, 0.00009646277743313181427, -0.0002389570522873822522,
        0.00058997929463000516564,  -0.0014558246920964941967,   0.0035921266793663411995,  -0.0088632354045782824851,
        0.021869488529129090127,    -0.053968253968046375855,    0.13333333333333090074,    -0.33333333333333332859};
    p = polynomial<T>(squared, c);
  }
  const Vector<T> near = x + x * squared * p;
  return size < T(1) ? near : (Vector<T>)((IntegerVector<T>)far | sign);
}

// What x * x, rounded, lacks.
template <typename T>
TORCHBP_INLINE Vector<T> square_rest(const Vector<T>& x, const Vector<T>& square) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    const __m512 v = reinterpret_cast<__m512>(x);
    return reinterpret_cast<Vector<T>>(_mm512_fmsub_ps(v, v, reinterpret_cast<__m512>(square)));
  } else {
    const __m512d v = reinterpret_cast<__m512d>(x);
    return reinterpret_cast<Vector<T>>(_mm512_fmsub_pd(v, v, reinterpret_cast<__m512d>(square)));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    const __m256 v = reinterpret_cast<__m256>(x);
    return reinterpret_cast<Vector<T>>(_mm256_fmsub_ps(v, v, reinterpret_cast<__m256>(square)));
  } else {
    const __m256d v = reinterpret_cast<__m256d>(x);
    return reinterpret_cast<Vector<T>>(_mm256_fmsub_pd(v, v, reinterpret_cast<__m256d>(square)));
  }
#else
  const Vector<T> upper = (Vector<T>)((IntegerVector<T>)x & Format<T>::kUpperHalf);
  return (upper * upper - square) + (x - upper) * (x + upper);
#endif
}

// The normal distribution function, and exp(-x^2 / 2), of which its density is a multiple.
template <typename T>
struct Normal {
  Vector<T> distribution, exponential;

  // With z = |x|: P(X < -z) = exp(-z^2 / 2) P(t) / (z + k), t = 2 k / (z + k) - 1 (Schonfelder, 1978). What the
  // square lacks is added to the reduced exponent.
  TORCHBP_INLINE explicit Normal(const Vector<T>& x) {
    using F = Format<T>;
    constexpr T k = sizeof(T) == 4 ? T(3.5) : T(5);
    Vector<T> z = (Vector<T>)((IntegerVector<T>)x & ~F::kSign);
    z = at_most<T>(z, F::kMostDeviations);
    const Vector<T> square = z * z;
    Exponent<T> exponent(square * T(-0.5));
    exponent.r += square_rest<T>(z, square) * T(-0.5);
    exponential = exponent.exponential();
    const Vector<T> u = T(1) / (z + k), t = u * (2 * k) - T(1);
    Vector<T> p;
    if constexpr (sizeof(T) == 4) {
      constexpr T c[] = {-0.00011969091153f, 0.000435557051018f, 0.000498744603493f, -0.00318671403394f,
                         -0.00649284034588f, 0.0174094897182f,   0.116052860879f,    0.315424765283f,
                         0.56556175247f,     0.744416078237f};
      p = polynomial<T>(t, c);
    } else {
      constexpr T c[] = {
          -2.1579563039800076498e-9, 7.4722951962796880581e-9,  1.0518103943943945576e-8, -6.6208061270724310905e-8,
          -4.3801141752216242796e-8, 4.3385238322244894213e-7,  3.3769031760789162359e-7, -2.7699125569712423724e-6,
          -3.9813633096603051226e-6, 0.00001668153117576714355, 0.000049762938533462999,  -0.000059375820760106598,
          -0.00054489908573107028,   -0.00079786938226889645,   0.0029933767726483223,    0.020795066798273204,
          0.069118638706187314,      0.16502036617046558,       0.31353315667130793,      0.49530561596997484,
          0.66538250289005667,       0.76919304975006296};
      p = polynomial<T>(t, c);
    }
    const Vector<T> tail = exponential * (p * u);
    distribution = x < T(0) ? tail : T(1) - tail;
  }
};

}  // namespace TORCHBP_ISA
}  // namespace torchbp
