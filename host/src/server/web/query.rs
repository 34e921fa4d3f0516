//! Which items a page is of, as its address says it.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::failure::Failure;
use super::fields::Fields;
use crate::approval::{Content, Cursor, Filter, State};
use crate::plugins::bindings::types::ExampleKind;

/// The kinds of examples, by name.
pub(super) const KINDS: [(&str, ExampleKind); 3] = [
    ("instruction", ExampleKind::ApprovedExample),
    ("preference", ExampleKind::PreferencePair),
    ("triplet", ExampleKind::Triplet),
];

/// `?state=&batch=&agent_type=&kind=&q=&after=`; what is empty is any.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ItemsQuery {
    pub(super) filter: Filter,
    pub(super) after: Option<Cursor>,
    /// Of a sample: after a decision its next item comes.
    pub(super) sample: bool,
}

pub(super) fn kind_of(content: &Content) -> &'static str {
    let kind = content.kind();
    KINDS.iter().find(|(_, each)| *each == kind).map_or("", |(name, _)| name)
}

impl ItemsQuery {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let fields = Fields::parse(text.as_bytes());
        let wrong = |name: &str, value: &str| {
            let message = format!("`{name}` is `{value}`, which it can't be: choose on the page of items.");
            Failure::new(StatusCode::BAD_REQUEST, "Not understood", message)
        };
        let number = |name: &str| {
            let parse = |value: &str| value.parse::<i64>().map_err(|_| wrong(name, value));
            fields.filled(name).map(parse).transpose()
        };
        let state = |value: &str| {
            State::ALL.into_iter().find(|state| state.name() == value).ok_or_else(|| wrong("state", value))
        };
        let kind = |value: &str| {
            KINDS.iter().find(|(name, _)| *name == value).map(|(_, kind)| *kind).ok_or_else(|| wrong("kind", value))
        };
        let filter = Filter {
            state: fields.filled("state").map(state).transpose()?,
            project: None,
            agent_type: fields.filled("agent_type").map(str::to_owned),
            kind: fields.filled("kind").map(kind).transpose()?,
            batch: number("batch")?,
            text: fields.filled("q").map(str::to_owned),
            decided_by: None,
        };
        Ok(Self { filter, after: number("after")?.map(Cursor), sample: fields.filled("sample").is_some() })
    }

    /// The query again, with its `?`; empty where it says nothing.
    pub(super) fn text(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let filter = &self.filter;
        if let Some(state) = filter.state {
            query.append_pair("state", state.name());
        }
        if let Some(batch) = filter.batch {
            query.append_pair("batch", &batch.to_string());
        }
        if let Some(agent_type) = &filter.agent_type {
            query.append_pair("agent_type", agent_type);
        }
        if let Some(kind) = filter.kind {
            let name = KINDS.iter().find(|(_, each)| *each == kind).map_or("", |(name, _)| name);
            query.append_pair("kind", name);
        }
        if let Some(text) = &filter.text {
            query.append_pair("q", text);
        }
        if let Some(Cursor(after)) = self.after {
            query.append_pair("after", &after.to_string());
        }
        if self.sample {
            query.append_pair("sample", "1");
        }
        match query.finish() {
            query if query.is_empty() => query,
            query => format!("?{query}"),
        }
    }

    /// Of the same, from its first item.
    pub(super) fn of_first_page(&self) -> Self {
        Self { after: None, ..self.clone() }
    }

    pub(super) fn in_state(&self, state: Option<State>) -> Self {
        Self { filter: Filter { state, ..self.filter.clone() }, after: None, sample: false }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ItemsQuery {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_which_items_and_is_written_as_it_was_read() {
        let text = "state=pending&batch=3&agent_type=routing&kind=triplet&q=caf%C3%A9+%26+%22x%22&after=12&sample=1";
        let query = ItemsQuery::parse(text).unwrap();
        assert_eq!(query.filter.text.as_deref(), Some("café & \"x\""));
        assert_eq!((query.filter.state, query.filter.batch), (Some(State::Pending), Some(3)));
        assert_eq!(query.filter.kind, Some(ExampleKind::Triplet));
        assert_eq!(query.text(), format!("?{text}"));
        assert_eq!(ItemsQuery::parse("state=&batch=&agent_type=&kind=&q=+&after=").unwrap().text(), "");
        for wrong in ["state=done", "batch=x", "kind=other", "after=1.5"] {
            assert_eq!(ItemsQuery::parse(wrong).unwrap_err().status.as_u16(), 400, "{wrong}");
        }
    }
}
