//! Decides from a sample's facts whether a caption is true of it. Shares nothing with the grammar that wrote it.

use cappa_data::synth::Facts;

const OPENINGS: [&str; 4] = ["there is ", "a picture of ", "an image of ", "one can see "];
const RELATIONS: [(&str, &str); 8] = [
    ("to the left of", "left of"),
    ("to the right of", "right of"),
    ("left of", "left of"),
    ("right of", "right of"),
    ("above", "above"),
    ("over", "above"),
    ("below", "below"),
    ("under", "below"),
];
const SYNONYMS: [(&str, &str); 10] = [
    ("plus sign", "cross"),
    ("disc", "circle"),
    ("hoop", "ring"),
    ("rhombus", "diamond"),
    ("violet", "purple"),
    ("little", "small"),
    ("big", "large"),
    ("spotted", "dotted"),
    ("chequered", "checked"),
    ("both", "them"),
];

/// Something seen: the words that may be said of it, and where it is.
struct Seen {
    noun: String,
    adjectives: Vec<String>,
    x: f32,
    y: f32,
}

/// Whether the caption is true of the picture.
///
/// # Panics
///
/// Where the caption has a form that this checker doesn't know.
pub(crate) fn is_true(caption: &str, facts: &Facts) -> bool {
    let seen = seen(facts);
    let mut sentence = format!(" {caption} ");
    for (said, meant) in SYNONYMS {
        sentence = sentence.replace(&format!(" {said} "), &format!(" {meant} "));
        sentence = sentence.replace(&format!(" {said}, "), &format!(" {meant}, "));
    }
    let sentence = sentence.trim();
    let sentence = OPENINGS.iter().find_map(|opening| sentence.strip_prefix(opening)).unwrap_or(sentence);
    let (main, tail) = match sentence.split_once(", and ") {
        Some((main, tail)) => (main, Some(tail)),
        None => (sentence, None),
    };
    let Some((first, relation, second)) = related(main) else {
        assert!(tail.is_none(), "unknown form: {caption}");
        return seen.iter().any(|item| matches(item, main));
    };
    ordered_pairs(&seen).any(|(a, b, others)| {
        let third = |tail: &str| {
            let (third, relation, them) = related(tail).unwrap_or_else(|| panic!("unknown form: {caption}"));
            assert_eq!(them, "them", "unknown form: {caption}");
            others.iter().any(|c| matches(c, third) && holds(relation, c, a) && holds(relation, c, b))
        };
        matches(a, first) && matches(b, second) && holds(relation, a, b) && tail.is_none_or(third)
    })
}

/// All right answers to a question, from the facts alone.
///
/// # Panics
///
/// Where the question has a form that this checker doesn't know.
pub(crate) fn answers(question: &str, facts: &Facts) -> Vec<String> {
    let question = question.strip_suffix('?').expect("a question ends so");
    let objects = || facts.objects.iter();
    if let Some(shape) = question.strip_prefix("what colour is the ") {
        return objects().filter(|object| object.shape == shape).map(|object| object.colour.clone()).collect();
    }
    if let Some(colour) = question.strip_prefix("what shape is ") {
        return objects().filter(|object| object.colour == colour).map(|object| object.shape.clone()).collect();
    }
    if question == "what word is written" {
        return facts.words.clone();
    }
    let claim = question.strip_prefix("is the ").expect("the forms of questions are four");
    let seen = seen(facts);
    let relation = RELATIONS.iter().find(|(said, _)| claim.contains(&format!(" {said} the "))).expect("a relation");
    let (first, second) = claim.split_once(&format!(" {} the ", relation.0)).expect("it was just found");
    let of = |noun: &str| seen.iter().filter(|item| item.noun == noun).collect::<Vec<_>>();
    let pairs = of(first).into_iter().flat_map(|a| of(second).into_iter().map(move |b| (a, b)));
    pairs.map(|(a, b)| if holds(relation.1, a, b) { "yes" } else { "no" }.to_owned()).collect()
}

fn seen(facts: &Facts) -> Vec<Seen> {
    let objects = facts.objects.iter().map(|object| Seen {
        noun: object.shape.clone(),
        adjectives: vec![object.colour.clone(), object.size.clone(), object.texture.clone()],
        x: object.x,
        y: object.y,
    });
    let texts = facts.texts.iter().map(|text| Seen {
        noun: text.word.clone(),
        adjectives: vec![text.colour.clone()],
        x: text.x,
        y: text.y,
    });
    objects.chain(texts).collect()
}

/// Takes "A left of B", "A is left of B" or "left of B is A" apart into A, the relation and B.
fn related(sentence: &str) -> Option<(&str, &str, &str)> {
    for (said, meant) in RELATIONS {
        if let Some(rest) = sentence.strip_prefix(said) {
            let (second, first) = rest.split_once(" is ")?;
            return Some((first.trim(), meant, second.trim()));
        }
        if let Some((first, second)) = sentence.split_once(&format!(" {said} ")) {
            let first = first.strip_suffix(" is").unwrap_or(first);
            return Some((first, meant, second));
        }
    }
    None
}

/// Whether all that is said of an item holds.
fn matches(item: &Seen, said: &str) -> bool {
    let writing = ["the word ", "the text ", "the writing "].iter().find_map(|start| said.strip_prefix(start));
    if let Some(text) = writing {
        let (word, colour) = text.split_once(" in ").map_or((text, None), |(word, colour)| (word, Some(colour)));
        return item.noun == word && colour.is_none_or(|colour| item.adjectives[0] == colour);
    }
    let said = said.strip_prefix("a ").or_else(|| said.strip_prefix("an ")).expect("an object has an article");
    let (adjectives, noun) = said.rsplit_once(' ').map_or((None, said), |(start, noun)| (Some(start), noun));
    let mut adjectives = adjectives.into_iter().flat_map(str::split_whitespace);
    item.noun == noun && adjectives.all(|adjective| item.adjectives.iter().any(|known| known == adjective))
}

fn holds(relation: &str, a: &Seen, b: &Seen) -> bool {
    match relation {
        "left of" => a.x < b.x,
        "right of" => a.x > b.x,
        "above" => a.y < b.y,
        "below" => a.y > b.y,
        _ => unreachable!("the table has four relations"),
    }
}

/// Every two items in both orders, with the items that are left.
fn ordered_pairs(seen: &[Seen]) -> impl Iterator<Item = (&Seen, &Seen, Vec<&Seen>)> {
    let indices = (0..seen.len()).flat_map(move |a| (0..seen.len()).map(move |b| (a, b)));
    indices.filter(|(a, b)| a != b).map(move |(a, b)| {
        let others = seen.iter().enumerate().filter(|(c, _)| *c != a && *c != b).map(|(_, item)| item).collect();
        (&seen[a], &seen[b], others)
    })
}
