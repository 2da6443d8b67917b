//! Every bit of a small log, flipped one at a time: detected, harmless by design, or in the one window that `docs/log.md`
//! names: the last acknowledged frame before the next frame or heartbeat.
//!
//! All flips go through the rules of opening, without the files (`opened`); a sample of them also through a real start in
//! the simulator and through the tool, which must agree. `SHARDSTAGE_FLIP_SAMPLES` sets the size of that sample.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;
#[path = "common/files.rs"]
mod on_disk;

use std::collections::BTreeMap;

use common::{NODE, Plan, Shared, forget_checkpoints, ledger, must_recover, settle, start, world};
use on_disk::{Files, LOG, files, frames, segment, tool, write};
use shardstage::sim::SimWorld;
use shardstage_persistence::PlantedBug;
use shardstage_persistence::format::manifest::{Manifest, SegmentState};
use shardstage_persistence::format::node::{NODE_BYTES, NodeFile};
use shardstage_persistence::format::salt;
use shardstage_persistence::inspect::{Names, SeenFrame};
use shardstage_persistence::recovery::Scan;

/// What a log holds: LSN, entity, number, and the record's checksum.
type Content = Vec<(u64, u64, u64, u32)>;

/// A log with some frames, ended orderly (with a heartbeat) or by a crash right after the last acknowledgement.
fn small_log(orderly: bool) -> (SimWorld, Shared) {
    let world = world(8);
    let ledger = ledger(2);
    let plan = Plan { commands: 9, stop: orderly };
    start(&world, &ledger, plan, PlantedBug::None, 8);
    settle(&world, &ledger, plan);
    world.crash(NODE);
    (world, ledger)
}

/// The rules of opening: what the log holds, or why it is refused.
fn opened(files: &Files) -> Result<Content, String> {
    let node = NodeFile::decode(&files["NODE"]).map_err(|error| format!("NODE: {error:?}"))?;
    let slots = ["MANIFEST.a", "MANIFEST.b"].iter().filter_map(|name| Manifest::decode(&files[*name]));
    let ours = slots.filter(|manifest| manifest.log_id == node.log_id);
    let manifest = ours.max_by_key(|manifest| manifest.generation).ok_or("no manifest")?;
    let mut scan = Scan::new(salt(node.log_id), manifest.incarnation);
    let mut names = Names::default();
    let mut content = Content::new();
    let mut contradiction = None;
    let mut sink = |found: shardstage_persistence::recovery::FoundRecord<'_>| {
        if let Err(why) = names.admit(found.segment, found.offset, &found.view) {
            contradiction.get_or_insert(format!("{why:?}"));
        }
        let header = found.view.header;
        content.push((found.lsn, header.entity, header.seq, crc32c::crc32c(found.view.payload)));
    };
    for entry in &manifest.segments {
        let bytes = &files[&segment(entry.id)];
        scan.begin_segment(entry.id, entry.blocks);
        scan.push(bytes, &mut sink);
        scan.end_segment(&mut sink);
    }
    let sealed = manifest.segments.iter().map(|entry| entry.end_lsn).max().unwrap_or(0);
    let tail = scan.finish(sealed).map_err(|refusal| refusal.to_string())?;
    if let Some(why) = contradiction {
        return Err(why);
    }
    for entry in manifest.segments.iter().filter(|entry| entry.state == SegmentState::Sealed) {
        let holds = |span: &&shardstage_persistence::recovery::SegmentSpan| {
            (span.id, span.first_lsn, span.end_lsn) == (entry.id, entry.first_lsn, entry.end_lsn)
        };
        tail.spans.iter().find(holds).ok_or("a sealed segment holds other LSNs")?;
    }
    Ok(content)
}

/// Why a flip at this byte may be without effect; `None` where it must be noticed.
fn harmless(frames: &[SeenFrame], name: &str, byte: usize) -> Option<&'static str> {
    match name {
        "NODE" => (byte >= NODE_BYTES).then_some("behind the identity in NODE"),
        "MANIFEST.a" | "MANIFEST.b" => Some("one of two manifest slots"),
        name if name.starts_with("ckpt-") => Some("a checkpoint"),
        _ => {
            let here = frames.iter().find(|frame| {
                segment(frame.segment) == name
                    && (frame.offset..frame.offset + frame.stored_bytes).contains(&(byte as u64))
            });
            match here {
                Some(frame) => {
                    (byte as u64 >= frame.offset + u64::from(frame.header.len)).then_some("padding behind a frame")
                }
                None => Some("blocks without a frame"),
            }
        }
    }
}

/// What came of all flips.
#[derive(Default, Debug)]
struct Counts {
    detected: u64,
    harmless: BTreeMap<&'static str, u64>,
    unacknowledged: u64,
    window: u64,
}

/// (file, byte) of everything that is in use, and one block behind it.
fn in_use(files: &Files) -> Vec<(String, usize)> {
    let mut places = Vec::new();
    let all = frames(files);
    for (name, bytes) in files {
        let end = match name.as_str() {
            "LOCK" => 0,
            name if name.ends_with(".seg") => {
                let last = all.iter().rfind(|frame| segment(frame.segment) == name);
                last.map_or(0, |frame| (frame.offset + frame.stored_bytes) as usize + 4096).min(bytes.len())
            }
            _ => bytes.len(),
        };
        places.extend((0..end).map(|byte| (name.clone(), byte)));
    }
    places
}

/// Flips every bit that is in use, one at a time where it must be noticed, all of a byte where it must not. Returns what came of it, and each flip that was not without effect at random distances.
fn flip_all(files: &Files, orderly: bool) -> Counts {
    let whole = opened(files).unwrap();
    let frames = frames(files);
    let last = frames.last().unwrap();
    let mut counts = Counts::default();
    let mut flipped = files.clone();
    for (name, byte) in in_use(files) {
        let harmless = harmless(&frames, &name, byte);
        let masks: &[u8] = match harmless {
            // Only a real start reads checkpoints.
            Some("a checkpoint") => &[],
            // What is read is checksummed, so whoever noticed one of these bits would notice all of them.
            Some(_) => &[0xff],
            None => &[1, 2, 4, 8, 16, 32, 64, 128],
        };
        for mask in masks {
            flipped.get_mut(&name).unwrap()[byte] ^= mask;
            let place = format!("{name}, byte {byte}, bits {mask:08b}");
            match opened(&flipped) {
                Err(why) if harmless.is_none() => drop((counts.detected += 1, why)),
                Err(why) => panic!("{place}: a false alarm: {why}"),
                Ok(content) if content == whole && harmless.is_some() => {
                    *counts.harmless.entry(harmless.unwrap()).or_default() += 8;
                }
                Ok(content) => {
                    // Only the last frame may vanish, whole and without a trace.
                    let range = last.offset as usize..(last.offset + u64::from(last.header.len)) as usize;
                    assert!(name == segment(last.segment) && range.contains(&byte), "{place}: cut in silence");
                    let kept = whole.iter().filter(|record| record.0 < last.header.first_lsn).copied();
                    assert_eq!(content, kept.collect::<Content>(), "{place}");
                    if content == whole { counts.unacknowledged += 1 } else { counts.window += 1 }
                }
            }
            flipped.get_mut(&name).unwrap()[byte] ^= mask;
        }
    }
    assert_eq!(&flipped, files);
    println!("orderly {orderly}: {counts:#?}");
    counts
}

fn samples() -> usize {
    std::env::var("SHARDSTAGE_FLIP_SAMPLES").map_or(120, |value| value.parse().unwrap())
}

/// A real start and the tool say the same as the rules. A start from a checkpoint reads less: what it does not read, it does
/// not refuse; but it never finds less than everything without a word.
fn sample(orderly: bool) {
    let (pristine, _) = small_log(orderly);
    let files = files(&pristine);
    let whole = opened(&files).unwrap();
    let places = in_use(&files);
    let samples = samples();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (mut refused, mut lost, mut passed) = (0, 0, 0);
    for nth in 0..samples {
        let (name, byte) = &places[(nth * 7919 + nth * places.len() / samples) % places.len()];
        let bit = nth % 8;
        let mut flipped = files.clone();
        flipped.get_mut(name).unwrap()[*byte] ^= 1 << bit;
        let expected = opened(&flipped);
        let (world, ledger) = small_log(orderly);
        world.flip_bit(NODE, format!("{LOG}/{name}"), (*byte * 8 + bit) as u64);
        let full_scan = nth % 2 == 0;
        if full_scan {
            forget_checkpoints(&world);
        }
        let recovered = must_recover(&world, &ledger, PlantedBug::None);
        let named = ledger.borrow().start_error.is_some() || ledger.borrow().load_error.is_some();
        let place = format!("{name}, byte {byte}, bit {bit}: {expected:?} {recovered:?}");
        if full_scan {
            assert_eq!(ledger.borrow().start_error.is_some(), expected.is_err(), "{place}");
            assert_eq!(recovered.is_ok(), expected.as_ref() == Ok(&whole), "{place}");
        } else {
            let in_window = expected.as_ref().is_ok_and(|content| *content != whole);
            assert!(recovered.is_ok() || named || in_window, "{place}");
            passed += u32::from(recovered.is_ok() && expected.is_err());
        }
        refused += u32::from(named);
        lost += u32::from(expected.is_ok() && recovered.is_err());
        let ran = tool(&["verify", write(&flipped, dir.path()).to_str().unwrap()]);
        assert_eq!(ran.code == 2, expected.is_err(), "{place}: {}", ran.out);
    }
    println!(
        "orderly {orderly}: {samples} starts: {refused} refused, {lost} in the window, {passed} passed over by a checkpoint"
    );
    assert!(refused > 0);
}

#[test]
fn every_bit_of_a_stopped_log() {
    let (world, _) = small_log(true);
    let counts = flip_all(&files(&world), true);
    // The last frame is a heartbeat that nobody was told of, so nothing acknowledged is ever lost.
    assert_eq!(counts.window, 0);
    assert!(counts.unacknowledged > 0 && counts.detected > 10_000 && counts.harmless.len() == 4);
}

#[test]
fn every_bit_of_a_crashed_log() {
    let (world, _) = small_log(false);
    let counts = flip_all(&files(&world), false);
    // The window, and nothing else: the checksummed bytes of the last acknowledged frame.
    let last = frames(&files(&world)).into_iter().next_back().unwrap();
    assert_eq!(counts.window, u64::from(last.header.len) * 8);
    assert!(counts.detected > 10_000 && counts.harmless.len() == 4);
}

#[test]
fn starts_and_tool_agree_on_a_stopped_log() {
    sample(true);
}

#[test]
fn starts_and_tool_agree_on_a_crashed_log() {
    sample(false);
}
