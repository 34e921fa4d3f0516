//! Reads the `settings` that an operator gives a plugin: text pairs, where an unknown key is a mistake.
//!
//! Errors are texts for `plugin-error.configuration`; each names the key and what would be right.

use std::str::FromStr;

/// The settings of one call, every key known.
#[derive(Debug)]
pub struct Settings<'a> {
    pairs: &'a [(String, String)],
}

impl<'a> Settings<'a> {
    /// Accepts `pairs` where every key is one of `known` and none is given twice.
    ///
    /// # Errors
    /// A text that names the first key that is unknown or repeated.
    pub fn new(pairs: &'a [(String, String)], known: &[&str]) -> Result<Self, String> {
        for (index, (key, _)) in pairs.iter().enumerate() {
            if !known.contains(&key.as_str()) {
                return Err(match known {
                    [] => format!("unknown setting `{key}`; this plugin has no settings"),
                    _ => format!("unknown setting `{key}`; known are `{}`", known.join("`, `")),
                });
            }
            if pairs[..index].iter().any(|(earlier, _)| earlier == key) {
                return Err(format!("setting `{key}` is given twice; give it once"));
            }
        }
        Ok(Self { pairs })
    }

    /// The text under `key`, where it is given.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(given, _)| given == key).map(|(_, value)| value.as_str())
    }

    /// The number under `key`, or `default` where none is given.
    ///
    /// # Errors
    /// A text that names the key, the value and `expected`, where the value is no `T`.
    pub fn number<T: FromStr>(&self, key: &str, default: T, expected: &str) -> Result<T, String> {
        let Some(value) = self.text(key) else { return Ok(default) };
        value.trim().parse().map_err(|_| format!("setting `{key}` is `{value}`; give {expected}"))
    }

    /// The comma-separated values under `key`, trimmed, or those of `default` where none is given.
    pub fn list(&self, key: &str, default: &'static str) -> Vec<String> {
        let text = self.text(key).unwrap_or(default);
        text.split(',').map(|item| item.trim().to_string()).filter(|item| !item.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn unknown_key_is_named_with_the_known_ones() {
        let error = Settings::new(&pairs(&[("seed", "1"), ("tmplate", "x")]), &["seed", "template"]).unwrap_err();
        assert_eq!(error, "unknown setting `tmplate`; known are `seed`, `template`");
        let error = Settings::new(&pairs(&[("seed", "1")]), &[]).unwrap_err();
        assert_eq!(error, "unknown setting `seed`; this plugin has no settings");
    }

    #[test]
    fn repeated_key_is_refused() {
        let error = Settings::new(&pairs(&[("seed", "1"), ("seed", "2")]), &["seed"]).unwrap_err();
        assert_eq!(error, "setting `seed` is given twice; give it once");
    }

    #[test]
    fn numbers_have_defaults_and_helpful_errors() {
        let given = pairs(&[("seed", " 7 "), ("top_k", "many")]);
        let settings = Settings::new(&given, &["seed", "top_k", "other"]).unwrap();
        assert_eq!(settings.number("seed", 0u64, "a whole number"), Ok(7));
        assert_eq!(settings.number("other", 3u64, "a whole number"), Ok(3));
        let error = settings.number("top_k", 1u32, "a whole number").unwrap_err();
        assert_eq!(error, "setting `top_k` is `many`; give a whole number");
    }

    #[test]
    fn lists_are_split_at_commas() {
        let given = pairs(&[("labels", " a ,, b")]);
        let settings = Settings::new(&given, &["labels", "others"]).unwrap();
        assert_eq!(settings.list("labels", "z"), ["a", "b"]);
        assert_eq!(settings.list("others", "y,z"), ["y", "z"]);
    }
}
