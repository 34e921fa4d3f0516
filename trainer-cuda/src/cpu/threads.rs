//! The threads of a [`super::Cpu`]. A training step has thousands of parallel regions of some 100 us, so a region must
//! start and end within a microsecond: threads wait for the next one by spinning, and sleep only after [`SPIN`].

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread looks for work before it sleeps: waking one up costs about as much.
const SPIN: Duration = Duration::from_micros(50);

/// Threads beside the caller's.
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// Held by the region that runs.
    region: Mutex<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `n` threads, or as many of them as the system allows.
    pub(super) fn new(n: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { body: &|_| {}, tasks: 0 }),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            quit: Mutex::new(false),
            wake: Condvar::new(),
        });
        let start = |i| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("cpu-device-{i}")).spawn(move || shared.work())
        };
        let started = (0..n).map(start).map_while(|thread| {
            thread.inspect_err(|error| tracing::warn!(n, %error, "cannot start all threads; going on with fewer")).ok()
        });
        let threads = started.collect();
        Pool { shared, region: Mutex::new(()), threads }
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Calls `body` with each of `0..tasks` once, on this thread and those of the pool that are free.
    ///
    /// A region inside a region, or beside that of another caller, runs on its caller's thread alone.
    pub(super) fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        let Ok(_region) = self.region.try_lock() else {
            return (0..tasks).for_each(body);
        };
        let shared = &*self.shared;
        // SAFETY: extends the borrow to outlive the region's threads; `Open` waits for them before it ends.
        let body = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(body) };
        // SAFETY: the region is closed and empty, so no thread looks at the job.
        unsafe { *shared.job.get() = Job { body, tasks } };
        shared.next.store(0, Ordering::Relaxed);
        let open = Open::new(shared);
        shared.run_tasks(Job { body, tasks });
        drop(open);
        assert!(!shared.panicked.load(Ordering::Relaxed), "a thread of the device panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        *self.shared.quit.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // It catches the panics of its tasks and has no others.
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Copy)]
struct Job {
    body: &'static (dyn Fn(usize) + Sync),
    tasks: usize,
}

struct Shared {
    /// `REGION` times the region's number, `OPEN` while threads may enter it, and how many are inside.
    state: AtomicU64,
    job: UnsafeCell<Job>,
    /// The task that is claimed next.
    next: AtomicUsize,
    panicked: AtomicBool,
    sleepers: AtomicUsize,
    quit: Mutex<bool>,
    wake: Condvar,
}

const OPEN: u64 = 1 << 16;
const REGION: u64 = 1 << 17;

// SAFETY: `job` is written only while the region is closed and empty, and read only by those inside it.
unsafe impl Sync for Shared {}

impl Shared {
    fn work(&self) {
        let mut last = 0;
        while let Some(state) = self.wait(last) {
            if self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            last = state / REGION;
            // SAFETY: inside an open region, and it can't end before this thread leaves it.
            let job = unsafe { *self.job.get() };
            if catch_unwind(AssertUnwindSafe(|| self.run_tasks(job))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    fn run_tasks(&self, job: Job) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= job.tasks {
                return;
            }
            (job.body)(task);
        }
    }

    /// The state of an open region after `last`; `None` where the pool ends.
    fn wait(&self, last: u64) -> Option<u64> {
        let open = || Some(self.state.load(Ordering::Relaxed)).filter(|s| s & OPEN != 0 && s / REGION != last);
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..64 {
                if let Some(state) = open() {
                    return Some(state);
                }
                std::hint::spin_loop();
            }
        }
        let mut quit = self.quit.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst); // either this sees the open region, or `Open::new` sees the sleeper
        let found = loop {
            match open() {
                _ if *quit => break None,
                Some(state) => break Some(state),
                None => quit = self.wake.wait(quit).unwrap_or_else(PoisonError::into_inner),
            }
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        found
    }
}

/// An open region: closes it when dropped, and waits for those inside.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        let region = shared.state.load(Ordering::Relaxed) / REGION + 1;
        shared.state.store((region * REGION) | OPEN, Ordering::Release);
        fence(Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _quit = shared.quit.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
        }
        Open(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // Where the caller's own task panicked, the others stop at their next.
        self.0.next.fetch_max(usize::MAX / 2, Ordering::Relaxed);
        self.0.state.fetch_and(!OPEN, Ordering::Relaxed);
        let start = Instant::now();
        while !self.0.state.load(Ordering::Acquire).is_multiple_of(OPEN) {
            match start.elapsed() < SPIN {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(), // there may be fewer processors than threads
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_however_threads_sleep_and_wake() {
        let pool = Pool::new(3);
        for round in 0..2000 {
            let tasks = round % 37;
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, &|task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            if round % 200 == 0 {
                std::thread::sleep(4 * SPIN);
            }
        }
    }

    #[test]
    fn a_region_inside_a_region_runs_on_its_callers_thread() {
        let pool = Pool::new(1);
        let count = AtomicUsize::new(0);
        pool.run(4, &|_| {
            let outer = std::thread::current().id();
            pool.run(5, &|_| {
                assert_eq!(std::thread::current().id(), outer);
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.into_inner(), 20);
    }

    #[test]
    fn a_panic_in_any_task_reaches_the_caller() {
        let pool = Pool::new(2);
        for bad in [0, 63] {
            let run = || pool.run(64, &|task| assert!(task != bad, "task {task}"));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
            pool.shared.panicked.store(false, Ordering::Relaxed);
        }
    }
}
