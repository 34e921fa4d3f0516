use std::collections::BTreeMap;

use serde::Serialize;

/// A kind of GPU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gpu {
    /// What configurations, price lists and engines call it.
    pub name: &'static str,
    /// MiB, as the driver tells them.
    pub memory_mib: u64,
    /// Operations per second of its bf16 products, without sparsity: NVIDIA's data sheets.
    pub bf16_flops: f64,
    /// `(8, 6)`
    pub compute_capability: (u32, u32),
    /// USD an hour, as Modal lists it, of [`LIST_PRICES_OF`].
    pub list_price: f64,
}

/// When Modal's list prices were looked up. They are a start, not an offer: `[remote.prices]` has one's own.
pub const LIST_PRICES_OF: &str = "2026-05";

/// Of the kernels that ship: bf16 products begin with it.
pub const MINIMUM_COMPUTE_CAPABILITY: (u32, u32) = (8, 0);

/// The smallest first; among equals the cheapest.
pub const GPUS: [Gpu; 8] = [
    gpu("T4", 15_360, 0.0, (7, 5), 0.59),
    gpu("L4", 23_034, 121e12, (8, 9), 0.80),
    gpu("A10G", 23_028, 70e12, (8, 6), 1.10),
    gpu("A100-40GB", 40_960, 312e12, (8, 0), 2.10),
    gpu("L40S", 46_068, 362e12, (8, 9), 1.95),
    gpu("A100-80GB", 81_920, 312e12, (8, 0), 2.50),
    gpu("H100", 81_559, 989e12, (9, 0), 3.95),
    gpu("H200", 143_771, 989e12, (9, 0), 4.54),
];

const fn gpu(
    name: &'static str,
    memory_mib: u64,
    bf16_flops: f64,
    compute_capability: (u32, u32),
    list_price: f64,
) -> Gpu {
    Gpu { name, memory_mib, bf16_flops, compute_capability, list_price }
}

impl Gpu {
    /// Bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_mib << 20
    }

    /// Whether it can train at all, whatever the model.
    pub fn can_train(&self) -> bool {
        self.compute_capability >= MINIMUM_COMPUTE_CAPABILITY
    }
}

/// What an hour of a GPU costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Price {
    /// USD.
    pub usd_per_hour: f64,
    /// Whether it is the table's, for want of one's own.
    pub is_list_price: bool,
}

/// Of a GPU of `kind`: what `own` (`[remote.prices]`) says, else the list price. None where the kind has neither. Names are told apart
/// without regard to case.
pub fn price(kind: &str, own: &BTreeMap<String, f64>) -> Option<Price> {
    let own = own.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind)).map(|(_, price)| *price);
    let listed = || GPUS.iter().find(|gpu| gpu.name.eq_ignore_ascii_case(kind)).map(|gpu| gpu.list_price);
    match own {
        Some(usd_per_hour) => Some(Price { usd_per_hour, is_list_price: false }),
        None => listed().map(|usd_per_hour| Price { usd_per_hour, is_list_price: true }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_price_goes_over_the_list_price_whatever_the_case() {
        let own = BTreeMap::from([("a10g".to_owned(), 0.75), ("MI300X".to_owned(), 3.0)]);
        let of = |kind| price(kind, &own).map(|price| (price.usd_per_hour, price.is_list_price));
        assert_eq!(of("A10G"), Some((0.75, false)));
        assert_eq!(of("MI300X"), Some((3.0, false)));
        assert_eq!(of("a100-80gb"), Some((2.50, true)));
        assert_eq!(of("B9000"), None);
    }
}
