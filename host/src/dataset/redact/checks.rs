//! What a pattern found, looked at more closely: check digits, known shapes, and what stands around it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// Where the finding is, or from where to look on.
pub(super) type Verdict = Result<Range<usize>, usize>;

pub(super) fn any(_: &str, found: Range<usize>) -> Verdict {
    Ok(found)
}

/// Not the beginning of a longer word.
pub(super) fn whole_word(text: &str, found: Range<usize>) -> Verdict {
    if after(text, &found).is_some_and(char::is_alphanumeric) { Err(found.end) } else { Ok(found) }
}

/// `sk-...`: a name of words, such as `sk-learn-...`, has no digit, and `task-...` another beginning.
pub(super) fn prefixed_key(text: &str, found: Range<usize>) -> Verdict {
    if before(text, &found) == Some('-') { Err(found.end) } else { with_digit(text, found) }
}

pub(super) fn with_digit(text: &str, found: Range<usize>) -> Verdict {
    if text[found.clone()].contains(|c: char| c.is_ascii_digit()) { Ok(found) } else { Err(found.end) }
}

/// Letters and digits: a token, and not a word or a count.
pub(super) fn mixed(text: &str, found: Range<usize>) -> Verdict {
    let value = &text[found.clone()];
    let letters = value.contains(|c: char| c.is_ascii_alphabetic());
    let digits = value.contains(|c: char| c.is_ascii_digit());
    if letters && digits && !value.contains(char::is_whitespace) { Ok(found) } else { Err(found.end) }
}

/// Near a word such as `key`: capitals, small letters and digits in the disorder of a generated secret; a digest in
/// hexadecimal, a path or a name has less of it.
pub(super) fn random(text: &str, found: Range<usize>) -> Verdict {
    let value = &text[found.clone()];
    let has = |is: fn(&char) -> bool| value.chars().any(|c| is(&c));
    let kinds = has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase) && has(char::is_ascii_digit);
    if kinds && entropy(value) >= 3.8 { Ok(found) } else { Err(found.end) }
}

/// `password = ...`. After a colon prose may follow: then only what no word is.
pub(super) fn assigned(text: &str, found: Range<usize>) -> Verdict {
    let value = &text[found.clone()];
    let is_call = after(text, &found) == Some('(');
    if is_call || is_filler(value) || value.starts_with('/') {
        return Err(found.end);
    }
    let sign = text[..found.start].trim_end_matches(['"', '\'', '\\', ' ', '\t']).chars().next_back();
    let is_quoted = before(text, &found).is_some_and(|c| c == '"' || c == '\'');
    let is_prose = value.trim_end_matches(['.', '!', '?', ':']).chars().all(char::is_alphabetic);
    if sign == Some(':') && !is_quoted && is_prose { Err(found.end) } else { Ok(found) }
}

/// Where a secret would be: a variable's name, stars, nothing.
pub(super) fn is_filler(value: &str) -> bool {
    let value = value.trim();
    let is_word = ["null", "none", "true", "false", "undefined"].iter().any(|word| value.eq_ignore_ascii_case(word));
    let mut characters = value.chars();
    let first = characters.next();
    is_word || value.starts_with(['$', '%', '<', '{']) || characters.all(|c| Some(c) == first)
}

pub(super) fn email(text: &str, found: Range<usize>) -> Verdict {
    // What precedes the address in prose is not part of it.
    let start = found.start + text[found.clone()].find(|c| !".'-%+".contains(c)).unwrap_or(0);
    let found = start..found.end;
    let (local, _) = text[found.clone()].split_once('@').unwrap_or_default();
    // `ssh://git@host/...`, `https://user:password@host/...` and `git@host:...` name a machine.
    // No further back than a password is long: else a text without blanks would be read once an address.
    let near = &text[text.floor_char_boundary(found.start.saturating_sub(128))..found.start];
    let (scheme, joined) = near.split_at(near.trim_end_matches(|c: char| !c.is_whitespace() && c != '/').len());
    let is_user = scheme.ends_with("://") && !joined.contains(['?', '#']);
    let is_machine = is_user || (local == "git" && after(text, &found) == Some(':'));
    if local.is_empty() || is_machine { Err(found.end) } else { Ok(found) }
}

pub(super) fn ipv4(text: &str, found: Range<usize>) -> Verdict {
    let Ok(address) = text[found.clone()].parse::<Ipv4Addr>() else { return Err(found.start + 1) };
    let rest = &text[found.end..];
    let goes_on = rest.starts_with(is_word) || rest.strip_prefix('.').is_some_and(|rest| rest.starts_with(is_word));
    let is_inner = before(text, &found).is_some_and(|c| is_word(c) || ".-".contains(c));
    if goes_on || is_inner || is_version(&text[..found.start]) || address.is_loopback() || address.is_unspecified() {
        return Err(found.end);
    }
    Ok(found)
}

/// `version 1.2.3.4`, `Chrome/1.2.3.4`.
fn is_version(before: &str) -> bool {
    let last_word = |text: &'_ str| text[text.trim_end_matches(|c: char| c.is_ascii_alphanumeric()).len()..].to_owned();
    if let Some(product) = before.strip_suffix('/') {
        return last_word(product).starts_with(|c: char| c.is_ascii_uppercase());
    }
    let word = last_word(before.trim_end_matches([' ', ':', '=', '"', '\'']));
    ["version", "release", "build", "ver", "v", "firmware"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// `a::b` is a path of a program as often as an address: there has to be a digit, and more than a time of day.
pub(super) fn ipv6(text: &str, found: Range<usize>) -> Verdict {
    let mut end = found.end;
    if text[found.clone()].ends_with(':') && !text[found.clone()].ends_with("::") {
        end -= 1;
    }
    let found = found.start..end;
    let value = &text[found.clone()];
    let Ok(address) = value.parse::<Ipv6Addr>() else { return Err(found.start + 1) };
    let joined = |c: Option<char>| c.is_some_and(|c| is_word(c) || c == ':');
    let is_inner = joined(before(text, &found)) || after(text, &found).is_some_and(is_word);
    let is_path = !value.contains(|c: char| c.is_ascii_digit()) || value.len() < 6;
    if is_inner || is_path || address.is_loopback() || address.is_unspecified() {
        return Err(found.end);
    }
    Ok(found)
}

pub(super) fn card(text: &str, found: Range<usize>) -> Verdict {
    let number = digits(&text[found.clone()]);
    let is_inner = before(text, &found).is_some_and(|c| is_word(c) || ".-+".contains(c));
    if is_inner || goes_on(text, &found) || !is_issued(&number) || !luhn(&number) {
        return Err(found.start + 1);
    }
    Ok(found)
}

/// A beginning and a length of Visa, Mastercard, American Express, Discover, JCB, Diners Club, UnionPay or Maestro: a
/// time in nanoseconds begins with 1, and one in ten numbers has a right check digit.
fn is_issued(number: &str) -> bool {
    let start = |n: usize| number.get(..n).and_then(|start| start.parse::<u32>().ok()).unwrap_or(0);
    match number.len() {
        13 | 19 if start(1) == 4 => true,
        14 => matches!(start(3), 300..=305 | 309 | 360..=369 | 380..=399),
        15 => matches!(start(2), 34 | 37),
        16 => {
            start(1) == 4
                || matches!(start(2), 51..=55 | 62 | 64 | 65)
                || matches!(start(4), 2221..=2720 | 3528..=3589 | 6011 | 5018 | 5020 | 5038 | 6304 | 6759 | 6761..=6763)
        }
        17..=19 => start(2) == 62 || matches!(start(4), 5018 | 5020 | 5038 | 6304 | 6759 | 6761..=6763),
        _ => false,
    }
}

/// The check digit of ISO/IEC 7812-1.
pub(super) fn luhn(number: &str) -> bool {
    let sum: u32 = number
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(digit - b'0')) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => 2 * digit - 9,
            (_, digit) => 2 * digit,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Cut to the length that accounts of its country have: words may follow.
pub(super) fn iban(text: &str, found: Range<usize>) -> Verdict {
    let country = text[found.start..found.start + 2].to_ascii_uppercase();
    let length = IBAN_LENGTHS.split(' ').find_map(|each| each.strip_prefix(&country));
    let Some(length) = length.and_then(|length| length.parse::<usize>().ok()) else { return Err(found.start + 2) };
    let mut characters = text[found.clone()].char_indices().filter(|(_, c)| *c != ' ');
    let Some((last, _)) = characters.nth(length - 1) else { return Err(found.start + 2) };
    let found = found.start..found.start + last + 1;
    let is_inner = before(text, &found).is_some_and(is_word) || after(text, &found).is_some_and(is_word);
    if is_inner || !mod_97(&text[found.clone()]) { Err(found.start + 2) } else { Ok(found) }
}

/// The check digits of ISO 13616: the country and they go to the end, letters are 10 to 35, and 1 remains of 97.
fn mod_97(account: &str) -> bool {
    let plain: Vec<u8> = account.bytes().filter(|byte| *byte != b' ').collect();
    let (start, rest) = plain.split_at(4);
    let rest = rest.iter().chain(start).fold(0, |rest: u32, byte| match byte.to_ascii_uppercase() {
        digit @ b'0'..=b'9' => (10 * rest + u32::from(digit - b'0')) % 97,
        letter => (100 * rest + u32::from(letter - b'A') + 10) % 97,
    });
    rest == 1
}

/// Countries of the IBAN registry and how long their accounts are.
const IBAN_LENGTHS: &str = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 \
    EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 \
    LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 \
    SC31 SD18 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20";

pub(super) fn phone(text: &str, found: Range<usize>) -> Verdict {
    let length = digits(&text[found.clone()]).len();
    let is_inner = before(text, &found).is_some_and(|c| is_word(c) || "+.-/".contains(c));
    if is_inner || goes_on(text, &found) || !(8..=15).contains(&length) { Err(found.start + 1) } else { Ok(found) }
}

/// After `call` there may be a date, or the number of anything.
pub(super) fn spoken_phone(text: &str, found: Range<usize>) -> Verdict {
    let number = &text[found.clone()];
    let groups: Vec<usize> = number.split(['.', '-', '/']).map(str::len).collect();
    let is_date = matches!(groups.as_slice(), [4, 2, 2] | [2, 2, 4] | [2, 2, 2] | [1 | 2, 1 | 2, 4]);
    let length = digits(number).len();
    if is_date || goes_on(text, &found) || !(7..=13).contains(&length) { Err(found.end) } else { Ok(found) }
}

/// Whether a number goes on behind what was found: with a digit, a letter, or either after a point or a dash.
fn goes_on(text: &str, found: &Range<usize>) -> bool {
    let rest = &text[found.end..];
    rest.starts_with(is_word) || rest.strip_prefix(['.', '-']).is_some_and(|rest| rest.starts_with(is_word))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn before(text: &str, found: &Range<usize>) -> Option<char> {
    text[..found.start].chars().next_back()
}

fn after(text: &str, found: &Range<usize>) -> Option<char> {
    text[found.end..].chars().next()
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

/// Bits a character.
fn entropy(text: &str) -> f64 {
    let mut counts = [0u32; 256];
    text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let share = |&count: &u32| f64::from(count) / text.len() as f64;
    -counts.iter().filter(|count| **count > 0).map(share).map(|p| p * p.log2()).sum::<f64>()
}
