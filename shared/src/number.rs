//! Numbers that JSON has no notation for.

use serde::{Deserialize, Deserializer};

/// Reads what serde_json makes of a number that is none, or infinite: `null`, as not a number.
///
/// # Errors
/// It is neither a number nor `null`.
pub fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
