//! What a job could cost at most, before it is handed in.

use std::time::Duration;

use super::{GRACE, RemoteError};
use crate::config::RemoteConfig;
use crate::gpus;

/// The key of `[remote.prices]` for jobs without a GPU: USD an hour of a machine.
const CPU: &str = "cpu";

/// USD that `attempts_left` more attempts at a job can come to, with the `spent` time of those before: each as long as it may be, all
/// machines and GPUs at their hourly price. `None` where nothing limits it (`max_cost_usd`) and the price is not known.
///
/// An engine may round up to minutes and charges for its own start; neither is in it.
///
/// # Errors
/// [`RemoteError::Cost`] where it is more than `max_cost_usd`, [`RemoteError::Config`] where that is set and the price is not known.
pub fn ceiling(config: &RemoteConfig, attempts_left: u32, spent: Duration) -> Result<Option<f64>, RemoteError> {
    let Some(price) = Price::of(config) else {
        return match config.max_cost_usd {
            None => Ok(None),
            Some(ceiling) => Err(unknown_price(config, ceiling)),
        };
    };
    let longest = config.timeout + GRACE;
    let estimate = price.usd(longest * attempts_left + spent);
    match config.max_cost_usd {
        Some(ceiling) if estimate > ceiling => {
            Err(RemoteError::Cost { estimate, how: price.told(longest, attempts_left, spent), ceiling })
        }
        _ => Ok(Some(estimate)),
    }
}

/// Before a job is handed in for the first time: what all its attempts can come to is within `max_cost_usd`.
///
/// # Errors
/// Those of [`ceiling`].
pub fn check(config: &RemoteConfig) -> Result<(), RemoteError> {
    ceiling(config, config.max_attempts, Duration::ZERO).map(drop)
}

/// USD of `spent`, the time of all attempts on their machines; `None` where the price is not known.
pub fn of(config: &RemoteConfig, spent: Duration) -> Option<f64> {
    Some(Price::of(config)?.usd(spent))
}

/// What an hour costs, and how many of what it is paid for.
struct Price {
    usd_per_hour: f64,
    units: u32,
    what: String,
    is_list_price: bool,
}

impl Price {
    fn of(config: &RemoteConfig) -> Option<Self> {
        let resources = &config.resources;
        let Some(gpu) = &resources.gpu else {
            // A machine that nobody put a price on is one's own.
            let usd_per_hour = config.prices.get(CPU).copied().unwrap_or(0.0);
            return Some(Self {
                usd_per_hour,
                units: resources.nodes,
                what: "machine".to_owned(),
                is_list_price: false,
            });
        };
        let price = gpus::price(gpu, &config.prices)?;
        let (usd_per_hour, is_list_price) = (price.usd_per_hour, price.is_list_price);
        Some(Self { usd_per_hour, units: resources.gpu_count * resources.nodes, what: gpu.clone(), is_list_price })
    }

    fn usd(&self, time: Duration) -> f64 {
        self.usd_per_hour * f64::from(self.units) * time.as_secs_f64() / 3600.0
    }

    /// `4 A10G at 1.10 USD an hour, 3 attempts of 3720 s`
    fn told(&self, longest: Duration, attempts: u32, spent: Duration) -> String {
        let Self { usd_per_hour, units, what, is_list_price } = self;
        let list = if *is_list_price { format!(", the list price of {}", gpus::LIST_PRICES_OF) } else { String::new() };
        let before = match spent.as_secs() {
            0 => String::new(),
            seconds => format!(", and the {seconds} s of those before"),
        };
        let plural = if attempts == 1 { "attempt" } else { "attempts" };
        format!(
            "{units} {what} at {usd_per_hour:.2} USD an hour{list}; {attempts} {plural} of {} s{before}",
            longest.as_secs()
        )
    }
}

fn unknown_price(config: &RemoteConfig, ceiling: f64) -> RemoteError {
    let kind = config.resources.gpu.as_deref().unwrap_or(CPU);
    RemoteError::Config {
        key: "remote.prices",
        message: format!(
            "`remote.max_cost_usd` is {ceiling:.2}, and what an hour of `{kind}` costs is not known; add `{} = USD` to \
             `[remote.prices]`, or take the limit away",
            toml_key(kind)
        ),
    }
}

/// As a TOML file has it.
fn toml_key(kind: &str) -> String {
    let is_bare = kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') && !kind.is_empty();
    if is_bare { kind.to_owned() } else { format!("{kind:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    fn config(toml: &str) -> RemoteConfig {
        let options: Options = toml::from_str(&format!("backend_provider = \"kubernetes\"\n{toml}")).unwrap();
        RemoteConfig::new(&options).unwrap()
    }

    #[test]
    fn a_job_may_cost_what_all_its_gpus_cost_in_all_its_attempts() {
        let config =
            config("gpu = \"A10G\"\ngpu_count = 2\ntimeout = 3480\n[remote]\nnodes = 2\nprices = { A10G = 1.5 }");
        // 4 GPUs, 3 attempts of an hour each
        assert_eq!(ceiling(&config, 3, Duration::ZERO).unwrap(), Some(18.0));
        // and half an hour of an attempt before them
        assert_eq!(ceiling(&config, 2, Duration::from_secs(1800)).unwrap(), Some(15.0));
        assert_eq!(of(&config, Duration::from_secs(1800)), Some(3.0));
    }

    #[test]
    fn a_job_that_could_cost_more_than_it_may_is_refused_with_how_that_is_reckoned() {
        let config = config("gpu = \"A100-80GB\"\ngpu_count = 8\n[remote]\nmax_cost_usd = 50.0");
        let told = ceiling(&config, 3, Duration::from_secs(60)).unwrap_err().to_string();
        assert_eq!(
            told,
            "this could cost 62.33 USD (8 A100-80GB at 2.50 USD an hour, the list price of 2026-05; 3 attempts of 3720 s, and the \
             60 s of those before), and `remote.max_cost_usd` is 50.00; raise that, or lower `timeout`, `gpu_count`, \
             `remote.nodes` or `remote.max_attempts`"
        );
        assert_eq!(ceiling(&config, 1, Duration::ZERO).unwrap().map(|usd| (usd * 100.0).round()), Some(2067.0));
    }

    #[test]
    fn a_limit_needs_a_price_and_says_which_key_has_it() {
        let limited = config("gpu = \"GB300 NVL\"\n[remote]\nmax_cost_usd = 5.0");
        assert_eq!(
            ceiling(&limited, 1, Duration::ZERO).unwrap_err().to_string(),
            "`remote.prices`: `remote.max_cost_usd` is 5.00, and what an hour of `GB300 NVL` costs is not known; add \
             `\"GB300 NVL\" = USD` to `[remote.prices]`, or take the limit away"
        );
        assert_eq!(ceiling(&config("gpu = \"GB300 NVL\""), 1, Duration::ZERO).unwrap(), None);
    }

    #[test]
    fn a_job_without_a_gpu_costs_nothing_unless_its_machine_has_a_price() {
        let free = config("gpu = \"none\"\n[remote]\nmax_cost_usd = 0.01");
        assert_eq!(ceiling(&free, 3, Duration::ZERO).unwrap(), Some(0.0));
        let paid = config("gpu = \"none\"\ntimeout = 3480\n[remote]\nnodes = 2\nprices = { cpu = 0.2 }");
        assert_eq!(ceiling(&paid, 1, Duration::ZERO).unwrap(), Some(0.4));
    }
}
