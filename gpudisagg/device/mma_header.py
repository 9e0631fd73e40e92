"""crt/mma.h, which CUDA's mma.h includes and only nvcc's wheel has: `nvcuda::wmma` over PTX's wmma.

Fragments and functions as the CUDA C++ programming guide describes them, all but those of its `experimental`
namespace. Which element is where in a fragment is nobody's to know, so PTX's order is as good as another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

_HEAD = """#pragma once
#include <cuda_fp16.h>
#include <cuda_bf16.h>
namespace nvcuda {
namespace wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };
namespace precision { struct tf32 {}; }
template <typename Use, int m, int n, int k, typename T, typename Layout = void> class fragment;
template <typename Element, typename Storage, int count> struct __fragment_elements {
  typedef Element element_type;
  typedef Storage storage_element_type;
  enum { num_elements = count, num_storage_elements = count };
  __align__(sizeof(Storage) < 4 ? 4 : sizeof(Storage)) Storage x[count];
};
template <typename Use, int m, int n, int k, typename T, typename Layout, typename V>
__device__ inline void fill_fragment(fragment<Use, m, n, k, T, Layout> &f, const V &value) {
  for (int i = 0; i < f.num_elements; i++) f.x[i] = value;
}
__device__ inline float __float_to_tf32(float value) {
  float result;
  asm("{ .reg .b32 word; cvt.rna.tf32.f32 word, %1; mov.b32 %0, word; }" : "=f"(result) : "f"(value));
  return result;
}
"""
_TAIL = """}
}
"""


@dataclass(frozen=True)
class _Input:
    """The type of A and B. `registers`: of each, for a shape."""

    element: str
    storage: str
    ptx: str
    registers: dict[tuple[int, int, int], tuple[int, int]]
    per_register: int = 1
    constraint: str = "r"
    # Accumulators: of C, and of D.
    results: tuple[tuple[str, str], ...] = field(default=(("float", "float"),))


_SHAPES = ((16, 16, 16), (32, 8, 16), (8, 32, 16))
_HALF_RESULTS = tuple((c, d) for c in ("float", "__half") for d in ("float", "__half"))
_INPUTS = (
    _Input("__half", "__half", "f16", dict.fromkeys(_SHAPES, (8, 8)), 2, results=_HALF_RESULTS),
    _Input(
        "__nv_bfloat16",
        "__nv_bfloat16",
        "bf16",
        dict(zip(_SHAPES, ((4, 4), (8, 2), (2, 8)), strict=True)),
        2,
    ),
    *(
        _Input(
            element,
            element,
            ptx,
            dict(zip(_SHAPES, ((2, 2), (4, 1), (1, 4)), strict=True)),
            4,
            results=(("int", "int"),),
        )
        for element, ptx in (("signed char", "s8"), ("unsigned char", "u8"))
    ),
    _Input("precision::tf32", "float", "tf32", {(16, 16, 8): (4, 4)}),
    _Input("double", "double", "f64", {(8, 8, 4): (1, 1)}, 1, "d", (("double", "double"),)),
)
# PTX's name, registers, elements in a register, constraint.
_ACCUMULATORS = {
    "float": ("f32", 8, 1, "f"),
    "__half": ("f16", 4, 2, "r"),
    "int": ("s32", 8, 1, "r"),
    "double": ("f64", 2, 1, "d"),
}
_LAYOUTS = {"row": "row_major", "col": "col_major"}
_WORDS = {"r": "unsigned", "f": "float", "d": "double"}


def _numbers(first: int, count: int) -> str:
    return "{" + ", ".join(f"%{i}" for i in range(first, first + count)) + "}"


def _operands(name: str, constraint: str, count: int, *, out: bool = False) -> str:
    words = f"reinterpret_cast<{'' if out else 'const '}{_WORDS[constraint]} *>({name}.x)"
    return ", ".join(f'"{"=" * out}{constraint}"({words}[{i}])' for i in range(count))


def _fragment(use: str, shape: tuple[int, int, int], element: str, layout: str) -> str:
    m, n, k = shape
    return f"fragment<{use}, {m}, {n}, {k}, {element}, {layout}>"


def _shape_name(shape: tuple[int, int, int]) -> str:
    m, n, k = shape
    return f"m{m}n{n}k{k}"


def _load(
    letter: str, layout: str, shape: tuple[int, int, int], ptx: str, count: int, constraint: str
) -> str:
    return (
        f'asm volatile("wmma.load.{letter}.sync.aligned.{layout}.{_shape_name(shape)}.{ptx} '
        f'{_numbers(0, count)}, [%{count}], %{count + 1};" : {_operands("f", constraint, count, out=True)} '
        ': "l"(from), "r"(stride) : "memory");'
    )


def _inputs(kind: _Input) -> Iterator[str]:
    for shape, counts in kind.registers.items():
        for letter, count in zip("ab", counts, strict=True):
            for layout, name in _LAYOUTS.items():
                type_ = _fragment(f"matrix_{letter}", shape, kind.element, name)
                elements = f"{kind.element}, {kind.storage}, {count * kind.per_register}"
                yield f"template <> class {type_} : public __fragment_elements<{elements}> {{}};"
                yield (
                    f"__device__ inline void load_matrix_sync({type_} &f, const {kind.storage} *from, "
                    f"unsigned stride) {{ {_load(letter, layout, shape, kind.ptx, count, kind.constraint)} }}"
                )


def _accumulators() -> Iterator[str]:
    wanted = {(s, c): None for kind in _INPUTS for s in kind.registers for pair in kind.results for c in pair}
    for shape, element in wanted:
        ptx, count, per_register, constraint = _ACCUMULATORS[element]
        type_ = _fragment("accumulator", shape, element, "void")
        base = f"__fragment_elements<{element}, {element}, {count * per_register}>"
        yield f"template <> class {type_} : public {base} {{}};"
        loads = {layout: _load("c", layout, shape, ptx, count, constraint) for layout in _LAYOUTS}
        stores = {
            layout: f'asm volatile("wmma.store.d.sync.aligned.{layout}.{_shape_name(shape)}.{ptx} '
            f'[%0], {_numbers(2, count)}, %1;" :: "l"(to), "r"(stride), {_operands("f", constraint, count)} '
            ': "memory");'
            for layout in _LAYOUTS
        }
        for head, ways in (
            (f"load_matrix_sync({type_} &f, const {element} *from", loads),
            (f"store_matrix_sync({element} *to, const {type_} &f", stores),
        ):
            yield (
                f"__device__ inline void {head}, unsigned stride, layout_t layout) {{ "
                f"if (layout == mem_row_major) {{ {ways['row']} }} else {{ {ways['col']} }} }}"
            )


def _products(kind: _Input) -> Iterator[str]:
    for shape, (a_count, b_count) in kind.registers.items():
        for c, d in kind.results:
            for a_layout, a_name in _LAYOUTS.items():
                for b_layout, b_name in _LAYOUTS.items():
                    types = [
                        _fragment("accumulator", shape, d, "void") + " &d",
                        "const " + _fragment("matrix_a", shape, kind.element, a_name) + " &a",
                        "const " + _fragment("matrix_b", shape, kind.element, b_name) + " &b",
                        "const " + _fragment("accumulator", shape, c, "void") + " &c",
                    ]
                    name = f"wmma.mma.sync.aligned.{a_layout}.{b_layout}.{_shape_name(shape)}"
                    body = _product(kind, name, a_count, b_count, c, d)
                    arguments = ", ".join([*types, "bool satf = false"])
                    yield f"__device__ inline void mma_sync({arguments}) {{ {body} }}"


def _product(kind: _Input, name: str, a_count: int, b_count: int, c: str, d: str) -> str:
    c_ptx, c_count, _, c_constraint = _ACCUMULATORS[c]
    d_ptx, d_count, _, d_constraint = _ACCUMULATORS[d]
    types = f".{d_ptx}.{c_ptx}" if kind.ptx == "f16" else f".{d_ptx}.{kind.ptx}.{kind.ptx}.{c_ptx}"
    parts, at = [], 0
    for count in (d_count, a_count, b_count, c_count):
        parts.append(_numbers(at, count))
        at += count
    inputs = ", ".join(
        [
            _operands("a", kind.constraint, a_count),
            _operands("b", kind.constraint, b_count),
            _operands("c", c_constraint, c_count),
        ]
    )
    plain, limited = (
        f'asm volatile("{name}{types}{limit} {", ".join(parts)};" '
        f": {_operands('d', d_constraint, d_count, out=True)} : {inputs});"
        for limit in ("", ".satfinite")
    )
    return f"if (satf) {{ {limited} }} else {{ {plain} }}" if d_ptx == "s32" else plain


def mma_header() -> str:
    """The header's text."""
    lines = [line for kind in _INPUTS for line in _inputs(kind)]
    lines += _accumulators()
    lines += [line for kind in _INPUTS for line in _products(kind)]
    return _HEAD + "\n".join(lines) + "\n" + _TAIL
