//! What is looked for: a pattern each, and a check of what it found.
//!
//! A pattern finds everything that may be meant; the check tells a card from an order number. Where the two cannot
//! tell, numbers stay: the ids, times, versions and measures of telemetry are many, and masking them would cost what
//! a model should learn.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::checks::{self, Verdict};

/// What can be found in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detector {
    /// E-mail addresses.
    Email,
    /// Phone numbers: international ones, and national ones where their shape or the words before tell.
    Phone,
    /// Numbers of payment cards, by issuer, length and check digit.
    Card,
    /// Bank accounts, by country, length and check digits.
    Iban,
    /// IPv4 and IPv6 addresses, but those of no machine in particular, such as 127.0.0.1.
    Ip,
    /// Keys, tokens and passwords.
    Key,
}

/// The names that detectors give.
pub(super) const NAMES: [&str; 8] = ["EMAIL", "PHONE", "CARD", "IBAN", "IP", "KEY", "SESSION", "ATTRIBUTE"];

impl Detector {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Email, Self::Phone, Self::Card, Self::Iban, Self::Ip, Self::Key];

    /// Whether a name of an operator's pattern is one of ours.
    pub fn is_taken(name: &str) -> bool {
        NAMES.contains(&name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Email => "EMAIL",
            Self::Phone => "PHONE",
            Self::Card => "CARD",
            Self::Iban => "IBAN",
            Self::Ip => "IP",
            Self::Key => "KEY",
        }
    }
}

/// A pattern and what becomes of what it finds.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) regex: Regex,
    check: Check,
}

/// Looks closer at what a pattern found in a text.
type Check = fn(&str, Range<usize>) -> Verdict;

impl Rule {
    /// An operator's: everything that it finds counts, whole.
    pub(super) fn own(name: &str, regex: &Regex) -> Self {
        Self { name: name.to_owned(), regex: regex.clone(), check: |_, found| Ok(found) }
    }

    /// The places in `text`, in order: of the pattern's first group that takes part, or of the whole where it has none.
    /// None is empty.
    pub(super) fn find(&self, text: &str, mut found: impl FnMut(Range<usize>)) {
        let mut at = 0;
        while let Some(captures) = self.regex.captures_at(text, at) {
            let Some(value) = captures.iter().skip(1).flatten().next().or_else(|| captures.get(0)) else { return };
            at = match (self.check)(text, value.range()) {
                Ok(range) if range.is_empty() => range.end + 1,
                Ok(range) => {
                    let end = range.end;
                    found(range);
                    end
                }
                Err(resume) => resume.max(value.start() + 1),
            };
            while at < text.len() && !text.is_char_boundary(at) {
                at += 1;
            }
            if at >= text.len() {
                return;
            }
        }
    }
}

/// The rules of some detectors, by precedence.
pub(super) fn built_in(detectors: &[Detector]) -> impl Iterator<Item = Rule> {
    BUILT_IN.iter().filter(|(detector, _)| detectors.contains(detector)).map(|(_, rule)| rule.clone())
}

/// Compiled once in a process.
static BUILT_IN: LazyLock<Vec<(Detector, Rule)>> = LazyLock::new(|| {
    let rule = |&(detector, pattern, check): &(Detector, &str, Check)| {
        let regex = Regex::new(pattern).expect("a pattern of ours");
        (detector, Rule { name: detector.name().to_owned(), regex, check })
    };
    PATTERNS.iter().map(rule).collect()
});

/// By precedence.
#[rustfmt::skip]
const PATTERNS: &[(Detector, &str, Check)] = &[
    // A private key, to its end or to the end of a text that was cut.
    (Detector::Key, r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)", checks::any),
    // AWS, GitHub, GitLab, Slack, Google, Hugging Face, npm, Stripe.
    (Detector::Key, r"(?-u:\b)(?:(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}|xox[abeoprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,})", checks::whole_word),
    // OpenAI and those who took to its prefix.
    (Detector::Key, r"(?-u:\b)sk-[A-Za-z0-9_-]{20,}", checks::prefixed_key),
    // A JSON web token.
    (Detector::Key, r"(?-u:\b)eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", checks::any),
    (Detector::Key, r"(?i)(?-u:\b)(?:bearer|basic)[ \t]+([A-Za-z0-9._~+/-]{16,}={0,2})", checks::with_digit),
    // User and password of a URL.
    (Detector::Key, r#"[A-Za-z][A-Za-z0-9+.-]*://([^\s/@:"'<>]*:[^\s/@"'<>]+)@"#, checks::any),
    (Detector::Key, r#"(?i)(?:password|passwd|pwd|passphrase|secret|api[_-]?key|access[_-]?key|(?:access|auth|refresh)[_-]?token|client[_-]?secret|private[_-]?key)\\?["']?[ \t]{0,3}[:=][ \t]{0,3}(?:\\?"([^"\\\n]{4,})|'([^'\n]{4,})|([^\s"'\\,;&<>{}()\[\]]{4,}))"#, checks::assigned),
    (Detector::Key, r#"(?i)token["']?[ \t]{0,3}[:=][ \t]{0,3}["']?([A-Za-z0-9+/_.~-]{16,}={0,2})"#, checks::mixed),
    (Detector::Key, r"(?i)(?-u:\b)(?:key|token|secret|credential|password|passphrase)s?(?-u:\b)[ -~]{0,16}?(?-u:\b)([A-Za-z0-9+/_-]{24,}={0,2})", checks::random),
    (Detector::Iban, r"(?i)(?-u:\b)[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}", checks::iban),
    // As it is embossed: in groups of four, of 4-6-5 and 4-6-4; or without any.
    (Detector::Card, r"(?-u:\b)(?:[0-9]{13,19}|(?:[0-9]{4}[ -]){3}[0-9]{4}(?:[ -][0-9]{3})?|[0-9]{4}[ -][0-9]{6}[ -][0-9]{4,5})", checks::card),
    (Detector::Email, r"[\p{L}\p{N}._%+'-]+@(?:[\p{L}\p{N}-]+\.)+\p{L}{2,}", checks::email),
    (Detector::Ip, r"(?-u:\b)(?:[0-9]{1,3}\.){3}[0-9]{1,3}", checks::ipv4),
    (Detector::Ip, r"(?:[0-9A-Fa-f]{0,4}:){2,8}(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f]{1,4})?", checks::ipv6),
    // +49 (0)30 123456; 0049-30-123456.
    (Detector::Phone, r"\+[1-9](?:[ ./()-]{0,2}[0-9]){7,14}", checks::phone),
    (Detector::Phone, r"(?-u:\b)00[1-9][0-9]{0,2}[ ./-](?:[ ./()-]{0,2}[0-9]){6,12}", checks::phone),
    // North America: (212) 555-0100, 212-555-0100, 1.212.555.0100.
    (Detector::Phone, r"(?:(?-u:\b)1[ .-])?(?:\([2-9][0-9]{2}\) ?|(?-u:\b)[2-9][0-9]{2}[.-])[0-9]{3}[ .-][0-9]{4}", checks::phone),
    // Others within their country: 030 1234567, 0171/1234567, 06 12 34 56 78.
    (Detector::Phone, r"(?-u:\b)0(?:[1-9][0-9]{1,4}[ /](?:[ /-]?[0-9]){5,9}|[1-9](?:[ .][0-9]{2}){4})", checks::phone),
    // Any number after a word that says what it is.
    (Detector::Phone, r"(?i)(?-u:\b)(?:phone|tel|telephone|mobile|cell|fax|call|whatsapp|sms|dial|telefon|handy|mobil)\.?(?:[ ]?(?:me|us|him|her|them|at|on|under|number|no|nr|is)(?-u:\b)\.?){0,3}[ :=#]{0,3}((?:\(?[0-9]{2,5}\)?[ ./-]?){2,5}[0-9]{2,4})", checks::spoken_phone),
];

/// Whether what lies under this key is a secret, whatever it looks like.
pub(super) fn is_secret(key: &str, text: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase().replace('-', "_");
    let named = match last.as_str() {
        "password" | "passwd" | "pwd" | "passphrase" | "secret" | "api_key" | "apikey" | "x_api_key" | "access_key"
        | "secret_key" | "secret_access_key" | "access_token" | "auth_token" | "refresh_token" | "id_token"
        | "client_secret" | "private_key" | "authorization" => true,
        "token" => checks::mixed(text, 0..text.len()).is_ok() && text.len() >= 16,
        _ => false,
    };
    named && !checks::is_filler(text)
}
