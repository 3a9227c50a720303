//! Packed shards: gzip and zstd to a plain tar file, within a bound.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use cappa_shared::manifest::Format;

/// The largest tar file that a packed shard may stand for.
pub const MAX_UNPACKED_BYTES: u64 = 64 << 30;
/// How many times its size a packed shard may unpack to: captions pack well, pictures don't.
const MAX_RATIO: u64 = 200;
/// A packed shard may always unpack to so much.
const ALWAYS: u64 = 64 << 20;
/// The largest window of zstd that memory is given for, as the exponent of 2: what its own tools allow by default.
const ZSTD_WINDOW: u32 = 27;

/// What a packed shard of `packed_bytes` may unpack to: a bound against decompression bombs.
pub fn unpack_limit(packed_bytes: u64) -> u64 {
    packed_bytes.saturating_mul(MAX_RATIO).clamp(ALWAYS, MAX_UNPACKED_BYTES)
}

/// How a file that begins with these bytes is packed; nothing for what is not packed.
pub fn packing(begin: &[u8]) -> Option<Format> {
    match begin {
        [0x1F, 0x8B, ..] => Some(Format::TarGz),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => Some(Format::TarZst),
        _ => None,
    }
}

/// Unpacks `reader` into `writer` and gives the number of bytes written. Files of several gzip members or zstd frames are read
/// to their end; what is not packed is copied.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`] when more than `limit` bytes would be written; otherwise what the reader, the writer or the
/// unpacking says.
pub fn unpack(reader: impl Read, format: Format, writer: &mut impl Write, limit: u64) -> io::Result<u64> {
    let mut unpacked: Box<dyn Read> = match format {
        Format::TarGz => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        Format::TarZst => {
            let mut decoder = zstd::stream::read::Decoder::new(reader)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
        Format::Tar | Format::Folder => Box::new(reader),
    };
    let written = io::copy(&mut unpacked.by_ref().take(limit), writer)?;
    if written == limit && unpacked.read(&mut [0])? > 0 {
        let message = format!("the shard unpacks to more than {limit} bytes, the limit for its size; pack it anew");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(written)
}

/// How a file is packed, by its first bytes.
pub(super) fn packing_of(file: &File) -> io::Result<Option<Format>> {
    let mut begin = [0; 4];
    let read = std::os::unix::fs::FileExt::read_at(file, &mut begin, 0)?;
    Ok(packing(&begin[..read]))
}

/// Unpacks `file` into an unnamed temporary file, which is gone when it is closed; nothing for a file that is not packed.
pub(super) fn unpacked(file: &File) -> io::Result<Option<File>> {
    let Some(format) = packing_of(file)? else { return Ok(None) };
    let mut reader = file;
    reader.seek(SeekFrom::Start(0))?;
    let mut target = tempfile::tempfile()?;
    unpack(reader, format, &mut target, unpack_limit(file.metadata()?.len()))?;
    Ok(Some(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        zstd::encode_all(content, 1).unwrap()
    }

    #[test]
    fn files_of_several_parts_are_unpacked_to_their_end() {
        for (format, pack) in [(Format::TarGz, gzip as fn(&[u8]) -> Vec<u8>), (Format::TarZst, zstd)] {
            let packed = [pack(b"first "), pack(b"second")].concat();
            assert_eq!(packing(&packed), Some(format));
            let mut out = Vec::new();
            assert_eq!(unpack(&packed[..], format, &mut out, 12).unwrap(), 12);
            assert_eq!(out, b"first second");
            assert!(unpack(&packed[..packed.len() - 3], format, &mut Vec::new(), 100).is_err(), "cut off: {format}");
        }
    }

    #[test]
    fn a_decompression_bomb_is_refused_at_the_limit() {
        let zeros = vec![0; 10 << 20];
        for (format, bomb) in [(Format::TarGz, gzip(&zeros)), (Format::TarZst, zstd(&zeros))] {
            let mut out = Vec::new();
            let error = unpack(&bomb[..], format, &mut out, 1 << 20).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");
            assert_eq!(out.len(), 1 << 20);
        }
        assert_eq!(unpack_limit(10), 64 << 20);
        assert_eq!(unpack_limit(u64::MAX), MAX_UNPACKED_BYTES);
    }
}
