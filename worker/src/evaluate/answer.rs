//! Questions about images: the decoder goes on from the question, and what it says is the answer (VQA, OCR-VQA).

use cappa_data::records::Record;
use cappa_model::{Captioner, END_OF_TEXT};
use cappa_shared::evaluation::{Answers, Finding};
use cappa_shared::spec::Decoding;
use tch::Tensor;

use super::caption::search;
use super::samples::{Samples, add_images, field, texts};
use super::{Evaluator, vqa};
use crate::train::outcome::Departure;

/// Where a sample's answers are looked for when the spec does not say: a list as VQAv2 has it, or the only one.
const ANSWERS: [&str; 2] = ["answers", "answer"];
/// Questions that the blind decoder answers at a time.
const CHUNK: usize = 64;

/// A question and the answers that people gave.
struct Asked {
    question: String,
    answers: Vec<String>,
}

/// Answers every sample's question; gives the number of samples and how many were right.
pub(super) fn answer(
    evaluator: &Evaluator<'_>,
    samples: &Samples,
    question: &str,
    answer: Option<&str>,
    decoding: Decoding,
) -> Result<(u64, Finding), Departure> {
    let model = evaluator.decoder()?;
    let suit = |record: &Record| {
        let mut places = answer.into_iter().chain(ANSWERS.into_iter().filter(|_| answer.is_none()));
        let answers = places.find_map(|place| Some(texts(record, place)).filter(|found| !found.is_empty()))?;
        Some(Asked { question: field(record, question)?.to_owned(), answers })
    };
    let (mut asked, mut images_sum) = (Vec::new(), None);
    let (mut exact, mut right) = (0.0, 0.0);
    samples.chunks(evaluator, suit, |images, chunk| {
        add_images(&mut images_sum, &images);
        let chunk: Vec<Asked> = chunk.into_iter().map(|(_, asked)| asked).collect();
        let encoded = tch::no_grad(|| model.encode(&images))?;
        let marks = marked(evaluator, model, &encoded, &chunk, decoding)?;
        (exact, right) = (exact + marks[0], right + marks[1]);
        asked.extend(chunk);
        Ok(())
    })?;
    let mean = evaluator.encode_mean(images_sum, asked.len() as i64)?;
    let (mut blind_exact, mut blind_right) = (0.0, 0.0);
    for some in asked.chunks(CHUNK) {
        let mut size = mean.size();
        size[0] = some.len() as i64;
        let marks = marked(evaluator, model, &mean.expand(size, false), some, decoding)?;
        (blind_exact, blind_right) = (blind_exact + marks[0], blind_right + marks[1]);
    }
    let sums = evaluator.sum(&[exact, right, blind_exact, blind_right, asked.len() as f64])?;
    let total = sums[4];
    if total == 0.0 {
        let answers = answer.map_or_else(|| ANSWERS.join("` or `"), str::to_owned);
        return Err(Departure::Unsuitable(format!(
            "no sample has the fields `{question}` and `{answers}`; see `cappactl data inspect`"
        )));
    }
    let [exact_match, vqa_accuracy, blind_exact_match, blind_vqa_accuracy] = [0, 1, 2, 3].map(|n| sums[n] / total);
    let answers = Answers { exact_match, vqa_accuracy, blind_exact_match, blind_vqa_accuracy };
    Ok((total as u64, Finding::Answer(answers)))
}

/// The sums of exact matches and of VQA accuracies over some questions about encoded images `[B, P, E]`.
fn marked(
    evaluator: &Evaluator<'_>,
    model: &Captioner,
    encoded: &Tensor,
    asked: &[Asked],
    decoding: Decoding,
) -> Result<[f64; 2], Departure> {
    let unsuitable = |error: cappa_data::text::TokenizerError| Departure::Unsuitable(error.to_string());
    let length = evaluator.assignment.spec.data.text_length.longest() as usize;
    let prefix = |asked: &Asked| {
        let mut ids = evaluator.tokenizer.encode(&asked.question, length)?;
        // The answer takes the place of the question's end.
        ids.truncate(ids.iter().position(|&id| id == END_OF_TEXT).unwrap_or(length - 1));
        Ok(ids)
    };
    let prefixes = asked.iter().map(prefix).collect::<Result<Vec<_>, _>>().map_err(unsuitable)?;
    let said = model.generate(encoded, &prefixes, &search(decoding, length))?;
    let mut sums = [0.0; 2];
    for (ids, asked) in said.iter().zip(asked) {
        let marks = vqa::marks(&evaluator.tokenizer.decode(ids).map_err(unsuitable)?, &asked.answers);
        sums = [sums[0] + marks.exact, sums[1] + marks.vqa];
    }
    Ok(sums)
}
