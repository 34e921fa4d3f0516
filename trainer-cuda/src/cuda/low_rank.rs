//! The skinny products of low-rank updates (Hu et al. 2021, eq. 3); see `low_rank.cu`.

use super::Cuda;
use super::launch::{Grid, Source, source};
use super::layout::WORKSPACE_BYTES;
use super::linear::{assert_tail, beside};
use super::memory::Act;
use super::products::{Layout, Product};
use crate::device::{Modules, Trainable, UpdateGradient};

static LOW_RANK: Source = source!("low_rank");

/// A gradient as the kernel takes it: `out += scale p^T q`, or its transpose.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Problem {
    p: u64, // [n_tokens, rank]
    ld_p: i32,
    q: u64, // [n_tokens, width]
    ld_q: i32,
    out: u64,
    rank: i32,
    width: i32,
    transposed: i32,
    scale: f32,
    first_block: i32,
}

/// Most gradients in one launch.
const PROBLEMS: usize = 16;
/// Columns of a tile, tokens of a step, sums of a tile for eight ranks.
const COLUMNS: usize = 128;
const TOKENS: usize = 32;
const TILE_BYTES: usize = 4096;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Problems {
    problem: [Problem; PROBLEMS],
    n: i32,
}

/// Rows of `h`, or where none is given, nothing: all that have an update, or one.
struct Selected {
    first: usize,
    rank: usize,
}

impl Cuda {
    /// `h = x factor^T`, beside `h` also into the tail of the rows `beside`.
    fn skinny(
        &self,
        h: &Act,
        tail: (u64, usize),
        x: (u64, usize),
        factor: (u64, usize),
        [n_tokens, width, rank]: [usize; 3],
    ) {
        let n = rank.div_ceil(8);
        let (name, tiles) = match n {
            1 => ("low_rank_product_1", 1),
            2 => ("low_rank_product_2", 2),
            3 => ("low_rank_product_3", 3),
            4 => ("low_rank_product_4", 4),
            5 | 6 => ("low_rank_product_6", 6),
            _ => ("low_rank_product_8", 8),
        };
        let groups = match n_tokens {
            0..=4096 => 1,
            4097..=8192 => 2,
            _ => 4,
        };
        let grid = Grid {
            blocks: [n.div_ceil(tiles), n_tokens.div_ceil(16 * groups), 1],
            threads: [32, 8 / groups, groups],
            shared_bytes: 0,
        };
        let launch = self.kernel(&LOW_RANK, name).act(h).address(tail.0).int(tail.1).address(x.0).int(x.1);
        launch.address(factor.0).int(factor.1).int(n_tokens).int(width).int(rank).launch(grid);
    }

    /// The modules whose low-rank values are given: where they begin among all, and how many values they are.
    fn selected<const N: usize>(h: &[Option<&Act>; N], modules: &Modules<'_, Self, N>) -> Option<(usize, Selected)> {
        let layout = &modules.packed.layout;
        let given: Vec<usize> = (0..N).filter(|&i| h[i].is_some()).collect();
        let (&first, &last) = (given.first()?, given.last()?);
        let adapted = modules.low_rank.iter().filter(|update| update.is_some()).count();
        assert!(given.len() == 1 || given.len() == adapted, "one update, or all of them");
        let start = layout.rank_start[first];
        let end = layout.rank_start.get(last + 1).copied().unwrap_or(layout.rank_padded);
        Some((first, Selected { first: start, rank: end - start }))
    }

    pub(super) fn down<const N: usize>(
        &self,
        h: [Option<&Act>; N],
        x: &Act,
        beside: &Act,
        modules: &Modules<'_, Self, N>,
        n_tokens: usize,
    ) {
        let Some((module, Selected { first, rank })) = Self::selected(&h, modules) else { return };
        let (layout, in_features) = (&modules.packed.layout, modules.weight[0].cols);
        x.assert_holds("x", n_tokens, in_features);
        assert_tail(beside, beside.address + 2 * layout.in_padded as u64, layout.rank_padded);
        let (a, stride) = modules.packed.a();
        let h = h[module].expect("it is the first that is given");
        let tail = (beside.tail + 2 * first as u64, beside.stride);
        let factor = (a + (2 * first * stride) as u64, stride);
        self.skinny(h, tail, (x.address, x.stride), factor, [n_tokens, in_features, rank]);
    }

    pub(super) fn down_gradient<const N: usize>(
        &self,
        d_h: [Option<&Act>; N],
        dy: [&Act; N],
        modules: &Modules<'_, Self, N>,
        n_tokens: usize,
    ) {
        let Some((module, Selected { first, rank })) = Self::selected(&d_h, modules) else { return };
        let (packed, layout) = (modules.packed, &modules.packed.layout);
        let dy_all = beside(packed, &dy);
        assert_tail(dy[0], dy[0].address + 2 * layout.out_padded as u64, layout.rank_padded);
        let d_h = d_h[module].expect("it is the first that is given");
        let tail = (dy[0].tail + 2 * first as u64, dy[0].stride);
        let factor = (packed.b_transposed + (2 * first * layout.out_padded) as u64, layout.out_padded);
        let width = if N == 1 { modules.weight[0].rows } else { layout.out_padded };
        self.skinny(d_h, tail, dy_all, factor, [n_tokens, width, rank]);
    }

    pub(super) fn update_input(&self, dx: &Act, d_h: &Act, a: &super::Weight, n_tokens: usize) {
        let (rank, in_features) = (a.rows, a.cols);
        dx.assert_holds("dx", n_tokens, in_features);
        d_h.assert_holds("d_h", n_tokens, rank);
        self.multiply(
            "low_rank_input",
            Product {
                layout: Layout::Nn,
                shape: [n_tokens, in_features, rank],
                a: (d_h.address, d_h.stride),
                b: a.matrix(),
                c: None,
                bias: None,
                d: (dx.address, dx.stride),
            },
        );
    }

    pub(super) fn update_gradients(
        &self,
        trained: &[Trainable<Self>],
        updates: &[UpdateGradient<'_, Self>],
        n_tokens: usize,
    ) {
        for updates in updates.chunks(PROBLEMS / 2) {
            let mut problems = Problems { problem: [Problem::default(); PROBLEMS], n: 0 };
            let (mut blocks, mut rank) = (0, 0);
            for update in updates {
                let UpdateGradient { a, b, scaling, dy, x, h, d_h } = update;
                let (a, b) = (&trained[*a], &trained[*b]);
                let [out_features, own_rank] = [b.weight.rows, b.weight.cols];
                let in_features = a.weight.cols;
                dy.assert_holds("dy", n_tokens, out_features);
                x.assert_holds("x", n_tokens, in_features);
                for (p, q, out, width, transposed, scale) in
                    [(h, dy, &b.grad, out_features, 1, *scaling), (d_h, x, &a.grad, in_features, 0, 1.0)]
                {
                    problems.problem[problems.n as usize] = Problem {
                        p: p.address,
                        ld_p: p.stride as i32,
                        q: q.address,
                        ld_q: q.stride as i32,
                        out: out.address(),
                        rank: own_rank as i32,
                        width: width as i32,
                        transposed,
                        scale,
                        first_block: blocks as i32,
                    };
                    problems.n += 1;
                    blocks += width.div_ceil(COLUMNS);
                }
                rank = own_rank.max(rank);
            }
            if blocks == 0 {
                continue;
            }
            // Two or three blocks for each of 132 SMs, no less than a step of tokens each, within the workspace.
            let of_split = blocks * rank.div_ceil(8) * TILE_BYTES;
            let splits =
                300usize.div_ceil(blocks).min(n_tokens.div_ceil(TOKENS)).min(WORKSPACE_BYTES / of_split).max(1);
            assert!(of_split <= WORKSPACE_BYTES, "low-rank gradients of {blocks} tiles of rank {rank}");
            let launch = self.kernel(&LOW_RANK, "low_rank_gradients").by_value(problems);
            let launch = launch.address(self.workspace.get()).address(self.counters.get()).int(n_tokens);
            launch.launch(Grid::new([blocks, splits, 1], 256));
        }
    }
}
