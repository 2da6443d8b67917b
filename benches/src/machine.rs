//! `Machine`: where and with what a comparison ran, as the system tells it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages whose versions a reader wants to know.
const PACKAGES: [&str; 14] = [
    "kameo",
    "ractor",
    "actix",
    "xtra",
    "kompact",
    "tokio",
    "rtrb",
    "crossbeam-queue",
    "mimalloc",
    "raft-engine",
    "okaywal",
    "fjall",
    "redb",
    "rusqlite",
];

/// Facts about the machine and the sources.
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// The kernel's name and release.
    pub kernel: String,
    /// The compiler's version.
    pub rustc: String,
    /// The commit, with `-dirty` when files differ from it.
    pub commit: String,
    /// The day.
    pub date: String,
    /// Name and version of what was compared.
    pub versions: String,
}

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

impl Machine {
    /// Asks the system.
    #[must_use]
    pub fn ask() -> Self {
        let system = rustix::system::uname();
        Self {
            cpu: cpu().unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy()),
            rustc: says("rustc", &["--version"]).unwrap_or_else(unknown),
            commit: says("git", &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
                .unwrap_or_else(unknown),
            date: says("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(unknown),
            versions: versions().unwrap_or_else(unknown),
        }
    }

    #[cfg(test)]
    pub(crate) fn unknown() -> Self {
        let [cpu, kernel, rustc, commit, date, versions] = [(); 6].map(|()| unknown());
        Self { cpu, cores: 0, kernel, rustc, commit, date, versions }
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// What a command prints when run in the repository.
fn says(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).current_dir(root()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn versions() -> Option<String> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).ok()?;
    let found: Vec<String> = PACKAGES.iter().filter_map(|package| version(&lock, package)).collect();
    Some(found.join(", "))
}

/// Name and highest version of a package in a lock file.
fn version(lock: &str, package: &str) -> Option<String> {
    let head = format!("name = \"{package}\"\nversion = \"");
    let versions = lock.split(&head).skip(1).filter_map(|rest| rest.split('"').next());
    versions.last().map(|version| format!("{package} {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_is_read() {
        let lock = "[[package]]\nname = \"actix\"\nversion = \"0.13.5\"\n\n[[package]]\nname = \"actix-rt\"\nversion = \"2\"\n";
        assert_eq!(version(lock, "actix").as_deref(), Some("actix 0.13.5"));
        assert_eq!(version(lock, "acti"), None);
        let all = versions().expect("the workspace has a lock file");
        assert!(PACKAGES[..7].iter().all(|package| all.contains(&format!("{package} "))), "{all}");
    }
}
