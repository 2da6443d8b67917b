//! Old epochs are refused wherever an effect would land: at the mailbox and at the reply. A scripted transport plays the
//! other node and sends what no sound node would.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use shardstage::port::driver::Driver;
use shardstage::port::frame::FrameBuffer;
use shardstage::port::transport::{
    Lane, ReserveError, Source, Transport, TransportEvents, TransportFactory, TransportSeat,
};
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{AskError, Engine, Epoch, NodeId, Unknown};
use shardstage_codec::{
    ActorTypeId, AlignedBytes, FrameHeader, FrameKind, ReplyStatus, ShortHeader, Wire, append_frame, is_short, slot_of,
};
use shardstage_tests::sim_cluster::{A, Add, B, Counter, SECOND, cluster, key_on};

/// What the scripted node has to say to shard 0 of node `a`, and what it heard from all shards.
#[derive(Default)]
struct Script {
    says: VecDeque<AlignedBytes>,
    heard: Vec<AlignedBytes>,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().expect("no test panics with the script in hand")
    }

    /// Takes the first frame of this kind that was heard: its header, made up for a short one, and its payload.
    fn take(&self, kind: FrameKind) -> Option<(FrameHeader, AlignedBytes)> {
        let mut script = self.script();
        let position = script.heard.iter().position(|frame| read(frame).0.kind == kind)?;
        let frame = script.heard.remove(position);
        let (header, payload) = read(&frame);
        let mut copy = AlignedBytes::new();
        copy.extend_from_slice(payload);
        Some((header, copy))
    }
}

fn read(frame: &AlignedBytes) -> (FrameHeader, &[u8]) {
    if !is_short(frame) {
        let header = FrameHeader::decode(frame).expect("the engine encodes sound frames");
        return (header, header.payload(frame).expect("they are whole"));
    }
    let (short, payload) = ShortHeader::decode(frame).expect("the engine encodes sound frames");
    let ShortHeader::Reply { epoch, correlation } = short else { panic!("nothing is sent twice to one actor") };
    let header =
        FrameHeader { group_epoch: Epoch::new(u64::from(epoch)), correlation, ..FrameHeader::new(FrameKind::Reply) };
    (header, payload)
}

struct ScriptedTransport {
    script: Scripted,
    room: Vec<AlignedBytes>,
    is_up: bool,
    speaks: bool,
}

impl TransportFactory for Scripted {
    fn make(&self, seat: &TransportSeat) -> io::Result<Box<dyn Transport>> {
        let speaks = seat.shard.get() == 0;
        Ok(Box::new(ScriptedTransport { script: self.clone(), room: Vec::new(), is_up: false, speaks }))
    }
}

impl Transport for ScriptedTransport {
    fn start(&mut self, _driver: &mut dyn Driver) -> io::Result<()> {
        Ok(())
    }

    fn reserve(&mut self, _peer: NodeId, _lane: Lane, len: usize) -> Result<&mut [u8], ReserveError> {
        let mut frame = AlignedBytes::new();
        frame.resize(len, 0);
        self.room.push(frame);
        Ok(self.room.last_mut().expect("pushed just now"))
    }

    fn poll(&mut self, _driver: &mut dyn Driver, events: &mut dyn TransportEvents) -> bool {
        if !self.is_up {
            self.is_up = true;
            events.peer_up(B, 1);
        }
        let said = if self.speaks { self.script.script().says.pop_front() } else { None };
        if let Some(frame) = &said {
            let mut buffer = FrameBuffer::default();
            buffer.bytes_mut().extend_from_slice(frame);
            let from = Source { peer: B, link: 0, session: 1 };
            events.frame(from, Lane::User, buffer.frame(0..frame.len()));
        }
        said.is_some()
    }

    fn flush(&mut self, _driver: &mut dyn Driver) {
        self.script.script().heard.append(&mut self.room);
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        // Every virtual millisecond or so, so that new lines of the script are said.
        Some(1)
    }

    fn stop(&mut self, _driver: &mut dyn Driver) -> bool {
        true
    }

    fn local_address(&self) -> Option<SocketAddr> {
        None
    }
}

fn start(world: &SimWorld, script: &Scripted) -> Engine {
    Engine::builder()
        .register::<Counter>(|counter| counter.accept::<Add, _>())
        .cluster(cluster("sim", A))
        .transport(script.clone())
        .start_in_sim(world, A)
        .expect("a sound description")
}

/// A frame that carries `Add` to a counter of node `a`, under the given epoch.
fn add_frame(kind: FrameKind, key: &str, epoch: Epoch) -> AlignedBytes {
    let actor_type = ActorTypeId::of("test.counter");
    let header = FrameHeader {
        message_id: Add::ID,
        message_version: Add::VERSION,
        group: slot_of(actor_type, key).group(),
        actor_type,
        group_epoch: epoch,
        correlation: 77,
        ttl_ns: if kind == FrameKind::Ask { SECOND } else { 0 },
        ..FrameHeader::new(kind)
    };
    let mut frame = AlignedBytes::new();
    append_frame(&mut frame, header, key, &Add { amount: 5 }).expect("it fits");
    frame
}

#[test]
fn a_message_under_epoch_0_is_refused_and_one_under_epoch_1_is_handled() {
    let world = SimWorld::new(SimOptions::seeded(1));
    let script = Scripted::default();
    let a = start(&world, &script);
    let key = key_on(&a, A);

    script.script().says.push_back(add_frame(FrameKind::Ask, &key, Epoch::new(0)));
    assert!(world.run_until(|_| script.script().heard.len() == 1, SECOND));
    let (header, _) = script.take(FrameKind::Reply).expect("an ask is answered");
    assert_eq!((header.status, header.correlation), (ReplyStatus::Fenced, 77));

    script.script().says.push_back(add_frame(FrameKind::Tell, &key, Epoch::new(0)));
    assert!(world.run_until(|_| script.script().heard.len() == 1, SECOND));
    let (header, _) = script.take(FrameKind::Bounce).expect("a tell is bounced");
    assert_eq!(header.status, ReplyStatus::Fenced);

    script.script().says.push_back(add_frame(FrameKind::Ask, &key, Epoch::FIRST));
    assert!(world.run_until(|_| script.script().heard.len() == 1, SECOND));
    let (header, payload) = script.take(FrameKind::Reply).expect("an ask is answered");
    assert_eq!(header.status, ReplyStatus::Ok);
    assert_eq!(header.group_epoch, Epoch::FIRST);
    let total = shardstage_codec::decode::<u64>(&payload).expect("a u64");
    assert_eq!(total, 5, "neither refused message had an effect");
    let fenced = a.stats().iter().map(|shard| shard.fenced).sum::<u64>();
    assert_eq!(fenced, 2);
}

/// Asks a counter of node `b` and answers under `epoch`.
fn answer_under(epoch: Epoch) -> Result<u64, AskError> {
    let world = SimWorld::new(SimOptions::seeded(2));
    let script = Scripted::default();
    let a = start(&world, &script);
    // Until the asker's shard sees the peer as up.
    assert!(world.run_until(|_| a.peer(B).sessions == 2, SECOND));
    let key = (0..)
        .map(|number| format!("answered-{number}"))
        .find(|key| {
            let slot = slot_of(ActorTypeId::of("test.counter"), key);
            slot.group().get() % 2 == 1 && slot.get().is_multiple_of(2)
        })
        .expect("a key on node b that shard 0 asks for");
    let engine = &a;
    let ask = engine.actor::<Counter>(key.as_str()).ask(Add { amount: 1 });
    let answering = script.clone();
    let mut ask = std::pin::pin!(ask);
    let future = std::future::poll_fn(|cx| {
        if let Some((asked, _)) = answering.take(FrameKind::Ask) {
            let reply = FrameHeader {
                message_id: asked.message_id,
                message_version: asked.message_version,
                group: asked.group,
                group_epoch: epoch,
                correlation: asked.correlation,
                ..FrameHeader::new(FrameKind::Reply)
            };
            let mut frame = AlignedBytes::new();
            append_frame(&mut frame, reply, "", &9_u64).expect("it fits");
            answering.script().says.push_back(frame);
        }
        cx.waker().wake_by_ref();
        ask.as_mut().poll(cx)
    });
    world.block_on(future, 4 * SECOND).expect("it ends")
}

#[test]
fn a_reply_under_epoch_0_does_not_count() {
    assert_eq!(answer_under(Epoch::FIRST), Ok(9));
    assert_eq!(answer_under(Epoch::new(0)), Err(AskError::Unknown(Unknown::Fenced)));
}

#[test]
fn what_was_resolved_under_an_older_epoch_is_refused_after_the_epoch_rose() {
    let world = SimWorld::new(SimOptions::seeded(3));
    let script = Scripted::default();
    let a = start(&world, &script);
    let key = key_on(&a, A);
    let group = a.actor::<Counter>(key.as_str()).slot().group();
    let ask = |amount| a.actor::<Counter>(key.as_str()).ask(Add { amount });
    assert_eq!(world.block_on(ask(1), SECOND), Some(Ok(1)));
    a.raise_epoch(group, Epoch::new(2));
    let refused = world.block_on(ask(1), SECOND).expect("it ends");
    assert_eq!(refused, Err(AskError::Rejected(shardstage::Rejected::Unavailable)), "the activation is of epoch 1");
    script.script().says.push_back(add_frame(FrameKind::Ask, &key, Epoch::FIRST));
    assert!(world.run_until(|_| script.script().heard.len() == 1, SECOND));
    let (header, _) = script.take(FrameKind::Reply).expect("an ask is answered");
    assert_eq!(header.status, ReplyStatus::Fenced);
}
