//! Items for people at a terminal.

use std::fmt::Write;

use crate::approval::{ApprovalError, ApprovalStore, Content, Event, Item, NearTo, Parent};
use crate::review::Handle;

/// Characters of a text that only gives an idea.
const IDEA: usize = 300;

/// An item, with what it was made from, what it resembles, and what happened to it.
pub(super) fn item(store: &ApprovalStore, item: &Item) -> Result<String, ApprovalError> {
    let mut text = String::new();
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}"); // a string takes all
    };
    let by = item.decided_by.as_ref().map(|who| format!(" by {}", visible(who))).unwrap_or_default();
    line(format!("{}  {}{by}, version {}", Handle::of(item), item.state.name(), item.version));
    line(format!("batch {} of project {}, for {}", item.batch, visible(&item.project), visible(&item.agent_type)));
    line(fields("", &item.content));
    if let Some(original) = &item.original {
        line(fields("generated ", original));
    }
    for near in &item.near {
        let to = match near.to {
            NearTo::Training => "a real example",
            NearTo::Batch => "another item of the batch",
        };
        line(format!("\nresembles {to} ({:.0}%): {}", 100.0 * near.similarity, idea(&near.text)));
    }
    for parent in &store.parents(item.id)? {
        line(format!("\nmade from {}", of_parent(parent)));
    }
    line(String::new());
    for event in store.events(item.id)? {
        line(of_event(&event));
    }
    Ok(text.trim_end().to_owned())
}

/// What is in a terminal's row of a table.
pub(super) fn row(text: &str) -> String {
    clipped(&text.split_whitespace().collect::<Vec<_>>().join(" "), 60)
}

/// To the minute, in UTC.
pub(super) fn time(at_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(at_ms);
    time.map_or_else(|_| at_ms.to_string(), |time| time.strftime("%Y-%m-%d %H:%M").to_string())
}

fn fields(which: &str, content: &Content) -> String {
    let field = |(name, text): (&str, &str)| format!("\n{which}{name}:\n  {}", visible(text).replace('\n', "\n  "));
    content.fields().into_iter().map(field).collect::<Vec<_>>().join("\n")
}

fn of_parent(parent: &Parent) -> String {
    let texts: Vec<_> = parent
        .content
        .fields()
        .into_iter()
        .filter(|(name, _)| *name != "instruction")
        .map(|(_, text)| idea(text))
        .collect();
    format!("span {}: {}", parent.span_ids.join(", "), texts.join(" -> "))
}

fn of_event(event: &Event) -> String {
    let reason = event.reason.as_ref().map(|reason| format!(": {}", idea(reason))).unwrap_or_default();
    let (action, channel) = (event.action.name(), event.channel.name());
    match event.who == channel {
        true => format!("{}  {action} by {}{reason}", time(event.at_ms), visible(&event.who)),
        false => format!("{}  {action} by {} ({channel}){reason}", time(event.at_ms), visible(&event.who)),
    }
}

fn idea(text: &str) -> String {
    clipped(&text.split_whitespace().collect::<Vec<_>>().join(" "), IDEA)
}

fn clipped(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", visible(&text[..end])),
        None => visible(text),
    }
}

/// What a model wrote must not steer the terminal, nor look like something else on it.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}' | '\u{feff}' => {
                shown.extend(c.escape_unicode())
            }
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_generated_steers_the_terminal() {
        assert_eq!(visible("a\u{1b}[2Jb\r\u{202e}c\u{9b}1m\nd\te 👍🏽"), "a\\u{1b}[2Jb\\r\\u{202e}c\\u{9b}1m\nd\te 👍🏽");
        assert_eq!(row(&"word ".repeat(40)), format!("{}...", "word ".repeat(12)));
    }
}
