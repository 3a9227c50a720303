//! The folder of a corpus: whose it is, and files that appear under their names only when they are whole.

use std::fs::{self, DirEntry, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::{Split, SynthConfig};
use super::corpus::SynthReport;
use super::{Classes, SynthError};

const CARD: &str = "corpus.json";
const CLASSES: &str = "classes.json";
const FORMAT: &str = "cappa-synth/1";
const PARTIAL: &str = ".partial";

/// `corpus.json`: which corpus lies in the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusCard {
    /// `cappa-synth/1`; grows when equal configurations begin to give other shards.
    pub format: String,
    /// What was asked for.
    pub config: SynthConfig,
    /// What was written; absent while it is being written, and after an interruption.
    pub written: Option<SynthReport>,
}

impl CorpusCard {
    /// Reads the card of a folder; none where there is none, or not of this format.
    pub fn read(folder: &Path) -> Option<Self> {
        let card: Self = serde_json::from_slice(&fs::read(folder.join(CARD)).ok()?).ok()?;
        (card.format == FORMAT).then_some(card)
    }
}

/// A folder that belongs to the corpus being written.
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Creates the folder, or takes it over from an earlier corpus, whose shards are removed.
    ///
    /// The card is the first thing written and says that nothing is complete, so an interrupted run can be repeated.
    pub(super) fn claim(path: &Path, config: &SynthConfig) -> Result<Self, SynthError> {
        fs::create_dir_all(path).map_err(SynthError::io("create the folder", path))?;
        let names = file_names(path)?;
        if CorpusCard::read(path).is_none() && !names.iter().all(|name| is_partial(name)) {
            return Err(SynthError::FolderInUse { folder: path.to_owned() });
        }
        let folder = Self { path: path.to_owned() };
        folder.write_card(config, None)?;
        for name in names.iter().filter(|name| is_partial(name) || is_shard(name) || *name == CLASSES) {
            let file = path.join(name);
            fs::remove_file(&file).map_err(SynthError::io("remove", &file))?;
        }
        Ok(folder)
    }

    /// Marks the corpus as complete.
    pub(super) fn finish(&self, config: &SynthConfig, report: &SynthReport) -> Result<(), SynthError> {
        self.write_card(config, Some(report.clone()))
    }

    pub(super) fn write_classes(&self, classes: &Classes) -> Result<(), SynthError> {
        self.write_json(CLASSES, classes)
    }

    /// Where a file of the corpus lies.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file through `fill` under a temporary name, and gives it its own once it is on disk. Returns its bytes.
    pub(super) fn write_whole(
        &self,
        name: &str,
        fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), SynthError>,
    ) -> Result<u64, SynthError> {
        let (partial, whole) = (self.path_of(&format!(".{name}{PARTIAL}")), self.path_of(name));
        let write = || {
            let file = File::create(&partial).map_err(SynthError::io("create", &partial))?;
            let mut writer = BufWriter::with_capacity(1 << 20, file);
            fill(&mut writer)?;
            let file = writer.into_inner().map_err(|error| SynthError::io("write", &partial)(error.into_error()))?;
            file.sync_all().map_err(SynthError::io("write", &partial))?;
            let bytes = file.metadata().map_err(SynthError::io("read", &partial))?.len();
            fs::rename(&partial, &whole).map_err(SynthError::io("rename", &partial))?;
            Ok(bytes)
        };
        let written = write();
        if written.is_err() {
            // The error that made it fail is the one to report; what stays behind is removed by the next run.
            let _ = fs::remove_file(&partial);
        }
        written
    }

    fn write_card(&self, config: &SynthConfig, written: Option<SynthReport>) -> Result<(), SynthError> {
        self.write_json(CARD, &CorpusCard { format: FORMAT.to_owned(), config: config.clone(), written })
    }

    fn write_json(&self, name: &str, document: &impl Serialize) -> Result<(), SynthError> {
        let mut text = serde_json::to_vec_pretty(document).expect("plain data has a JSON form");
        text.push(b'\n');
        let path = self.path_of(name);
        self.write_whole(name, |file| file.write_all(&text).map_err(SynthError::io("write", path))).map(drop)
    }
}

/// The file name of a shard.
pub(super) fn shard_name(split: Split, shard: u64) -> String {
    format!("{}-{shard:06}.tar", split.name())
}

fn is_shard(name: &str) -> bool {
    let number = |split: Split| name.strip_prefix(split.name())?.strip_prefix('-')?.strip_suffix(".tar");
    let is_number = |text: &str| text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_digit());
    [Split::Train, Split::Heldout].into_iter().filter_map(number).any(is_number)
}

/// Whether a file is what an interrupted run left behind.
fn is_partial(name: &str) -> bool {
    let whole = name.strip_prefix('.').and_then(|name| name.strip_suffix(PARTIAL));
    whole.is_some_and(|name| is_shard(name) || name == CARD || name == CLASSES)
}

fn file_names(folder: &Path) -> Result<Vec<String>, SynthError> {
    let name = |entry: io::Result<DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    let names = fs::read_dir(folder).and_then(|entries| entries.map(name).collect());
    names.map_err(SynthError::io("list", folder))
}
