//! `SegmentReader`: reads a segment around what cannot be read.
//!
//! A disk that refuses a large read may still give most of it: the read is halved until single blocks are left, and those are
//! zeros and named. Invariant: a byte that was not read is never passed off as one that was.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;

use shardstage_persistence::limits::BLOCK_BYTES;

use crate::Failure;

/// What the system says of a device that does not give its data back.
const INPUT_OUTPUT_ERROR: i32 = 5;

/// Blocks of a segment that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) bytes: Range<u64>,
    /// The system's answer.
    pub(crate) why: String,
}

/// See the module's head.
pub(crate) struct SegmentReader {
    #[cfg(test)]
    path: PathBuf,
    /// Why the file cannot even be opened, if it is the device that refuses.
    file: Result<File, String>,
}

impl SegmentReader {
    /// Opens the file for reading. One that the device does not give is a hole from its first byte to its last.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Failure> {
        let file = match File::open(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.raw_os_error() == Some(INPUT_OUTPUT_ERROR) => Err(error.to_string()),
            Err(error) => return Err(Failure::io(&path, "open")(error)),
        };
        Ok(Self {
            #[cfg(test)]
            path,
            file,
        })
    }

    /// Fills `buffer` from `offset` as far as the file goes, and returns how far. Blocks that cannot be read are zeros, and are
    /// added to `holes`, whose last one grows if they follow it.
    pub(crate) fn fill(&mut self, offset: u64, buffer: &mut [u8], holes: &mut Vec<Hole>) -> usize {
        let why = match self.read(offset, buffer) {
            Ok(read) => return read,
            Err(why) => why,
        };
        if buffer.len() > BLOCK_BYTES && self.file.is_ok() {
            let half = (buffer.len() / 2).next_multiple_of(BLOCK_BYTES);
            let (first, second) = buffer.split_at_mut(half);
            let read = self.fill(offset, first, holes);
            if read < half {
                return read;
            }
            return half + self.fill(offset + half as u64, second, holes);
        }
        buffer.fill(0);
        let end = offset + buffer.len() as u64;
        match holes.last_mut() {
            Some(last) if last.bytes.end == offset && last.why == why => last.bytes.end = end,
            _ => holes.push(Hole { bytes: offset..end, why }),
        }
        buffer.len()
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, String> {
        #[cfg(test)]
        planted::refuse(&self.path, offset, buffer.len())?;
        let file = self.file.as_mut().map_err(|why| why.clone())?;
        read_full_at(file, offset, buffer).map_err(|error| error.to_string())
    }
}

fn read_full_at(file: &mut File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    file.seek(SeekFrom::Start(offset))?;
    read_full(file, buffer)
}

/// Fills `buffer` as far as the file goes; returns how far.
pub(crate) fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A disk with bad blocks, for tests.
#[cfg(test)]
pub(crate) mod planted {
    use std::cell::RefCell;
    use std::ops::Range;
    use std::path::{Path, PathBuf};

    thread_local! {
        static BAD: RefCell<Vec<(PathBuf, Range<u64>)>> = const { RefCell::new(Vec::new()) };
    }

    /// From now on, reads on this thread that touch one of these bytes of these files fail.
    pub(crate) fn bad_blocks(bad: Vec<(PathBuf, Range<u64>)>) {
        BAD.set(bad);
    }

    pub(super) fn refuse(path: &Path, offset: u64, len: usize) -> Result<(), String> {
        let end = offset + len as u64;
        let touches = |(bad, bytes): &(PathBuf, Range<u64>)| bad == path && bytes.start < end && offset < bytes.end;
        if BAD.with_borrow(|bad| bad.iter().any(touches)) { Err("the disk refused".to_owned()) } else { Ok(()) }
    }
}
