//! `Tree`: the files and directories of one simulated disk, as running programs see them and as a power loss would leave
//! them.
//!
//! Invariant: a directory's `durable` entries change only when a sync of that directory completes or in
//! [`Tree::lose_power`]; every other change is in `pending`, oldest first. Renames are atomic, and nothing else is promised.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Result};
use std::path::{Component, Path};

use super::file::{FileImage, PowerLoss};
use super::random::SimRandom;

/// Number of a file or directory on one disk.
pub(super) type Inode = u64;

const ROOT: Inode = 0;

/// One change of a directory.
#[derive(Clone, Debug)]
enum Change {
    Add { name: String, inode: Inode },
    Remove { name: String },
    Rename { from: String, to: String, inode: Inode },
}

#[derive(Debug)]
struct PendingChange {
    seq: u64,
    /// A sync over it failed: no later sync covers it.
    abandoned: bool,
    change: Change,
}

#[derive(Debug, Default)]
struct Directory {
    live: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
    pending: Vec<PendingChange>,
}

impl Directory {
    fn change(&mut self, seq: u64, change: Change) {
        apply(&mut self.live, &change);
        self.pending.push(PendingChange { seq, abandoned: false, change });
    }
}

fn apply(entries: &mut BTreeMap<String, Inode>, change: &Change) {
    match change {
        Change::Add { name, inode } => {
            entries.insert(name.clone(), *inode);
        }
        Change::Remove { name } => {
            entries.remove(name);
        }
        Change::Rename { from, to, inode } => {
            entries.remove(from);
            entries.insert(to.clone(), *inode);
        }
    }
}

#[derive(Debug)]
enum Node {
    File(FileImage),
    Directory(Directory),
}

/// The files and directories of one disk.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<Inode, Node>,
    next_inode: Inode,
    /// Number of the last change of content or entries.
    last_seq: u64,
}

impl Tree {
    /// An empty disk with a durable root directory.
    pub(super) fn new() -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::Directory(Directory::default()))]);
        Self { nodes, next_inode: ROOT + 1, last_seq: 0 }
    }

    /// Numbers a change; later ones get larger numbers.
    pub(super) fn next_seq(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }

    /// What a sync submitted now covers.
    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The file or directory at `path`.
    pub(super) fn find(&self, path: &Path) -> Result<Inode> {
        let mut inode = ROOT;
        for name in names(path)? {
            inode = *self.directory(inode)?.live.get(&name).ok_or(ErrorKind::NotFound)?;
        }
        Ok(inode)
    }

    pub(super) fn is_directory(&self, inode: Inode) -> bool {
        matches!(self.nodes.get(&inode), Some(Node::Directory(_)))
    }

    /// Creates an empty file.
    pub(super) fn create(&mut self, path: &Path) -> Result<Inode> {
        let (parent, name) = self.parent_of(path)?;
        if self.directory(parent)?.live.contains_key(&name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.add(parent, name, Node::File(FileImage::default()))
    }

    /// Creates a directory and its parents; returns the last one that was new, if any.
    pub(super) fn create_dir(&mut self, path: &Path) -> Result<Option<Inode>> {
        let mut inode = ROOT;
        let mut created = None;
        for name in names(path)? {
            inode = match self.directory(inode)?.live.get(&name).copied() {
                Some(existing) => existing,
                None => {
                    let new = self.add(inode, name, Node::Directory(Directory::default()))?;
                    created = Some(new);
                    new
                }
            };
        }
        self.directory(inode)?;
        Ok(created)
    }

    /// The names in a directory, sorted.
    pub(super) fn list(&self, path: &Path) -> Result<Vec<String>> {
        Ok(self.directory(self.find(path)?)?.live.keys().cloned().collect())
    }

    /// Renames a file within its directory, replacing what has the new name.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<Inode> {
        let (directory, from) = self.parent_of(from)?;
        let (other, to) = self.parent_of(to)?;
        if directory != other {
            return Err(Error::new(ErrorKind::Unsupported, "the simulated disk renames within one directory only"));
        }
        let seq = self.next_seq();
        let directory = self.directory_mut(directory)?;
        let inode = *directory.live.get(&from).ok_or(ErrorKind::NotFound)?;
        if from != to {
            directory.change(seq, Change::Rename { from, to, inode });
        }
        Ok(inode)
    }

    /// Removes a file. Open handles keep its content.
    pub(super) fn remove(&mut self, path: &Path) -> Result<Inode> {
        let (parent, name) = self.parent_of(path)?;
        let inode = *self.directory(parent)?.live.get(&name).ok_or(ErrorKind::NotFound)?;
        if self.is_directory(inode) {
            return Err(ErrorKind::IsADirectory.into());
        }
        let seq = self.next_seq();
        self.directory_mut(parent)?.change(seq, Change::Remove { name });
        Ok(inode)
    }

    pub(super) fn file(&self, inode: Inode) -> Result<&FileImage> {
        match self.nodes.get(&inode) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn file_mut(&mut self, inode: Inode) -> Result<&mut FileImage> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(ErrorKind::IsADirectory.into()),
        }
    }

    /// Bytes of all files that have a name, if the file `inode` had at least `len`.
    pub(super) fn bytes_after_write(&self, inode: Inode, len: u64) -> Result<u64> {
        let grows = len.saturating_sub(self.file(inode)?.len());
        let reached = self.reachable();
        let named = self.nodes.iter().filter(|(inode, _)| reached.contains(inode));
        let bytes = named.map(|(_, node)| if let Node::File(file) = node { file.len() } else { 0 });
        // What does not grow is there already, wherever the bound stands.
        Ok(if grows == 0 { 0 } else { bytes.sum::<u64>() + grows })
    }

    /// A sync of a file or directory that covers changes up to number `covers` ended, well or not.
    pub(super) fn sync(&mut self, inode: Inode, covers: u64, well: bool) {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) if well => file.sync(covers),
            Some(Node::File(file)) => file.sync_failed(covers),
            Some(Node::Directory(directory)) => directory.sync(covers, well),
            None => {}
        }
    }

    /// Makes everything on the disk durable, as if it had been idle for long.
    pub(super) fn settle(&mut self) {
        for node in self.nodes.values_mut() {
            match node {
                Node::File(file) => file.sync(u64::MAX),
                Node::Directory(directory) => directory.sync(u64::MAX, true),
            }
        }
    }

    /// The power fails while the writes `in_flight` (file, offset, bytes) are on their way.
    pub(super) fn lose_power(&mut self, in_flight: &[(Inode, u64, &[u8])], loss: PowerLoss, random: &mut SimRandom) {
        for (inode, node) in &mut self.nodes {
            match node {
                Node::Directory(directory) => directory.lose_power(loss, random),
                Node::File(file) => {
                    let own = in_flight.iter().filter(|(file, _, _)| file == inode);
                    let own: Vec<_> = own.map(|(_, offset, bytes)| (*offset, *bytes)).collect();
                    file.lose_power(&own, loss, random);
                }
            }
        }
        self.collect_unreachable();
    }

    fn collect_unreachable(&mut self) {
        let reached = self.reachable();
        self.nodes.retain(|inode, _| reached.contains(inode));
    }

    fn reachable(&self) -> BTreeSet<Inode> {
        let mut reached = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(inode) = open.pop() {
            let Some(Node::Directory(directory)) = self.nodes.get(&inode) else { continue };
            open.extend(directory.live.values().filter(|child| reached.insert(**child)));
        }
        reached
    }

    fn add(&mut self, parent: Inode, name: String, node: Node) -> Result<Inode> {
        let seq = self.next_seq();
        let inode = self.next_inode;
        self.directory_mut(parent)?.change(seq, Change::Add { name, inode });
        self.next_inode += 1;
        self.nodes.insert(inode, node);
        Ok(inode)
    }

    fn parent_of(&self, path: &Path) -> Result<(Inode, String)> {
        let mut names = names(path)?;
        let name = names.pop().ok_or(ErrorKind::InvalidInput)?;
        let mut inode = ROOT;
        for name in names {
            inode = *self.directory(inode)?.live.get(&name).ok_or(ErrorKind::NotFound)?;
        }
        self.directory(inode)?;
        Ok((inode, name))
    }

    fn directory(&self, inode: Inode) -> Result<&Directory> {
        match self.nodes.get(&inode) {
            Some(Node::Directory(directory)) => Ok(directory),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn directory_mut(&mut self, inode: Inode) -> Result<&mut Directory> {
        match self.nodes.get_mut(&inode) {
            Some(Node::Directory(directory)) => Ok(directory),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }
}

impl Directory {
    fn sync(&mut self, covers: u64, well: bool) {
        for pending in self.pending.iter_mut().filter(|pending| pending.seq <= covers && !pending.abandoned) {
            if well {
                apply(&mut self.durable, &pending.change);
            } else {
                pending.abandoned = true;
            }
        }
        if well {
            self.pending.retain(|pending| pending.seq > covers || pending.abandoned);
        }
    }

    fn lose_power(&mut self, loss: PowerLoss, random: &mut SimRandom) {
        for pending in std::mem::take(&mut self.pending) {
            if random.chance(loss.keep_ppm) {
                apply(&mut self.durable, &pending.change);
            }
        }
        self.live = self.durable.clone();
    }
}

/// The names on the way from the root; absolute and relative paths mean the same.
fn names(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name.to_str().ok_or(ErrorKind::InvalidInput)?.to_owned()),
            Component::ParentDir | Component::Prefix(_) => return Err(ErrorKind::InvalidInput.into()),
        }
    }
    Ok(names)
}
