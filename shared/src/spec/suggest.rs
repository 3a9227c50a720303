//! "Did you mean": the known word that a mistyped one is closest to.

/// Longer words are not compared: nobody mistypes them, and comparing costs their length.
const COMPARED: usize = 64;

/// `; did you mean ...?` for the closest of `known`, the list of them when none is close, or nothing when there are many.
pub(super) fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let wanted = plain(word);
    let closest = known
        .iter()
        .filter(|_| wanted.len() <= COMPARED)
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), *candidate))
        .min_by_key(|(distance, _)| *distance);
    match closest {
        Some((distance, candidate)) if distance <= 1 + wanted.chars().count() / 4 => {
            format!("; did you mean `{candidate}`?")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_another_word_is_not() {
        let known = ["text_length", "image_size", "seed", "B/16"];
        let suggest = |word| did_you_mean(word, known.into_iter());
        assert_eq!(suggest("textLength"), "; did you mean `text_length`?");
        assert_eq!(suggest("text-lenght"), "; did you mean `text_length`?");
        assert_eq!(suggest("b16"), "; did you mean `B/16`?");
        assert_eq!(suggest("colour"), "");
        assert_eq!(suggest(&"x".repeat(1000)), "");
    }
}
