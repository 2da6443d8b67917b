//! File control calls and the checked form of data calls, shared by both real drivers.
//!
//! Invariant: an [`Operation`] keeps its file open and its buffer alive, and its lengths lie inside the buffer. Runs on
//! the shard's thread; operations may travel to the poll driver's writer thread.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, fcntl_getfl, fcntl_setfl, flock};

use super::table::Table;
use crate::port::driver::{FileCompletion, FileId, FileOp, FileRequest, OpenOptions};

/// An open file and what a sync on it must cover.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) directory: bool,
}

/// A data call whose file exists and whose lengths were checked.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) token: u64,
    pub(super) file: Arc<OpenFile>,
    pub(super) op: FileOp,
}

impl Operation {
    /// The completion for what the kernel answered: the byte count or the error.
    pub(super) fn complete(self, result: io::Result<usize>) -> FileCompletion {
        let (wanted, buffer) = match self.op {
            FileOp::Read { buffer, .. } => (None, Some(buffer)),
            FileOp::Write { buffer, len, .. } => (Some(len), Some(buffer)),
            FileOp::Sync => (None, None),
        };
        let result = match (result, wanted) {
            (Ok(done), Some(wanted)) if done < wanted => Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!("short write: {done} of {wanted} bytes; the rest is unknown"),
            )),
            (result, _) => result,
        };
        FileCompletion { token: self.token, result, buffer }
    }

    /// Whether `error` means that nothing was transferred and starting again changes nothing. A failed sync is never
    /// started again: the kernel may already have forgotten the pages that it could not write.
    pub(super) fn may_start_again(&self, error: &io::Error) -> bool {
        let transfers = matches!(self.op, FileOp::Read { .. } | FileOp::Write { .. });
        transfers && matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
    }
}

/// The open files of one driver.
pub(super) struct Files {
    open: Table<Arc<OpenFile>>,
}

impl Files {
    pub(super) fn new() -> Self {
        Self { open: Table::new() }
    }

    /// Opens, then sets `O_DIRECT` and takes the lock, so that a refusal can be told from a failed creation and a file
    /// that was created is removed again.
    pub(super) fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<FileId> {
        let mut flags = OFlags::empty();
        if options.dsync {
            flags |= OFlags::DSYNC;
        }
        if options.directory {
            flags |= OFlags::DIRECTORY;
        }
        let flags = i32::try_from(flags.bits()).expect("open flags fit an int");
        let file = fs::OpenOptions::new()
            .read(true)
            .write(options.write)
            .create_new(options.create_new)
            .custom_flags(flags)
            .open(path)
            .map_err(|error| with_path("opening", path, &error))?;
        let refused = prepare(&file, options).err().map(|(what, error)| with_path(what, path, &error));
        let refused = match refused {
            Some(error) => error,
            None => match self.open.insert(Arc::new(OpenFile { file, directory: options.directory })) {
                Ok(key) => return Ok(FileId(key)),
                Err(_) => io::Error::other("the driver's file table is full"),
            },
        };
        if options.create_new {
            fs::remove_file(path).map_err(|error| with_path("removing after a failed open", path, &error))?;
        }
        Err(refused)
    }

    pub(super) fn close(&mut self, file: FileId) {
        self.open.remove(file.0);
    }

    pub(super) fn len(&self, file: FileId) -> io::Result<u64> {
        let open = self.open.get(file.0).ok_or_else(unknown_file)?;
        Ok(open.file.metadata()?.len())
    }

    /// Checks a request; what cannot be started comes back as its completion.
    pub(super) fn check(&self, request: FileRequest) -> Result<Operation, FileCompletion> {
        let FileRequest { token, file, op } = request;
        let fits = match &op {
            FileOp::Write { buffer, len, .. } => *len <= buffer.len() && u32::try_from(*len).is_ok(),
            FileOp::Read { buffer, .. } => u32::try_from(buffer.len()).is_ok(),
            FileOp::Sync => true,
        };
        let refused = match self.open.get(file.0) {
            Some(file) if fits => return Ok(Operation { token, file: Arc::clone(file), op }),
            Some(_) => io::Error::new(io::ErrorKind::InvalidInput, "more bytes than the buffer or one call holds"),
            None => unknown_file(),
        };
        let buffer = match op {
            FileOp::Read { buffer, .. } | FileOp::Write { buffer, .. } => Some(buffer),
            FileOp::Sync => None,
        };
        Err(FileCompletion { token, result: Err(refused), buffer })
    }
}

fn prepare(file: &File, options: OpenOptions) -> Result<(), (&'static str, io::Error)> {
    if options.direct {
        let set = fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags | OFlags::DIRECT));
        set.map_err(|error| ("direct I/O (O_DIRECT) on", error.into()))?;
    }
    if options.lock {
        let locked = flock(file, FlockOperation::NonBlockingLockExclusive);
        locked.map_err(|error| ("locking", error.into()))?;
    }
    Ok(())
}

/// The names in a directory, sorted.
pub(super) fn list(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| with_path("listing", directory, &error))? {
        let name = entry?.file_name().into_string().map_err(|name| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} holds a name that is not UTF-8: {name:?}", directory.display()),
            )
        })?;
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

/// Creates a directory and its parents.
pub(super) fn create_dir(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory).map_err(|error| with_path("creating", directory, &error))
}

/// Renames a file.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).map_err(|error| with_path("renaming", from, &error))
}

/// Removes a file.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).map_err(|error| with_path("removing", path, &error))
}

fn unknown_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no such open file in this driver")
}

fn with_path(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::buffer::IoBuffer;

    #[test]
    fn a_short_write_is_an_error_and_a_short_read_is_not() {
        let open = Arc::new(OpenFile { file: tempfile::tempfile().expect("a file"), directory: false });
        let buffer = || IoBuffer::zeroed(4096);
        let write = FileOp::Write { offset: 0, buffer: buffer(), len: 4096 };
        let written = Operation { token: 5, file: Arc::clone(&open), op: write }.complete(Ok(4095));
        assert_eq!(written.result.expect_err("one byte is missing").kind(), io::ErrorKind::WriteZero);
        assert_eq!((written.token, written.buffer.is_some()), (5, true));
        let read = FileOp::Read { offset: 0, buffer: buffer() };
        let read = Operation { token: 6, file: open, op: read }.complete(Ok(4095));
        assert_eq!(read.result.expect("the file ends there"), 4095);
    }

    #[test]
    fn only_transfers_start_again() {
        let open = Arc::new(OpenFile { file: tempfile::tempfile().expect("a file"), directory: false });
        let interrupted = io::Error::from(io::ErrorKind::Interrupted);
        let sync = Operation { token: 1, file: Arc::clone(&open), op: FileOp::Sync };
        assert!(!sync.may_start_again(&interrupted));
        let op = FileOp::Read { offset: 0, buffer: IoBuffer::zeroed(1) };
        let read = Operation { token: 2, file: open, op };
        assert!(read.may_start_again(&interrupted));
        assert!(!read.may_start_again(&io::Error::from_raw_os_error(libc::EIO)));
    }
}
