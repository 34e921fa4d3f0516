//! Times in exports, to unix nanoseconds.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;

/// Unix nanoseconds of an ISO 8601 text (without an offset it means UTC) or of a unix time.
///
/// A bare number's unit is told by its size, since exports write seconds, milliseconds (pandas), microseconds and
/// nanoseconds alike, and each unit's years 1973 to 2262 don't overlap with the next unit's.
///
/// # Errors
/// The reason, where it is no time between 1970 and 2262.
pub(super) fn parse(value: &Value) -> Result<u64, String> {
    let nanoseconds = match value {
        Value::Number(number) => match number.as_u64() {
            Some(integer) => scaled(integer as f64).map(|scale| integer.checked_mul(scale as u64)),
            None => number.as_f64().and_then(|n| scaled(n).map(|scale| Some((n * scale) as u64))),
        }
        .flatten(),
        Value::String(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            return text.parse::<u64>().map_err(|_| no_time(value)).and_then(|number| parse(&Value::from(number)));
        }
        Value::String(text) => iso_8601(text),
        _ => None,
    };
    nanoseconds.filter(|&ns| ns <= i64::MAX as u64).ok_or_else(|| no_time(value))
}

/// Nanoseconds per unit of a unix time of this size.
fn scaled(number: f64) -> Option<f64> {
    match number {
        n if n < 0.0 => None,
        n if n < 1e11 => Some(1e9),
        n if n < 1e14 => Some(1e6),
        n if n < 1e17 => Some(1e3),
        _ => Some(1.0),
    }
}

fn iso_8601(text: &str) -> Option<u64> {
    let timestamp = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let naive = text.parse::<DateTime>().ok()?;
        naive.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    })?;
    u64::try_from(timestamp.as_nanosecond()).ok()
}

fn no_time(value: &Value) -> String {
    format!("`{value}` is no ISO 8601 time and no unix time")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn iso_times_with_and_without_offset() {
        // 2026-11-03T16:22:04.801Z, checked with `date -d ... +%s%N`
        for text in [
            "2026-11-03T16:22:04.801000+00:00",
            "2026-11-03T16:22:04.801",
            "2026-11-03 16:22:04.801",
            "2026-11-03T18:22:04.801+02:00",
            "1793722924801000000",
        ] {
            assert_eq!(parse(&json!(text)), Ok(1_793_722_924_801_000_000), "{text}");
        }
    }

    #[test]
    fn unix_times_of_every_unit() {
        assert_eq!(parse(&json!(1_793_722_924_801_000_192_u64)), Ok(1_793_722_924_801_000_192));
        assert_eq!(parse(&json!(1_793_722_924_801_000_u64)), Ok(1_793_722_924_801_000_000));
        assert_eq!(parse(&json!(1_793_722_924_801_u64)), Ok(1_793_722_924_801_000_000));
        assert_eq!(parse(&json!(1_793_722_924_u64)), Ok(1_793_722_924_000_000_000));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for value in
            [json!("yesterday"), json!(-1), json!(null), json!([1]), json!(u64::MAX), json!("1960-01-01T00:00:00Z")]
        {
            assert_eq!(parse(&value), Err(format!("`{value}` is no ISO 8601 time and no unix time")));
        }
    }
}
