// Elementwise activations that do more than clamp, and their derivatives, as functions of the number before them.
//
// In double precision exp, erf and tanh are those of the standard library. In single precision exp has a relative error
// below 3e-7 (Taylor polynomial of degree 7 after the integer power of two is taken out), and the normal distribution an
// absolute error of 1e-7 (Abramowitz and Stegun 1964, 7.1.26).
#pragma once

#include <cmath>
#include <cstdint>

#include "operation.h"
#include "vectors.h"

namespace {

constexpr bool DOUBLE = sizeof(real) == 8;

inline Half all(real x) { return Vectors<real>::broadcast(x); }

template <typename Function> inline Half each(Half x, Function f) {
    for (int i = 0; i < HALF; i++) x[i] = f(x[i]);
    return x;
}

inline Half exponential(Half x) {
    if constexpr (DOUBLE) return each(x, [](real v) { return std::exp(v); });
    else {
        const Half least = all(-87), most = all(88), magic = all(12582912);  // 1.5 * 2^23: adding it rounds
        x = choose(x < least, least, choose(x > most, most, x));
        const Half shifted = x * real(1.44269504088896341) + magic, power = shifted - magic;
        const Half rest = x - power * real(0.693359375) - power * real(-2.12194440e-4);  // log 2 in two parts
        Half total = all(real(1) / 5040);
        for (real coefficient : {real(1) / 720, real(1) / 120, real(1) / 24, real(1) / 6, real(1) / 2, real(1), real(1)})
            total = total * rest + coefficient;
        const Words scale = ((Words)(Floats)__builtin_convertvector(shifted, Floats) << 23) + (127u << 23);
        return total * __builtin_convertvector((Floats)scale, Half);
    }
}

inline Half sigmoid(Half x) { return 1 / (1 + exponential(-x)); }

inline Half tanh_of(Half x) {
    if constexpr (DOUBLE) return each(x, [](real v) { return std::tanh(v); });
    else return 2 * sigmoid(2 * x) - 1;
}

inline Half density(Half x) { return exponential(x * x * real(-0.5)) * real(0.398942280401432678); }  // of the normal

inline Half distribution(Half x) {  // of the normal
    if constexpr (DOUBLE) return each(x, [](real v) { return std::erfc(v * real(-0.707106781186547524)) / 2; });
    else {
        const Half size = choose(x < 0, -x, x) * real(0.707106781186547524), t = 1 / (1 + size * real(0.3275911));
        Half tail = all(1.061405429);
        for (real coefficient : {-1.453152027, 1.421413741, -0.284496736, 0.254829592})
            tail = tail * t + coefficient;
        tail = tail * t * exponential(-size * size) * real(0.5);
        return choose(x < 0, tail, 1 - tail);
    }
}

struct TanhGelu {  // x sigmoid(u), u = sqrt(8 / pi) (x + 0.044715 x^3)
    Half gate, slope;
    TanhGelu(Half x) {
        const real scale = 1.59576912160573071;
        gate = sigmoid(scale * (x + real(0.044715) * x * x * x));
        slope = scale * (1 + real(3 * 0.044715) * x * x);
    }
};

inline Half value(const Op& op, Half x) {
    const Half zero{}, slope = all(op.slope);
    switch (op.activation) {
        case LEAKY_RELU: return choose(x > zero, x, x * slope);
        case SILU: return x * sigmoid(x);
        case GELU: return x * distribution(x);
        case GELU_TANH: return x * TanhGelu(x).gate;
        case HARDSWISH: return x * choose(x > -3, choose(x < 3, x + 3, all(6)), zero) * real(1. / 6);
        case SIGMOID: return sigmoid(x);
        case HARDSIGMOID: return choose(x > -3, choose(x < 3, x + 3, all(6)), zero) * real(1. / 6);
        case TANH: return tanh_of(x);
        case ELU: return choose(x > zero, x, slope * (exponential(x) - 1));
    }
    return x;
}

inline Half derivative(const Op& op, Half x) {
    const Half zero{}, one = all(1), slope = all(op.slope);
    switch (op.activation) {
        case LEAKY_RELU: return choose(x > zero, one, slope);
        case SILU: {
            const Half gate = sigmoid(x);
            return gate * (1 + x * (1 - gate));
        }
        case GELU: return distribution(x) + x * density(x);
        case GELU_TANH: {
            const TanhGelu f(x);
            return f.gate + x * f.gate * (1 - f.gate) * f.slope;
        }
        case HARDSWISH: return choose(x > -3, choose(x < 3, x * real(1. / 3) + real(0.5), one), zero);
        case SIGMOID: {
            const Half gate = sigmoid(x);
            return gate * (1 - gate);
        }
        case HARDSIGMOID: return choose(x > -3, choose(x < 3, all(1. / 6), zero), zero);
        case TANH: {
            const Half y = tanh_of(x);
            return 1 - y * y;
        }
        case ELU: return choose(x > zero, one, slope * exponential(x));
    }
    return one;
}

// Not inlined: each is a large function, and called for many vectors at a time.
__attribute__((noinline)) void apply(const Op& op, Half* x, int count) {
    for (int i = 0; i < count; i++) x[i] = value(op, x[i]);
}
__attribute__((noinline)) void differentiate(const Op& op, Half* x, int count) {
    for (int i = 0; i < count; i++) x[i] = derivative(op, x[i]);
}

}  // namespace
