#!/usr/bin/env python3
"""Paper targets: what each kernel moves and computes in a call, and what is expected of it on an H100.

    kernels/targets.py            writes TARGETS.md
    kernels/targets.py --check    compares it with what is committed; fails on any difference

Bytes are those that have to cross the memory bus: each value that is read or written, once. FLOPs are those of tensor
cores, of values that count. `tests/cuda_step` holds both against what the emulated device counts in a step.
"""

import argparse
import dataclasses
import pathlib
import sys
import textwrap

import build

TABLE = build.KERNELS / "TARGETS.md"

# An H100 SXM: of 3.35 TB/s and 989 TFLOP/s in bf16 that NVIDIA states.
BYTES_PER_S, FLOPS_PER_S = 3.0e12, 800e12
# From the end of one kernel of a graph to the first bytes of the next, and to drain it.
START_S = 1.5e-6

# What kernels get of the memory once they run: whole vectors and enough of them on their way; 128 blocks for 132 SMs.
STREAM, SKINNY = 0.85, 0.7
# What they get of the tensor cores. Attention by mma.sync, with a softmax between: FlashAttention-2 gets 35% of 989
# TFLOP/s at long sequences (Shah et al. 2024, section 1), which is 0.43 here; sequences of 512 are eight tiles at most, and
# half of the last one is masked. Products: our own by mma.sync; cuBLASLt's where there are tiles for all SMs, 600 TFLOP/s,
# and elsewhere.
ATTENTION, OWN_PRODUCT, LARGE_PRODUCT, SMALL_PRODUCT = 0.2, 0.4, 0.75, 0.4

BF16, F32, F64, U32 = 2, 4, 8, 4


@dataclasses.dataclass(frozen=True)
class Call:
    kernel: str
    sizes: str
    reads: int  # bytes
    writes: int  # bytes
    launches: int = 0  # in the reference step
    flops: int = 0
    dynamic_shared: int = 0  # bytes
    of_memory: float = STREAM
    of_tensor_cores: float = ATTENTION

    def bounds_s(self) -> tuple[float, float]:
        return (self.reads + self.writes) / BYTES_PER_S, self.flops / FLOPS_PER_S

    def floor_s(self) -> float:
        return max(self.bounds_s())

    def expected_s(self) -> float:
        memory_s, tensor_cores_s = self.bounds_s()
        return START_S + max(memory_s / self.of_memory, tensor_cores_s / self.of_tensor_cores)

    def bound(self) -> str:
        memory_s, tensor_cores_s = self.bounds_s()
        return "memory" if memory_s / self.of_memory > tensor_cores_s / self.of_tensor_cores else "tensor cores"


@dataclasses.dataclass(frozen=True)
class Model:
    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    rank: int = 8

    def q(self):
        return self.heads * self.head_dim

    def kv(self):
        return self.kv_heads * self.head_dim


@dataclasses.dataclass(frozen=True)
class Batch:
    """Sequences without a common prefix."""

    sequences: int
    length: int
    labels: int  # of a sequence

    def tokens(self):
        return self.sequences * self.length

    def rows(self):
        return self.sequences * self.labels

    def pairs(self):
        """Of a query and a key that it sees."""
        return self.sequences * self.length * (self.length + 1) // 2


SMOLLM2 = Model("SmolLM2-135M", 576, 1536, 30, 9, 3, 64, 49_152)
QWEN2_5_3B = Model("Qwen2.5-3B", 2048, 11_008, 36, 16, 2, 128, 151_936)
LLAMA_3_1_8B = Model("Llama-3.1-8B", 4096, 14_336, 32, 32, 8, 128, 128_256)
REFERENCE = Batch(sequences=4, length=512, labels=128)
# Tokens a second that are wanted of an H100, with batches of 8,192.
WANTED = {SMOLLM2: 400_000, QWEN2_5_3B: 35_000, LLAMA_3_1_8B: 14_000}
LARGE = Batch(sequences=16, length=512, labels=128)


def width(head_dim: int) -> int:
    """Of the kernel for such heads."""
    return next(w for w in (32, 64, 128) if head_dim <= w)


def attention(m: Model, batch: Batch, launches: int) -> list[Call]:
    t, d = batch.tokens(), width(m.head_dim)
    q, kv, bounds = BF16 * t * m.q(), BF16 * t * m.kv(), 2 * U32 * t
    lse = F32 * t * m.heads
    product = 2 * m.head_dim * m.heads * batch.pairs()
    sizes = f"{t:,} tokens, {m.heads} heads of {m.head_dim}"
    tiles = lambda n: n * 64 * 2 * (d + 8) + 1024
    return [
        Call(f"attention_forward_{d}", sizes, q + 2 * kv + bounds, q + lse, launches, 2 * product, tiles(4)),
        Call(
            f"attention_backward_query_{d}",
            sizes,
            3 * q + 2 * kv + bounds + lse,
            q + lse,
            launches,
            3 * product,
            tiles(4),
        ),
        Call(
            f"attention_backward_key_{d}",
            sizes,
            2 * q + 2 * kv + bounds + 2 * lse,
            2 * kv,
            launches,
            4 * product,
            tiles(5),
        ),
    ]


def low_rank_product(tokens: int, width: int, rank: int, launches: int) -> Call:
    n = next((n for n in (1, 2, 3, 4, 6, 8) if rank <= 8 * n), 8)
    reads, writes = BF16 * (tokens * width + rank * width), BF16 * 2 * tokens * rank
    return Call(
        f"low_rank_product_{n}",
        f"{tokens:,} x {width:,}, rank {rank}",
        reads,
        writes,
        launches,
        2 * tokens * width * rank,
        of_memory=SKINNY,
    )


def low_rank_gradients(tokens: int, rank: int, columns: list[tuple[int, int]], launches: int) -> Call:
    """Of a block's layers by their columns; neighbours with inputs of one width have one input."""
    inputs = [width for i, (width, _) in enumerate(columns) if i == 0 or columns[i - 1][0] != width]
    outputs = [width for _, width in columns]
    values = rank * sum(width for pair in columns for width in pair)
    reads = BF16 * tokens * (sum(inputs) + sum(outputs) + 2 * rank * len(columns)) + F32 * values
    sizes = f"{tokens:,} tokens, {len(columns)} layers of rank {rank}, {sum(inputs) + sum(outputs):,} columns"
    return Call("low_rank_gradients", sizes, reads, F32 * values, launches, 2 * tokens * values, of_memory=SKINNY)


def rms_norm(rows: int, width: int, in_block: bool, launches: int) -> list[Call]:
    """In a block there is a gradient beside the norm, and the output is computed again for the layers behind it."""
    x, rstd, weight, sizes = BF16 * rows * width, F32 * rows, F32 * width, f"{rows:,} x {width:,}"
    return [
        Call("rms_norm_forward", sizes, x + weight, x + rstd, launches),
        Call("rms_norm_backward", sizes, (2 + in_block) * x + rstd + weight, (1 + in_block) * x, launches),
    ]


def products(m: Model, batch: Batch) -> list[tuple[str, int, int, int, int]]:
    """cuBLASLt's in a step: what, how often, m, n, k. The update's ranks lie beside the layer's columns."""
    t, r, found = batch.tokens(), m.rank, []
    for name, inputs, outputs, ranks in layers(m):
        found.append((f"{name}, y", m.layers, t, outputs, inputs + ranks))
        found.append((f"{name}, dx", m.layers, t, inputs, outputs + ranks))
    return found + [("logits", 1, batch.rows(), m.vocab, m.hidden), ("logits, dx", 1, batch.rows(), m.hidden, m.vocab)]


def layers(m: Model) -> list[tuple[str, int, int, int]]:
    """Of a block: name, columns of the input and of the output, ranks."""
    return [
        ("q, k, v", m.hidden, m.q() + 2 * m.kv(), 3 * m.rank),
        ("o", m.q(), m.hidden, m.rank),
        ("gate, up", m.hidden, 2 * m.intermediate, 2 * m.rank),
        ("down", m.intermediate, m.hidden, m.rank),
    ]


def step(m: Model, batch: Batch) -> list[Call]:
    """All launches of a step of SFT with LoRA on every linear layer, but cuBLASLt's."""
    t, rows, h, q, kv, f, r, n = batch.tokens(), batch.rows(), m.hidden, m.q(), m.kv(), m.intermediate, m.rank, m.layers
    of_attention, of_mlp = [(h, q), (h, kv), (h, kv), (q, h)], [(h, f), (h, f), (f, h)]
    a = n * r * sum(inputs for inputs, _ in of_attention + of_mlp)
    b = n * r * sum(outputs for _, outputs in of_attention + of_mlp)
    heads, labelled = BF16 * t * (q + kv), BF16 * rows * h
    tables = F32 * batch.length * m.head_dim
    return [
        Call("embedding_forward", f"{t:,} x {h:,}", BF16 * t * h + U32 * t, BF16 * t * h, 1),
        *rms_norm(t, h, True, 2 * n),
        *rms_norm(rows, h, False, 1),
        Call(
            "rope",
            f"{t:,} tokens, {m.heads} + {m.kv_heads} heads of {m.head_dim}",
            heads + U32 * t + tables,
            heads,
            2 * n,
        ),
        *attention(m, batch, n),
        *swiglu(t, f, n),
        *[
            low_rank_product(t, width, ranks, n)
            for _, inputs, outputs, ranks in layers(m)
            for width in (inputs, outputs)
        ],
        low_rank_gradients(t, r, of_attention, n),
        low_rank_gradients(t, r, of_mlp, n),
        Call("gather_rows", f"{rows:,} of {t:,} x {h:,}", labelled + U32 * rows, labelled, 1),
        Call("scatter_rows", f"{rows:,} of {t:,} x {h:,}", labelled + U32 * rows, BF16 * t * h, 1),
        cross_entropy(rows, m.vocab),
        Call("sft_loss", f"{rows:,} edges", 2 * F32 * rows, F64, 1),
        Call("grad_norm", f"{a + b:,} values", F32 * (a + b), 8 * F64, 1),
        # A has one image, s B one as it is and one transposed.
        Call("adamw", f"{a + b:,} values", 4 * F32 * (a + b), 3 * F32 * (a + b) + BF16 * (a + 2 * b), 1),
    ]


def swiglu(tokens: int, width: int, launches: int) -> list[Call]:
    x, sizes = BF16 * tokens * width, f"{tokens:,} x {width:,}"
    return [
        Call("swiglu_forward", sizes, 2 * x, x, launches),
        # The output again, beside the gradients of gate and up.
        Call("swiglu_backward", sizes, 3 * x, 3 * x, launches),
    ]


def cross_entropy(rows: int, vocab: int) -> Call:
    """With one labelled edge a row, and the gradient. A row is read twice, but once from memory."""
    logits = BF16 * rows * vocab
    return Call(
        "cross_entropy", f"{rows:,} x {vocab:,}", logits + (2 * U32 + F32) * rows, logits + (F32 + U32) * rows, 1
    )


def elsewhere() -> list[Call]:
    """Kernels that the reference step does not launch."""
    m, t = SMOLLM2, REFERENCE.tokens()
    x, sizes = BF16 * t * m.hidden, f"{t:,} x {m.hidden}"
    labels, pairs = 4096, 16
    values = m.layers * m.rank * sum(i + o for i, o in [(m.hidden, m.intermediate)])
    dpo = U32 * (2 * pairs + 1 + labels) + 2 * pairs * F64 + F32 * labels
    found = [
        Call("dpo_loss", f"{pairs} pairs, {labels:,} labels", dpo, F32 * labels + 8 * F64, dynamic_shared=64 * pairs),
        Call("dropout_forward", sizes, x, x),
        Call("dropout_backward", sizes, 2 * x, x),
        Call("copy_rows", sizes, x, x),
        Call("rms_norm_backward_weight", sizes, 2 * x + F32 * t, F32 * m.hidden),
        Call("refresh_images", f"{values:,} values", F32 * values, BF16 * values),
        attention_cached(m, 512),
        dequantize(m.intermediate, m.hidden),
        *[low_rank_product(t, m.hidden, rank, 0) for rank in (32, 48, 64)],
        *attention(LLAMA_3_1_8B, REFERENCE, 0),
        *own_products(t, 2 * m.intermediate, m.hidden),
    ]
    return found + of_encoders(hidden=384, intermediate=1536, heads=12, texts=32, length=64)


def attention_cached(m: Model, keys: int) -> Call:
    cache, q = 2 * BF16 * keys * m.kv(), BF16 * m.q()
    # A block for each head: nine are no load for the memory, and a warp's keys follow each other.
    return Call("attention_cached", f"1 of {keys} tokens, {m.heads} heads of {m.head_dim}", cache + q, q, of_memory=0.1)


def dequantize(rows: int, cols: int) -> Call:
    return Call("dequantize", f"{rows:,} x {cols:,}, Q8_0", rows * cols // 32 * 34, BF16 * rows * cols)


def own_products(m: int, n: int, k: int) -> list[Call]:
    """Where there is no cuBLASLt."""
    flops, x, y, w = 2 * m * n * k, BF16 * m * k, m * n, BF16 * n * k
    return [
        Call("gemm_tn_bf16", f"{m:,} x {n:,} x {k}", x + w, BF16 * y, 0, flops, 81_920, of_tensor_cores=OWN_PRODUCT),
        Call("gemm_nn_bf16", f"{m:,} x {k} x {n:,}", BF16 * y + w, x, 0, flops, 75_776, of_tensor_cores=OWN_PRODUCT),
        # The gradient of a weight is added to: f32.
        Call(
            "gemm_nt_f32",
            f"{n:,} x {k} x {m:,}",
            BF16 * y + x + 2 * w,
            2 * w,
            0,
            flops,
            69_632,
            of_tensor_cores=OWN_PRODUCT,
        ),
    ]


def of_encoders(hidden: int, intermediate: int, heads: int, texts: int, length: int) -> list[Call]:
    """all-MiniLM-L6-v2, all of whose weights are trained."""
    t = texts * length
    x, wide, row, rows = BF16 * t * hidden, BF16 * t * intermediate, F32 * hidden, F32 * t
    pooled, sizes, of_texts = BF16 * texts * hidden, f"{t:,} x {hidden}", f"{texts} x {hidden}"
    bidirectional = Model("MiniLM", hidden, intermediate, 6, heads, heads, hidden // heads, 30_522)

    class Texts(Batch):
        def pairs(self):
            return self.sequences * self.length**2

    return [
        *attention(bidirectional, Texts(texts, length, 0), 0),
        Call("layer_norm_forward", sizes, x + 2 * row, x + 2 * rows),
        Call("layer_norm_backward", sizes, 2 * x + 2 * row + 2 * rows, 2 * x),
        Call("layer_norm_backward_weight", sizes, 2 * x + 2 * rows, 2 * row),
        Call("gelu_forward", f"{t:,} x {intermediate:,}", wide, wide),
        Call("gelu_backward", f"{t:,} x {intermediate:,}", 2 * wide, 2 * wide),
        Call("column_sum", sizes, x, row),
        # Ids that are all different: each row of the table's gradient is read and written.
        Call("embedding_backward", sizes, x + F32 * t * hidden, F32 * t * hidden),
        Call("mean_pool_forward", f"{texts} texts, {sizes}", x, pooled),
        Call("mean_pool_backward", f"{texts} texts, {sizes}", pooled, x),
        Call("l2_normalize_forward", of_texts, pooled, pooled + F32 * texts),
        Call("l2_normalize_backward", of_texts, 2 * pooled + F32 * texts, pooled),
        Call("triplet_loss", f"{texts // 2} triplets of {of_texts}", pooled + 3 * U32 * texts // 2, pooled + 8 * F64),
    ]


# ---------------------------------------------------------------- the table


METHOD = f"""Written by `targets.py`. Nothing here was measured on a GPU. Registers of a thread and shared memory of a
block (with what the launch asks for) are those of ptxas for sm_90. Bytes are those that have to cross the memory bus, FLOPs
those of tensor cores that count. The floor is the larger of bytes at {BYTES_PER_S / 1e12:.1f} TB/s and FLOPs at
{FLOPS_PER_S / 1e12:.0f} TFLOP/s (an H100, bf16). Expected are {1e6 * START_S:.1f} µs to start and drain, and the floor at
the share of its bound that such a kernel gets; how much of the floor's speed that leaves is beside it. Small calls are all
start."""

STEP = f"""The step is one of SFT of {SMOLLM2.name}: {REFERENCE.tokens():,} tokens in {REFERENCE.sequences} sequences without a
common prefix, {REFERENCE.labels} labels each, rank {SMOLLM2.rank} on all linear layers. `tests/cuda_step` holds bytes and
FLOPs of its kernels against what the emulated device counts."""


def of_products(m: Model, batch: Batch) -> list[tuple[str, int, int, int, int, float, float]]:
    """As `products`, with the floor and what is expected."""
    found = []
    for what, launches, rows, columns, k in products(m, batch):
        floor_s = max(
            2 * rows * columns * k / FLOPS_PER_S, BF16 * (rows * columns + rows * k + columns * k) / BYTES_PER_S
        )
        # Tiles of 128 x 128 for 132 SMs.
        is_large = -(-rows // 128) * -(-columns // 128) >= 2 * 132
        found.append(
            (
                what,
                launches,
                rows,
                columns,
                k,
                floor_s,
                START_S + floor_s / (LARGE_PRODUCT if is_large else SMALL_PRODUCT),
            )
        )
    return found


def expected_step_s(m: Model, batch: Batch) -> float:
    kernels = sum(call.launches * call.expected_s() for call in step(m, batch))
    return kernels + sum(launches * expected_s for _, launches, *_, expected_s in of_products(m, batch))


def measured() -> dict[str, tuple[int, int]]:
    """Registers and bytes of shared memory on sm_90."""
    rows = [row for source in build.sources() for row in build.resources("sm_90", build.ptx_of(source))]
    return {row["kernel"]: (row["registers"], row["shared_bytes"]) for row in rows}


def table() -> str:
    resources, calls = measured(), step(SMOLLM2, REFERENCE) + elsewhere()
    unknown = sorted(set(resources) ^ {call.kernel for call in calls})
    if unknown:
        raise SystemExit(f"in the table or among the kernels, but not in both: {', '.join(unknown)}")
    head = [
        *("kernel", "call", "in a step", "MB read", "MB written", "GFLOP", "floor µs", "bound by", "expected µs"),
        *("of the floor", "registers", "shared bytes"),
    ]
    lines = [
        "# Paper targets",
        "",
        textwrap.fill(METHOD, 120),
        "",
        textwrap.fill(STEP, 120),
        "",
        f"| {' | '.join(head)} |",
        "|---|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for call in calls:
        registers, shared = resources[call.kernel]
        floor_s, expected_s = call.floor_s(), call.expected_s()
        cells = [
            f"`{call.kernel}`",
            call.sizes,
            str(call.launches or ""),
            f"{call.reads / 1e6:.6f}",
            f"{call.writes / 1e6:.6f}",
            f"{call.flops / 1e9:.3f}" if call.flops else "",
            f"{1e6 * floor_s:.2f}",
            call.bound(),
            f"{1e6 * expected_s:.2f}",
            f"{floor_s / expected_s:.0%}",
            str(registers),
            f"{shared + call.dynamic_shared:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "cuBLASLt's products in the step:",
        "",
        "| product | in a step | m x n x k | GFLOP | floor µs | expected µs | of the floor |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for what, launches, m, n, k, floor_s, expected_s in of_products(SMOLLM2, REFERENCE):
        cells = [
            what,
            str(launches),
            f"{m:,} x {n:,} x {k:,}",
            f"{2 * m * n * k / 1e9:.3f}",
            f"{1e6 * floor_s:.2f}",
            f"{1e6 * expected_s:.2f}",
            f"{floor_s / expected_s:.0%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Whole steps, of {LARGE.sequences} sequences of {LARGE.length} with {LARGE.labels} labels each:",
        "",
        "| model | expected ms | tokens/s | wanted |",
        "|---|---:|---:|---:|",
    ]
    for model, wanted in WANTED.items():
        seconds = expected_step_s(model, LARGE)
        lines.append(f"| {model.name} | {1e3 * seconds:.1f} | {LARGE.tokens() / seconds:,.0f} | {wanted:,} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is committed instead of writing it")
    text = table()
    if parser.parse_args().check:
        if TABLE.read_text() != text:
            print(f"{TABLE.name} is not what {sys.argv[0]} writes")
            return 1
        print(f"{TABLE.name} is as committed")
        return 0
    TABLE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
