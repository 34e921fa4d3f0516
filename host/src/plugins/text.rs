//! A plugin's words, made fit to be printed: whatever of them reaches a log, an error or a table passes through here.

use std::borrow::Cow;

/// `text` in one line without control characters: what would move the cursor, colour the terminal, forge a line or
/// turn the direction of writing shows as its escape. After `max_chars` it is cut, which `…` tells.
pub(crate) fn plain(text: &str, max_chars: usize) -> Cow<'_, str> {
    let cut = text.char_indices().nth(max_chars).map(|(end, _)| end);
    if cut.is_none() && !text.contains(unprintable) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(cut.unwrap_or(text.len()) + 8);
    for c in text[..cut.unwrap_or(text.len())].chars() {
        match unprintable(c) {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    if cut.is_some() {
        plain.push('…');
    }
    Cow::Owned(plain)
}

/// [`plain`] in place.
pub(super) fn make_plain(text: &mut String, max_chars: usize) {
    if let Cow::Owned(plain) = plain(text, max_chars) {
        *text = plain;
    }
}

/// C0, DEL and C1, the separators of lines and paragraphs, the marks that turn or hide text, and the byte order mark.
fn unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_its_escape() {
        assert_eq!(plain("a\x1b[31mb\r\nc\u{9b}2J", 100), "a\\u{1b}[31mb\\r\\nc\\u{9b}2J");
        assert_eq!(plain("gnp\u{202e}.exe", 100), "gnp\\u{202e}.exe");
        assert!(matches!(plain("schön `x`", 100), Cow::Borrowed("schön `x`")));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(plain("ääää", 3), "äää…");
        assert_eq!(plain("ääää", 4), "ääää");
        let mut text = "x".repeat(300);
        make_plain(&mut text, 200);
        assert_eq!(text, "x".repeat(200) + "…");
    }
}
