//! Amounts of memory as people write them.

/// Bytes of `8GiB`, `512 MiB`, `8GB` or `1073741824`; `None` where the text is none of these.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    // 2^53: beyond it an f64 skips whole numbers, and no machine has as much.
    (bytes >= 1.0 && bytes <= (1u64 << 53) as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_have_binary_and_decimal_units_or_none() {
        assert_eq!(parse("8GiB"), Some(8 << 30));
        assert_eq!(parse(" 1.5 gib "), Some(3 << 29));
        assert_eq!(parse("512MB"), Some(512_000_000));
        assert_eq!(parse("4096"), Some(4096));
        for text in ["", "GiB", "8 bananas", "-1GiB", "0", "1e3", "99999999TiB", "1.2.3MiB"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
