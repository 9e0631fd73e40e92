"""Compiles `kernels.py` with Triton, which needs no GPU: `python -m tests.programs.triton.generate`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.programs.corpus import Program, trimmed

MATMUL = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32, "GROUP": 4, "PRECISION": "ieee"}
ATTENTION = {"HEAD": 32, "BLOCK_M": 32, "BLOCK_N": 32}


@dataclass(frozen=True)
class Variant:
    """How a kernel is specialised, as Triton does it for the arguments of a launch.

    `types`: of the parameters that aren't constants. Pointers are multiples of 16 but for those in `ragged`.
    """

    kernel: str
    types: str
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 3
    ragged: bool = False
    arch: int = 80


def _matmul(element: str, result: str, **changed: Any) -> Variant:
    strides = "i32 constexpr i32 constexpr i32 constexpr"
    ones = {"a_column": 1, "b_column": 1, "c_column": 1}
    options = {k: changed.pop(k) for k in ("arch", "warps", "stages") if k in changed}
    return Variant(
        "matmul",
        f"*{element} *{element} *{result} i32 i32 i32 {strides}",
        {**ones, **MATMUL, **changed},
        **options,
    )


VARIANTS = {
    "add": Variant("add", "*fp32 *fp32 *fp32 i32", {"BLOCK": 1024}),
    "add_ragged": Variant("add", "*fp32 *fp32 *fp32 i32", {"BLOCK": 256}, ragged=True),
    "add_fp16": Variant("add", "*fp16 *fp16 *fp16 i32", {"BLOCK": 1024}),
    "add_bf16": Variant("add", "*bf16 *bf16 *bf16 i32", {"BLOCK": 512}, warps=2),
    "add_fp64": Variant("add", "*fp64 *fp64 *fp64 i32", {"BLOCK": 128}, warps=1),
    "add_sm90": Variant("add", "*fp32 *fp32 *fp32 i32", {"BLOCK": 1024}, arch=90),
    "persistent_add": Variant("persistent_add", "*fp32 *fp32 *fp32 i32", {"BLOCK": 256}),
    "gelu": Variant("gelu", "*fp16 *fp16 i32", {"BLOCK": 512}),
    "elementary": Variant("elementary", "*fp32 *fp32 i32", {"BLOCK": 128}),
    "integers": Variant("integers", "*i32 *i32 *i32 i32", {"BLOCK": 128}),
    "softmax": Variant("softmax", "*fp32 *fp32 i32 i32 i32 i32", {"BLOCK": 512}),
    "softmax_warps8": Variant("softmax", "*fp32 *fp32 i32 i32 i32 i32", {"BLOCK": 512}, warps=8),
    "softmax_sm90": Variant("softmax", "*fp32 *fp32 i32 i32 i32 i32", {"BLOCK": 512}, arch=90),
    "layer_norm": Variant("layer_norm", "*fp16 *fp16 *fp16 *fp16 *fp32 *fp32 i32 i32 fp32", {"BLOCK": 256}),
    "layer_norm_backward": Variant(
        "layer_norm_backward",
        "*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *i32 i32 i32",
        {"GROUP": 4, "BLOCK": 256},
    ),
    "matmul_fp16": _matmul("fp16", "fp16"),
    "matmul_bf16": _matmul("bf16", "fp32", BLOCK_K=16, stages=4),
    "matmul_tf32": _matmul("fp32", "fp32", PRECISION="tf32"),
    "matmul_ieee": _matmul("fp32", "fp32", BLOCK_K=16),
    "matmul_int8": _matmul("i8", "i32", stages=2),
    "attention": Variant(
        "attention", "*fp16 *fp16 *fp16 *fp16 *fp32 fp32 i32 i32", {**ATTENTION, "CAUSAL": False}
    ),
    "attention_causal": Variant(
        "attention", "*fp16 *fp16 *fp16 *fp16 *fp32 fp32 i32 i32", {**ATTENTION, "CAUSAL": True}, stages=2
    ),
    "dropout": Variant("dropout", "*fp32 *fp32 i32 fp32 i32", {"BLOCK": 512}),
    "random_numbers": Variant("random_numbers", "*i32 *fp32 i32 i32", {"BLOCK": 256}),
    "row_sums": Variant("row_sums", "*fp32 *fp32 i32 i32", {"ROWS": 8, "BLOCK": 64}),
    "column_sums": Variant("column_sums", "*fp32 *fp32 i32 i32", {"ROWS": 32, "BLOCK": 32}),
    "welford": Variant("welford", "*fp32 *fp32 *fp32 i32", {"BLOCK": 512}),
    "extremes": Variant("extremes", "*i32 *i32 *i32 i32", {"BLOCK": 256}),
    "cumulative_sum": Variant("cumulative_sum", "*i32 *i32 i32", {"BLOCK": 512}),
    "recurrence": Variant("recurrence", "*fp32 *fp32 *fp32 i32", {"BLOCK": 256}),
    "sort": Variant("sort", "*i32 *i32 i32", {"BLOCK": 64}, warps=1),
    "histogram": Variant("histogram", "*i32 *i32 i32", {"BLOCK": 512, "BINS": 64}),
    "atomics": Variant("atomics", "*i32 *i32 *fp32 *fp16 *i32 *fp32 *i32 i32", {"BLOCK": 256}),
    "stencil": Variant("stencil", "*fp32 *fp32 i32 i32", {"BLOCK_Y": 8, "BLOCK_X": 32}),
    "transpose": Variant("transpose", "*fp32 *fp32 i32 i32", {"BLOCK": 32}),
    "cross_entropy": Variant("cross_entropy", "*fp16 *i64 *fp32 *fp32 i32", {"BLOCK": 256}),
    "gather": Variant("gather", "*fp32 *i32 *fp32 i32", {"BLOCK": 256}),
    "quantise": Variant("quantise", "*fp16 *i8 fp32 i32", {"BLOCK": 512}),
    "narrow": Variant("narrow", "*fp32 *bf16 *fp8e5 i32", {"BLOCK": 256}),
    "rotary": Variant("rotary", "*fp32 *fp32 *fp32 *fp32 i32 i32", {"BLOCK": 32}, warps=1),
    "descriptors": Variant("descriptors", "*fp32 *fp32 i32 i32", {"ROWS": 16, "COLUMNS": 32}),
    "top": Variant("top", "*fp32 *fp32", {"BLOCK": 64}),
    "inline_assembly": Variant("inline_assembly", "*i32 *i32 i32", {"BLOCK": 256}),
    "dot_fp64": Variant("dot_fp64", "*fp64 *fp64 *fp64", {"n": 16}),
}


def generate(variants: Mapping[str, Variant] = VARIANTS) -> Iterator[Program]:
    """The programs, whole, as Triton gives them."""
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tests.programs.triton import kernels

    with tempfile.TemporaryDirectory() as cache:
        triton.knobs.cache.dir = cache
        for name, variant in variants.items():
            function = getattr(kernels, variant.kernel)
            types = dict(
                zip(
                    (p for p in function.arg_names if p not in variant.constants),
                    (t for t in variant.types.split() if t != "constexpr"),
                    strict=True,
                )
            )
            signature = {p: types.get(p, "constexpr") for p in function.arg_names}
            aligned = {
                (i,): [["tt.divisibility", 16]]
                for i, p in enumerate(function.arg_names)
                if signature[p].startswith("*") and not variant.ragged
            }
            source = ASTSource(function, signature=signature, constexprs=variant.constants, attrs=aligned)
            options = {"num_warps": variant.warps, "num_stages": variant.stages}
            made = triton.compile(source, target=GPUTarget("cuda", variant.arch, 32), options=options)
            assert made.metadata.global_scratch_size == 0
            yield Program.made(
                name,
                made.asm["ptx"],
                by=f"triton {triton.__version__}",
                threads=32 * variant.warps,
                shared=made.metadata.shared,
            )


if __name__ == "__main__":
    for program in generate():
        Program.made(program.name, trimmed(program.text), **program.facts).write(Path(__file__).parent)
