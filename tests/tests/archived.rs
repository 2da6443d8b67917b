//! Messages read in place: what a handler of archived views sees lies in the very buffer in which the transport put the
//! frame together, for a short frame and a full one; a damaged message reaches no handler; a local one is archived once.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use shardstage::Reason;
use shardstage::port::driver::Driver;
use shardstage::port::frame::FrameBuffer;
use shardstage::port::transport::{
    Lane, ReserveError, Source, Transport, TransportEvents, TransportFactory, TransportSeat,
};
use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{ArchivedHandler, Epoch, NodeId};
use shardstage_codec::{
    ActorTypeId, AlignedBytes, FrameHeader, FrameKind, ShortHeader, Wire, append_frame, append_frame_bytes,
    append_short_with, slot_of,
};
use shardstage_tests::sim_cluster::{A, B, SECOND, cluster};

/// A line of text. Answers nothing.
#[message(id = "test.line")]
#[derive(Debug)]
struct Line {
    number: u64,
    text: String,
}

/// Where the last line lay, and what it said.
#[message(id = "test.last", reply = (u64, String))]
struct Last {
    nothing: u8,
}

#[derive(Default)]
struct Reader {
    last: (u64, String),
}

impl Actor for Reader {}

impl VirtualActor for Reader {
    const TYPE: &'static str = "test.reader";

    fn activate(_key: &str) -> Self {
        Self::default()
    }
}

impl ArchivedHandler<Line> for Reader {
    fn handle(&mut self, line: &<Line as shardstage_codec::rkyv::Archive>::Archived, _cx: &mut Context<Self>) {
        self.last = (std::ptr::from_ref(line).addr() as u64, format!("{}: {}", line.number, line.text));
    }
}

impl Handler<Last> for Reader {
    fn handle(&mut self, _: Last, _cx: &mut Context<Self>) -> (u64, String) {
        self.last.clone()
    }
}

/// Delivers what it is given, all frames of one turn in one buffer, and tells where that was.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    says: VecDeque<AlignedBytes>,
    lay_at: Vec<u64>,
}

struct ScriptedTransport {
    script: Scripted,
    room: Vec<u8>,
    shard: u16,
}

impl TransportFactory for Scripted {
    fn make(&self, seat: &TransportSeat) -> io::Result<Box<dyn Transport>> {
        Ok(Box::new(ScriptedTransport { script: self.clone(), room: Vec::new(), shard: seat.shard.get() }))
    }
}

impl Transport for ScriptedTransport {
    fn start(&mut self, _driver: &mut dyn Driver) -> io::Result<()> {
        Ok(())
    }

    fn reserve(&mut self, _peer: NodeId, _lane: Lane, len: usize) -> Result<&mut [u8], ReserveError> {
        self.room = vec![0; len];
        Ok(&mut self.room)
    }

    fn poll(&mut self, _driver: &mut dyn Driver, events: &mut dyn TransportEvents) -> bool {
        let mut script = self.script.0.lock().expect("no test panics with the script in hand");
        if self.shard != 0 || script.says.is_empty() {
            return false;
        }
        let mut buffer = FrameBuffer::default();
        let frames: Vec<AlignedBytes> = script.says.drain(..).collect();
        frames.iter().for_each(|frame| buffer.bytes_mut().extend_from_slice(frame));
        let from = Source { peer: B, link: 0, session: 1 };
        let mut at = 0;
        for frame in &frames {
            script.lay_at.push((buffer.as_ptr().addr() + at) as u64);
            events.frame(from, Lane::User, buffer.frame(at..at + frame.len()));
            at += frame.len();
        }
        buffer.restart(at);
        true
    }

    fn flush(&mut self, _driver: &mut dyn Driver) {}

    fn next_deadline_ns(&self) -> Option<u64> {
        Some(1)
    }

    fn stop(&mut self, _driver: &mut dyn Driver) -> bool {
        true
    }

    fn local_address(&self) -> Option<SocketAddr> {
        None
    }
}

/// A key on shard 0 of node `a`.
fn key() -> String {
    let lives_there = |key: &String| {
        let slot = slot_of(ActorTypeId::of(Reader::TYPE), key);
        slot.group().get().is_multiple_of(2) && slot.get().is_multiple_of(2)
    };
    (0..).map(|number| format!("reader-{number}")).find(lives_there).expect("a quarter of all keys live there")
}

fn header(kind: FrameKind, key: &str) -> FrameHeader {
    let actor_type = ActorTypeId::of(Reader::TYPE);
    FrameHeader {
        message_id: Line::ID,
        message_version: Line::VERSION,
        group: slot_of(actor_type, key).group(),
        actor_type,
        group_epoch: Epoch::FIRST,
        ..FrameHeader::new(kind)
    }
}

fn start(world: &SimWorld, script: &Scripted) -> Engine {
    Engine::builder()
        .register::<Reader>(|reader| reader.accept::<Line, _>().accept::<Last, _>())
        .cluster(cluster("sim", A))
        .transport(script.clone())
        .start_in_sim(world, A)
        .expect("a sound description")
}

fn say(script: &Scripted, frames: Vec<AlignedBytes>) {
    script.0.lock().expect("no test panics with the script in hand").says.extend(frames);
}

fn last(world: &SimWorld, engine: &Engine) -> (u64, String) {
    let ask = engine.actor::<Reader>(key()).ask(Last { nothing: 0 });
    world.block_on(ask, SECOND).expect("it ends").expect("it answers")
}

fn line(number: u64) -> Line {
    Line { number, text: "long enough to lie outside of the fixed part".to_owned() }
}

#[test]
fn a_remote_message_is_read_where_its_frame_was_put_together() {
    let world = SimWorld::new(SimOptions::seeded(1));
    let script = Scripted::default();
    let engine = start(&world, &script);
    let key = key();

    let mut full = AlignedBytes::new();
    append_frame(&mut full, header(FrameKind::Tell, &key), &key, &line(1)).expect("it fits");
    let end = full.len();
    say(&script, vec![full]);
    world.run_until(|_| script.0.lock().expect("not poisoned").lay_at.len() == 1, SECOND);
    let (address, text) = last(&world, &engine);
    assert_eq!(text, "1: long enough to lie outside of the fixed part");
    let lay_at = script.0.lock().expect("not poisoned").lay_at[0];
    assert!((lay_at + 64..lay_at + end as u64).contains(&address), "read at {address:#x}, delivered at {lay_at:#x}");

    let mut route = AlignedBytes::new();
    append_frame_bytes(&mut route, header(FrameKind::Route, &key), &key, &[]).expect("it fits");
    let mut short = AlignedBytes::new();
    let encode = |out: &mut AlignedBytes| shardstage_codec::encode(&line(2), out);
    append_short_with(&mut short, ShortHeader::Tell { route: 0 }, encode).expect("it fits");
    let end = short.len();
    say(&script, vec![route, short]);
    world.run_until(|_| script.0.lock().expect("not poisoned").lay_at.len() == 3, SECOND);
    let (address, text) = last(&world, &engine);
    assert_eq!(text, "2: long enough to lie outside of the fixed part");
    let lay_at = script.0.lock().expect("not poisoned").lay_at[2];
    assert!((lay_at + 16..lay_at + end as u64).contains(&address), "read at {address:#x}, delivered at {lay_at:#x}");
}

#[test]
fn a_damaged_message_reaches_no_handler_and_is_counted() {
    let world = SimWorld::new(SimOptions::seeded(2));
    let script = Scripted::default();
    let engine = start(&world, &script);
    let key = key();
    let mut frame = AlignedBytes::new();
    append_frame_bytes(&mut frame, header(FrameKind::Tell, &key), &key, &[0x80; 48]).expect("it fits");
    let mut too_short = AlignedBytes::new();
    append_frame_bytes(&mut too_short, header(FrameKind::Tell, &key), &key, &[0; 4]).expect("it fits");
    say(&script, vec![frame, too_short]);
    assert!(world.run_until(|_| engine.dead_letters().count(Reason::Malformed) == 2, SECOND));
    assert_eq!(last(&world, &engine), (0, String::new()));
}

#[test]
fn a_local_message_is_read_as_an_archive_too() {
    let world = SimWorld::new(SimOptions::seeded(3));
    let engine = start(&world, &Scripted::default());
    engine.actor::<Reader>(key()).tell(line(3)).expect("it is local");
    assert_eq!(last(&world, &engine).1, "3: long enough to lie outside of the fixed part");
}
