//! `FileImage`: one simulated file, as running programs see it and as a power loss would leave it.
//!
//! Invariant: `durable` changes only when a durable write completes, a sync completes, or in [`FileImage::lose_power`];
//! everything else that was written is in `pending`, one list of versions a 512-byte sector, oldest first.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::limits::{SIM_PAGE_BYTES, SIM_SECTOR_BYTES};

use super::random::SimRandom;

const SECTOR: u64 = SIM_SECTOR_BYTES as u64;

static ZEROS: [u8; SIM_PAGE_BYTES] = [0; SIM_PAGE_BYTES];

/// Sparse bytes: absent pages are zero.
#[derive(Clone, Debug, Default)]
struct Pages(BTreeMap<u64, Box<[u8]>>);

impl Pages {
    fn read(&self, offset: u64, out: &mut [u8]) {
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let (page, start, len) = Self::piece(at, rest.len());
            let (now, later) = rest.split_at_mut(len);
            match self.0.get(&page) {
                Some(bytes) => now.copy_from_slice(&bytes[start..start + len]),
                None => now.fill(0),
            }
            at += len as u64;
            rest = later;
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (page, start, len) = Self::piece(at, rest.len());
            let (now, later) = rest.split_at(len);
            if let Some(bytes) = self.0.get_mut(&page) {
                bytes[start..start + len].copy_from_slice(now);
            } else if *now != ZEROS[..len] {
                let mut bytes = vec![0; SIM_PAGE_BYTES].into_boxed_slice();
                bytes[start..start + len].copy_from_slice(now);
                self.0.insert(page, bytes);
            }
            at += len as u64;
            rest = later;
        }
    }

    /// Zeroes everything from `len` on.
    fn cut(&mut self, len: u64) {
        let page_bytes = SIM_PAGE_BYTES as u64;
        self.0.split_off(&len.div_ceil(page_bytes));
        if let Some(bytes) = self.0.get_mut(&(len / page_bytes)) {
            let start = usize::try_from(len % page_bytes).expect("it is below a page");
            bytes[start..].fill(0);
        }
    }

    /// The page of `at`, the position in it, and how many of `len` bytes it holds.
    fn piece(at: u64, len: usize) -> (u64, usize, usize) {
        let page_bytes = SIM_PAGE_BYTES as u64;
        let start = usize::try_from(at % page_bytes).expect("it is below a page");
        (at / page_bytes, start, len.min(SIM_PAGE_BYTES - start))
    }
}

/// What a sector held after one write that is not durable yet.
#[derive(Clone, Debug)]
struct Version {
    seq: u64,
    /// A sync over it failed: no later sync covers it.
    abandoned: bool,
    bytes: Rc<[u8]>,
    at: usize,
}

impl Version {
    fn sector(&self) -> &[u8] {
        &self.bytes[self.at..self.at + SIM_SECTOR_BYTES]
    }
}

/// A file length that is not durable yet.
#[derive(Clone, Copy, Debug)]
struct PendingLength {
    seq: u64,
    abandoned: bool,
    len: u64,
}

/// How a power loss treats what is not durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct PowerLoss {
    /// Chance that a change is kept.
    pub(super) keep_ppm: u32,
    /// Chance that a kept sector is torn.
    pub(super) tear_ppm: u32,
}

/// One file.
#[derive(Clone, Debug, Default)]
pub(super) struct FileImage {
    live: Pages,
    live_len: u64,
    /// What each sector held before its latest write.
    before: Pages,
    durable: Pages,
    durable_len: u64,
    pending: BTreeMap<u64, Vec<Version>>,
    lengths: Vec<PendingLength>,
}

impl FileImage {
    /// The length that running programs see, bytes.
    pub(super) fn len(&self) -> u64 {
        self.live_len
    }

    /// Reads what running programs see; returns how many bytes lie before the end.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let len = self.len_of_read(offset, out.len());
        self.live.read(offset, &mut out[..len]);
        len
    }

    /// Reads `from` in place of `offset`; gives as many bytes as there are at `offset`.
    pub(super) fn read_from(&self, from: u64, offset: u64, out: &mut [u8]) -> usize {
        let len = self.len_of_read(offset, out.len());
        self.live.read(from, &mut out[..len]);
        len
    }

    /// Reads what the sectors held before their latest writes.
    pub(super) fn read_stale(&self, offset: u64, out: &mut [u8]) -> usize {
        let len = self.len_of_read(offset, out.len());
        self.before.read(offset, &mut out[..len]);
        len
    }

    fn len_of_read(&self, offset: u64, most: usize) -> usize {
        let rest = self.live_len.saturating_sub(offset);
        usize::try_from(rest).unwrap_or(usize::MAX).min(most)
    }

    /// Applies a completed write, number `seq`. With `durable`, it survives a power loss from here on.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], seq: u64, durable: bool) {
        if bytes.is_empty() {
            return;
        }
        let (first, before) = self.sectors_of(offset, bytes.len());
        self.before.write(first * SECTOR, &before);
        self.live.write(offset, bytes);
        let end = offset + bytes.len() as u64;
        self.live_len = self.live_len.max(end);
        let (_, image) = self.sectors_of(offset, bytes.len());
        if durable {
            self.durable.write(first * SECTOR, &image);
            self.durable_len = self.durable_len.max(end);
            for sector in first..first + (image.len() / SIM_SECTOR_BYTES) as u64 {
                self.pending.remove(&sector);
            }
            self.forget_lengths();
        } else {
            self.add_pending(first, image, seq, false);
            self.lengths.push(PendingLength { seq, abandoned: false, len: end });
            self.forget_lengths();
        }
    }

    /// Applies a write that failed: each sector is written or not, and no later sync covers it.
    pub(super) fn write_failed(&mut self, offset: u64, bytes: &[u8], seq: u64, random: &mut SimRandom) {
        let mut at = 0;
        while at < bytes.len() {
            let to_boundary = SECTOR - (offset + at as u64) % SECTOR;
            let len = usize::try_from(to_boundary).expect("it is at most a sector").min(bytes.len() - at);
            if random.chance(500_000) {
                self.write(offset + at as u64, &bytes[at..at + len], seq, false);
            }
            at += len;
        }
        self.abandon(|version_seq| version_seq == seq);
    }

    /// A sync that covers writes up to number `covers` completed.
    pub(super) fn sync(&mut self, covers: u64) {
        let durable = &mut self.durable;
        self.pending.retain(|sector, versions| {
            let covered = versions.iter().rposition(|version| version.seq <= covers && !version.abandoned);
            if let Some(index) = covered {
                durable.write(sector * SECTOR, versions[index].sector());
                versions.drain(..=index);
            }
            !versions.is_empty()
        });
        for length in &self.lengths {
            if length.seq <= covers && !length.abandoned {
                self.durable_len = self.durable_len.max(length.len);
            }
        }
        self.forget_lengths();
    }

    /// A sync that would have covered writes up to number `covers` failed: they stay readable, and no later sync covers
    /// them, as on Linux.
    pub(super) fn sync_failed(&mut self, covers: u64) {
        self.abandon(|seq| seq <= covers);
    }

    /// The power fails while the writes `in_flight` (offset, bytes) are on their way. Each sector that is not durable
    /// becomes one of its versions, stays as it was, or is torn; the length is one of those that it had.
    pub(super) fn lose_power(&mut self, in_flight: &[(u64, &[u8])], loss: PowerLoss, random: &mut SimRandom) {
        for (offset, bytes) in in_flight.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            let (first, mut image) = self.sectors_of(*offset, bytes.len());
            let start = usize::try_from(offset % SECTOR).expect("it is below a sector");
            image[start..start + bytes.len()].copy_from_slice(bytes);
            self.add_pending(first, image, u64::MAX, false);
            let len = offset + bytes.len() as u64;
            self.lengths.push(PendingLength { seq: u64::MAX, abandoned: false, len });
        }
        self.forget_lengths();
        for (sector, versions) in std::mem::take(&mut self.pending) {
            let version = &versions[random.index(versions.len())];
            let keep = random.chance(loss.keep_ppm);
            let tear = random.chance(loss.tear_ppm);
            let cut = 1 + random.index(SIM_SECTOR_BYTES - 1);
            match (keep, tear) {
                (false, _) => {}
                (true, false) => self.durable.write(sector * SECTOR, version.sector()),
                (true, true) => self.durable.write(sector * SECTOR, &version.sector()[..cut]),
            }
        }
        let choice = random.index(self.lengths.len() + 1);
        if choice < self.lengths.len() {
            self.durable_len = self.lengths[choice].len;
        }
        self.lengths.clear();
        self.durable.cut(self.durable_len);
        self.live = self.durable.clone();
        self.live_len = self.durable_len;
    }

    /// Changes stored bytes behind everybody's back, on the medium and in the cache.
    pub(super) fn damage(&mut self, offset: u64, change: impl FnOnce(&mut [u8]), len: usize) {
        let mut bytes = vec![0; len];
        self.live.read(offset, &mut bytes);
        change(&mut bytes);
        self.live.write(offset, &bytes);
        self.durable.write(offset, &bytes);
    }

    /// Bytes that a power loss now would surely leave.
    pub(super) fn durable_bytes(&self) -> Vec<u8> {
        Self::bytes(&self.durable, self.durable_len)
    }

    /// Bytes that running programs see.
    pub(super) fn live_bytes(&self) -> Vec<u8> {
        Self::bytes(&self.live, self.live_len)
    }

    fn bytes(pages: &Pages, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).expect("a simulated file fits memory")];
        pages.read(0, &mut bytes);
        bytes
    }

    /// The whole sectors that `len` bytes at `offset` touch, as running programs see them, and the first one's number.
    fn sectors_of(&self, offset: u64, len: usize) -> (u64, Vec<u8>) {
        let first = offset / SECTOR;
        let end = (offset + len as u64).div_ceil(SECTOR);
        let mut image = vec![0; usize::try_from((end - first) * SECTOR).expect("a write fits memory")];
        self.live.read(first * SECTOR, &mut image);
        (first, image)
    }

    fn add_pending(&mut self, first: u64, image: Vec<u8>, seq: u64, abandoned: bool) {
        let bytes: Rc<[u8]> = image.into();
        for index in 0..bytes.len() / SIM_SECTOR_BYTES {
            let version = Version { seq, abandoned, bytes: bytes.clone(), at: index * SIM_SECTOR_BYTES };
            self.pending.entry(first + index as u64).or_default().push(version);
        }
    }

    fn abandon(&mut self, which: impl Fn(u64) -> bool) {
        for version in self.pending.values_mut().flatten().filter(|version| which(version.seq)) {
            version.abandoned = true;
        }
        for length in self.lengths.iter_mut().filter(|length| which(length.seq)) {
            length.abandoned = true;
        }
    }

    fn forget_lengths(&mut self) {
        let durable_len = self.durable_len;
        self.lengths.retain(|length| length.len > durable_len);
    }
}
