#!/usr/bin/env python3
"""A mutation run: would the tests notice if a kernel were wrong?

    kernels/mutate.py                  exit status 1 if a mutant survives
    kernels/mutate.py --all            also tries those known to be equivalent: of each entry some must survive
    kernels/mutate.py --filter TEXT    only those whose name contains the text
    kernels/mutate.py --list           their names alone

A mutant is the kernels with one small edit at one place: a barrier dropped, `<` for `<=`, a sign. It is compiled, put in
the place of the PTX that ships (the emulated driver's OVERRIDE), and the parity tests of a kernel that it changes are run:
they must fail. Mutants that do not compile, or to the same PTX, are none. Two arguments swapped at a launch are a mutant too
(SWAP_ARGS), without a compiler.
"""

import argparse
import collections
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import build

PROCESSES = 2
TIMEOUT_S = 20
# Instructions of a block, twice what any test needs: what loops for ever is stopped soon.
BUDGET = 1 << 23

# Of a template for heads of three widths a mutant is tried in the narrowest, which is the quickest to compile and to run.
WIDER_INSTANCES = re.compile(r"^ATTENTION_(FORWARD|BACKWARD)\((64|128), .*$", re.MULTILINE)
WIDE = "of_wide_heads"

# The tests of each kernel file: those that find most come first, as the first that fails is enough.
ATTENTION = ["over_a_forest", "large_scores", "one_query", "over_segments", "over_one_sequence", "more_tiles", WIDE]
TESTS = {
    "adamw": ["adamw::steps", "adamw::"],
    "attention": ATTENTION,
    "attention_backward": ATTENTION,
    "attention_cached": ["over_a_cache"],
    "column_sum": ["gradients_of_whole"],
    "cross_entropy": ["cross_entropies_agree", "cross_entropy::"],
    "dequantize": ["every_block_type"],
    "dpo_loss": ["dpo_losses"],
    "dropout": ["dropouts"],
    "embedding": ["embeddings"],
    "gelu": ["gelus"],
    "gemm": ["projections", "gradients_of_whole", "with_a_residual", "linear::"],
    "layer_norm": ["layer_norms"],
    "low_rank": ["with_a_residual", "layers_of_one_input", "linear::"],
    "pool": ["pool::"],
    "rms_norm": ["rms_norms"],
    "rope": ["rotations"],
    "rows": ["gathered_and_scattered"],
    "sft_loss": ["sft_losses"],
    "swiglu": ["swiglus"],
    "triplet_loss": ["triplet_losses"],
}

# Mutants whose results are those of the kernels, provably: why, and the files, rules and code of each, before the edit or
# after it.
ATTENTIONS = "attention.cu attention_backward.cu"
EQUIVALENT: dict[str, list[tuple[str, str, str]]] = {
    "one more round of the loop: of rows or columns that do not exist it adds zeros, and writes nothing": [
        ("column_sum.cu rms_norm.cu layer_norm.cu", "< is <=", "; first < n_rows; first += ROW_BATCH * stride)"),
        ("pool.cu", "< is <=", "; first < end; first += ROW_BATCH * ROW_LANES)"),
        ("embedding.cu", "< is <=", "; first < n_tokens; first += BACKWARD_BLOCK)"),
        ("embedding.cu", "< is <=", "; i < n_same; i += BATCH)"),
        ("triplet_loss.cu", "< is <=", "; column < hidden; column += 8 * WARP)"),
        ("triplet_loss.cu", "< is <=", "; first < *n_triplets; first += WARPS)"),
        ("cross_entropy.cu", "< is <=", "; first < vocab; first += 8 * BATCH * blockDim.x)"),
        ("cross_entropy.cu", "< is <=", "; column < vocab; column += 8 * blockDim.x)"),
        ("adamw.cu", "< is <=", "; first < quads; first += NORM_BATCH * threads)"),
        ("gemm.cu", "1 less or more, factor", "steps = (k + TILE_K - 1) / TILE_K"),
        ("low_rank.cu", "1 less or more, sign, factor", "int steps = (end - begin + TOKENS - 1) / TOKENS;"),
        ("low_rank.cu", "< is <=", "; first_rank < problem.rank; first_rank += RANKS)"),
    ],
    "a branch that saves time: without columns, loads give zeros (here minus infinity) and stores write nothing": [
        ("rms_norm.cu layer_norm.cu", "condition never, <= is <", "if (n <= 0) break;"),
        ("cross_entropy.cu", "condition never, >= is >", "if (column >= vocab) break;"),
        ("gemm.cu", "<= is <", "if (row >= m || count <= 0) return;"),
        ("low_rank.cu", "sign", "ranks = problem.rank - first_rank;"),
        ("low_rank.cu", "condition never, >= is >", "if (8 * n >= ranks) break;"),
    ],
    "a fast path: the other branch does the same for any input": [
        ("row.cuh", "condition never", "if (width % 8 == 0 && is_aligned16(row))"),
        ("common.cuh gemm.cu", "condition never, >= is >", "if (n >= 8 && is_aligned16("),
        ("common.cuh", "condition never, >= is >", "if (n >= 8) {"),
        ("attention.cuh attention_cached.cu", "condition never", "head_dim % 8 == 0)"),
        ("adamw.cu", "condition never", "if (((u64)to & 7) == 0)"),
        ("adamw.cu", "condition never, <= is <", "if (col + 4 <= image.cols)"),
        ("cross_entropy.cu", "condition always, > is >=", "if (column + 8 > vocab)"),
        ("columns.cuh", "condition always, > is >=", "if (gridDim.y > 1)"),
    ],
    "without edges `total` is 0, and so is each gradient": [
        ("cross_entropy.cu", "condition never", "if (first == last) return write_zeros(logits, vocab);"),
    ],
    "every lane that takes part has the same value": [
        ("embedding.cu", "condition always, == is !=", "if (lane == 0) found[warp] = bits;"),
        ("dpo_loss.cu", "condition always, == is !=", "if (lane == 0) sides[s] ="),
        ("attention_cached.cu", "condition always, == is !=", "if (lane == 0) largest[warp] ="),
        ("cross_entropy.cu common.cuh", "condition always, == is !=", "if (lane == 0) partial[warp] = x;"),
        ("triplet_loss.cu", "condition always, == is !=", "if (lane == 0) pulls[warp][0] ="),
        (ATTENTIONS, "== is !=", "if (pair == 0 && token < shape.n_tokens)"),
    ],
    "nobody reads the totals of other warps": [("columns.cuh", "condition always", "if (warp == 0)")],
    "`pull` gives nothing to a segment that is not of the triplet": [
        ("triplet_loss.cu", "condition always", "if (is_mine || is_summing)"),
    ],
    "more is looked at, or looked at again with the mask, of which nothing is seen": [
        (ATTENTIONS, "1 less or more", "VisibleTiles tiles{mask, (u32)first_query, (u32)first_query + TILE[],"),
        (ATTENTIONS, "1 less or more", "WARP_ROWS - 1);"),
        (ATTENTIONS, "condition always", "if (seen == PART)"),
        ("attention_backward.cu", "1 less or more", "end_tile = (mask.tile_end[blockIdx.x] + TILE - 1) / TILE"),
        ("attention_backward.cu", "1 less or more", "query + HALF - 1);"),
        ("attention.cuh", ">= is >", "if (base >= n_tiles) return n_tiles;"),
        ("attention.cuh", "< is <=", "first_query < mask.tile_end[tile]);"),
        ("attention.cuh", "<= is <, || is &&", "const bool nothing ="),
        ("attention.cuh", "<= is <", "const bool all ="),
        ("attention.cuh", "condition never", "return NOTHING;"),
        ("attention.cuh", "choice never", "? ALL : PART;"),
    ],
    "at the limit both branches have one value": [
        ("gelu.cu", "> is >=", "v[i] > 0.0f ? 1.0f - rest : rest"),  # Phi(0) = 1 / 2
        ("dpo_loss.cu", "< is <=", "margin < 0.0 ? -margin : 0.0"),
        ("triplet_loss.cu", "< is <=", "slack < 0.0f ? 0.0f : slack"),
        ("cross_entropy.cu", "< is <=", "b.index < a.index"),
    ],
    "at the limit there is no derivative: that of either side will do": [
        ("triplet_loss.cu", "> is >=", "bb > SHORTEST_SQUARED ?"),
        ("triplet_loss.cu", "> is >=", "aa > SHORTEST_SQUARED ?"),
    ],
    "of zero, or a score, and minus infinity the sum is that": [
        ("cross_entropy.cu", "result added", "v[j] = NEGATIVE_INFINITY;"),
        ("attention.cuh", "result added", "scores[n][i] = NEGATIVE_INFINITY;"),
    ],
    "xor by 17, 8, 4, 2 and 1 meets all lanes, and a maximum may meet one twice": [
        ("common.cuh", "factor", "x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));"),
        ("cross_entropy.cu", "factor", "for (int offset = WARP / 2; offset > 0; offset /= 2) {"),
    ],
    "sums are in the same order, whatever number of loads is on its way": [
        ("low_rank.cu", "<= is <, choice always, choice never", "constexpr int BATCH ="),
    ],
    "other splits of the tokens, which cover them as well": [
        ("low_rank.cu", "1 less or more, factor", "steps_per_split = (steps + splits - 1) / splits;"),
    ],
    "the factors of a product": [("sft_loss.cu", "arguments swapped", "sft_loss:1:2")],
}


# ---------------------------------------------------------------- rules


def arguments(code: str, opening: int) -> list[tuple[int, int]]:
    """Where the arguments between the bracket at `opening` and its partner begin and end."""
    depth, start, found = 0, opening + 1, []
    for at in range(opening, len(code)):
        depth += (code[at] in "([{") - (code[at] in ")]}")
        if depth == 0 or (depth == 1 and code[at] == ","):
            found.append((start, at))
            start = at + 1
        if depth == 0:
            return found
    return []


def replace(text):
    """The match becomes `text`."""
    return lambda code, match: [(match.start(), match.end(), match.expand(text))]


def condition(value):
    """The bracket at the end of the match becomes `value`."""
    return lambda code, match: [(match.end(), arguments(code, match.end() - 1)[-1][1], value)]




def each_argument(code, match):
    """The call becomes one of its arguments."""
    both = arguments(code, match.end() - 1)
    return [(match.start(), both[-1][1] + 1, "(" + code[start:end].strip() + ")") for start, end in both]


# A loop over registers: one round more would be out of their bounds, and mean nothing.
CONSTANT_LOOP = r"(for \(\w+ \w+ = [^;]*; \w+) < ([A-Z0-9][^;\n]*);"


def is_of_constants(code, match):
    """Whether its line has the bounds of such a loop, or the size of an array."""
    line = code[code.rfind("\n", 0, match.start()) + 1 : code.find("\n", match.end())]
    return re.search(CONSTANT_LOOP, line) or re.match(r"\s*(__shared__ )?\w+ \w+\[", line)


def not_in_constant_loop(text):
    return lambda code, match: [] if is_of_constants(code, match) else replace(text)(code, match)


def first_in_line(others):
    """The operator becomes another one: once for each line, as it is about arithmetic at large."""

    def edits(code, match):
        return [] if is_of_constants(code, match) else [(match.start(1), match.end(1), others[match[1]])]

    return edits


RULES = [
    ("barrier dropped", r"__sync(threads|warp)\(\);", replace(";")),
    ("wait dropped", r"copy_wait<.+?>\(\);", replace(";")),
    ("wait for one less", r"copy_wait<(.+?)>\(\);", replace(r"copy_wait<\1 + 1>();")),
    ("commit dropped", r"copy_commit\(\);", replace(";")),
    ("fence dropped", r"__threadfence\(\);", replace(";")),
    ("atomic made plain", r"atomicInc\((\w+), [^)]*\)", replace(r"(*\1)++")),
    ("counter not reset", r"atomicInc\((\w+), [^)]*\)", replace(r"atomicAdd(\1, 1u)")),
    ("loop one short", CONSTANT_LOOP + r"(?= \w+\+\+)", replace(r"\1 < \2 - 1;")),
    ("loop one short", CONSTANT_LOOP + r"(?= \w+ \+= (\w+))", replace(r"\1 < \2 - \3;")),
    ("< is <=", r" < ", not_in_constant_loop(" <= ")),
    ("<= is <", r" <= ", replace(" < ")),
    ("> is >=", r" > ", replace(" >= ")),
    (">= is >", r" >= ", replace(" > ")),
    ("== is !=", r" == ", replace(" != ")),
    ("!= is ==", r" != ", replace(" == ")),
    ("1 less or more", r" [+-] 1\b(?![.\d])", replace("")),
    ("condition always", r"\bif \(", condition("true")),
    ("condition never", r"\bif \(", condition("false")),
    ("choice always", r" \? ", replace(" || true ? ")),
    ("choice never", r" \? ", replace(" && false ? ")),
    ("limit dropped", r"\bf?(min|max)f?\(", each_argument),
    ("&& is ||", r"&&", replace("||")),
    ("|| is &&", r"\|\|", replace("&&")),
    ("sum overwritten", r" [-+*|&]= ", replace(" = ")),
    ("result added", r"(?<=\w)\] = ", replace("] += ")),
    ("sign", r"^.*? ([-+]) (?!1\b)", first_in_line({"+": "-", "-": "+"})),
    ("sign dropped", r"(?<=[(,=?:]) ?-(?=[a-z])", replace(" ")),
    ("factor", r"^.*? ([*/]) ", first_in_line({"*": "+", "/": "+"})),
]


def code_of(text: str) -> str:
    """The text with comments, strings and directives as blanks: rules look at code."""
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])
    text = re.sub(r"//[^\n]*|/\*.*?\*/", blank, text, flags=re.DOTALL)
    text = re.sub(r'"[^"\n]*"', blank, text)
    return re.sub(r"^#.*$", blank, text, flags=re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Edit:
    """`text` in the place of what is from `start` to `end` of a file."""

    file: str
    rule: str
    start: int
    end: int
    text: str

    def lines(self) -> tuple[str, str]:
        """What is before the edit in its line, and what is behind it."""
        source = (build.KERNELS / self.file).read_text()
        start, end = source.rfind("\n", 0, self.start) + 1, source.find("\n", self.end)
        return source[start : self.start].lstrip(), source[self.end : end]

    def code(self) -> str:
        """The line as it was."""
        before, after = self.lines()
        return before + (build.KERNELS / self.file).read_text()[self.start : self.end] + after

    def name(self) -> str:
        line = (build.KERNELS / self.file).read_text().count("\n", 0, self.start) + 1
        before, after = self.lines()
        return f"{self.file}:{line}: {self.rule}: {before}[{self.text}]{after}"


def edits_of(path: pathlib.Path) -> list[Edit]:
    code = code_of(path.read_text())
    found = []
    for rule, pattern, edits in RULES:
        for match in re.finditer(pattern, code, re.MULTILINE):
            found += [Edit(path.name, rule, *edit) for edit in edits(code, match) if code[edit[0] : edit[1]] != edit[2]]
    return sorted(found, key=lambda edit: edit.start)


# ---------------------------------------------------------------- one edit


@functools.cache
def nvrtc() -> build.Nvrtc:
    return build.Nvrtc()


def compiled(kernel: str, folder: pathlib.Path) -> str:
    source = folder / f"{kernel}.cu"
    return nvrtc().compile(WIDER_INSTANCES.sub("", source.read_text()), source.name, folder)


@functools.cache
def shipped(kernel: str) -> str:
    return compiled(kernel, build.KERNELS)


@functools.cache
def definitions(header: str) -> list[tuple[int, int, set[str]]]:
    """The definitions of a header: from, to, names."""
    code, found = code_of((build.KERNELS / header).read_text()), []
    start = 0
    for part in re.split(r"(?<=\n\n)", code):
        end = start + len(part)
        names = set(re.findall(r"(?:__forceinline__|struct|template|#define)[^({;]*?(\w+)(?: \{|\()", part))
        found.append((start, end, names))
        start = end
    return found


@functools.cache
def headers_of(kernel: str) -> list[str]:
    found, queue = [], [f"{kernel}.cu"]
    while queue:
        for header in re.findall(r'#include "(.+)"', (build.KERNELS / queue.pop()).read_text()):
            if header not in found:
                found.append(header)
                queue.append(header)
    return found


@functools.cache
def used_names(kernel: str) -> set[str]:
    """Names of the kernel's file, and of all that these use."""
    names = set(re.findall(r"\w+", code_of((build.KERNELS / f"{kernel}.cu").read_text())))
    every = [(header, chunk) for header in headers_of(kernel) for chunk in definitions(header)]
    while True:
        before = len(names)
        for header, (start, end, defined) in every:
            if defined & names:
                names |= set(re.findall(r"\w+", code_of((build.KERNELS / header).read_text())[start:end]))
        if len(names) == before:
            return names


def kernels_of(edit: Edit) -> list[str]:
    """Kernels that may contain it, the small ones first."""
    if edit.file.endswith(".cu"):
        return [edit.file.removesuffix(".cu")]
    names = next(names for start, end, names in definitions(edit.file) if start <= edit.start < end)
    kernels = [kernel for kernel in TESTS if edit.file in headers_of(kernel) and names & used_names(kernel)]
    return sorted(kernels, key=lambda kernel: len(shipped(kernel)))


def fails(kernel: str, options: dict[str, str], tests: list[str]) -> bool:
    """Whether one of the tests does, of a kernel file, with these options of the emulated driver."""
    environment = os.environ | {"CUDA_EMULATOR_BUDGET": str(BUDGET)} | options
    if kernel == "gemm":
        environment["TUNESMITH_TEST_WITHOUT_CUBLASLT"] = "1"
    for test in tests:
        command = ["timeout", str(TIMEOUT_S), test_executable(), test, "--test-threads=1"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as run:
            for line in run.stdout:
                if line.endswith("FAILED\n"):  # one is enough
                    run.terminate()  # by way of timeout, which ends the tests
                    return True
        if run.returncode != 0:
            return True
    return False


known: dict[tuple[str, str], bool] = {}  # by kernel and PTX: another mutant may have given the same


def try_edit(mutant: Edit) -> str:
    """`caught`, `survived`, or why it is no mutant."""
    text = (build.KERNELS / mutant.file).read_text()
    text = text[: mutant.start] + mutant.text + text[mutant.end :]
    outcome = "same PTX"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for file in build.KERNELS.glob("*.cu*"):
            if file.name != mutant.file:
                (folder / file.name).symlink_to(file)
        (folder / mutant.file).write_text(text)
        for kernel in kernels_of(mutant):
            try:
                ptx = compiled(kernel, folder)
            except SystemExit:
                return "does not compile"
            if ptx == shipped(kernel):
                continue
            override = folder / f"{kernel}.ptx"
            override.write_text(ptx)
            if (kernel, ptx) not in known:
                tests = [test for test in TESTS[kernel] if test != WIDE]
                known[kernel, ptx] = fails(kernel, {"CUDA_EMULATOR_OVERRIDE": name}, tests)
            override.unlink()
            if known[kernel, ptx]:
                return "caught"
            outcome = "survived"
    return outcome


# ---------------------------------------------------------------- arguments of launches


@dataclasses.dataclass(frozen=True)
class Swap:
    """Two arguments of one type, with none of that type between them, change places at every launch."""

    file: str
    kernel: str
    first: int
    second: int
    rule = "arguments swapped"

    def code(self) -> str:
        return f"{self.kernel}:{self.first}:{self.second}"

    def name(self) -> str:
        return f"{self.file}: {self.rule}: {self.code()}"


def swaps_of(path: pathlib.Path) -> list[Swap]:
    found = []
    for kernel, parameters in re.findall(r"\.entry (\w+)\(([^)]*)\)", build.ptx_of(path).read_text()):
        last: dict[str, int] = {}
        # Structs, which are arrays of bytes here, have types of their own.
        for i, type in enumerate(re.findall(r"\.param (?:\.align \d+ )?\.(\w+)", parameters)):
            if type in last and type != "b8":
                found.append(Swap(path.name, kernel, last[type], i))
            last[type] = i
    return found


def try_swap(mutant: Swap) -> str:
    arguments = f"{mutant.kernel}:{mutant.first}:{mutant.second}"
    kernel = mutant.file.removesuffix(".cu")
    tests = [WIDE] if mutant.kernel.endswith(("_64", "_128")) else TESTS[kernel]
    return "caught" if fails(kernel, {"CUDA_EMULATOR_SWAP_ARGS": arguments}, tests) else "survived"


# ---------------------------------------------------------------- the run


Mutant = Edit | Swap


def all_mutants() -> list[Mutant]:
    headers = sorted(build.KERNELS.glob("*.cuh"))
    found = [edit for path in headers + build.sources() for edit in edits_of(path)]
    return found + [swap for path in build.sources() for swap in swaps_of(path)]


def outcome_of(mutant: Mutant) -> tuple[Mutant, str]:
    return mutant, try_edit(mutant) if isinstance(mutant, Edit) else try_swap(mutant)


Entry = tuple[str, str, str]


def is_of(mutant: Mutant, entry: Entry) -> bool:
    files, rules, code = entry
    is_there = code in mutant.code() or code in mutant.name()
    return mutant.file in files.split() and mutant.rule in rules.split(", ") and is_there


def is_equivalent(mutant: Mutant) -> bool:
    return any(is_of(mutant, entry) for entries in EQUIVALENT.values() for entry in entries)


def stale_entries(outcomes: list[tuple[Mutant, str]]) -> list[Entry]:
    """Entries of EQUIVALENT that no mutant needs, as far as this run can tell."""
    every, tried = all_mutants(), {mutant for mutant, _ in outcomes}
    survived = [mutant for mutant, outcome in outcomes if outcome == "survived"]
    entries = [entry for entries in EQUIVALENT.values() for entry in entries]
    is_needed = lambda entry: any(is_of(mutant, entry) for mutant in survived)
    is_decided = lambda entry: all(mutant in tried for mutant in every if is_of(mutant, entry))
    return [entry for entry in entries if is_decided(entry) and not is_needed(entry)]


@functools.cache
def test_executable() -> str:
    return os.environ["MUTATION_TESTS"]


def build_tests() -> str:
    command = ["cargo", "test", "--release", "--workspace", "--test", "cuda", "--no-run", "--message-format=json"]
    messages = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=build.KERNELS).stdout
    artefacts = [json.loads(line) for line in messages.splitlines()]
    return next(each["executable"] for each in artefacts if each.get("executable") and each["target"]["name"] == "cuda")


def report(outcomes: list[tuple[Mutant, str]]) -> int:
    by_file = collections.defaultdict(lambda: collections.defaultdict(collections.Counter))
    by_rule = collections.defaultdict(collections.Counter)
    survivors = []
    for mutant, outcome in outcomes:
        if outcome == "survived" and is_equivalent(mutant):
            outcome = "equivalent"
        elif outcome == "survived":
            survivors.append(mutant)
        by_file[mutant.file][mutant.rule][outcome] += 1
        by_rule[mutant.rule][outcome] += 1

    counts = ["caught", "equivalent", "survived", "same PTX", "does not compile"]
    print("\nCaught, of those that are mutants, by file and rule:")
    for file, rules in sorted(by_file.items()):
        tried = {rule: sum(count[key] for key in counts[:3]) for rule, count in rules.items()}
        cells = [f"{rule} {rules[rule]['caught']}/{n}" for rule, n in sorted(tried.items()) if n]
        print(f"{file:24}{', '.join(cells)}")
    print("\n" + f"{'rule':24}" + "".join(f"{count:>18}" for count in counts))
    for rule, count in [*sorted(by_rule.items()), ("all", sum(by_rule.values(), collections.Counter()))]:
        print(f"{rule:24}" + "".join(f"{count[key]:18}" for key in counts))
    for mutant in sorted(survivors, key=lambda mutant: mutant.name()):
        print(f"SURVIVED  {mutant.name()}")
    stale = stale_entries(outcomes)
    for entry in stale:
        print(f"NO SURVIVOR NEEDS  {entry}")
    return 1 if survivors or stale else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="also those known to be equivalent")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only mutants whose name contains this")
    parser.add_argument("--list", action="store_true", help="print the names of the mutants")
    arguments = parser.parse_args()
    assert set(TESTS) == {source.stem for source in build.sources()}, "every kernel file has its tests"
    mutants = [mutant for mutant in all_mutants() if arguments.filter in mutant.name()]
    if not arguments.all:
        mutants = [mutant for mutant in mutants if not is_equivalent(mutant)]
    if arguments.list:
        print("\n".join(mutant.name() for mutant in mutants))
        return 0

    os.environ["MUTATION_TESTS"] = build_tests()
    build.OPTIONS.remove("--generate-line-info")  # so that PTX is equal where its instructions are
    broken = [kernel for kernel in TESTS if fails(kernel, {}, TESTS[kernel])]
    if broken:
        raise SystemExit(f"the kernels as they are fail the tests of {', '.join(broken)}")
    start = time.monotonic()
    with multiprocessing.Pool(PROCESSES) as pool:
        outcomes = []
        for outcome in pool.imap_unordered(outcome_of, mutants):
            outcomes.append(outcome)
            if sys.stderr.isatty():
                print(f"\r{len(outcomes)} of {len(mutants)}", end="", file=sys.stderr, flush=True)
            elif len(outcomes) % 200 == 0:
                print(f"{len(outcomes)} of {len(mutants)}", file=sys.stderr, flush=True)
    status = report(outcomes)
    print(f"{len(mutants)} in {time.monotonic() - start:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
