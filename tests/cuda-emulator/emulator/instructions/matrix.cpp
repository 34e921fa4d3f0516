// The tensor cores: mma.sync, ldmatrix and movmatrix.
//
// In all of their layouts a register of the 32 lanes, seen as 64 halves one behind another, is an 8x8 matrix row by
// row.
#include <immintrin.h>

#include "../execution/access.h"
#include "../execution/fault.h"
#include "lanes.h"
#include "table.h"

namespace emulator {
namespace {

using ptx::Operand;
using ptx::Type;

// An 8x8 matrix of halves, columns for rows: pairs of rows are interleaved, then pairs of pairs.
void transpose(const u16* from, u16* to) {
    __m128i row[8], pair[8], quad[8];
    for (int i = 0; i < 8; i++) row[i] = _mm_loadu_si128((const __m128i*)(from + 8 * i));
    for (int i = 0; i < 4; i++) {
        pair[2 * i] = _mm_unpacklo_epi16(row[2 * i], row[2 * i + 1]);
        pair[2 * i + 1] = _mm_unpackhi_epi16(row[2 * i], row[2 * i + 1]);
    }
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 2; i++) {
            quad[4 * half + 2 * i] = _mm_unpacklo_epi32(pair[4 * half + i], pair[4 * half + i + 2]);
            quad[4 * half + 2 * i + 1] = _mm_unpackhi_epi32(pair[4 * half + i], pair[4 * half + i + 2]);
        }
    for (int i = 0; i < 4; i++) {
        _mm_storeu_si128((__m128i*)(to + 16 * i), _mm_unpacklo_epi64(quad[i], quad[4 + i]));
        _mm_storeu_si128((__m128i*)(to + 16 * i + 8), _mm_unpackhi_epi64(quad[i], quad[4 + i]));
    }
}

// ---- mma: D = A B + C for 16 rows and 8 columns

constexpr int M = 16, N = 8;

using Row = float __attribute__((vector_size(N * sizeof(float))));

// Eight rows of D at a time, which the compiler keeps in registers. Tensor cores add with one rounding, as fma does.
template <int K>
__attribute__((optimize("fp-contract=fast"))) void multiply_rows(const float (&a)[M][K], const Row (&b)[K],
                                                                 Row (&d)[M]) {
    for (int first = 0; first < M; first += 8) {
        Row sum[8];
        for (int row = 0; row < 8; row++) sum[row] = d[first + row];
        for (int k = 0; k < K; k++)
#pragma GCC unroll 8
            for (int row = 0; row < 8; row++) sum[row] += a[first + row][k] * b[k];
        for (int row = 0; row < 8; row++) d[first + row] = sum[row];
    }
}

// Inputs: the registers of A, those of B, those of C. Each of A's is eight rows and eight columns of it, downwards
// first; each of B's is eight columns and eight rows of it, column by column. C and D are two upper and two lower
// registers, whose numbers take turns in a row.
template <class T, int K>
void multiply(Warp& warp, const Instruction& in, Mask lanes) {
    float a[M][K];
    for (int part = 0; part < K / 4; part++) {
        const T* const halves = warp.input<T>(in, part);
        for (int row = 0; row < 8; row++)
            for (int column = 0; column < 8; column++)
                a[part % 2 * 8 + row][part / 2 * 8 + column] = halves[row * 8 + column];
    }
    Row b[K], d[M];
    for (int part = 0; part < K / 8; part++) {
        T halves[64];
        transpose(warp.input<u16>(in, K / 4 + part), (u16*)halves);
        for (int row = 0; row < 8; row++)
            for (int column = 0; column < 8; column++) b[part * 8 + row][column] = halves[row * 8 + column];
    }
    for (int half = 0; half < 2; half++) {
        const float* const even = warp.input<float>(in, K / 4 + K / 8 + 2 * half);
        const float* const odd = warp.input<float>(in, K / 4 + K / 8 + 2 * half + 1);
        for (int row = 0; row < 8; row++)
            for (int pair = 0; pair < 4; pair++) {
                d[half * 8 + row][2 * pair] = even[row * 4 + pair];
                d[half * 8 + row][2 * pair + 1] = odd[row * 4 + pair];
            }
    }
    multiply_rows(a, b, d);
    for (int part = 0; part < 4; part++) {
        float result[LANES];
        for (int row = 0; row < 8; row++)
            for (int pair = 0; pair < 4; pair++) result[row * 4 + pair] = d[part / 2 * 8 + row][2 * pair + part % 2];
        Warp::store(warp.output<float>(in, part), result, lanes);
    }
    warp.block.work.flops += 2 * M * N * K;
}

void multiply_instruction(Assembler& a) {
    a.ignore({"sync", "aligned"});
    const int k = a.take_one({"m16n8k16", "m16n8k8"}) == "m16n8k16" ? 16 : 8;
    a.take_one({"row"});
    a.take_one({"col"});
    const Type d = a.type(), left = a.type(), right = a.type(), c = a.type();
    if (d != Type::F32 || c != Type::F32 || left != right)
        a.fail("only sums in .f32 of products of one type are supported");
    Handler handler = nullptr;
    if (left == Type::BF16) handler = k == 16 ? multiply<BF16, 16> : multiply<BF16, 8>;
    if (left == Type::F16) handler = k == 16 ? multiply<F16, 16> : multiply<F16, 8>;
    if (!handler) a.fail("only .bf16 and .f16 are supported");

    const size_t counts[] = {4, size_t(k / 4), size_t(k / 8), 4};  // of the registers of D, A, B, C
    std::vector<Slot> outputs, inputs;
    for (int i = 0; i < 4; i++) {
        std::vector<Operand> registers = {a.operand(i)};
        if (registers[0].kind == Operand::List) registers = a.operand(i).elements;
        if (registers.size() != counts[i]) a.fail(format("operand %d must be %zu registers", i + 1, counts[i]));
        const Type type = i == 0 || i == 3 ? Type::F32 : Type::B32;
        for (const Operand& one : registers)
            i == 0 ? outputs.push_back(a.destination(one, type)) : inputs.push_back(a.source(one, type));
    }
    a.emit_collective(handler, outputs, inputs, true);
}

// ---- ldmatrix: 8x8 matrices of halves, whose rows lie where eight lanes each say

template <bool TRANSPOSED>
void load_matrices(Warp& warp, const Instruction& in, Mask lanes) {
    if (lanes != ALL_LANES)
        fail(warp, in, std::countr_zero(~lanes), CUDA_ERROR_LAUNCH_FAILED, "ldmatrix needs a whole warp");
    Access access(Access::Read, 16);
    const Mask with_rows = in.outputs == 4 ? ALL_LANES : (Mask(1) << 8 * in.outputs) - 1;
    resolve(warp, in, with_rows, 0, access);
    for (int matrix = 0; matrix < in.outputs; matrix++) {
        u16 rows[64];
        for (int row = 0; row < 8; row++) memcpy(rows + 8 * row, (const void*)access.address[matrix * 8 + row], 16);
        u16* const to = warp.output<u16>(in, matrix);
        if (TRANSPOSED)
            transpose(rows, to);
        else
            memcpy(to, rows, sizeof rows);
    }
}

void load_matrices_instruction(Assembler& a) {
    a.ignore({"sync", "aligned"});
    a.take_one({"m8n8"});
    a.take_one({"x1", "x2", "x4"});
    const bool transposed = a.take("trans");
    a.take_one({"shared", "shared::cta"});
    if (a.type() != Type::B16) a.fail("only .b16 is supported");
    std::vector<Operand> registers = {a.operand(0)};
    if (registers[0].kind == Operand::List) registers = a.operand(0).elements;
    std::vector<Slot> outputs;
    for (const Operand& one : registers) outputs.push_back(a.destination(one, Type::B32));
    const Address address = a.address(a.operand(1), ptx::Space::Shared);
    a.emit_collective(transposed ? load_matrices<true> : load_matrices<false>, outputs, {address.base}, true);
    a.set_address(address);
}

// ---- movmatrix: an 8x8 matrix of halves, transposed

void transpose_matrix(Warp& warp, const Instruction& in, Mask lanes) {
    u32 words[LANES];
    transpose(warp.input<u16>(in), (u16*)words);
    Warp::store(warp.output<u32>(in), words, lanes);
}

void transpose_matrix_instruction(Assembler& a) {
    a.ignore({"sync", "aligned"});
    a.take_one({"m8n8"});
    a.take_one({"trans"});
    a.type();
    a.emit_collective(transpose_matrix, {a.destination(0, Type::B32)}, {a.source(1, Type::B32)}, true);
}

}  // namespace

const Family& matrix_instructions() {
    static const Family family = {
        {"mma", multiply_instruction},
        {"ldmatrix", load_matrices_instruction},
        {"movmatrix", transpose_matrix_instruction},
    };
    return family;
}

}  // namespace emulator
