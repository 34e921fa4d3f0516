use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;

use super::{GPUS, Gpu, GpuError, Price, price};

/// Bytes of a GPU that are not the plan's to use: CUDA's context, its libraries, what the driver keeps.
pub const RESERVE_BYTES: u64 = 1 << 30;

/// Share of a GPU's peak that a training is reckoned with. Small models reach less, long batches of large ones more.
pub const UTILISATION: f64 = 0.30;

/// What a training takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Load {
    /// Of the memory plan, on a GPU.
    pub bytes: u64,
    /// Of all its steps.
    pub flops: f64,
}

/// The table, with what the training is on each.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// The smallest that fits, by its name.
    pub smallest: &'static str,
    /// The one on which the training costs least, by its name: often a larger one, which is done sooner.
    pub cheapest: &'static str,
    /// All of them, the smallest first.
    pub gpus: Vec<Row>,
}

/// A GPU, and the training on it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// What it is.
    #[serde(flatten)]
    pub gpu: Gpu,
    /// What an hour of it costs.
    #[serde(flatten)]
    pub price: Price,
    /// Whether the plan and the reserve are within its memory, and it can train at all.
    pub fits: bool,
    /// Seconds of training, by [`UTILISATION`]; none where it does not fit.
    pub seconds: Option<f64>,
    /// USD of them.
    pub usd: Option<f64>,
}

/// The smallest GPU that `load` fits, with `own` prices over the list's.
///
/// # Errors
/// [`GpuError::TooLarge`], with `remedy` in it.
pub fn recommend(
    load: Load,
    own: &BTreeMap<String, f64>,
    remedy: impl FnOnce() -> String,
) -> Result<Recommendation, GpuError> {
    let needed = load.bytes + RESERVE_BYTES;
    let rows: Vec<_> = GPUS.iter().filter_map(|gpu| Some(row(gpu, load, needed, price(gpu.name, own)?))).collect();
    let fitting = || rows.iter().filter(|row| row.fits);
    // A few MiB more or less make no other size of two that are sold as the same: then it is what the training costs.
    let size = |row: &Row| row.gpu.memory_mib / 1000;
    let by_cost = |a: &&Row, b: &&Row| a.usd.partial_cmp(&b.usd).unwrap_or(Ordering::Equal);
    let smallest = fitting().min_by(|a, b| size(a).cmp(&size(b)).then_with(|| by_cost(a, b)));
    match (smallest, fitting().min_by(by_cost)) {
        (Some(smallest), Some(cheapest)) => {
            Ok(Recommendation { smallest: smallest.gpu.name, cheapest: cheapest.gpu.name, gpus: rows.clone() })
        }
        _ => {
            let largest = GPUS[GPUS.len() - 1];
            Err(GpuError::TooLarge { needed, name: largest.name, has: largest.memory_bytes(), remedy: remedy() })
        }
    }
}

fn row(gpu: &Gpu, load: Load, needed: u64, price: Price) -> Row {
    let fits = gpu.can_train() && needed <= gpu.memory_bytes();
    let seconds = fits.then(|| load.flops / (gpu.bf16_flops * UTILISATION));
    let usd = seconds.map(|seconds| seconds / 3600.0 * price.usd_per_hour);
    Row { gpu: *gpu, price, fits, seconds, usd }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn of(gib: f64, own: &[(&str, f64)]) -> Result<Recommendation, GpuError> {
        let own = own.iter().map(|(name, price)| ((*name).to_owned(), *price)).collect();
        // An hour of an A100 at the stated utilisation.
        let load = Load { bytes: (gib * GIB as f64) as u64, flops: 312e12 * UTILISATION * 3600.0 };
        recommend(load, &own, || "train less".to_owned())
    }

    #[test]
    fn the_smallest_gpu_with_room_for_plan_and_reserve_is_recommended() {
        let smallest = |gib| of(gib, &[]).unwrap().smallest;
        // A T4 would have room, and can't train.
        assert_eq!(smallest(1.0), "L4");
        assert_eq!(smallest(21.4), "L4");
        assert_eq!(smallest(21.6), "A100-40GB");
        assert_eq!(smallest(40.0), "L40S");
        // Of the two with 80 GB the H100 is done in a third of the time at a similar price.
        assert_eq!(smallest(70.0), "H100");
        assert_eq!(smallest(100.0), "H200");
        assert!(of(1.0, &[]).unwrap().gpus.iter().all(|row| row.fits == (row.gpu.name != "T4")));
    }

    #[test]
    fn among_equals_the_price_of_the_training_decides_not_that_of_the_hour() {
        assert_eq!(of(1.0, &[("L4", 2.0)]).unwrap().smallest, "A10G");
        // An A10G needs 121 / 70 times as long.
        assert_eq!(of(1.0, &[("L4", 2.0), ("A10G", 1.2)]).unwrap().smallest, "L4");
    }

    #[test]
    fn time_and_cost_follow_from_the_peak_the_utilisation_and_the_price() {
        let recommendation = of(1.0, &[("A100-80GB", 2.5)]).unwrap();
        let row = |name| *recommendation.gpus.iter().find(|row| row.gpu.name == name).unwrap();
        let a100 = row("A100-80GB");
        assert_eq!((a100.seconds, a100.usd, a100.price.is_list_price), (Some(3600.0), Some(2.5), false));
        assert_eq!(row("H100").seconds.map(f64::round), Some(1136.0)); // 3600 x 312 / 989
        assert_eq!((row("T4").seconds, row("T4").usd), (None, None));
        // 3.95 an hour for 989 of them: nothing is cheaper by the operation.
        assert_eq!(recommendation.cheapest, "H100");
    }

    #[test]
    fn what_no_gpu_has_room_for_is_refused_with_the_nearest_and_what_to_do() {
        assert_eq!(
            of(150.0, &[]).unwrap_err().to_string(),
            "no single GPU has room for this training: it takes 151.00 GiB with the reserve, and the nearest, H200, has 140.40 \
             GiB; train less; more GPUs help little, as each holds the whole model"
        );
    }
}
