//! What `kernels/TARGETS.md` says that a step's kernels move and compute, against what the emulated device counts.

use std::collections::BTreeMap;
use std::path::Path;

use cuda_emulator::Kernel;
use trainer_cuda::batch::TokenExample;
use trainer_cuda::cuda::CudaOptions;

use crate::shapes::{SMOLLM2_135M, Shape};

/// Blocks of SmolLM2-135M. One of them is run here.
const LAYERS: u64 = 30;

#[derive(Debug, Clone, Copy, Default)]
struct Stated {
    launches: u64,
    read_bytes: u64,
    written_bytes: u64,
    flops: u64,
}

#[test]
fn kernels_of_a_step_move_and_compute_what_the_table_of_targets_says() {
    let (emulator, _one) = crate::emulator();
    emulator.set("EXECUTE", "1").expect("the option");
    let options = CudaOptions { graphs: false, ..CudaOptions::default() };
    let shape = Shape { layers: 1, ..SMOLLM2_135M };
    let examples = examples();
    let mut trainer = crate::trainer(&shape, options, crate::config(), &examples);
    let counters = crate::steps(&emulator, &mut trainer, &examples, 1).remove(0);

    let stated = stated();
    assert_eq!(stated.keys().collect::<Vec<_>>(), counters.kernels.keys().collect::<Vec<_>>());
    for (name, stated) in stated {
        let Kernel { launches, global_read_bytes, global_written_bytes, flops, .. } = counters.kernels[&name];
        assert_eq!(launches, stated.launches, "{name}");
        // The device counts what threads ask for, of which caches have a part; what crosses the bus is asked for.
        assert!(stated.read_bytes <= global_read_bytes, "{name}: {stated:?}, reads {global_read_bytes}");
        // Partial sums that stay in L2 are not stated.
        let most = stated.written_bytes + if name == "low_rank_gradients" { 3 << 20 } else { 1 << 10 };
        let written = global_written_bytes;
        assert!((stated.written_bytes..=most).contains(&written), "{name}: {stated:?}, writes {written}");
        // It counts masked pairs of a tile, ranks that fill one up, and what is no product.
        assert!(stated.flops <= flops, "{name}: {stated:?}, computes {flops}");
    }
    let products: u64 = table("| product |").iter().map(|row| row.launches() * flops(&row.0[3])).sum();
    let counted = counters.blas.flops;
    assert!(products.abs_diff(counted) < counted / 1000, "{products} of cuBLASLt, counted {counted}");
}

/// Four sequences of 512 tokens, the last 128 of them labelled.
fn examples() -> Vec<TokenExample> {
    let example = |i: u32| TokenExample {
        input_ids: (0..513).map(|t| (i * 513 + t) % 399 + 1).collect(),
        labels: (0..513).map(|t| t >= 513 - 128).collect(),
        response_start: 513 - 128,
    };
    (0..4).map(example).collect()
}

/// Of all launches of a kernel in a step of one block.
fn stated() -> BTreeMap<String, Stated> {
    let mut kernels = BTreeMap::<String, Stated>::new();
    for row in table("| kernel |").iter().filter(|row| row.launches() > 0) {
        let kernel = kernels.entry(row.0[0].trim_matches('`').to_owned()).or_default();
        // The optimiser's values are of all blocks.
        let share = if ["adamw", "grad_norm"].contains(&row.0[0].trim_matches('`')) { LAYERS } else { 1 };
        kernel.launches += row.launches();
        kernel.read_bytes += row.launches() * megabytes(&row.0[3]) / share;
        kernel.written_bytes += row.launches() * megabytes(&row.0[4]) / share;
        kernel.flops += row.launches() * flops(&row.0[5]);
    }
    kernels
}

struct Row(Vec<String>);

impl Row {
    /// In one block: a kernel that is launched once in a step is not a block's.
    fn launches(&self) -> u64 {
        let column = if self.0[0].starts_with('`') { 2 } else { 1 };
        match self.0[column].parse().unwrap_or(0) {
            of_all if of_all >= LAYERS => of_all / LAYERS,
            once => once,
        }
    }
}

/// The rows of the table whose head starts so.
fn table(head: &str) -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/TARGETS.md");
    let text = std::fs::read_to_string(path).expect("the table");
    let lines = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows: Vec<_> = lines.take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(!rows.is_empty(), "a table `{head}`");
    rows
}

fn cells(line: &str) -> Row {
    Row(line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
}

fn megabytes(cell: &str) -> u64 {
    (cell.parse::<f64>().expect("MB") * 1e6).round() as u64
}

fn flops(cell: &str) -> u64 {
    if cell.is_empty() { 0 } else { (cell.parse::<f64>().expect("GFLOP") * 1e9) as u64 }
}
