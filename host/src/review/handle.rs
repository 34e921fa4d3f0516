use std::fmt;
use std::str::FromStr;

use super::ReviewError;
use crate::approval::{Item, Seen};

/// Digits of the content's SHA-256 in a handle.
const DIGITS: usize = 8;

/// How an item is named where it is decided: `12-ab12cd34`, its number and the first digits of its content's SHA-256, or its
/// number alone where it is only looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    /// The item's number.
    pub item: i64,
    /// Eight digits or more.
    digits: Option<String>,
}

impl Handle {
    /// Of an item as it is.
    pub fn of(item: &Item) -> Self {
        Self { item: item.id, digits: item.content_sha256.get(..DIGITS).map(str::to_owned) }
    }

    /// What somebody saw who decides by this handle on `item`, as the store has it. Where there is none, or it has another text by
    /// now, it is what the store refuses and says why.
    ///
    /// # Errors
    /// [`ReviewError::NumberOnly`].
    pub fn seen(&self, item: Option<&Item>) -> Result<Seen, ReviewError> {
        let digits = self.digits.as_ref().ok_or(ReviewError::NumberOnly { item: self.item })?;
        let same = item.filter(|item| item.content_sha256.starts_with(digits.as_str()));
        let content_sha256 = same.map_or_else(|| digits.clone(), |item| item.content_sha256.clone());
        Ok(Seen { item: self.item, version: item.map_or(0, |item| item.version), content_sha256 })
    }
}

impl FromStr for Handle {
    type Err = ReviewError;

    fn from_str(text: &str) -> Result<Self, ReviewError> {
        let wrong = || ReviewError::NoHandle { given: text.to_owned() };
        let (item, digits) = match text.split_once('-') {
            Some((item, digits)) => (item, Some(digits.to_ascii_lowercase())),
            None => (text, None),
        };
        let whole = |digits: &String| digits.len() >= DIGITS && digits.chars().all(|digit| digit.is_ascii_hexdigit());
        if digits.as_ref().is_some_and(|digits| !whole(digits)) || !item.chars().all(|digit| digit.is_ascii_digit()) {
            return Err(wrong());
        }
        Ok(Self { item: item.parse().map_err(|_| wrong())?, digits })
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.digits {
            Some(digits) => write!(f, "{}-{digits}", self.item),
            None => write!(f, "{}", self.item),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_a_number_and_eight_digits_or_more() {
        for handle in ["12-ab12cd34", "12", "7-0123456789abcdef"] {
            assert_eq!(handle.parse::<Handle>().unwrap().to_string(), handle);
        }
        for wrong in
            ["", "-", "12-", "12-ab12cd3", "12-ab12cd3g", "x-ab12cd34", "+12", "-12-ab12cd34", "99999999999999999999"]
        {
            let error = wrong.parse::<Handle>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("`{wrong}` names no item: ")), "{error}");
        }
    }
}
