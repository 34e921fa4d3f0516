//! How often tokens may be guessed from one address.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures within [`WINDOW`] after which nothing more is tried.
const MOST: usize = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered; when there are more, those whose failures are past are forgotten.
const MOST_ADDRESSES: usize = 10_000;

/// The failures of each address.
#[derive(Default)]
pub(super) struct Throttle(Mutex<HashMap<IpAddr, VecDeque<Instant>>>);

impl Throttle {
    /// Seconds for which an address has to wait, where it has to.
    pub(super) fn wait_s(&self, address: IpAddr, now: Instant) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = all.get_mut(&network(address))?;
        forget(failures, now);
        let first = failures.front().filter(|_| failures.len() >= MOST)?;
        Some((WINDOW - now.duration_since(*first)).as_secs().max(1))
    }

    pub(super) fn failed(&self, address: IpAddr, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_ADDRESSES {
            all.retain(|_, failures| {
                forget(failures, now);
                !failures.is_empty()
            });
        }
        let failures = all.entry(network(address)).or_default();
        failures.push_back(now);
        if failures.len() > MOST {
            failures.pop_front();
        }
    }
}

fn forget(failures: &mut VecDeque<Instant>, now: Instant) {
    while failures.front().is_some_and(|at| now.duration_since(*at) >= WINDOW) {
        failures.pop_front();
    }
}

/// Who has one IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_failures_in_a_minute_are_enough_from_one_address() {
        let throttle = Throttle::default();
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..10 {
            assert_eq!(throttle.wait_s(one, at(second)), None);
            throttle.failed(one, at(second));
        }
        assert_eq!(throttle.wait_s(one, at(10)), Some(50));
        assert_eq!(throttle.wait_s(other, at(10)), None);
        assert_eq!(throttle.wait_s(one, at(59)), Some(1));
        assert_eq!(throttle.wait_s(one, at(60)), None);
        throttle.failed(one, at(60));
        assert_eq!(throttle.wait_s(one, at(60)), Some(1));
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for n in 0..10 {
            throttle.failed(format!("2001:db8::{n}").parse().unwrap(), now);
        }
        assert!(throttle.wait_s("2001:db8::ffff".parse().unwrap(), now).is_some());
        assert_eq!(throttle.wait_s("2001:db8:1::1".parse().unwrap(), now), None);
    }
}
