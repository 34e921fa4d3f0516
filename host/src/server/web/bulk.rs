//! Many items at once: approved after a sample of them, drawn by chance, was looked at and all of it approved; or rejected, with a
//! reason.

use std::sync::Arc;

use axum::extract::State as Shares;
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::failure::Failure;
use super::fields::Posted;
use super::layout;
use super::login::see_other;
use super::query::ItemsQuery;
use super::session::SignedIn;
use crate::approval::{ApprovalError, ApprovalStore, Channel, Decision, Item, Refused, Seen, State, Verdict};
use crate::people::Role;
use crate::server::Shared;

/// Decided by one transaction, for which others wait a second.
const MOST: usize = 10_000;
const PATH: &str = "/review/bulk";

/// What was listed when somebody began.
#[derive(Debug)]
pub(super) struct Bulk {
    query: ItemsQuery,
    approves: bool,
    listed: Vec<Seen>,
    /// Some of those, by their number; empty where the rest is rejected.
    sample: Vec<i64>,
}

/// How far the sample is.
#[derive(Debug, PartialEq, Eq)]
enum Sample {
    /// These are to be decided yet.
    Waits(Vec<i64>),
    Approved,
    /// One was decided otherwise, or by somebody else.
    Ended(String),
}

impl Bulk {
    fn sample(&self, store: &ApprovalStore, who: &str) -> Result<Sample, ApprovalError> {
        let mut waits = Vec::new();
        for &id in &self.sample {
            let listed = self.listed.iter().find(|seen| seen.item == id);
            match (store.item(id)?, listed) {
                (Some(item), Some(listed)) => match of_sample(&item, listed, who) {
                    Ok(true) => {}
                    Ok(false) => waits.push(id),
                    Err(why) => return Ok(Sample::Ended(why)),
                },
                _ => return Ok(Sample::Ended(format!("item {id} is not there"))),
            }
        }
        Ok(if waits.is_empty() { Sample::Approved } else { Sample::Waits(waits) })
    }

    fn verdicts(&self, reason: &str) -> Vec<Verdict> {
        let rest = self.listed.iter().filter(|seen| !self.sample.contains(&seen.item));
        let verdict = |seen: &Seen| Verdict {
            seen: seen.clone(),
            decision: if self.approves { Decision::Approve } else { Decision::Reject },
            reason: Some(reason.to_owned()),
        };
        rest.map(verdict).collect()
    }
}

/// Whether `who` approved an item of a sample as it was listed; or why it is no sample any more.
fn of_sample(item: &Item, listed: &Seen, who: &str) -> Result<bool, String> {
    let by = item.decided_by.as_deref();
    match item.state {
        State::Pending if item.content_sha256 == listed.content_sha256 => Ok(false),
        State::Approved if item.content_sha256 == listed.content_sha256 && by == Some(who) => Ok(true),
        state => Err(format!("item {} of the sample was {} by {}", item.id, state.name(), by.unwrap_or("nobody"))),
    }
}

/// Of `n` items: their root, and three at the least.
fn sample_size(n: usize) -> usize {
    let root = n.isqrt();
    (root + usize::from(root * root < n)).max(3).min(n)
}

/// `size` of the items, each as likely as any other.
fn draw(listed: &[Seen], size: usize, seed: u64) -> Vec<i64> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut ids: Vec<_> = listed.iter().map(|seen| seen.item).collect();
    for place in 0..size.min(ids.len()) {
        // Of 2^64 numbers by at most 10^4: how uneven that is, nobody can tell.
        let left = (ids.len() - place) as u64;
        let other = place + usize::try_from(random.next_u64() % left).unwrap_or_default();
        ids.swap(place, other);
    }
    ids.truncate(size);
    ids.sort_unstable();
    ids
}

/// The way to begin, below a list of pending items.
pub(super) fn start_form(signed_in: &SignedIn, query: &ItemsQuery, pending: u64) -> Markup {
    let offered = query.filter.state == Some(State::Pending) && signed_in.person.role() >= Role::Admin && pending > 0;
    html! {
        @if offered {
            details.bulk {
                summary { "Decide all " (pending) " of these at once" }
                form method="post" action={ (PATH) (query.from_start().text()) } {
                    (signed_in.csrf.field())
                    p { "To approve them, you first decide a sample of them, drawn by chance. To reject them takes a reason." }
                    button type="submit" name="action" value="approve" { "Begin to approve" }
                    " "
                    button.danger type="submit" name="action" value="reject" { "Begin to reject" }
                }
            }
        }
    }
}

/// `POST /review/bulk`
pub(super) async fn start(
    Shares(shared): Shares<Arc<Shared>>,
    query: ItemsQuery,
    Posted { signed_in, fields }: Posted,
) -> Result<Response, Failure> {
    signed_in.check(Role::Admin)?;
    let approves = match fields.get("action") {
        Some("approve") => true,
        Some("reject") => false,
        _ => {
            let message = "The form lacks an `action`: `approve` or `reject`. Nothing was stored.";
            return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Not understood", message));
        }
    };
    let query = query.in_state(Some(State::Pending));
    let filter = query.filter.clone();
    let listed = signed_in.tenant.approvals.read(move |store| store.seen(&filter, MOST + 1)).await?;
    if listed.len() > MOST {
        let message = format!("These are more than {MOST} items: choose some of them by batch, agent, kind or text.");
        return Err(Failure::new(StatusCode::CONFLICT, "Too many", message));
    }
    if listed.is_empty() {
        shared.web.sessions.flash(&signed_in.key, "none of these items is pending".to_owned());
        return Ok(see_other(&format!("/review/items{}", query.text())));
    }
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| Failure::no_random(&error))?;
    let sample = match approves {
        true => draw(&listed, sample_size(listed.len()), u64::from_le_bytes(seed)),
        false => Vec::new(),
    };
    shared.web.sessions.set_bulk(&signed_in.key, Some(Arc::new(Bulk { query, approves, listed, sample })));
    Ok(see_other(PATH))
}

/// `GET /review/bulk`
pub(super) async fn show(Shares(shared): Shares<Arc<Shared>>, signed_in: SignedIn) -> Result<Response, Failure> {
    let Some(bulk) = signed_in.bulk.clone() else { return Ok(see_other("/review")) };
    let (of, who) = (Arc::clone(&bulk), signed_in.person.name().to_owned());
    let sample = signed_in.tenant.approvals.read(move |store| of.sample(store, &who)).await?;
    if matches!(sample, Sample::Ended(_)) {
        shared.web.sessions.set_bulk(&signed_in.key, None);
    }
    let title = if bulk.approves { "Approve many at once" } else { "Reject many at once" };
    let main = html! {
        h1 { (title) }
        (layout::notice(&signed_in, &sample_query(&bulk), true))
        @match &sample {
            Sample::Ended(why) => (ended(why, &bulk)),
            Sample::Waits(waits) => (waiting(waits, &bulk)),
            Sample::Approved => (last_step(&signed_in, &bulk)),
        }
        @if !matches!(sample, Sample::Ended(_)) {
            form method="post" action={ (PATH) "/cancel" } {
                (signed_in.csrf.field())
                p { button type="submit" { "Leave it" } }
            }
        }
        (layout::keys_dialog())
    };
    Ok(layout::page(&signed_in, "/review", title, main))
}

fn ended(why: &str, bulk: &Bulk) -> Markup {
    html! {
        p.alert role="alert" {
            (why) ": the rest is not approved at once. Decide the items one by one, or begin anew."
        }
        p { a href={ "/review/items" (bulk.query.text()) } { "To the items" } }
    }
}

fn waiting(waits: &[i64], bulk: &Bulk) -> Markup {
    let (all, done) = (bulk.sample.len(), bulk.sample.len() - waits.len());
    let query = sample_query(bulk);
    html! {
        p {
            "Of " (bulk.listed.len()) " items a sample of " (all) " was drawn by chance. Decide each of them; if you approve all, the \
             rest can be approved at once."
        }
        p.progress {
            progress aria-label="Sample approved" max=(all) value=(done) {}
            " " (done) " of " (all) " approved"
        }
        @if let Some(first) = waits.first() {
            p { a.primary href={ "/review/items/" (first) (query) } data-key="j" { "Next of the sample: item " (first) } }
        }
    }
}

fn last_step(signed_in: &SignedIn, bulk: &Bulk) -> Markup {
    let rest = bulk.listed.len() - bulk.sample.len();
    html! {
        @if bulk.approves {
            p { "You approved all " (bulk.sample.len()) " of the sample. The other " (rest) " items were not looked at." }
        } @else {
            p { (rest) " items are rejected, each as it was when you began." }
        }
        form.narrow method="post" action={ (PATH) "/finish" } {
            (signed_in.csrf.field())
            @if bulk.approves {
                button.primary type="submit" { "Approve the other " (rest) }
            } @else {
                label for="reason" { "Reason" }
                input id="reason" name="reason" required autocomplete="off" maxlength="2000" data-key="r";
                p { button.danger type="submit" { "Reject " (rest) " items" } }
            }
        }
    }
}

fn sample_query(bulk: &Bulk) -> String {
    ItemsQuery { sample: true, ..bulk.query.clone() }.text()
}

/// `POST /review/bulk/finish`
pub(super) async fn finish(
    Shares(shared): Shares<Arc<Shared>>,
    Posted { signed_in, fields }: Posted,
) -> Result<Response, Failure> {
    signed_in.check(Role::Admin)?;
    let refused =
        |message: &str| Failure::new(StatusCode::CONFLICT, "Not taken", format!("{message}. Nothing was stored."));
    let Some(bulk) = signed_in.bulk.clone() else { return Err(refused("Nothing was begun in this session")) };
    let reason = match (bulk.approves, fields.filled("reason")) {
        (true, _) => format!("bulk of {} after a sample of {}", bulk.listed.len(), bulk.sample.len()),
        (false, Some(reason)) => format!("{reason} (bulk of {})", bulk.listed.len()),
        (false, None) => return Err(refused("To reject many at once takes a reason: go back and give it")),
    };
    let reviewer = signed_in.person.reviewer()?;
    let of = Arc::clone(&bulk);
    let outcomes = signed_in.tenant.approvals.write(move |store| match of.sample(store, reviewer.name())? {
        Sample::Approved => Ok(Ok(store.decide_all(&reviewer, Channel::WebBulk, &of.verdicts(&reason))?)),
        Sample::Waits(waits) => Ok(Err(format!("{} items of the sample are not decided yet", waits.len()))),
        Sample::Ended(why) => Ok(Err(why)),
    });
    let outcomes = outcomes.await?.map_err(|why| refused(&why))?;
    let did = if bulk.approves { "approved" } else { "rejected" };
    shared.web.sessions.set_bulk(&signed_in.key, None);
    shared.web.sessions.flash(&signed_in.key, told(did, &outcomes));
    Ok(see_other(&format!("/review/items{}", bulk.query.text())))
}

fn told(did: &str, outcomes: &[Result<Item, Refused>]) -> String {
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    let taken = outcomes.len() - refused.len();
    match refused.first() {
        None => format!("{did} {taken} items at once"),
        Some(first) => format!("{did} {taken} items at once, and {} not: {first}", refused.len()),
    }
}

/// `POST /review/bulk/cancel`
pub(super) async fn cancel(Shares(shared): Shares<Arc<Shared>>, Posted { signed_in, .. }: Posted) -> Response {
    shared.web.sessions.set_bulk(&signed_in.key, None);
    let query = signed_in.bulk.map(|bulk| bulk.query.text()).unwrap_or_default();
    see_other(&format!("/review/items{query}"))
}

/// Where somebody goes on who decided an item of the sample.
pub(super) async fn after_one(signed_in: &SignedIn) -> Result<String, Failure> {
    let Some(bulk) = signed_in.bulk.clone() else { return Ok("/review".to_owned()) };
    let (query, who) = (sample_query(&bulk), signed_in.person.name().to_owned());
    let sample = signed_in.tenant.approvals.read(move |store| bulk.sample(store, &who)).await?;
    Ok(match sample {
        Sample::Waits(waits) if !waits.is_empty() => format!("/review/items/{}{query}", waits[0]),
        _ => PATH.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(n: i64) -> Vec<Seen> {
        (1..=n).map(|item| Seen { item, version: 1, content_sha256: String::new() }).collect()
    }

    #[test]
    fn a_sample_is_the_root_of_all_and_three_at_least() {
        let sizes = [(1, 1), (2, 2), (3, 3), (9, 3), (10, 4), (16, 4), (17, 5), (100, 10), (101, 11), (10_000, 100)];
        for (n, size) in sizes {
            assert_eq!(sample_size(n), size, "of {n}");
        }
    }

    #[test]
    fn a_sample_is_drawn_by_its_seed_and_every_item_is_as_likely() {
        let all = listed(100);
        let sample = draw(&all, 10, 3);
        assert_eq!(sample, draw(&all, 10, 3));
        assert_ne!(sample, draw(&all, 10, 4));
        assert_eq!(sample.len(), 10);
        assert!(sample.windows(2).all(|pair| pair[0] < pair[1]), "{sample:?}");
        assert_eq!(draw(&listed(3), 3, 0), [1, 2, 3]);

        let mut times = vec![0; 101];
        for seed in 0..4000 {
            for id in draw(&all, 10, seed) {
                times[usize::try_from(id).unwrap()] += 1;
            }
        }
        // 400 each, with a deviation of 19: six of them.
        assert!(times[1..].iter().all(|times| (286..514).contains(times)), "{times:?}");
    }
}
