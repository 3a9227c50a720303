//! What is said about a scene: captions, their paraphrases, and captions that are false.

use super::Split;
use super::facts::Negatives;
use super::rng::{Rng, fold, mix};
use super::rules::Rules;
use super::scene::{Content, Item, Scene};
use super::vocabulary::{Colour, Relation, Shape, Texture};
use super::words::WORDS;

const OPENINGS: [&str; 5] = ["", "there is ", "a picture of ", "an image of ", "one can see "];
const WRITING: [&str; 3] = ["the word", "the text", "the writing"];
const BOTH: [&str; 2] = ["them", "both"];

/// How the relation becomes a sentence, for items A and B in "left of".
#[derive(Clone, Copy, Debug, PartialEq)]
enum Frame {
    /// "A left of B"
    Direct,
    /// "B right of A"
    Turned,
    /// "A is left of B"
    Copula,
    /// "left of B is A"
    Fronted,
}

/// All the choices behind one caption. The same phrasing of another scene differs only where the scenes do, which is
/// what makes a false caption grammatically equal to the right one.
#[derive(Clone, Debug, PartialEq)]
struct Phrasing {
    opening: &'static str,
    frame: Frame,
    /// Whether sizes are said.
    sizes: bool,
    /// Whether textures are said; plain never is.
    textures: bool,
    /// Whether the colours of words are said.
    word_colours: bool,
    /// Whether the colours of objects are said where a word stands beside them.
    object_colours: bool,
    /// Chooses among synonyms; 0 says the canonical ones.
    lexicon: u64,
}

/// What is said about one scene.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// True captions, all different, at least one.
    pub(super) captions: Vec<String>,
    /// The first caption, made false.
    pub(super) negatives: Negatives,
}

/// Captions a scene as its level does. What makes captions false is drawn by itself, and is of the same split.
pub(super) fn describe(scene: &Scene, rules: &Rules, split: Split, rng: &mut Rng, changes: &mut Rng) -> Said {
    let wanted = 1 + rng.below(rules.max_captions);
    let first = Phrasing::draw(scene, rules, rng);
    let mut captions = vec![first.caption(scene)];
    // Some scenes have few phrasings: several draws for each caption wanted, then what was found is enough.
    for _ in 0..4 * wanted {
        if captions.len() == wanted {
            break;
        }
        let caption = Phrasing::draw(scene, rules, rng).caption(scene);
        if !captions.contains(&caption) {
            captions.push(caption);
        }
    }
    let differing = |other: Scene| Some(first.caption(&other)).filter(|caption| *caption != captions[0]);
    let negatives = Negatives {
        attribute: scene.with_attributes_exchanged().and_then(differing),
        relation: scene.with_relation_reversed().and_then(differing),
        // What is not said can be replaced without a difference.
        replace: scene.with_one_replaced(rules, split, changes).into_iter().find_map(differing),
        add: scene.with_one_added(rules, split, changes).and_then(differing),
    };
    Said { captions, negatives }
}

/// The caption of a class of single objects, as training captions without a size say it.
pub(super) fn class_prompt(colour: Colour, shape: Shape) -> String {
    with_article(&format!("{} {}", colour.name(), shape.name()))
}

/// The caption of a single word, as training captions without a colour say it.
pub(super) fn word_prompt(word: &str) -> String {
    format!("{} {word}", WRITING[0])
}

impl Phrasing {
    fn draw(scene: &Scene, rules: &Rules, rng: &mut Rng) -> Self {
        let frame = match (rules.paraphrases, rules.synonyms) {
            (false, _) => Frame::Direct,
            (true, false) => rng.pick(&[Frame::Direct, Frame::Turned]),
            (true, true) => rng.pick(&[Frame::Direct, Frame::Turned, Frame::Copula, Frame::Fronted]),
        };
        let may_open = rules.paraphrases && matches!(frame, Frame::Direct | Frame::Turned);
        let says_a_word = scene.items.iter().any(|item| item.content.is_word());
        Self {
            opening: if may_open { rng.pick(&OPENINGS) } else { "" },
            frame,
            sizes: rng.chance(0.5),
            textures: rng.chance(0.75),
            word_colours: rng.chance(if scene.items.len() == 1 { 0.5 } else { 0.75 }),
            object_colours: !says_a_word || rng.chance(0.75),
            lexicon: if rules.synonyms && rng.chance(0.6) { rng.next() } else { 0 },
        }
    }

    fn caption(&self, scene: &Scene) -> String {
        let noun_phrases: Vec<String> = scene.items.iter().map(|item| self.noun_phrase(item)).collect();
        let sentence = match (noun_phrases.as_slice(), scene.relation) {
            ([first, second, ..], Some(relation)) => self.relate(first, second, relation),
            ([only, ..], _) => only.clone(),
            ([], _) => unreachable!("a scene has an item"),
        };
        let tail = match (noun_phrases.get(2), scene.third) {
            (Some(third), Some(relation)) => self.add_third(third, relation),
            _ => String::new(),
        };
        format!("{}{sentence}{tail}", self.opening)
    }

    fn relate(&self, first: &str, second: &str, relation: Relation) -> String {
        let says = |relation: Relation| self.relation(relation);
        match self.frame {
            Frame::Direct => format!("{first} {} {second}", says(relation)),
            Frame::Turned => format!("{second} {} {first}", says(relation.reversed())),
            Frame::Copula => format!("{first} is {} {second}", says(relation)),
            Frame::Fronted => format!("{} {second} is {first}", says(relation)),
        }
    }

    fn add_third(&self, third: &str, relation: Relation) -> String {
        let (relation, both) = (self.relation(relation), self.synonym(&BOTH));
        match self.frame {
            Frame::Direct | Frame::Turned => format!(", and {third} {relation} {both}"),
            Frame::Copula => format!(", and {third} is {relation} {both}"),
            Frame::Fronted => format!(", and {relation} {both} is {third}"),
        }
    }

    fn noun_phrase(&self, item: &Item) -> String {
        let colour = self.synonym(item.colour.words());
        match item.content {
            Content::Word { word, .. } => {
                let text = format!("{} {}", self.synonym(&WRITING), WORDS[word]);
                if self.word_colours { format!("{text} in {colour}") } else { text }
            }
            Content::Object { shape, size, texture } => {
                let size = self.sizes.then(|| self.synonym(size.words()));
                let texture = (self.textures && texture != Texture::Plain).then(|| self.synonym(texture.words()));
                let colour = self.object_colours.then_some(colour);
                let shape = Some(self.synonym(shape.words()));
                let words: Vec<&str> = [size, texture, colour, shape].into_iter().flatten().collect();
                with_article(&words.join(" "))
            }
        }
    }

    /// All relations in one style, so that a reversed one is as long and as rare as the right one.
    fn relation(&self, relation: Relation) -> &'static str {
        self.choose("relation", relation.words())
    }

    fn synonym<'a>(&self, options: &[&'a str]) -> &'a str {
        self.choose(options[0], options)
    }

    /// One spelling, the same wherever this caption says the same thing.
    fn choose<'a>(&self, thing: &str, options: &[&'a str]) -> &'a str {
        if self.lexicon == 0 {
            return options[0];
        }
        let identity = thing.bytes().fold(mix(self.lexicon), |hash, byte| fold(hash, u64::from(byte)));
        options[(identity % options.len() as u64) as usize]
    }
}

fn with_article(phrase: &str) -> String {
    let article = if phrase.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {phrase}")
}
