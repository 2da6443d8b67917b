//! The start-up probe: how this directory's file system makes a block durable, how long that takes, and what is to be feared.
//!
//! Invariant: the file that it writes is removed again, and only its finding decides how frames are written. Shard thread only.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::{FileId, OpenOptions};

use super::desk::Desk;
use super::files::WriteMode;
use crate::limits::{BLOCK_BYTES, PROBE_COMMITS, PROBE_SLOW_NS};

const PROBE: &str = "PROBE";
const MOUNTS: &str = "/proc/self/mountinfo";
/// A list of mounts longer than this is read in part, bytes.
const MOUNTS_BYTES: usize = 1024 * 1024;

/// What the start-up probe found. Its `Display` says it in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    pub(crate) mode: WriteMode,
    /// Why better ways of writing were refused, best first.
    refused: Vec<String>,
    /// Time from submission to durability of some single blocks, fastest first, ns.
    commits_ns: Vec<u64>,
    file_system: Option<String>,
}

impl ProbeReport {
    /// How frames are written.
    #[must_use]
    pub fn write_mode(&self) -> &'static str {
        self.mode.name()
    }

    /// Why better ways of writing were not taken, best first.
    #[must_use]
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// The median time in which one block became durable, nanoseconds.
    #[must_use]
    pub fn commit_ns(&self) -> u64 {
        self.commits_ns.get(self.commits_ns.len() / 2).copied().unwrap_or(0)
    }

    /// The file system's type, where the system tells it.
    #[must_use]
    pub fn file_system(&self) -> Option<&str> {
        self.file_system.as_deref()
    }

    /// What an operator should know: nothing on a local disk that answers in time.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let kind = self.file_system.as_deref().unwrap_or("");
        let about_kind = match kind {
            "tmpfs" | "ramfs" | "devtmpfs" => {
                Some("it is memory: a power loss or a restart of the machine takes everything")
            }
            "overlay" | "aufs" => Some("it is a container's layer and ends with it: put the log on a volume"),
            "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "ceph" | "glusterfs" | "lustre" | "afs" => {
                Some("it is on the network: locks and flushes may not hold what the log needs")
            }
            kind if kind.starts_with("fuse") => {
                Some("a user program serves it: flushes hold what that program makes of them")
            }
            _ => None,
        };
        let mut warnings: Vec<String> = about_kind.map(|why| format!("{kind}: {why}")).into_iter().collect();
        if self.commit_ns() > PROBE_SLOW_NS {
            warnings.push(format!("one commit takes {}: this disk is slow at flushing", Micros(self.commit_ns())));
        }
        warnings
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.file_system.as_deref().unwrap_or("unknown file system");
        write!(f, "{kind}, blocks of {BLOCK_BYTES} bytes, {}", self.mode.name())?;
        if let (Some(first), Some(last)) = (self.commits_ns.first(), self.commits_ns.last()) {
            let (median, count) = (Micros(self.commit_ns()), self.commits_ns.len());
            write!(
                f,
                ", {count} commits in {}, {median}, {} (fastest, median, slowest)",
                Micros(*first),
                Micros(*last)
            )?;
        }
        for refused in &self.refused {
            write!(f, "; refused {refused}")?;
        }
        for warning in self.warnings() {
            write!(f, "; warning: {warning}")?;
        }
        Ok(())
    }
}

struct Micros(u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} us", self.0 / 1000)
    }
}

/// Finds the best write mode that the file system takes, and times it.
pub(crate) async fn probe(desk: &Desk, dir: &Path) -> io::Result<ProbeReport> {
    let path = dir.join(PROBE);
    let mut refused = Vec::new();
    let mut last = None;
    for mode in WriteMode::BEST_FIRST {
        match desk.remove(path.clone()).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match probe_mode(desk, &path, mode).await {
            Ok(commits_ns) => {
                desk.remove(path).await?;
                let file_system = file_system(desk, dir).await;
                return Ok(ProbeReport { mode, refused, commits_ns, file_system });
            }
            Err(error) if is_refusal(&error) => {
                refused.push(format!("{}: {error}", mode.flags()));
                last = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no write mode to try")))
}

async fn probe_mode(desk: &Desk, path: &Path, mode: WriteMode) -> io::Result<Vec<u64>> {
    let file = desk.open(path.to_path_buf(), OpenOptions { create_new: true, ..mode.append() }).await?;
    let written = time_commits(desk, file, mode).await;
    desk.close(file).await;
    written
}

/// The first write makes the block, the others are what commits do.
async fn time_commits(desk: &Desk, file: FileId, mode: WriteMode) -> io::Result<Vec<u64>> {
    let mut buffer = IoBuffer::zeroed(BLOCK_BYTES);
    let mut took_ns = Vec::with_capacity(PROBE_COMMITS);
    for nth in 0..=PROBE_COMMITS {
        let start_ns = desk.now_ns().await;
        buffer = desk.write(file, 0, buffer).await?;
        if !mode.dsync {
            desk.sync(file).await?;
        }
        if nth > 0 {
            took_ns.push(desk.now_ns().await.saturating_sub(start_ns));
        }
    }
    took_ns.sort_unstable();
    Ok(took_ns)
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// The type of the file system that `dir` is on; `None` where the system does not tell.
async fn file_system(desk: &Desk, dir: &Path) -> Option<String> {
    let mounts = read_mounts(desk).await.ok()?;
    let dir = std::path::absolute(dir).ok()?;
    mount_of(&String::from_utf8_lossy(&mounts), &dir)
}

async fn read_mounts(desk: &Desk) -> io::Result<Vec<u8>> {
    let file = desk.open(PathBuf::from(MOUNTS), OpenOptions::default()).await?;
    let mut text = Vec::new();
    let result = loop {
        let buffer = IoBuffer::zeroed(16 * BLOCK_BYTES);
        match desk.read_some(file, text.len() as u64, buffer).await {
            Ok((_, 0)) => break Ok(()),
            Ok((buffer, len)) => text.extend_from_slice(&buffer[..len]),
            Err(error) => break Err(error),
        }
        if text.len() >= MOUNTS_BYTES {
            break Ok(());
        }
    };
    desk.close(file).await;
    result.map(|()| text)
}

/// The type in the line with the longest mount point above `dir`; of several, the last one mounted.
fn mount_of(mounts: &str, dir: &Path) -> Option<String> {
    let lines = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = PathBuf::from(unescape(before.split(' ').nth(4)?));
        let above = dir.starts_with(&point);
        above.then(|| (point.components().count(), after.split(' ').next().unwrap_or("").to_owned()))
    });
    lines.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// Mount points have blanks as `\040`.
fn unescape(point: &str) -> String {
    point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_above_the_directory_counts() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      23 22 0:5 / /data rw shared:1 - xfs /dev/sdb rw\n\
                      24 23 0:6 / /data/fast\\040disk rw - tmpfs tmpfs rw\n\
                      25 23 0:7 / /database rw - nfs4 server:/ rw\n";
        let kind = |dir: &str| mount_of(mounts, Path::new(dir)).unwrap_or_default();
        assert_eq!(kind("/var/log"), "ext4");
        assert_eq!(kind("/data/log-0"), "xfs");
        assert_eq!(kind("/data/fast disk/log-0"), "tmpfs");
        assert_eq!(kind("/database/x"), "nfs4");
        assert_eq!(mount_of("", Path::new("/x")), None);
    }

    #[test]
    fn what_is_to_be_feared_is_said() {
        let report = |kind: &str, ns| ProbeReport {
            mode: WriteMode { direct: false, dsync: true },
            refused: vec!["O_DIRECT|O_DSYNC: no".to_owned()],
            commits_ns: vec![ns / 2, ns, ns * 2],
            file_system: Some(kind.to_owned()),
        };
        assert!(report("ext4", 80_000).warnings().is_empty());
        assert!(report("tmpfs", 80_000).to_string().contains("warning: tmpfs: it is memory"));
        assert!(report("fuse.sshfs", 80_000).warnings()[0].contains("user program"));
        assert!(report("ext4", 50_000_000).to_string().contains("slow at flushing"));
        let text = report("ext4", 80_000).to_string();
        assert!(text.contains("ext4") && text.contains("3 commits in 40 us, 80 us, 160 us"), "{text}");
        assert!(text.contains("refused O_DIRECT|O_DSYNC: no"), "{text}");
    }
}
