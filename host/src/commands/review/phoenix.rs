//! `tunesmith review push` and `poll`

use crate::approval::ApprovalStore;
use crate::commands::Answer;
use crate::config::PhoenixConfig;
use crate::error::HostError;
use crate::phoenix::{Phoenix, Server};
use crate::review;

pub(super) fn push(store: &ApprovalStore, config: &PhoenixConfig, batch: Option<i64>) -> Result<Answer, HostError> {
    let report = review::push(store, &connect(config)?, &config.project, batch)?;
    let text = format!(
        "{} items are shown in `{}` of {}, and {} were there; people annotate them with `human_approval`, and \
         `tunesmith review poll` takes that as their decisions",
        report.new, config.project, config.url, report.there
    );
    Ok(Answer::new(text, &report))
}

pub(super) fn poll(store: &mut ApprovalStore, config: &PhoenixConfig) -> Result<Answer, HostError> {
    let polled = review::poll(store, &connect(config)?, &config.project)?;
    for left in &polled.left {
        tracing::warn!("item {}: {}", left.item, left.why);
    }
    let text = format!(
        "{} decisions of people in `{}` of {} were taken, {} had been before, {} were not",
        polled.decided,
        config.project,
        config.url,
        polled.known,
        polled.left.len()
    );
    Ok(Answer::new(text, &polled))
}

fn connect(config: &PhoenixConfig) -> Result<Phoenix, HostError> {
    Ok(Phoenix::new(Server::new(&config.url, config.api_key_file.as_deref(), config.key_of_environment)?)?)
}
