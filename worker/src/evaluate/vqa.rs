//! How well an answer matches those that people gave: exact match and VQA accuracy (Antol et al., arXiv 1505.00468), with answers made
//! comparable as the published evaluation of VQA does (GT-Vision-Lab/VQA, `vqaEval.py`), its quirks included; `vqa_reference.json` holds
//! what that program makes of answers.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What is taken out of an answer where it stands at a word's edge, and parts words elsewhere.
const PUNCTUATION: [char; 21] =
    [';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!'];
const ARTICLES: [&str; 3] = ["a", "an", "the"];
const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];
/// Short forms that are also understood with one of their apostrophes left out. (The published table has `I'm`, `I've` and `I'd've` with
/// capitals, and is asked with lower-case words: those are never found.)
const CONTRACTIONS: &str = "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd \
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock \
    oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd \
    someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd \
    they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've \
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd \
    you'd've you'll you're you've";

/// An answer in the form in which answers are compared.
pub(super) fn normalised(answer: &str) -> String {
    static SHORT: LazyLock<HashMap<String, &str>> = LazyLock::new(|| {
        let without_one = |form: &'static str| {
            form.match_indices('\'').map(move |(at, _)| (format!("{}{}", &form[..at], &form[at + 1..]), form))
        };
        // The published table has this one the wrong way round.
        let turned = [("somebody'd".to_owned(), "somebodyd")];
        CONTRACTIONS.split_whitespace().flat_map(without_one).chain(turned).collect()
    });
    let text = without_periods(&without_punctuation(&one_line(answer))).to_lowercase();
    let words = text.split_whitespace().map(|word| {
        let word = NUMBERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, digit)| digit);
        SHORT.get(word).copied().unwrap_or(word)
    });
    words.filter(|word| !ARTICLES.contains(word)).collect::<Vec<_>>().join(" ")
}

/// Without line breaks, tabs, and space around it.
fn one_line(answer: &str) -> String {
    answer.replace(['\n', '\t'], " ").trim().to_owned()
}

fn without_punctuation(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let has_number_with_commas =
        letters.windows(3).any(|at| at[0].is_ascii_digit() && at[1] == ',' && at[2].is_ascii_digit());
    let is_edge =
        |mark: char| letters.windows(2).any(|at| (at[0] == mark && at[1] == ' ') || (at[0] == ' ' && at[1] == mark));
    let mut out = String::with_capacity(text.len());
    for &letter in &letters {
        match PUNCTUATION.contains(&letter) {
            true if has_number_with_commas || is_edge(letter) => {}
            true => out.push(' '),
            false => out.push(letter),
        }
    }
    out
}

/// Without the full stops that no digit follows; only so many are looked at.
fn without_periods(text: &str) -> String {
    // The published program hands a flag of this value to where a count belongs.
    const MOST: usize = 32;
    let mut taken = 0;
    let mut letters = text.chars().peekable();
    let mut out = String::with_capacity(text.len());
    while let Some(letter) = letters.next() {
        if letter == '.' && taken < MOST && !letters.peek().is_some_and(char::is_ascii_digit) {
            taken += 1;
        } else {
            out.push(letter);
        }
    }
    out
}

/// Shares of 1 for one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Marks {
    /// Whether the answer is one of those given, both [`normalised`].
    pub(super) exact: f64,
    /// The mean, over the people, of min(1, how many of the others gave the answer / 3); with fewer than four people, as `exact`.
    pub(super) vqa: f64,
}

/// Marks an answer by those that people gave, at least one.
pub(super) fn marks(answer: &str, given: &[String]) -> Marks {
    /// With fewer there are not three others to agree with.
    const PEOPLE: usize = 4;
    let same_as = |form: fn(&str) -> String| -> Vec<bool> {
        let answer = form(answer);
        given.iter().map(|given| form(given) == answer).collect()
    };
    let same = same_as(normalised);
    let exact = if same.contains(&true) { 1.0 } else { 0.0 };
    if given.len() < PEOPLE {
        return Marks { exact, vqa: exact };
    }
    // Where all people say the same, the published program compares answers as they are written.
    let is_unanimous = given.iter().all(|other| one_line(other) == one_line(&given[0]));
    let same = if is_unanimous { same_as(one_line) } else { same };
    let agreeing = same.iter().filter(|&&same| same).count();
    let of_others = same.iter().map(|&own| (agreeing - usize::from(own)) as f64 / 3.0);
    Marks { exact, vqa: of_others.map(|share| share.min(1.0)).sum::<f64>() / given.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_without_articles_punctuation_and_spelling_of_numbers() {
        for (answer, expected) in [
            ("The Red ball.", "red ball"),
            ("two", "2"),
            ("a man, a plan", "man plan"),
            ("1,000", "1000"),
            ("3.5", "3.5"),
            ("black/white", "black white"),
            ("yes!", "yes"),
            ("dont know", "don't know"),
            ("couldn'tve", "couldn't've"),
            ("it's", "it's"),
            (" none\t", "0"),
            ("", ""),
        ] {
            assert_eq!(normalised(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn an_answer_that_three_others_gave_is_right_and_a_rarer_one_partly() {
        let people = |red: usize| -> Vec<String> {
            (0..10).map(|person| if person < red { "red" } else { "dark red" }.to_owned()).collect()
        };
        let vqa = |red| marks("Red.", &people(red)).vqa;
        assert_eq!([vqa(0), vqa(4), vqa(9)], [0.0, 1.0, 1.0]);
        // Of three who said it each sees two others, the seven see all three: (7 · 3/3 + 3 · 2/3) / 10.
        assert!((vqa(3) - 0.9).abs() < 1e-12);
        assert!((vqa(1) - 0.3).abs() < 1e-12);
        assert_eq!(marks("red", &people(10)), Marks { exact: 1.0, vqa: 1.0 });
        assert_eq!(
            marks("Red.", &people(10)),
            Marks { exact: 1.0, vqa: 0.0 },
            "unanimous answers are compared as written"
        );
        assert_eq!(marks("red", &people(1)).exact, 1.0);
        assert_eq!(marks("red", &["red".to_owned()]), Marks { exact: 1.0, vqa: 1.0 });
        assert_eq!(marks("blue", &["red".to_owned()]), Marks { exact: 0.0, vqa: 0.0 });
    }

    #[derive(serde::Deserialize)]
    struct Reference {
        /// An answer, and the form in which it is compared.
        normalised: Vec<(String, String)>,
        /// An answer, those of ten people, and its accuracy.
        accuracy: Vec<(String, Vec<String>, f64)>,
    }

    #[test]
    fn answers_are_marked_as_the_published_evaluation_of_vqa_marks_them() {
        let reference: Reference = serde_json::from_str(include_str!("vqa_reference.json")).unwrap();
        for (answer, expected) in &reference.normalised {
            assert_eq!(&normalised(answer), expected, "{answer:?}");
        }
        for (answer, people, expected) in &reference.accuracy {
            let found = marks(answer, people).vqa;
            assert!((found - expected).abs() < 1e-9, "{answer:?} of {people:?}: {found}, not {expected}");
        }
    }
}
