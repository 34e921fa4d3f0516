//! What this process has used so far. Linux.

use std::error::Error;
use std::fs;

/// Processor time of all its threads, user and system, in seconds.
pub(crate) fn cpu_seconds() -> f64 {
    let usage = usage();
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// The most memory that it held at once, in MiB.
pub(crate) fn peak_rss_mib() -> f64 {
    usage().ru_maxrss as f64 / 1024.0
}

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

fn usage() -> libc::rusage {
    // SAFETY: an rusage is numbers only, for which zero is a value, and getrusage writes into the one it is given.
    unsafe {
        let mut usage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    }
}
