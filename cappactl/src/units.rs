//! Numbers as people read them.

use std::time::Duration;

use jiff::Timestamp;

/// `950 ms`, `4.2 s`, `3m05s`, `2h07m`, `3d04h`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// [`duration`] of seconds that may not be a time at all, such as an estimate before the first step.
pub(crate) fn seconds(value: f64) -> String {
    Duration::try_from_secs_f64(value).map_or_else(|_| "–".into(), duration)
}

/// `512 B`, `1.5 KiB`, `3.2 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `12,345`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 worker`, `2 workers`.
pub(crate) fn count(number: u32, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number.into()))
}

/// A share of 1 as `91.2 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// The moment that the wire gives in milliseconds, where 0 is "not yet".
pub(crate) fn moment(unix_ms: i64) -> Option<Timestamp> {
    if unix_ms == 0 { None } else { Timestamp::from_millisecond(unix_ms).ok() }
}

/// How long ago that was.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    Duration::try_from(now.duration_since(then)).map_or_else(|_| "now".into(), duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_precise_as_they_are_long() {
        let shown = [0.25, 4.24, 185.0, 7_620.0, 273_600.0, f64::NAN].map(seconds);
        assert_eq!(shown, ["250 ms", "4.2 s", "3m05s", "2h07m", "3d04h", "–"]);
    }

    #[test]
    fn sizes_and_counts_are_grouped() {
        assert_eq!([0, 512, 1_536, 3_435_973_837].map(bytes), ["0 B", "512 B", "1.5 KiB", "3.2 GiB"]);
        assert_eq!([7, 123, 1_234, 1_234_567].map(grouped), ["7", "123", "1,234", "1,234,567"]);
    }
}
