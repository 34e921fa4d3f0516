//! `POST /review/items/{id}/decide`

use std::sync::Arc;

use axum::extract::{Path, State as Shares};
use axum::http::StatusCode;
use axum::response::Response;

use super::bulk;
use super::failure::Failure;
use super::fields::{Fields, Posted};
use super::item::{self, NotTaken};
use super::login::see_other;
use super::query::ItemsQuery;
use super::session::{Last, SignedIn};
use crate::approval::{ApprovalError, Channel, Content, Cursor, Decision, Filter, Item, Refused, Seen, State, Verdict};
use crate::server::Shared;

pub(super) async fn decide(
    Shares(shared): Shares<Arc<Shared>>,
    Path(id): Path<String>,
    query: ItemsQuery,
    Posted { signed_in, fields }: Posted,
) -> Result<Response, Failure> {
    let id = id.parse().map_err(|_| Failure::no_such_item(&id))?;
    let reviewer = signed_in.person.reviewer()?;
    let seen = seen(id, &fields)?;
    let decision = decision(&signed_in, id, &fields).await?;
    let reason = fields.filled("reason").map(str::to_owned);
    let verdict = Verdict { seen, decision, reason };
    let taken = verdict.clone();
    let outcome = signed_in.tenant.approvals.write(move |store| store.decide(&reviewer, Channel::Web, &taken)).await;
    match outcome {
        Ok(item) => {
            let next = next(&signed_in, &query, &item, &verdict.decision).await?;
            remember(&shared, &signed_in, &item, &verdict.decision);
            Ok(see_other(&next))
        }
        Err(error) => not_taken(&signed_in, &query, verdict, &fields, error).await,
    }
}

/// What the person saw.
fn seen(item: i64, fields: &Fields) -> Result<Seen, Failure> {
    let version = fields.get("version").and_then(|version| version.parse().ok());
    match (version, fields.filled("content_sha256")) {
        (Some(version), Some(sha256)) => Ok(Seen { item, version, content_sha256: sha256.to_owned() }),
        _ => Err(incomplete("the `version` and `content_sha256` of the item that was seen")),
    }
}

fn incomplete(what: &str) -> Failure {
    let message = format!("The form lacks {what}. Nothing was stored.");
    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Not understood", message)
}

async fn decision(signed_in: &SignedIn, id: i64, fields: &Fields) -> Result<Decision, Failure> {
    match fields.get("action") {
        Some("approve") => Ok(Decision::Approve),
        Some("reject") => Ok(Decision::Reject),
        Some("undo") => Ok(Decision::Undo),
        Some("edit") => {
            let item = signed_in.tenant.approvals.read(move |store| store.item(id)).await?;
            let item = item.ok_or_else(|| Failure::no_such_item(&id.to_string()))?;
            edited(item.content, fields).map(Decision::Edit)
        }
        _ => Err(incomplete("an `action`: `approve`, `reject`, `edit` or `undo`")),
    }
}

/// The texts of the form over those of the item.
fn edited(mut content: Content, fields: &Fields) -> Result<Content, Failure> {
    for (name, text) in content.fields_mut() {
        let given = fields.get(name).ok_or_else(|| incomplete(&format!("the text `{name}`")))?;
        // Browsers send every line end as CR LF, whatever it was.
        let given = line_ends(given);
        if given != line_ends(text) {
            *text = given;
        }
    }
    Ok(content)
}

fn line_ends(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Where the person goes on: the next pending item of their query, or the first where they are at the end; after an undo the item
/// itself.
async fn next(signed_in: &SignedIn, query: &ItemsQuery, item: &Item, decision: &Decision) -> Result<String, Failure> {
    let own = query.from_start().text();
    if *decision == Decision::Undo {
        return Ok(format!("/review/items/{}{own}", item.id));
    }
    if query.sample {
        return bulk::after_one(signed_in).await;
    }
    let pending = Filter { state: Some(State::Pending), ..query.filter.clone() };
    let after = Cursor(item.id);
    let next = signed_in.tenant.approvals.read(move |store| {
        let seen = |after| Ok::<_, ApprovalError>(store.items(&pending, after, 1)?.items.pop().map(|item| item.id));
        Ok(seen(Some(after))?.or(seen(None)?))
    });
    Ok(match next.await? {
        Some(next) => format!("/review/items/{next}{own}"),
        None => format!("/review/items{own}"),
    })
}

fn remember(shared: &Shared, signed_in: &SignedIn, item: &Item, decision: &Decision) {
    let (sessions, key) = (&shared.web.sessions, &signed_in.key);
    let did = decision.action();
    if *decision == Decision::Undo {
        sessions.set_last(key, None);
        sessions.flash(key, format!("item {} is pending again", item.id));
        return;
    }
    let seen = Seen { item: item.id, version: item.version, content_sha256: item.content_sha256.clone() };
    sessions.set_last(key, Some(Last { seen, did }));
    sessions.flash(key, format!("{} item {} - undo: u", did.name(), item.id));
}

/// The item again as it is now, with what is wrong and what the person wrote.
async fn not_taken(
    signed_in: &SignedIn,
    query: &ItemsQuery,
    verdict: Verdict,
    fields: &Fields,
    error: ApprovalError,
) -> Result<Response, Failure> {
    if matches!(error, ApprovalError::Refused(Refused::NoSuchItem { .. })) {
        return Err(error.into());
    }
    let failure = Failure::from(error);
    let written = match verdict.decision {
        Decision::Edit(written) => Some(written),
        Decision::Approve | Decision::Reject | Decision::Undo => None,
    };
    let not_taken = NotTaken {
        status: failure.status,
        message: failure.message.clone(),
        written,
        reason: fields.get("reason").unwrap_or_default().to_owned(),
    };
    item::page(signed_in, verdict.seen.item, query, Some(not_taken)).await.map_err(|_| failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(output: &str) -> Content {
        Content::Instruction { instruction: "route".to_owned(), input: "a\r\nb".to_owned(), output: output.to_owned() }
    }

    #[test]
    fn line_ends_that_a_browser_changed_are_no_edit() {
        let fields = Fields::parse(b"instruction=route&input=a%0D%0Ab&output=x%0D%0Ay");
        assert_eq!(edited(content("x\ny"), &fields).unwrap(), content("x\ny"));
        assert_eq!(edited(content("x"), &fields).unwrap(), content("x\ny"));
    }

    #[test]
    fn an_edit_without_all_its_texts_is_refused() {
        let fields = Fields::parse(b"instruction=route&input=a");
        let failure = edited(content("x"), &fields).unwrap_err();
        assert_eq!(
            (failure.status.as_u16(), failure.message.as_str()),
            (422, "The form lacks the text `output`. Nothing was stored.")
        );
    }
}
