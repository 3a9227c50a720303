//! What an unquoted word of YAML means: the core schema of YAML 1.2, section 10.3.2, in which `no` is text.

use super::document::Value;

/// The value of an unquoted scalar.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Value::Float(f64::NAN),
        _ => integer(text).or_else(|| float(text)).unwrap_or_else(|| Value::Text(text.to_owned())),
    }
}

fn integer(text: &str) -> Option<Value> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let parsed = if let Some(hex) = text.strip_prefix("0x") {
        i128::from_str_radix(all(hex, |b| b.is_ascii_hexdigit())?, 16)
    } else if let Some(octal) = text.strip_prefix("0o") {
        i128::from_str_radix(all(octal, |b| matches!(b, b'0'..=b'7'))?, 8)
    } else {
        all(digits, |b| b.is_ascii_digit())?;
        text.parse()
    };
    parsed.ok().map(Value::Integer)
}

fn float(text: &str) -> Option<Value> {
    let (sign, unsigned) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Some(Value::Float(sign * f64::INFINITY));
    }
    // Rust's own syntax for floats has words (`infinity`, `nan`) that are text in YAML.
    let numeric = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !unsigned.bytes().all(numeric) {
        return None;
    }
    unsigned.parse::<f64>().ok().map(|number| Value::Float(sign * number))
}

fn all(text: &str, is_digit: impl Fn(u8) -> bool) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(is_digit)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_yaml_1_2_says() {
        for (text, meaning) in [
            ("~", "Null"),
            ("True", "Bool(true)"),
            ("no", "Text(\"no\")"),
            ("-17", "Integer(-17)"),
            ("0x1F", "Integer(31)"),
            ("0o17", "Integer(15)"),
            ("18446744073709551615", "Integer(18446744073709551615)"),
            ("1e-3", "Float(0.001)"),
            ("-.5", "Float(-0.5)"),
            ("+.inf", "Float(inf)"),
            ("inf", "Text(\"inf\")"),
            ("1_000", "Text(\"1_000\")"),
            ("1.2.3", "Text(\"1.2.3\")"),
            (".", "Text(\".\")"),
            ("B/16", "Text(\"B/16\")"),
        ] {
            assert_eq!(format!("{:?}", resolve(text)), meaning, "{text}");
        }
    }
}
