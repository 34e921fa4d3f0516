//! Kernels that are right, against the same computed here; and that neither checks nor orders find anything in them.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

#[path = "../common/mod.rs"]
mod common;

mod arithmetic;
mod handwritten;
mod language;
mod matrices;
mod reductions;
mod vectors;
mod warps;

/// All other tests of this binary, each time in a process of its own.
#[test]
fn all_of_them_in_other_orders_and_with_checks() {
    let runs: &[&[(&str, &str)]] = &[
        &[("CHECK", "all")],
        &[("CHECK", "all"), ("ORDER", "reverse")],
        &[("CHECK", "all"), ("ORDER", "random:1")],
        &[("ORDER", "random:2")],
        &[("THREADS", "3"), ("STREAMS", "lazy")],
    ];
    for variables in runs {
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (format!("CUDA_EMULATOR_{name}"), *value)).collect();
        common::rerun(&["--skip", "all_of_them_in_other_orders_and_with_checks"], variables);
    }
}
