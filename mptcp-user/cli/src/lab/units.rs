//! Quantities as people write them: `100mbit`, `20ms`, `1%`, `64kB`.

use std::time::Duration;

/// Splits `12.5ms` into the number and the unit (in lower case).
fn split(text: &str) -> Result<(f64, String), String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse::<f64>().map_err(|_| format!("'{text}' does not begin with a number"))?;
    Ok((number, unit.trim().to_ascii_lowercase()))
}

fn scaled(text: &str, scales: &[(&str, f64)], what: &str) -> Result<f64, String> {
    let (number, unit) = split(text)?;
    let Some((_, scale)) = scales.iter().find(|(name, _)| *name == unit) else {
        let known: Vec<_> = scales.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
        return Err(format!("'{text}' is not {what}: the unit must be one of {}", known.join(", ")));
    };
    Ok(number * scale)
}

/// Bits per second: `100mbit`, `1gbit`, `64000bit`.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let scales = [
        ("bit", 1.0),
        ("kbit", 1e3),
        ("mbit", 1e6),
        ("gbit", 1e9),
        ("bps", 1.0),
        ("kbps", 1e3),
        ("mbps", 1e6),
        ("gbps", 1e9),
    ];
    let rate = scaled(text, &scales, "a rate")?;
    if rate < 1.0 { Err("the rate must be at least 1bit".into()) } else { Ok(rate as u64) }
}

/// A time: `20ms`, `1.5s`, `100us`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let seconds = scaled(text, &[("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)], "a time")?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("'{text}' is too long"))
}

/// A probability: `1%` or `0.01`.
pub(super) fn probability(text: &str) -> Result<f64, String> {
    let probability = scaled(text, &[("", 1.0), ("%", 0.01)], "a probability")?;
    if (0.0..=1.0).contains(&probability) {
        Ok(probability)
    } else {
        Err(format!("'{text}' is not a probability: it must be between 0 and 100%"))
    }
}

/// Octets: `1500`, `64kB`, `1MiB`.
pub(super) fn octets(text: &str) -> Result<usize, String> {
    let scales = [("", 1.0), ("b", 1.0), ("kb", 1e3), ("mb", 1e6), ("kib", 1024.0), ("mib", 1_048_576.0)];
    scaled(text, &scales, "a number of octets").map(|octets| octets as usize)
}

/// A whole number.
pub(super) fn count(text: &str) -> Result<usize, String> {
    text.trim().parse().map_err(|_| format!("'{text}' is not a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_units() {
        assert_eq!(rate("100mbit"), Ok(100_000_000));
        assert_eq!(rate("1.5Gbit"), Ok(1_500_000_000));
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(probability("1%"), Ok(0.01));
        assert_eq!(probability("0.25"), Ok(0.25));
        assert_eq!(octets("64kB"), Ok(64_000));
        for (result, what) in [
            (rate("100").err(), "unit"),
            (rate("fast").err(), "number"),
            (probability("200%").err(), "between"),
            (duration("5").err(), "unit"),
        ] {
            assert!(result.as_ref().is_some_and(|error| error.contains(what)), "{result:?}");
        }
    }
}
