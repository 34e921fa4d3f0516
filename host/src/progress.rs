//! How far a run is, on standard error: bars on a terminal, plain lines otherwise.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::HostError;

/// A plain line of a stage that goes on appears this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where stages report to.
#[derive(Debug, Clone)]
pub struct Progress {
    output: Output,
    stop: Option<&'static AtomicBool>,
}

#[derive(Debug, Clone)]
enum Output {
    Bars(MultiProgress),
    Lines,
    Silent,
}

impl Progress {
    /// Bars where standard error is a terminal, lines otherwise.
    pub fn on_stderr() -> Self {
        let output = match io::stderr().is_terminal() {
            true => Output::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr())),
            false => Output::Lines,
        };
        Self { output, stop: None }
    }

    /// Says nothing: for tests, and for use as a library.
    pub fn silent() -> Self {
        Self { output: Output::Silent, stop: None }
    }

    /// A run that reports here ends where `stop` becomes true.
    pub fn stopped_by(self, stop: &'static AtomicBool) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// Asked between batches and between steps.
    ///
    /// # Errors
    /// [`HostError::Interrupted`].
    pub fn check_stop(&self) -> Result<(), HostError> {
        match self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(HostError::Interrupted),
            _ => Ok(()),
        }
    }

    /// Starts a stage of `total` steps; 0 where that is not known.
    pub fn stage(&self, name: &'static str, total: u64) -> Stage {
        let bar = match &self.output {
            Output::Bars(bars) => Some(bars.add(ProgressBar::new(total).with_style(style(total)).with_prefix(name))),
            Output::Lines | Output::Silent => None,
        };
        let lines = matches!(self.output, Output::Lines);
        Stage { name, total, bar, lines, start: Instant::now(), last_line: Mutex::new(Instant::now()) }
    }

    /// A writer for log lines that does not tear the bars.
    pub fn log_writer(&self) -> LogWriter {
        LogWriter(self.clone())
    }
}

/// A stage of the run; its end is told by [`Stage::finish`], and a stage that failed just goes away.
#[derive(Debug)]
pub struct Stage {
    name: &'static str,
    total: u64,
    bar: Option<ProgressBar>,
    lines: bool,
    start: Instant,
    last_line: Mutex<Instant>,
}

impl Stage {
    /// `done` steps are behind us.
    pub fn at(&self, done: u64, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(detail.to_owned());
        }
        let mut last_line = self.last_line.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.lines && last_line.elapsed() >= LINE_EVERY {
            *last_line = Instant::now();
            let of = if self.total > 0 { format!("/{}", self.total) } else { String::new() };
            eprintln!("{:<10} {done}{of}  {detail}", self.name);
        }
    }

    /// Ends the stage with what it did; returns how long it took.
    pub fn finish(self, what: &str) -> Duration {
        let took = self.start.elapsed();
        let line = format!("{:<10} {what} ({:.1} s)", self.name, took.as_secs_f64());
        match self.bar {
            Some(bar) => {
                bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.finish_with_message(line);
            }
            None if self.lines => eprintln!("{line}"),
            None => {}
        }
        took
    }
}

fn style(total: u64) -> ProgressStyle {
    let template = match total {
        0 => "{prefix:<10} {spinner} {pos}  {msg}",
        _ => "{prefix:<10} {bar:30} {pos}/{len}  {msg}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// See [`Progress::log_writer`].
#[derive(Debug, Clone)]
pub struct LogWriter(Progress);

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &self.0.output {
            Output::Bars(bars) => bars.suspend(|| io::stderr().write(line)),
            Output::Lines | Output::Silent => io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
