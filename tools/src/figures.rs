//! Figures for people: counts, rates, byte sizes and times, short enough for a table.

use std::time::Duration;

/// A whole number with its thousands set apart: `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate per second as a whole number; `-` if no time passed.
pub fn rate(operations: u64, seconds: f64) -> String {
    if seconds > 0.0 { count((operations as f64 / seconds).round() as u64) } else { "-".to_owned() }
}

/// A size in binary units with three significant digits: `1.23 MiB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(scaled), UNITS[unit])
}

/// A time with three significant digits: `456 ns`, `1.23 µs`, `12.3 ms`, `1.50 s`.
pub fn time(value: Duration) -> String {
    nanoseconds(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX))
}

/// [`time`], given in nanoseconds.
pub fn nanoseconds(value: u64) -> String {
    const UNITS: [&str; 3] = ["µs", "ms", "s"];
    if value < 1000 {
        return format!("{value} ns");
    }
    let mut scaled = value as f64 / 1000.0;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    format!("{} {}", three_digits(scaled), UNITS[unit])
}

/// A factor with two decimals, or `-` where there is nothing to divide by.
pub fn factor(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn three_digits(value: f64) -> String {
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(
            [0, 7, 999, 1000, 123_456, 1_234_567].map(count),
            ["0", "7", "999", "1,000", "123,456", "1,234,567"]
        );
        assert_eq!(
            [0, 1023, 1024, 10_300, 1_048_575, 1 << 20, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.00 KiB", "10.1 KiB", "1.00 MiB", "1.00 MiB", "16.0 EiB"]
        );
        assert_eq!(
            [1, 999, 1000, 9_999, 99_960, 999_499, 999_500, 1_500_000_000, 90_000_000_000].map(nanoseconds),
            ["1 ns", "999 ns", "1.00 µs", "10.0 µs", "100 µs", "999 µs", "1.00 ms", "1.50 s", "90.0 s"]
        );
        assert_eq!(rate(1000, 0.5), "2,000");
        assert_eq!(rate(1000, 0.0), "-");
        assert_eq!(factor(Some(f64::NAN)), "-");
        assert_eq!(factor(Some(1.126)), "1.13");
    }
}
