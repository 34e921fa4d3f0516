//! Texts that somebody else wrote, so that a person sees all of what they approve.

use jiff::Timestamp;
use maud::{Markup, html};

/// A text; what would not be seen in it, or would change the order of what is, is shown by its number.
pub(super) fn shown(text: &str) -> Markup {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((at, hidden)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
        parts.push((&rest[..at], Some(hidden)));
        rest = &rest[at + hidden.len_utf8()..];
    }
    parts.push((rest, None));
    html! {
        @for (plain, hidden) in parts {
            (plain)
            @if let Some(hidden) = hidden {
                span.hidden-character { (format!("U+{:04X}", u32::from(hidden))) }
            }
        }
    }
}

/// Controls, marks of direction, blanks without width and tags.
fn is_hidden(c: char) -> bool {
    let control = c.is_control() && c != '\n' && c != '\t';
    // The joiner of emoji and the variation selectors change a glyph that is seen, and are in many honest texts.
    let format = matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200c}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    control || format
}

/// The start of a text, in one line.
pub(super) fn start_of(text: &str, most_chars: usize) -> String {
    let mut words = text.split_whitespace();
    let mut start = words.next().unwrap_or_default().to_owned();
    for word in words {
        if start.chars().count() > most_chars {
            break;
        }
        start.push(' ');
        start.push_str(word);
    }
    match start.char_indices().nth(most_chars) {
        Some((at, _)) => format!("{}…", &start[..at]),
        None => start,
    }
}

/// A time of the store, as it is read.
pub(super) fn time(unix_ms: i64) -> Markup {
    let Ok(time) = Timestamp::from_millisecond(unix_ms) else { return html! { "?" } };
    html! { time datetime=(time.strftime("%Y-%m-%dT%H:%M:%SZ")) { (time.strftime("%Y-%m-%d %H:%M UTC")) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_shown_and_what_is_markup_is_escaped() {
        assert_eq!(
            shown("a\u{202e}b<script>\n\u{200b}").into_string(),
            "a<span class=\"hidden-character\">U+202E</span>b&lt;script&gt;\n<span class=\"hidden-character\">U+200B</span>"
        );
        assert_eq!(shown("plain\ttext, café 👩‍🚀").into_string(), "plain\ttext, café 👩‍🚀");
    }

    #[test]
    fn the_start_of_a_text_is_one_line() {
        assert_eq!(start_of("one\n two   three", 80), "one two three");
        assert_eq!(start_of("äöü äöü", 4), "äöü …");
        assert_eq!(start_of("", 4), "");
    }
}
