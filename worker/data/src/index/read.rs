//! Brings one shard to this machine, whole, and looks at its samples; or only looks at its headers where it lies.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::ops::Range;

use cappa_shared::manifest::{
    CaptionCounts, Dropped, Filter, Format, Identity, Kept, SampleFacts, ScoreRange, Shard as ManifestShard,
};
use cappa_shared::storage::{Location, StorageError};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, GetRange, ObjectStore};
use sha2::{Digest, Sha256};

use super::find::Found;
use super::{IndexError, IndexOptions, ShardReport, disk};
use crate::blocking::block_on;
use crate::image::Orientation;
use crate::labels::lookup;
use crate::sample::{CaptionSource, IMAGE_EXTENSIONS, RawSample};
use crate::shards::{FileEntry, Folder, Scan, Shard, ShardFile, local_path, packing, scan_with};

/// Local shards are read in pieces of this size.
const PIECE: usize = 1 << 20;
/// Shards of stores are downloaded in ranges of this size.
const RANGE: u64 = 8 << 20;
/// Ranges of one shard that are asked for at once.
const RANGES: usize = 4;
/// How much of an image is looked at for its size before all of it is.
const HEADER: u64 = 64 << 10;
/// What tells whether a file is packed.
const PROBE: u64 = 512;

/// A shard on this machine, and SHA-256 of its content.
pub(super) struct WholeShard {
    pub(super) shard: Shard,
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// Reads a shard whole.
pub(super) fn read(found: &Found) -> Result<WholeShard, IndexError> {
    let location = &found.location;
    let failed = |source| disk(location, source);
    match (local_path(location), found.format) {
        (Some(path), Format::Folder) => {
            let folder = Folder::open(&path).map_err(failed)?;
            let (sha256, bytes) = (folder.sha256().map_err(failed)?, folder.bytes());
            Ok(WholeShard { shard: Shard::of_folder(folder), sha256, bytes })
        }
        (Some(path), _) => {
            let mut file = File::open(&path).map_err(failed)?;
            let sha256 = digest(&mut file).map_err(failed)?;
            let bytes = file.metadata().map_err(failed)?.len();
            let shard = Shard::scanned(ShardFile::in_place(&path).map_err(failed)?).map_err(failed)?;
            Ok(WholeShard { shard, sha256, bytes })
        }
        (None, _) => {
            let (file, sha256) = block_on(download(found)).map_err(failed)??;
            let bytes = file.metadata().map_err(failed)?.len();
            Ok(WholeShard { shard: Shard::scanned(ShardFile::Held(file)).map_err(failed)?, sha256, bytes })
        }
    }
}

/// Reads a shard, or of one in a store only the headers where that is asked for and enough, and says what the manifest records of
/// it, under `path`.
pub(super) fn index_shard(
    found: &Found,
    path: String,
    options: &IndexOptions,
) -> Result<(ManifestShard, ShardReport), IndexError> {
    if let Some(etag) = quick_etag(found, options)
        && let Some(scan) = headers(found)?
    {
        let report = ShardReport::new(path.clone(), &scan, BTreeMap::new());
        let samples = count(&found.location, scan.samples.len())?;
        let identity = Identity::Tag { etag: etag.to_owned() };
        let (format, bytes) = (found.format, found.bytes);
        let (kept, captions) = (None, None);
        let shard = ManifestShard { path, bytes, format, unpacked_bytes: bytes, identity, samples, kept, captions };
        return Ok((shard, report));
    }
    let location = &found.location;
    let WholeShard { shard, sha256, bytes } = read(found)?;
    let all = count(location, shard.samples().len())?;
    let mut dropped = BTreeMap::new();
    let kept = if options.filter.is_empty() {
        None
    } else {
        let judged = (0..all).map(|index| judge(&shard, index, &options.filter, &options.captions));
        Kept::from_flags(
            judged.map(|judgement| judgement.map_err(|reason| *dropped.entry(reason).or_insert(0) += 1).is_ok()),
        )
    };
    let samples = kept.as_ref().map_or(all, Kept::len);
    let captions = match options.every_caption {
        true => Some(count_captions(location, &shard, all, kept.as_ref(), &options.captions)?),
        false => None,
    };
    let unpacked_bytes = match found.format.is_packed() {
        true => shard.unpacked_bytes().map_err(|source| disk(location, source))?,
        false => bytes,
    };
    let report = ShardReport::new(path.clone(), shard.scan(), dropped);
    let identity = Identity::Content { sha256, etag: found.etag.clone() };
    let format = found.format;
    Ok((ManifestShard { path, bytes, format, unpacked_bytes, identity, samples, kept, captions }, report))
}

/// How many captions each of the samples has that are used. Those that training will find bad have none.
fn count_captions(
    location: &Location,
    shard: &Shard,
    all: u32,
    kept: Option<&Kept>,
    source: &CaptionSource,
) -> Result<CaptionCounts, IndexError> {
    let captions = |index| RawSample::find(shard, index).and_then(|sample| sample.captions(source));
    // No file of a sample is so large that its captions could not be counted.
    let count = |index| captions(index).map_or(0, |found| u32::try_from(found.len()).unwrap_or(u32::MAX));
    let counts = match kept {
        Some(kept) => CaptionCounts::from_counts(kept.indices().map(count)),
        None => CaptionCounts::from_counts((0..all).map(count)),
    };
    counts.ok_or_else(|| IndexError::TooLarge { location: location.to_string() })
}

fn count(location: &Location, samples: usize) -> Result<u32, IndexError> {
    u32::try_from(samples).map_err(|_| IndexError::TooLarge { location: location.to_string() })
}

/// The tag by which a shard may be known without its digest; nothing where it is read whole.
fn quick_etag<'a>(found: &'a Found, options: &IndexOptions) -> Option<&'a str> {
    let is_remote = local_path(&found.location).is_none();
    let needs_contents = !options.filter.is_empty() || options.every_caption;
    let may = options.quick && !needs_contents && is_remote && found.format == Format::Tar && found.bytes > 0;
    strong_etag(found).filter(|_| may)
}

/// The store's tag where it tells every version of the object; a weak one (`W/"…"`) is for what is alike.
fn strong_etag(found: &Found) -> Option<&str> {
    found.etag.as_deref().filter(|etag| !etag.starts_with("W/"))
}

/// What the headers of a plain tar file in a store tell; nothing where the file is packed in spite of its name.
fn headers(found: &Found) -> Result<Option<Scan>, IndexError> {
    let location = &found.location;
    let piece = |range: Range<u64>| block_on(self::range(found, range)).map_err(|source| disk(location, source))?;
    if packing(&piece(0..PROBE.min(found.bytes))?).is_some() {
        return Ok(None);
    }
    let mut failure = None;
    let read = |buffer: &mut [u8], offset: u64| {
        let end = (offset + buffer.len() as u64).min(found.bytes);
        if offset >= end {
            return Ok(0);
        }
        match piece(offset..end) {
            Ok(piece) => {
                buffer[..piece.len()].copy_from_slice(&piece);
                Ok(piece.len())
            }
            Err(error) => {
                failure = Some(error);
                Err(io::ErrorKind::Other.into())
            }
        }
    };
    let scan = scan_with(read, found.bytes);
    scan.map(Some).map_err(|source| failure.unwrap_or_else(|| disk(location, source)))
}

fn judge(shard: &Shard, index: u32, filter: &Filter, captions: &CaptionSource) -> Result<(), Dropped> {
    let mut facts = SampleFacts::default();
    if let Ok(sample) = RawSample::find(shard, index) {
        if filter.asks_size() {
            facts.size = image_size(shard, index);
        }
        if filter.asks_captions() {
            let found = sample.captions(captions).unwrap_or_default();
            facts.captions = found.iter().map(|caption| caption.chars().count() as u64).collect();
        }
        if !filter.scores.is_empty() || !filter.fields.is_empty() {
            let json = sample.json().ok().flatten().unwrap_or_default();
            let score = |range: &ScoreRange| json.get(&range.field)?.as_f64();
            facts.scores = filter.scores.iter().map(score).collect();
            let is_there = |field: &String| lookup(&json, field).is_some_and(|value| !value.is_null());
            facts.fields = filter.fields.iter().map(is_there).collect();
        }
    }
    filter.judge(&facts)
}

/// Width and height that an image's header tells, of a JPEG as its camera was held.
pub(super) fn image_size(shard: &Shard, index: u32) -> Option<(u32, u32)> {
    let entry = shard.samples().get(index as usize)?.file(&IMAGE_EXTENSIONS)?;
    let size_in = |bytes: u64| {
        let content = shard.read(&FileEntry { bytes: bytes.min(entry.bytes), ..entry.clone() }).ok()?;
        let size = imagesize::blob_size(&content).ok()?;
        let (width, height) = (u32::try_from(size.width).ok()?, u32::try_from(size.height).ok()?);
        Some(if Orientation::of_jpeg(&content).transposes() { (height, width) } else { (width, height) })
    };
    // Colour profiles and thumbnails can lie before the size.
    size_in(HEADER).or_else(|| (entry.bytes > HEADER).then(|| size_in(entry.bytes)).flatten())
}

fn digest(file: &mut File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            count => hasher.update(&piece[..count]),
        }
    }
}

/// Brings a shard into an unnamed temporary file, which is gone when it is closed, several ranges at a time.
async fn download(found: &Found) -> Result<(File, String), IndexError> {
    let location = &found.location;
    let mut file = tempfile::tempfile().map_err(|source| disk(location, source))?;
    let mut hasher = Sha256::new();
    let begins = (0..found.bytes).step_by(usize::try_from(RANGE).expect("the range fits the address space"));
    let ranges = stream::iter(begins).map(|begin| range(found, begin..(begin + RANGE).min(found.bytes)));
    let mut ranges = ranges.buffered(RANGES);
    while let Some(piece) = ranges.try_next().await? {
        hasher.update(&piece);
        file.write_all(&piece).map_err(|source| disk(location, source))?;
    }
    file.rewind().map_err(|source| disk(location, source))?;
    Ok((file, hex::encode(hasher.finalize())))
}

/// A range of a shard, of the very version that was listed.
async fn range(found: &Found, range: Range<u64>) -> Result<bytes::Bytes, IndexError> {
    let location = &found.location;
    let options = GetOptions {
        range: Some(GetRange::Bounded(range.clone())),
        // Only strong tags may be compared so; servers that give weak ones would answer that it never matches.
        if_match: strong_etag(found).map(str::to_owned),
        ..GetOptions::default()
    };
    let read = async { location.store.get_opts(&location.prefix, options).await?.bytes().await };
    match read.await {
        Ok(piece) if piece.len() as u64 == range.end - range.start => Ok(piece),
        Ok(_) | Err(object_store::Error::Precondition { .. }) => {
            Err(IndexError::Changing { location: location.to_string() })
        }
        Err(error) => Err(StorageError::at(location.url(), &error).into()),
    }
}
