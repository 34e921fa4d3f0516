//! The import `tunesmith:plugin/log`: a plugin's lines in the host's log, marked as its own, and no more than its share.

use super::bindings::log::{Host, Level};
use super::error::CallSite;
use super::limits::{CallState, Limits};
use super::text::plain;

/// Characters of one line that are kept.
const MAX_LINE_CHARS: usize = 4096;

/// What a call may still log.
#[derive(Debug)]
pub(super) struct LogBudget {
    site: CallSite,
    limit_bytes: usize,
    bytes: usize,
    lines: usize,
    dropped: u64,
}

impl LogBudget {
    pub(super) fn new(site: CallSite, limit_bytes: usize) -> Self {
        Self { site, limit_bytes, bytes: 0, lines: 0, dropped: 0 }
    }

    /// Bytes of the lines that were kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The line to write for `message`; none where the share is used up.
    fn take(&mut self, message: &str) -> Option<String> {
        let line = plain(message, MAX_LINE_CHARS);
        if self.lines == Limits::LOG_LINES || self.bytes + line.len() > self.limit_bytes {
            self.dropped += 1;
            return None;
        }
        self.lines += 1;
        self.bytes += line.len();
        Some(format!("{} {line}", self.site))
    }

    /// The call is over: what was dropped is told, once.
    pub(super) fn close(&self) {
        if self.dropped > 0 {
            tracing::warn!(
                "{} {} more log lines dropped: a call may log {} lines and {} bytes (`plugins.log_kib`)",
                self.site,
                self.dropped,
                Limits::LOG_LINES,
                self.limit_bytes
            );
        }
    }
}

impl Host for CallState {
    fn write(&mut self, level: Level, message: String) {
        let Some(line) = self.log.take(&message) else { return };
        match level {
            Level::Debug => tracing::debug!("{line}"),
            Level::Info => tracing::info!("{line}"),
            Level::Warn => tracing::warn!("{line}"),
            Level::Error => tracing::error!("{line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit_bytes: usize) -> LogBudget {
        let site = CallSite { plugin: "p".into(), tenant: None, function: "format", batch: Some(1) };
        LogBudget::new(site, limit_bytes)
    }

    #[test]
    fn a_line_is_the_plugins_own_and_forges_no_other() {
        let mut log = budget(100);
        let line = log.take("done\nerror: \x1b[31mtenant b is broken").unwrap();
        assert_eq!(line, "plugin `p`, call `format` of batch 1: done\\nerror: \\u{1b}[31mtenant b is broken");
        assert_eq!(log.bytes(), "done\\nerror: \\u{1b}[31mtenant b is broken".len());
    }

    #[test]
    fn lines_over_the_share_are_dropped_and_counted() {
        let mut log = budget(10);
        assert!(log.take("12345").is_some() && log.take("123456").is_none() && log.take("12345").is_some());
        assert_eq!((log.bytes(), log.lines, log.dropped), (10, 2, 1));

        let mut log = budget(1 << 20);
        assert_eq!((0..300).filter(|_| log.take("x").is_some()).count(), Limits::LOG_LINES);
        assert_eq!(log.dropped, 100);
        let mut log = budget(1 << 20);
        assert_eq!(log.take(&"x".repeat(1 << 20)).unwrap().matches('x').count(), MAX_LINE_CHARS);
    }
}
