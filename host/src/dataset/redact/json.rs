//! JSON texts, in which only the contents of strings and whole numbers may change: what comes out is JSON still.

use serde::de::IgnoredAny;

/// A value of a JSON text.
pub(super) enum Token<'t> {
    /// What a string says, its escapes read; or an object's key.
    String(&'t str),
    /// A number, as it is written.
    Number(&'t str),
}

/// Whether the text is a JSON object or list.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Rewrites the values for which `change`, given the key they lie under, has another text; a number becomes a string
/// then. Everything else stays as it is written. `text` has to be JSON.
pub(super) fn rewrite(text: &str, change: &mut dyn FnMut(Token<'_>, Option<&str>) -> Option<String>) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut rewritten, mut copied, mut at) = (String::new(), 0, 0);
    // Of each open object or list, the key that its next value lies under.
    let mut keys: Vec<Option<String>> = Vec::new();
    while at < bytes.len() {
        let start = at;
        let changed = match bytes[at] {
            b'"' => {
                at = end_of_string(bytes, at);
                // Fails for half a surrogate pair, which no text can hold.
                let Ok(said) = serde_json::from_str::<String>(&text[start..at]) else { continue };
                let is_key = text[at..].trim_start().starts_with(':');
                let changed = match is_key {
                    true => change(Token::String(&said), Some("")), // a key lies under none
                    false => change(Token::String(&said), key(&keys)),
                };
                if is_key && let Some(last) = keys.last_mut() {
                    *last = Some(said);
                }
                changed
            }
            b'-' | b'0'..=b'9' => {
                at += bytes[at..].iter().take_while(|byte| b"+-.0123456789eE".contains(byte)).count();
                change(Token::Number(&text[start..at]), key(&keys))
            }
            byte => {
                at += 1;
                match byte {
                    b'{' => keys.push(None),
                    b'[' => keys.push(key(&keys).map(str::to_owned)),
                    b'}' | b']' => drop(keys.pop()),
                    _ => {}
                }
                None
            }
        };
        if let Some(changed) = changed {
            rewritten.push_str(&text[copied..start]);
            rewritten.push_str(&serde_json::Value::from(changed).to_string());
            copied = at;
        }
    }
    (copied > 0).then(|| rewritten + &text[copied..])
}

fn key(keys: &[Option<String>]) -> Option<&str> {
    keys.last().and_then(Option::as_deref)
}

fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}
