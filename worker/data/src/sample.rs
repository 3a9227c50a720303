//! One sample of a shard: its image's bytes, its caption, its facts.

use serde_json::Value;

pub use cappa_shared::spec::CaptionSource;

use crate::bad::{BadReason, BadSample};
use crate::shards::{Damage, SampleEntry, Shard};

/// Extensions of images in order of preference.
pub(crate) const IMAGE_EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Field of the `.json` that lists several captions.
const CAPTIONS_FIELD: &str = "captions";

/// A sample as it lies in its shard.
#[derive(Debug, Clone)]
pub struct RawSample<'a> {
    shard: &'a Shard,
    entry: &'a SampleEntry,
}

impl<'a> RawSample<'a> {
    /// The sample at `index` of a shard.
    ///
    /// # Errors
    /// When the shard has fewer samples, which the shard's damage explains.
    pub fn find(shard: &'a Shard, index: u32) -> Result<Self, BadSample> {
        let entry = shard.samples().get(index as usize).ok_or_else(|| absent(shard, index))?;
        Ok(Self { shard, entry })
    }

    /// What the sample's files have in common.
    pub fn key(&self) -> &'a str {
        &self.entry.key
    }

    /// The content of its image file, still encoded.
    ///
    /// # Errors
    /// When it has no image.
    pub fn image(&self) -> Result<Vec<u8>, BadSample> {
        match self.read(&IMAGE_EXTENSIONS)? {
            Some(image) => Ok(image),
            None => Err(self.bad(BadReason::ImageMissing, format!("no .{} file", IMAGE_EXTENSIONS.join(" or .")))),
        }
    }

    /// Its `.json` document, if it has one.
    ///
    /// # Errors
    /// When the file is not JSON.
    pub fn json(&self) -> Result<Option<Value>, BadSample> {
        self.read(&["json"])?
            .map(|document| serde_json::from_slice(&document))
            .transpose()
            .map_err(|error| self.bad(BadReason::CaptionDamaged, format!(".json is not JSON: {error}")))
    }

    /// Its captions, at least one and none of them empty.
    ///
    /// # Errors
    /// When there is none, or the file is not what it should be.
    pub fn captions(&self, source: &CaptionSource) -> Result<Vec<String>, BadSample> {
        let captions = match source {
            CaptionSource::Txt => self.text_caption()?,
            CaptionSource::Json { field } => texts(self.json()?.as_ref(), field),
            CaptionSource::Auto => match texts(self.json()?.as_ref(), CAPTIONS_FIELD) {
                captions if captions.is_empty() => self.text_caption()?,
                captions => captions,
            },
        };
        if captions.is_empty() {
            let place = match source {
                CaptionSource::Json { field } => format!("no caption in the field {field:?} of the .json"),
                CaptionSource::Txt | CaptionSource::Auto => "no .txt file with a caption".into(),
            };
            return Err(self.bad(BadReason::CaptionMissing, place));
        }
        Ok(captions)
    }

    fn text_caption(&self) -> Result<Vec<String>, BadSample> {
        let Some(content) = self.read(&["txt"])? else { return Ok(Vec::new()) };
        let text = String::from_utf8(content).map_err(|_| self.bad(BadReason::CaptionDamaged, ".txt is not UTF-8"))?;
        let text = text.trim();
        Ok(if text.is_empty() { Vec::new() } else { vec![text.to_owned()] })
    }

    fn read(&self, extensions: &[&str]) -> Result<Option<Vec<u8>>, BadSample> {
        let Some(file) = self.entry.file(extensions) else { return Ok(None) };
        self.shard.read(file).map(Some).map_err(|error| {
            let reason = match error.kind() {
                std::io::ErrorKind::FileTooLarge => BadReason::TooLarge,
                _ => BadReason::TarDamaged,
            };
            self.bad(reason, format!(".{}: {error}", file.extension))
        })
    }

    fn bad(&self, reason: BadReason, message: impl Into<String>) -> BadSample {
        BadSample { key: Some(self.entry.key.clone()), ..BadSample::new(reason, message) }
    }
}

/// Why a sample that the manifest promises is not there.
fn absent(shard: &Shard, index: u32) -> BadSample {
    match shard.damage() {
        Some(damage @ Damage::Changed { .. }) => BadSample::new(BadReason::ShardChanged, damage.to_string()),
        Some(damage) => BadSample::new(BadReason::TarDamaged, damage.to_string()),
        None => {
            let readable = shard.samples().len();
            BadSample::new(
                BadReason::TarDamaged,
                format!("the manifest promises a sample {index}, but the tar ends after {readable} samples"),
            )
        }
    }
}

/// The texts of a field: one, or a list of them.
fn texts(document: Option<&Value>, field: &str) -> Vec<String> {
    let values = match document.and_then(|document| document.get(field)) {
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
        None => &[],
    };
    let texts = values.iter().filter_map(Value::as_str).map(str::trim);
    texts.filter(|text| !text.is_empty()).map(str::to_owned).collect()
}
