//! `Room`: a fresh directory on a real disk for one run.
//!
//! Invariant: what is measured as durable never lies in memory: a tmpfs is refused.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::FsWord;
use tempfile::TempDir;

use crate::limits::{SETTLE_STEPS, SETTLED};

/// The variable that tells a run where its files go; otherwise they lie beside this program.
pub const DIRECTORY: &str = "SHARDSTAGE_BENCH_DIR";

/// File systems that live in memory, as `statfs` numbers them.
const TMPFS: FsWord = 0x0102_1994;
const RAMFS: FsWord = 0x8584_58f6;

/// A directory that is removed with everything in it.
pub struct Room {
    directory: TempDir,
}

impl Room {
    /// Makes it.
    ///
    /// # Panics
    /// When there is no such place, or it is in memory.
    #[must_use]
    pub fn new() -> Self {
        let parent = place(std::env::var_os(DIRECTORY)).unwrap_or_else(|why| panic!("{why}"));
        Self { directory: tempfile::tempdir_in(parent).expect("a directory can be made there") }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until nobody writes here any more: what a store prepares in the background is not part of its first commits.
    pub fn settle(&self) {
        let (mut before, mut same) = (0, 0);
        for _ in 0..SETTLE_STEPS {
            let now = occupied(self.path());
            same = if now == before { same + 1 } else { 0 };
            if same == 2 {
                return;
            }
            before = now;
            thread::sleep(SETTLED);
        }
    }

    /// Flushes the files here and drops them from the page cache, so that they are read from the disk.
    pub fn evict(&self) {
        for path in files(self.path()) {
            let file = fs::File::open(&path).expect("it was listed");
            file.sync_all().expect("the disk keeps it");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a file may leave the cache");
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}

/// Where runs make their directories.
///
/// # Errors
/// When it is not there, or is no disk.
pub fn place(wanted: Option<OsString>) -> Result<PathBuf, String> {
    let path = match wanted {
        Some(path) => PathBuf::from(path),
        None => {
            let program = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
            program.parent().map(Path::to_owned).ok_or("this program lies nowhere")?
        }
    };
    let system = rustix::fs::statfs(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if [TMPFS, RAMFS].contains(&system.f_type) {
        return Err(format!(
            "{} is in memory, where nothing is durable; name a directory on a disk with --dir",
            path.display()
        ));
    }
    Ok(path)
}

/// All files below a directory.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        // A directory or file may go while a store tidies up.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}

fn occupied(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    files(directory).iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.blocks()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_refused() {
        let shared = Path::new("/dev/shm");
        let in_memory = rustix::fs::statfs(shared).is_ok_and(|system| system.f_type == TMPFS);
        if !in_memory {
            eprintln!("SKIPPED: no tmpfs at {}", shared.display());
            return;
        }
        assert!(place(Some(shared.into())).is_err_and(|why| why.contains("in memory")));
    }

    #[test]
    fn a_room_is_empty_and_goes() {
        let room = Room::new();
        let path = room.path().to_owned();
        fs::write(path.join("file"), "text").expect("it is writable");
        room.settle();
        room.evict();
        assert_eq!(files(&path).len(), 1);
        drop(room);
        assert!(!path.exists());
    }
}
