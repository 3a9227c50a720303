//! What a spec refers to: manifests, their shards, the tokenizer, and the checkpoint it starts from.

use std::time::Duration;

use cappa_data::index;
use cappa_data::text::Tokenizer;
use cappa_shared::causes::with_causes;
use cappa_shared::checkpoint::{self, CheckpointManifest, Headers, vocabulary_difference};
use cappa_shared::manifest::{DataManifest, Format, ManifestError, Shard};
use cappa_shared::spec::{Captions, Evaluation, JobKind, JobSpec, Task, is_manifest};
use cappa_shared::storage::{self, AllowList, Location};
use futures::future::FutureExt;
use futures::stream::{self, StreamExt};
use prost::Message;
use serde_json::Value;

use super::{Mistake, fields};

/// Requests to a store at once.
const PARALLEL: usize = 32;

/// The longest that looking at one reference may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The largest manifest or tokenizer that is read.
const LARGEST: u64 = 256 << 20;

/// Missing shards that are named one by one.
const NAMED: usize = 20;

/// The URLs of a spec, each with its path in the document, and what they must fit.
#[derive(Debug, Default)]
pub(super) struct References {
    train: Vec<(String, String)>,
    tokenizer: Option<String>,
    init: Option<String>,
    /// What the checkpoint must fit, where that is known.
    spec: Option<JobSpec>,
    /// Manifests of evaluations.
    evaluations: Vec<EvaluationSet>,
    lanes: Option<u32>,
    captions: Captions,
    vocabulary: Option<u32>,
    /// The field of the samples' `.json` that has their classes.
    label: Option<String>,
}

/// A set that an evaluation reads.
#[derive(Debug)]
struct EvaluationSet {
    /// Where the document names it.
    path: String,
    url: String,
    /// Of each group of dotted paths, one is in its samples' `.json`.
    fields: Vec<Vec<String>>,
}

/// What was found behind the references.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) mistakes: Vec<Mistake>,
    /// Of every source that is a manifest: what it has.
    pub(super) train: Vec<ManifestFacts>,
}

/// What a job must know of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManifestFacts {
    /// Of an epoch.
    pub(super) samples: u64,
    pub(super) digest: String,
}

impl References {
    /// Those of a spec that is right in itself.
    pub(super) fn of_spec(spec: &JobSpec) -> Self {
        Self {
            train: match spec.data.train.only() {
                Some(only) => vec![("data.train".into(), only.source.clone())],
                None => {
                    let sources = spec.data.train.iter().enumerate();
                    sources.map(|(n, source)| (format!("data.train[{n}]"), source.source.clone())).collect()
                }
            },
            tokenizer: Some(spec.data.tokenizer.clone()),
            // What a job will have written can't be looked at yet.
            init: spec.init.as_ref().filter(|init| init.job().is_none()).map(|init| init.from.clone()),
            spec: spec.init.is_some().then(|| spec.clone()),
            evaluations: evaluations(spec),
            // What is only evaluated is in no lane.
            lanes: (spec.kind == JobKind::Pretrain).then_some(spec.data.lanes),
            captions: spec.data.captions.clone(),
            vocabulary: Some(spec.model.vocabulary),
            label: spec.data.label.as_ref().map(|label| label.field.clone()),
        }
    }

    /// Those that can be made out in a document with mistakes, so that theirs are reported with the rest.
    pub(super) fn of_document(text: &str) -> Self {
        let Ok(document) = serde_yaml_ng::from_str::<Value>(text) else {
            return Self::default();
        };
        let url = |pointer: &str| {
            document.pointer(pointer).and_then(Value::as_str).filter(|url| is_url(url)).map(str::to_owned)
        };
        let evaluations = document.pointer("/evaluate").and_then(Value::as_array).map_or(0, Vec::len);
        Self {
            train: url("/data/train").into_iter().map(|url| ("data.train".into(), url)).collect(),
            tokenizer: url("/data/tokenizer"),
            init: url("/init/from").or_else(|| url("/init")).or_else(|| url("/from")),
            spec: None,
            evaluations: (0..evaluations)
                .filter_map(|n| {
                    let (path, url) = (format!("evaluate[{n}].data"), url(&format!("/evaluate/{n}/data"))?);
                    Some(EvaluationSet { path, url, fields: Vec::new() })
                })
                .collect(),
            lanes: None,
            captions: Captions::default(),
            vocabulary: None,
            label: None,
        }
    }

    /// Looks at all of them.
    pub(super) async fn check(&self, allowed: &AllowList) -> Found {
        let train =
            self.train.iter().map(|(path, url)| check_source(path, url, allowed, self.lanes, &self.captions).boxed());
        let train = stream::iter(train.collect::<Vec<_>>()).buffered(4).collect::<Vec<_>>();
        let knows_words = self.spec.as_ref().is_some_and(JobSpec::init_knows_words);
        let tokenizer = async {
            match &self.tokenizer {
                Some(url) => check_tokenizer(url, allowed, self.vocabulary, knows_words).await,
                None => Default::default(),
            }
        };
        let evaluations = self.evaluations.iter().map(|set| check_evaluation(set, allowed).boxed());
        let evaluations = stream::iter(evaluations.collect::<Vec<_>>()).buffered(4).collect::<Vec<_>>();
        let init = async {
            match &self.init {
                Some(url) => check_init(url, self.spec.as_ref(), allowed).await,
                None => Default::default(),
            }
        };
        let labels = self.check_label(allowed);
        let (train, tokenizer, init, evaluations, labels) = tokio::join!(train, tokenizer, init, evaluations, labels);
        let ((tokenizer, of_job), (init, of_checkpoint)) = (tokenizer, init);
        let mut found = Found::default();
        for (mistakes, manifest) in train {
            found.mistakes.extend(mistakes);
            found.train.extend(manifest);
        }
        found.mistakes.extend(tokenizer);
        let differs = of_job.and_then(|of_job| vocabulary_difference(of_checkpoint.as_deref(), &of_job));
        let of_init = |message| Mistake { path: self.init_path().to_owned(), message };
        found.mistakes.extend(init.into_iter().chain(differs).map(of_init));
        found.mistakes.extend(labels);
        found.mistakes.extend(evaluations.into_iter().flatten());
        found
    }

    /// The field of the classes is one that training samples have, of sources that are manifests.
    async fn check_label(&self, allowed: &AllowList) -> Vec<Mistake> {
        let Some(field) = &self.label else { return Vec::new() };
        let wanted = [vec![field.clone()]];
        let sources = self.train.iter().filter(|(_, source)| is_manifest(source));
        let looks = sources.map(|(_, source)| {
            let wanted = &wanted;
            // Whether the shards are there at all is found by others; a slow store is the workers' to wait for.
            async move {
                tokio::time::timeout(LIMIT, fields::missing(source, wanted, allowed)).await.unwrap_or_default()
            }
            .boxed()
        });
        let looks = stream::iter(looks.collect::<Vec<_>>()).buffered(4).collect::<Vec<_>>().await;
        let mistake = |message| Mistake { path: "data.label".to_owned(), message };
        looks.into_iter().flatten().map(mistake).collect()
    }

    /// Where the document names the checkpoint that the job starts from.
    fn init_path(&self) -> &'static str {
        if self.spec.as_ref().is_some_and(|spec| spec.kind == JobKind::Evaluate) { "from" } else { "init" }
    }
}

fn is_url(text: &str) -> bool {
    storage::parse(text).is_ok()
}

/// The mistakes, and what the manifest says if it could be read.
type Checked = (Vec<Mistake>, Option<ManifestFacts>);

/// All sets that the evaluations of a spec read.
fn evaluations(spec: &JobSpec) -> Vec<EvaluationSet> {
    let of_one = |(n, evaluation): (usize, &Evaluation)| {
        let fields = evaluation.task.fields();
        let fields: Vec<Vec<String>> =
            fields.into_iter().map(|group| group.into_iter().map(str::to_owned).collect()).collect();
        let set = |path: &str, url: &String| EvaluationSet {
            path: format!("evaluate[{n}].{path}"),
            url: url.clone(),
            fields: fields.clone(),
        };
        let mut read = vec![set("data", &evaluation.data)];
        if let Task::Fewshot { train, .. } = &evaluation.task {
            read.push(set("task.train", train));
        }
        read
    };
    spec.evaluate.iter().enumerate().flat_map(of_one).collect()
}

async fn check_evaluation(set: &EvaluationSet, allowed: &AllowList) -> Vec<Mistake> {
    let (mut mistakes, facts) = check_manifest(&set.path, &set.url, allowed, None, &Captions::default()).await;
    if mistakes.is_empty() && facts.is_some() {
        let look = fields::missing(&set.url, &set.fields, allowed);
        // The shards were there a moment ago; a slow store is the workers' to wait for.
        let messages = tokio::time::timeout(LIMIT, look).await.unwrap_or_default();
        mistakes.extend(messages.into_iter().map(|message| Mistake { path: set.path.clone(), message }));
    }
    mistakes
}

/// A source of training samples: a manifest, or shards that are indexed before the job is queued.
async fn check_source(
    path: &str,
    source: &str,
    allowed: &AllowList,
    lanes: Option<u32>,
    captions: &Captions,
) -> Checked {
    if is_manifest(source) {
        return check_manifest(path, source, allowed, lanes, captions).await;
    }
    let mistakes = match index::places(source) {
        Ok(places) => {
            let refused = places.iter().filter_map(|place| allowed.check(place).err());
            refused.map(|error| error.to_string()).take(NAMED).collect()
        }
        Err(error) => vec![error.to_string()],
    };
    (mistakes.into_iter().map(|message| Mistake { path: path.to_owned(), message }).collect(), None)
}

async fn check_manifest(
    path: &str,
    url: &str,
    allowed: &AllowList,
    lanes: Option<u32>,
    captions: &Captions,
) -> Checked {
    let mistake = |message: String| Mistake { path: path.to_owned(), message };
    if !is_manifest(url) {
        let message = "is no manifest (its name ends in .json); write one with `cappactl data index` and name that";
        return (vec![mistake(message.into())], None);
    }
    let read = async {
        let location = allowed_location(url, allowed)?;
        let content = read_bounded(&location).await?;
        let manifest = DataManifest::from_json(&content).map_err(describe)?;
        Ok((location, manifest))
    };
    let (location, manifest) = match within_limit(url, read).await {
        Ok(found) => found,
        Err(messages) => return (messages.into_iter().map(mistake).collect(), None),
    };
    let mut messages = check_shards(&location, &manifest, allowed).await;
    let counts = manifest.epoch_counts(captions).unwrap_or_else(|error| {
        messages.push(error.to_string());
        manifest.sample_counts()
    });
    let samples = counts.into_iter().map(u64::from).sum();
    if let Some(lanes) = lanes.filter(|lanes| u64::from(*lanes) > samples) {
        messages.push(format!("has {samples} samples for {lanes} lanes; add data or lower data.lanes"));
    }
    let facts = ManifestFacts { samples, digest: manifest.digest().to_owned() };
    (messages.into_iter().map(mistake).collect(), Some(facts))
}

/// All that is wrong with the manifest, a message each.
fn describe(error: ManifestError) -> Vec<String> {
    match error {
        ManifestError::Invalid(problems) => problems.iter().map(ToString::to_string).collect(),
        error => vec![with_causes(&error)],
    }
}

/// Every shard must be there with the size that the manifest gives.
async fn check_shards(manifest_at: &Location, manifest: &DataManifest, allowed: &AllowList) -> Vec<String> {
    let checks = manifest.shards().iter().map(|shard| check_shard(manifest_at, shard, allowed).boxed());
    let checks = stream::iter(checks.collect::<Vec<_>>()).buffered(PARALLEL);
    let mut wrong: Vec<String> = checks.filter_map(std::future::ready).collect().await;
    let count = wrong.len();
    if count > NAMED {
        wrong.truncate(NAMED);
        wrong.push(format!("{} more shards can't be used", count - NAMED));
    }
    wrong
}

async fn check_shard(manifest_at: &Location, shard: &Shard, allowed: &AllowList) -> Option<String> {
    let name = &shard.path;
    let look = async {
        let location = manifest_at.sibling(name).map_err(|error| vec![with_causes(&error)])?;
        allowed.check(location.url()).map_err(|error| vec![error.to_string()])?;
        if shard.format == Format::Folder {
            // The digest is compared where it is read; here it is enough that there are files.
            let files = location.list("").await.map_err(|error| vec![with_causes(&error)])?;
            return if files.is_empty() { Err(vec!["the folder is empty or gone".into()]) } else { Ok(shard.bytes) };
        }
        location.size("").await.map_err(|error| vec![with_causes(&error)])
    };
    match within_limit(name, look).await {
        Ok(bytes) if bytes == shard.bytes => None,
        Ok(bytes) => Some(format!(
            "shard {name} has {bytes} bytes, the manifest says {}; write the manifest again with `cappactl data index`",
            shard.bytes
        )),
        Err(messages) => Some(format!("shard {name}: {}", messages.join("; "))),
    }
}

/// The mistakes, and the digest of the vocabulary where that is wanted.
async fn check_tokenizer(
    url: &str,
    allowed: &AllowList,
    vocabulary: Option<u32>,
    wants_digest: bool,
) -> (Vec<Mistake>, Option<String>) {
    let mistake = |message: String| Mistake { path: "data.tokenizer".to_owned(), message };
    let read = async {
        let location = allowed_location(url, allowed)?;
        let content = read_bounded(&location).await?;
        let tokens = tokens_of(&content).map_err(|message| vec![message])?;
        if !wants_digest {
            return Ok((tokens, None));
        }
        let tokenizer = Tokenizer::from_bytes(&content).map_err(|error| vec![with_causes(&error)])?;
        Ok((tokens, Some(tokenizer.vocabulary_digest())))
    };
    let (tokens, digest) = match within_limit(url, read).await {
        Ok(found) => found,
        Err(messages) => return (messages.into_iter().map(mistake).collect(), None),
    };
    let mistakes = match vocabulary {
        Some(vocabulary) if tokens > u64::from(vocabulary) => vec![mistake(format!(
            "has {tokens} tokens, the model's vocabulary {vocabulary}; raise model.vocabulary or train a smaller tokenizer"
        ))],
        _ => Vec::new(),
    };
    (mistakes, digest)
}

/// The checkpoint is there, and its network is that of the job as far as the job starts from it; and the digest of its vocabulary.
async fn check_init(url: &str, spec: Option<&JobSpec>, allowed: &AllowList) -> (Vec<String>, Option<String>) {
    let read = async {
        let location = allowed_location(url, allowed)?;
        let content = read_bounded(&location).await?;
        let manifest = CheckpointManifest::from_json(&content).map_err(|error| vec![with_causes(&error)])?;
        let Some(spec) = spec else { return Ok(None) };
        // <job>/checkpoints/<step>/MANIFEST.json: parts are named from the job's folder.
        let folder = location.parent().parent().parent();
        let Headers { shapes, vocabulary } =
            checkpoint::headers(&folder, &manifest).await.map_err(|error| vec![with_causes(&error)])?;
        let of_param = |(name, shape): (String, _)| Some((name.strip_prefix("params/")?.to_owned(), shape));
        let differences = spec.init_differences(&shapes.into_iter().filter_map(of_param).collect());
        if differences.is_empty() { Ok(vocabulary) } else { Err(differences) }
    };
    match within_limit(url, read).await {
        Ok(vocabulary) => (Vec::new(), vocabulary),
        Err(messages) => (messages, None),
    }
}

/// How many ids a tokenizer's file uses; its content says of which format it is.
fn tokens_of(content: &[u8]) -> Result<u64, String> {
    const ADVICE: &str = "train one with `cappactl tokenizer train`";
    if content.trim_ascii_start().starts_with(b"{") {
        let document =
            serde_json::from_slice(content).map_err(|error| format!("is no tokenizer.json: {error}; {ADVICE}"))?;
        return tokens(&document).ok_or(format!("is no tokenizer.json: it has no model.vocab; {ADVICE}"));
    }
    match SentencePieceModel::decode(content) {
        Ok(model) if !model.pieces.is_empty() => Ok(model.pieces.len() as u64),
        _ => Err(format!("is neither a tokenizer.json nor a SentencePiece .model; {ADVICE}")),
    }
}

/// A SentencePiece model, of which only the number of pieces counts here; a piece's place is its id.
#[derive(Clone, PartialEq, Message)]
struct SentencePieceModel {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pieces: Vec<Vec<u8>>,
}

/// How many ids a tokenizer uses: one more than the highest of its vocabulary and added tokens.
fn tokens(document: &Value) -> Option<u64> {
    let of_vocabulary = match document.pointer("/model/vocab")? {
        Value::Object(tokens) => tokens.values().filter_map(Value::as_u64).max().map_or(0, |highest| highest + 1),
        // A unigram model lists its tokens, and the place is the id.
        Value::Array(tokens) => tokens.len() as u64,
        _ => return None,
    };
    let added = document.pointer("/added_tokens").and_then(Value::as_array);
    let ids = added.into_iter().flatten().filter_map(|token| token.get("id")?.as_u64());
    Some(ids.map(|id| id + 1).fold(of_vocabulary, u64::max))
}

fn allowed_location(url: &str, allowed: &AllowList) -> Result<Location, Vec<String>> {
    allowed.check(url).map_err(|error| vec![error.to_string()])?;
    storage::open(url).map_err(|error| vec![with_causes(&error)])
}

async fn read_bounded(location: &Location) -> Result<bytes::Bytes, Vec<String>> {
    let bytes = location.size("").await.map_err(|error| vec![with_causes(&error)])?;
    if bytes > LARGEST {
        return Err(vec![format!("has {bytes} bytes, more than the {LARGEST} that are read")]);
    }
    location.get("").await.map_err(|error| vec![with_causes(&error)])
}

async fn within_limit<T>(what: &str, look: impl Future<Output = Result<T, Vec<String>>>) -> Result<T, Vec<String>> {
    match tokio::time::timeout(LIMIT, look).await {
        Ok(result) => result,
        Err(_) => Err(vec![format!("{what} did not answer within {} s; check the store's address", LIMIT.as_secs())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tokenizer_is_recognised_by_its_content() {
        let model = SentencePieceModel { pieces: vec![vec![0x0A, 1, b'a'], Vec::new()] };
        assert_eq!(tokens_of(&model.encode_to_vec()), Ok(2));
        assert_eq!(tokens_of(br#" {"model": {"vocab": {"a": 0, "b": 6}}}"#), Ok(7));
        for content in ["", "a text", "{", r#"{"model": {}}"#] {
            assert!(tokens_of(content.as_bytes()).is_err(), "{content:?}");
        }
    }

    #[test]
    fn a_tokenizer_needs_room_for_its_highest_id() {
        let document = json!({"model": {"vocab": {"a": 0, "b": 7}}, "added_tokens": [{"id": 9, "content": "x"}]});
        assert_eq!(tokens(&document), Some(10));
        assert_eq!(tokens(&json!({"model": {"vocab": [["a", 0.0], ["b", 0.0]]}})), Some(2));
        assert_eq!(tokens(&json!({"model": {}})), None);
    }
}
