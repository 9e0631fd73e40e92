"""Headers of the C library that kernels include out of habit and NVRTC doesn't have, as far as they are for
devices.
"""

from __future__ import annotations

_INTEGERS = [
    *[f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)],
    "intptr_t",
    "uintptr_t",
    "intmax_t",
    "uintmax_t",
]
_STDINT = """
typedef signed char int8_t; typedef unsigned char uint8_t;
typedef signed short int16_t; typedef unsigned short uint16_t;
typedef signed int int32_t; typedef unsigned int uint32_t;
typedef signed long long int64_t; typedef unsigned long long uint64_t;
typedef int64_t intptr_t; typedef uint64_t uintptr_t;
typedef int64_t intmax_t; typedef uint64_t uintmax_t;
#define INT8_MIN (-128)
#define INT16_MIN (-32768)
#define INT32_MIN (-2147483647 - 1)
#define INT64_MIN (-9223372036854775807LL - 1)
#define INT8_MAX 127
#define INT16_MAX 32767
#define INT32_MAX 2147483647
#define INT64_MAX 9223372036854775807LL
#define UINT8_MAX 255
#define UINT16_MAX 65535
#define UINT32_MAX 4294967295U
#define UINT64_MAX 18446744073709551615ULL
#define SIZE_MAX UINT64_MAX
#define INTPTR_MAX INT64_MAX
#define UINTPTR_MAX UINT64_MAX
"""
_LIMITS = """
#define CHAR_BIT 8
#define SCHAR_MIN (-128)
#define SCHAR_MAX 127
#define UCHAR_MAX 255
#define CHAR_MIN SCHAR_MIN
#define CHAR_MAX SCHAR_MAX
#define SHRT_MIN (-32768)
#define SHRT_MAX 32767
#define USHRT_MAX 65535
#define INT_MIN (-2147483647 - 1)
#define INT_MAX 2147483647
#define UINT_MAX 4294967295U
#define LONG_MIN (-9223372036854775807L - 1)
#define LONG_MAX 9223372036854775807L
#define ULONG_MAX 18446744073709551615UL
#define LLONG_MIN (-9223372036854775807LL - 1)
#define LLONG_MAX 9223372036854775807LL
#define ULLONG_MAX 18446744073709551615ULL
"""
_FLOAT = """
#define FLT_RADIX 2
#define FLT_MANT_DIG 24
#define FLT_DIG 6
#define FLT_MIN_EXP (-125)
#define FLT_MAX_EXP 128
#define FLT_MIN 1.17549435e-38F
#define FLT_MAX 3.40282347e+38F
#define FLT_EPSILON 1.19209290e-07F
#define DBL_MANT_DIG 53
#define DBL_DIG 15
#define DBL_MIN_EXP (-1021)
#define DBL_MAX_EXP 1024
#define DBL_MIN 2.2250738585072014e-308
#define DBL_MAX 1.7976931348623157e+308
#define DBL_EPSILON 2.2204460492503131e-16
"""
_MATH_NAMES = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cbrt",
    "ceil",
    "copysign",
    "cos",
    "cosh",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "fabs",
    "fdim",
    "floor",
    "fma",
    "fmax",
    "fmin",
    "fmod",
    "frexp",
    "hypot",
    "ilogb",
    "ldexp",
    "lgamma",
    "llrint",
    "llround",
    "log",
    "log10",
    "log1p",
    "log2",
    "logb",
    "lrint",
    "lround",
    "modf",
    "nearbyint",
    "nextafter",
    "pow",
    "remainder",
    "rint",
    "round",
    "scalbn",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "tgamma",
    "trunc",
    "isfinite",
    "isinf",
    "isnan",
    "signbit",
]
_MATH = """
#ifndef M_PI
#define M_E 2.7182818284590452354
#define M_LOG2E 1.4426950408889634074
#define M_LN2 0.69314718055994530942
#define M_LN10 2.30258509299404568402
#define M_PI 3.14159265358979323846
#define M_PI_2 1.57079632679489661923
#define M_PI_4 0.78539816339744830962
#define M_1_PI 0.31830988618379067154
#define M_2_PI 0.63661977236758134308
#define M_SQRT2 1.41421356237309504880
#define M_SQRT1_2 0.70710678118654752440
#endif
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#define HUGE_VAL __longlong_as_double(0x7ff0000000000000LL)
#endif
"""


def _using(names: list[str]) -> str:
    return "namespace std { " + " ".join(f"using ::{name};" for name in names) + " }\n"


def _unless_defined(text: str) -> str:
    """Macros, but where they are defined: libcu++ has them too, in words of its own."""
    lines = []
    for line in text.splitlines():
        define = line.split()[:1] == ["#define"]
        lines += [f"#ifndef {line.split()[1]}", line, "#endif"] if define else [line]
    return "\n".join(lines) + "\n"


# NVRTC itself knows printf, assert, memcpy, memset, size_t and the mathematical functions.
_C = {
    "stdint.h": _unless_defined(_STDINT),
    "limits.h": _unless_defined(_LIMITS),
    "float.h": _unless_defined(_FLOAT),
    "math.h": _MATH,
    "stddef.h": "",
    "stdio.h": "",
    "assert.h": "",
    "stdlib.h": "",
    "string.h": "",
}
_NAMES = {
    "stdint.h": _INTEGERS,
    "math.h": _MATH_NAMES,
    "stddef.h": ["size_t"],
    "stdio.h": ["printf"],
    "string.h": ["memcpy", "memset"],
}
HEADERS: dict[str, str] = {}
for _name, _text in _C.items():
    HEADERS[_name] = f"#pragma once\n{_text}"
    HEADERS["c" + _name.removesuffix(".h")] = f"#pragma once\n#include <{_name}>\n" + (
        _using(_NAMES[_name]) if _name in _NAMES else ""
    )
HEADERS["inttypes.h"] = HEADERS["cinttypes"] = "#pragma once\n#include <stdint.h>\n"

# Headers of C++ that libcu++ has for devices.
_CPP = [
    "array",
    "atomic",
    "bit",
    "bitset",
    "chrono",
    "complex",
    "concepts",
    "expected",
    "functional",
    "initializer_list",
    "iterator",
    "limits",
    "memory",
    "numeric",
    "optional",
    "ranges",
    "ratio",
    "span",
    "tuple",
    "type_traits",
    "utility",
    "variant",
]
for _name in _CPP:
    HEADERS[_name] = (
        f"#pragma once\n#if __has_include(<cuda/std/{_name}>)\n#include <cuda/std/{_name}>\n"
        "namespace cuda { namespace std { } }\nnamespace std { using namespace cuda::std; }\n#endif\n"
    )
HEADERS["algorithm"] = "#pragma once\n#include <utility>\n#include <functional>\n"
# There are no streams: what headers' own operators << need so as to be parsed.
HEADERS["iosfwd"] = """#pragma once
namespace std {
class istream;
class ostream {
 public:
  template <class T> __device__ ostream &operator<<(const T &) { return *this; }
};
}
"""
# Those of hosts alone: a kernel that uses what is in them hears of it by the name of what it uses.
for _name in ("ostream", "iostream", "sstream"):
    HEADERS[_name] = "#pragma once\n#include <iosfwd>\n"
for _name in ("map", "mutex", "new", "set", "stdexcept", "string", "vector", "version"):
    HEADERS[_name] = "#pragma once\n"

# The driver's interface is the host's; CUDA_VERSION is what device code asks of it.
HEADERS["cuda.h"] = """#pragma once
#include <cuda_runtime_api.h>
#define CUDA_VERSION CUDART_VERSION
"""
# CUB uses std:: without including it, and marks functions as the host's, which NVRTC refuses even where
# nobody calls them. Other words for its file's name find the file itself.
HEADERS["cub/config.cuh"] = """#pragma once
#include <type_traits>
#include <cstdint>
#ifndef CUB_RUNTIME_FUNCTION
#define CUB_RUNTIME_FUNCTION __host__ __device__
#endif
#include <cub/../cub/config.cuh>
"""
# All of CUB but its calls for hosts (cub/device), which launch kernels.
_CUB = [
    "block/block_adjacent_difference",
    "block/block_discontinuity",
    "block/block_exchange",
    "block/block_histogram",
    "block/block_load",
    "block/block_merge_sort",
    "block/block_radix_rank",
    "block/block_radix_sort",
    "block/block_reduce",
    "block/block_run_length_decode",
    "block/block_scan",
    "block/block_store",
    "grid/grid_even_share",
    "grid/grid_mapping",
    "grid/grid_queue",
    "iterator/arg_index_input_iterator",
    "iterator/cache_modified_input_iterator",
    "iterator/cache_modified_output_iterator",
    "iterator/constant_input_iterator",
    "iterator/counting_input_iterator",
    "iterator/discard_output_iterator",
    "iterator/transform_input_iterator",
    "thread/thread_load",
    "thread/thread_operators",
    "thread/thread_reduce",
    "thread/thread_scan",
    "thread/thread_search",
    "thread/thread_store",
    "util_ptx",
    "util_type",
    "warp/warp_exchange",
    "warp/warp_load",
    "warp/warp_merge_sort",
    "warp/warp_reduce",
    "warp/warp_scan",
    "warp/warp_store",
]
HEADERS["cub/cub.cuh"] = "#pragma once\n#include <cub/config.cuh>\n" + "".join(
    f"#if __has_include(<cub/{_name}.cuh>)\n#include <cub/{_name}.cuh>\n#endif\n" for _name in _CUB
)
