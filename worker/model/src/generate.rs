//! Captions and answers from a trained model: greedy decoding and beam search, with keys and values of what was decoded kept.
//!
//! B images, K beams, R = B · K rows, P patches, E width, V vocabulary.

use tch::{Kind, Tensor};

use crate::captioner::Captioner;
use crate::{END_OF_TEXT, ModelError, PAD};

/// How the likeliest text is sought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// Texts that are followed at a time; 1 is greedy decoding.
    pub beams: usize,
    /// Among ended texts that with the highest log-likelihood / tokens ^ `length_penalty` wins, its end counted: 0 favours short ones.
    pub length_penalty: f64,
    /// Tokens of a text at most, its end counted and its prefix not.
    pub max_length: usize,
}

impl Captioner {
    /// The likeliest next token, again and again, at most `max_length` of them (and at most the
    /// model's text length): `[B, ≤ max_length]`, i64. From the first end of text on, only padding
    /// follows; stops early when every caption has ended.
    ///
    /// # Errors
    /// The images are not of the model's size.
    pub fn greedy(&self, images: &Tensor, max_length: i64) -> Result<Tensor, ModelError> {
        let encoded = tch::no_grad(|| self.encode(images))?;
        let mut ended = Tensor::zeros([encoded.size()[0]], (Kind::Bool, self.device()));
        let mut columns = Vec::new();
        self.decode_steps(&encoded, max_length, |_, choice| {
            columns.push(choice.masked_fill(&ended, PAD));
            ended = ended.logical_or(&choice.eq(END_OF_TEXT));
            ended.all().int64_value(&[]) == 0
        });
        Ok(Tensor::stack(&columns, 1))
    }

    /// Greedy steps that ignore the end of text: calls `next` with the logits `[B, V]` and the
    /// choice `[B]` of each, while it returns true.
    pub(crate) fn decode_steps(
        &self,
        encoded: &Tensor,
        max_length: i64,
        mut next: impl FnMut(&Tensor, &Tensor) -> bool,
    ) {
        let _no_grad = tch::no_grad_guard();
        let precision = self.precision();
        let memory = self.decoder.memory(encoded, precision);
        let mut cache = self.decoder.cache();
        let mut tokens = Tensor::full([encoded.size()[0]], PAD, (Kind::Int64, self.device()));
        for _ in 0..max_length.min(self.config().text_length) {
            let x = self.decoder.step(&tokens, &memory, &mut cache, precision);
            let logits = self.decoder.logits(&x, precision).squeeze_dim(1);
            tokens = logits.argmax(-1, false);
            if !next(&logits, &tokens) {
                break;
            }
        }
    }

    /// A text for each encoded image `[B, P, E]`: its tokens, with [`END_OF_TEXT`] where it ended. A text goes on from the prefix of its
    /// image, without repeating it: B prefixes, or none for all.
    ///
    /// Beams as in Graves, arXiv 1211.3711, and Wu et al., arXiv 1609.08144, section 7; the K best ended texts end an image's search
    /// once none of its beams could do better now.
    ///
    /// # Errors
    /// A prefix leaves no room for a token, or their number is not B.
    pub fn generate(
        &self,
        encoded: &Tensor,
        prefixes: &[Vec<i64>],
        search: &Search,
    ) -> Result<Vec<Vec<i64>>, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let (images, beams) = (encoded.size()[0] as usize, search.beams.max(1));
        let length = self.config().text_length as usize;
        let has_room = prefixes.iter().all(|prefix| prefix.len() < length);
        if !has_room || ![0, images].contains(&prefixes.len()) {
            let longest = prefixes.iter().map(Vec::len).max().unwrap_or_default();
            return Err(ModelError::Prefixes { given: prefixes.len(), images, longest, length });
        }
        let prefix = |image: usize| prefixes.get(image).map_or(&[][..], Vec::as_slice);
        let mut sought: Vec<Sought> = (0..images).map(|image| Sought::new(prefix(image))).collect();

        let precision = self.precision();
        let memory = self.decoder.memory(encoded, precision);
        let mut cache = self.decoder.cache();
        let mut tokens = Tensor::full([(images * beams) as i64], PAD, (Kind::Int64, self.device()));
        for place in 0..length {
            let x = self.decoder.step(&tokens, &memory, &mut cache, precision);
            let logits = self.decoder.logits(&x, precision).squeeze_dim(1);
            let likeliest = Likeliest::of(&logits, 2 * beams);
            let (mut parents, mut next) = (Vec::new(), Vec::new());
            for (image, sought) in sought.iter_mut().enumerate() {
                let first = image * beams;
                sought.advance(place, search, |beam| likeliest.of_row(first + beam), place + 1 == length);
                for beam in 0..beams {
                    let (parent, token) = sought.row(beam);
                    parents.push((first + parent) as i64);
                    next.push(token);
                }
            }
            if sought.iter().all(|sought| sought.is_done) {
                break;
            }
            if parents.iter().copied().ne(0..(images * beams) as i64) {
                cache.select(&Tensor::from_slice(&parents).to_device(self.device()));
            }
            tokens = Tensor::from_slice(&next).to_device(self.device());
        }
        Ok(sought.into_iter().map(Sought::best).collect())
    }
}

/// The likeliest next tokens of every row, with their log-likelihoods, on the host.
struct Likeliest {
    tokens: Vec<Vec<i64>>,
    log_likelihoods: Vec<Vec<f64>>,
}

impl Likeliest {
    /// Of logits `[R, V]`.
    fn of(logits: &Tensor, count: usize) -> Self {
        let count = (count as i64).min(logits.size()[1]);
        let (values, tokens) = logits.log_softmax(-1, Kind::Float).topk(count, -1, true, true);
        Self {
            tokens: Vec::try_from(tokens).expect("rows of token ids"),
            log_likelihoods: Vec::try_from(values.to_kind(Kind::Double)).expect("rows of numbers"),
        }
    }

    fn of_row(&self, row: usize) -> impl Iterator<Item = (i64, f64)> {
        self.tokens[row].iter().copied().zip(self.log_likelihoods[row].iter().copied())
    }
}

/// A text that has not ended.
#[derive(Debug, Clone)]
struct Beam {
    log_likelihood: f64,
    /// Behind the prefix.
    tokens: Vec<i64>,
    /// The beam it goes on from.
    parent: usize,
    /// What the decoder is fed next.
    token: i64,
}

/// The search for one image's text.
struct Sought<'a> {
    prefix: &'a [i64],
    /// Likeliest first.
    beams: Vec<Beam>,
    /// Texts that have ended, with what they are compared by; best first.
    ended: Vec<(f64, Vec<i64>)>,
    is_done: bool,
}

impl<'a> Sought<'a> {
    fn new(prefix: &'a [i64]) -> Self {
        let start = Beam { log_likelihood: 0.0, tokens: Vec::new(), parent: 0, token: PAD };
        Self { prefix, beams: vec![start], ended: Vec::new(), is_done: false }
    }

    /// One token further, at this place of the sequence; `likeliest` are a beam's next tokens.
    fn advance<I: Iterator<Item = (i64, f64)>>(
        &mut self,
        place: usize,
        search: &Search,
        likeliest: impl Fn(usize) -> I,
        is_last: bool,
    ) {
        if self.is_done {
            return;
        }
        if let Some(&token) = self.prefix.get(place) {
            self.beams[0].token = token;
            return;
        }
        let wanted = search.beams.max(1);
        let mut further: Vec<Beam> = Vec::new();
        for (parent, beam) in self.beams.iter().enumerate() {
            further.extend(likeliest(parent).map(|(token, log_likelihood)| Beam {
                log_likelihood: beam.log_likelihood + log_likelihood,
                tokens: beam.tokens.iter().copied().chain([token]).collect(),
                parent,
                token,
            }));
        }
        further.sort_by(|a, b| b.log_likelihood.total_cmp(&a.log_likelihood));
        self.beams.clear();
        for (rank, beam) in further.into_iter().enumerate() {
            if self.beams.len() == wanted {
                break;
            }
            match beam.token == END_OF_TEXT {
                true if rank < wanted => self.end(beam, search),
                true => {}
                false => self.beams.push(beam),
            }
        }
        let length = place + 1 - self.prefix.len();
        if is_last || length >= search.max_length {
            for beam in std::mem::take(&mut self.beams) {
                self.end(beam, search);
            }
        }
        self.ended.truncate(wanted);
        self.is_done = self.beams.first().is_none_or(|best| {
            let is_full = self.ended.len() == wanted;
            let worst = self.ended.last().map_or(f64::NEG_INFINITY, |(score, _)| *score);
            is_full && (wanted == 1 || worst >= comparable(best.log_likelihood, length, search))
        });
    }

    fn end(&mut self, beam: Beam, search: &Search) {
        let score = comparable(beam.log_likelihood, beam.tokens.len(), search);
        let place = self.ended.partition_point(|(other, _)| *other >= score);
        self.ended.insert(place, (score, beam.tokens));
    }

    /// What row `beam` of the next step goes on from, and the token it is fed. Rows without a beam go on from the first, and are not
    /// looked at.
    fn row(&self, beam: usize) -> (usize, i64) {
        self.beams.get(beam).or(self.beams.first()).map_or((beam, PAD), |beam| (beam.parent, beam.token))
    }

    fn best(self) -> Vec<i64> {
        self.ended.into_iter().next().map(|(_, tokens)| tokens).unwrap_or_default()
    }
}

fn comparable(log_likelihood: f64, length: usize, search: &Search) -> f64 {
    log_likelihood / (length.max(1) as f64).powf(search.length_penalty)
}
