//! How long this process has been running. Linux.

use std::error::Error;
use std::fs;

/// Wall time since the system started it, in steps of 10 ms: loading the program counts.
pub(crate) fn seconds_since_start() -> Result<f64, Box<dyn Error>> {
    const TICKS_PER_SECOND: f64 = 100.0; // Linux's USER_HZ, whatever the kernel's own clock
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field is the program's name, which may hold anything; `starttime` is field 22.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let started: f64 = after_name.split_whitespace().nth(19).ok_or("no start time in /proc/self/stat")?.parse()?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let now: f64 = uptime.split_whitespace().next().ok_or("nothing in /proc/uptime")?.parse()?;
    Ok(now - started / TICKS_PER_SECOND)
}
