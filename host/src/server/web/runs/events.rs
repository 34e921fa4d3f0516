//! `/runs/{name}/events`: what changes on a run's page while it trains, as server-sent events.
//!
//! A stream ends when its run does, when its person is signed out, and with the server.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use maud::Markup;
use serde_json::json;

use super::page;
use crate::server::Shared;
use crate::server::run_folders::{RunFolder, RunFolders, RunState, Series, Tail};
use crate::server::streams::Place;
use crate::server::web::session::SignedIn;

/// A step takes some milliseconds; more often is not seen.
const EVERY: Duration = Duration::from_millis(500);
/// Between two questions whether the person is still signed in, and whether the run lives.
const CHECK: Duration = Duration::from_secs(2);
/// A proxy ends what is silent for a minute.
const ALIVE: Duration = Duration::from_secs(15);

/// One page that watches a run.
struct Watch {
    shared: Arc<Shared>,
    signed_in: SignedIn,
    runs: RunFolders,
    folder: RunFolder,
    tail: Tail,
    checked: Instant,
    sent: bool,
    ended: bool,
    _place: Place,
}

/// What a look at the run gave.
struct Look {
    folder: Option<RunFolder>,
    tail: Tail,
    changed: bool,
}

/// Follows the run in `folder`.
pub(super) fn stream(
    shared: Arc<Shared>,
    signed_in: SignedIn,
    runs: RunFolders,
    folder: RunFolder,
    place: Place,
) -> Response {
    let (tail, checked) = (Tail::new(), Instant::now());
    let watch = Watch { shared, signed_in, runs, folder, tail, checked, sent: false, ended: false, _place: place };
    let events = futures_util::stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Some((Ok::<_, Infallible>(event), watch))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)).into_response()
}

impl Watch {
    async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        loop {
            if self.sent {
                tokio::select! {
                    () = tokio::time::sleep(EVERY) => {}
                    () = self.shared.streams.closing() => return None,
                }
            }
            if self.checked.elapsed() > CHECK {
                self.checked = Instant::now();
                if !self.signed_in.is_still(&self.shared) {
                    return None;
                }
            }
            let look = self.look().await?;
            self.tail = look.tail;
            let state = look.folder.as_ref().map(RunFolder::state);
            if state != Some(RunState::Training) && self.sent && !look.changed {
                self.ended = true;
                return Some(Event::default().event("end").data(state.map_or("gone", RunState::name)));
            }
            if let Some(folder) = look.folder {
                self.folder = folder;
            }
            if look.changed || !self.sent {
                self.sent = true;
                return Some(change(self.tail.series()));
            }
        }
    }

    /// Files are read where nobody waits for it; `None` where that failed.
    async fn look(&mut self) -> Option<Look> {
        let (runs, folder, mut tail) = (self.runs.clone(), self.folder.clone(), std::mem::take(&mut self.tail));
        let look = tokio::task::spawn_blocking(move || {
            let changed = tail.read(&folder.path).unwrap_or_else(|error| {
                tracing::debug!("`{}` can't be followed: {error}", folder.path.display());
                false
            });
            Look { folder: runs.find(&folder.name), tail, changed }
        });
        look.await.ok()
    }
}

/// The inner HTML of elements by their ids.
fn change(series: &Series) -> Event {
    let parts = page::changing(RunState::Training, series)
        .map(|(id, markup)| (id.to_owned(), json!(Markup::into_string(markup))));
    let parts: serde_json::Map<_, _> = parts.into_iter().collect();
    Event::default().event("change").data(serde_json::Value::from(parts).to_string())
}
