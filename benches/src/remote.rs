//! Asks between nodes: two engines in one process over loopback QUIC with mutual TLS, beside a raw UDP echo without any.
//!
//! Messages and replies are 64 bytes. Node 0 runs on core 0 and node 1 on core 1; so do the two ends of the echo.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use shardstage::port::transport::{ClusterConfig, NodeInfo};
use shardstage::prelude::*;
use shardstage::{Audience, NodeId, Shared};
use shardstage_quic::{Quic, QuicConfig};

use crate::limits::{
    ASKS_IN_FLIGHT, ECHO_BYTES, PEER_UP, RECEIVE_BYTES, REMOTE_ASKS_IN_FLIGHT as WIDE, VIEWERS, WINDOW, YIELD_EVERY,
};
use crate::ours::{Clock, PARKED, SPINNING};
use crate::place::{on_core, pin};
use crate::workload::{Entry, Role, Run, Work};

/// The table's share of asks between nodes.
pub const ENTRIES: &[Entry] = &[
    entry(Work::RemoteAsk(1), PARKED, Role::Ours, |n| ask(IdleStrategy::Park, 1, n)),
    entry(Work::RemoteAsk(1), SPINNING, Role::Ours, |n| ask(IdleStrategy::Spin, 1, n)),
    entry(Work::RemoteAsk(1), "raw UDP, blocking", Role::Limit, |n| udp_echo(true, 1, n)),
    entry(Work::RemoteAsk(1), "raw UDP, polling", Role::Limit, |n| udp_echo(false, 1, n)),
    entry(Work::RemoteAsk(ASKS_IN_FLIGHT), PARKED, Role::Ours, |n| ask(IdleStrategy::Park, ASKS_IN_FLIGHT, n)),
    entry(Work::RemoteAsk(ASKS_IN_FLIGHT), SPINNING, Role::Ours, |n| ask(IdleStrategy::Spin, ASKS_IN_FLIGHT, n)),
    entry(Work::RemoteAsk(ASKS_IN_FLIGHT), "raw UDP, polling", Role::Limit, |n| udp_echo(false, ASKS_IN_FLIGHT, n)),
    entry(Work::RemoteAsk(WIDE), PARKED, Role::Ours, |n| ask(IdleStrategy::Park, WIDE, n)),
    entry(Work::RemoteAsk(WIDE), SPINNING, Role::Ours, |n| ask(IdleStrategy::Spin, WIDE, n)),
    entry(Work::RemoteAsk(WIDE), "raw UDP, polling", Role::Limit, |n| udp_echo(false, WIDE, n)),
    entry(Work::FanOut, SPINNING, Role::Ours, |n| fan_out(true, n)),
    entry(Work::FanOut, "shardstage, 10,000 tells", Role::Peer, |n| fan_out(false, n)),
    entry(Work::FanOut, "10,000 queues, no actors", Role::Limit, bare_fan_out),
    entry(Work::RemoteTell, PARKED, Role::Ours, |n| tell(IdleStrategy::Park, n)),
    entry(Work::RemoteTell, SPINNING, Role::Ours, |n| tell(IdleStrategy::Spin, n)),
    entry(Work::RemoteTell, "raw UDP, a datagram each", Role::Limit, udp_one_way),
];

const fn entry(work: Work, name: &'static str, role: Role, run: fn(u64) -> Duration) -> Entry {
    Entry { work, name, role, run: Run::Time(run) }
}

mod wire {
    /// Asks for its own words back.
    #[shardstage::message(id = "bench.echo", reply = [u64; 8])]
    pub struct Echo {
        pub words: [u64; 8],
    }

    /// One of many that want no answer.
    #[shardstage::message(id = "bench.word")]
    pub struct Word {
        pub words: [u64; 8],
    }

    /// Asks to be answered once this many words were counted in all.
    #[shardstage::message(id = "bench.counted", reply = u64)]
    pub struct Counted {
        pub words: u64,
    }

    /// Says what moved.
    #[shardstage::message(id = "bench.moved")]
    pub struct Moved {
        pub words: [u64; 8],
    }

    /// Asks for the thread that the actor runs on.
    #[shardstage::message(id = "bench.where", reply = String)]
    pub struct Where {
        pub nothing: u8,
    }
}
use wire::{Counted, Echo, Moved, Where, Word};

#[derive(Default)]
struct Mirror {
    counted: u64,
}

impl Actor for Mirror {}

impl VirtualActor for Mirror {
    const TYPE: &'static str = "bench.mirror";

    fn activate(_key: &str) -> Self {
        Self::default()
    }
}

impl Handler<Word> for Mirror {
    fn handle(&mut self, word: Word, _cx: &mut Context<Self>) {
        self.counted += u64::from(word.words[0] == word.words[7]);
    }
}

/// Tells arrive in order, so that all that were told before it are counted when this is handled.
impl Handler<Counted> for Mirror {
    fn handle(&mut self, question: Counted, _cx: &mut Context<Self>) -> u64 {
        assert_eq!(self.counted, question.words, "no word was lost");
        self.counted
    }
}

impl Handler<Echo> for Mirror {
    fn handle(&mut self, echo: Echo, _cx: &mut Context<Self>) -> [u64; 8] {
        echo.words
    }
}

impl Handler<Moved> for Mirror {
    fn handle(&mut self, moved: Moved, _cx: &mut Context<Self>) {
        self.counted += u64::from(moved.words[0] == moved.words[7]);
    }
}

impl Handler<Shared<Moved>> for Mirror {
    fn handle(&mut self, moved: Shared<Moved>, _cx: &mut Context<Self>) {
        self.counted += u64::from(moved.words[0] == moved.words[7]);
    }
}

impl Handler<Where> for Mirror {
    fn handle(&mut self, _: Where, _cx: &mut Context<Self>) -> String {
        format!("{:?}", thread::current().id())
    }
}

fn start(index: usize, addresses: &[SocketAddr], idle: IdleStrategy, certificates: &Path) -> Engine {
    let id = |index: usize| NodeId::new(u32::try_from(index).expect("two nodes"));
    let name = |index: usize| format!("node{index}");
    let nodes = addresses.iter().enumerate();
    let nodes = nodes.map(|(i, address)| NodeInfo { id: id(i), name: name(i), address: *address, shards: 1 }).collect();
    let cluster = ClusterConfig { name: "bench".to_owned(), me: id(index), nodes };
    let quic = QuicConfig::development(certificates, "bench", &name(index)).expect("certificates can be made");
    let mut config = Config::default();
    config.shards = Some(1);
    config.idle = idle;
    // The shard's thread inherits the core of the thread that starts it.
    config.pin = false;
    let builder =
        Engine::builder().config(config).cluster(cluster).transport(Quic::new(quic)).register::<Mirror>(|mirror| {
            let mirror = mirror.accept::<Echo, _>().accept::<Where, _>().accept::<Word, _>().accept::<Counted, _>();
            mirror.accept::<Moved, _>().accept_shared::<Moved, _>()
        });
    on_core(index, || builder.start().expect("the engine starts"))
}

/// Keeps a number of asks in flight until `n` were answered.
struct Asker {
    mirror: VirtualRef<Mirror>,
    unsent: u64,
    missing: u64,
    in_flight: u64,
    begin: Sender<Instant>,
    end: Sender<Instant>,
}

impl Actor for Asker {}

#[message]
struct Begin;

impl Asker {
    fn ask(&mut self, cx: &mut Context<Self>) {
        if self.unsent == 0 {
            return;
        }
        self.unsent -= 1;
        cx.ask(&self.mirror, Echo { words: [self.unsent; 8] }).then(|this, answer, cx| {
            answer.expect("the other node answers");
            this.missing -= 1;
            if this.missing == 0 {
                let _gone = this.end.send(Instant::now());
            }
            this.ask(cx);
        });
    }
}

impl Handler<Begin> for Asker {
    fn handle(&mut self, _: Begin, cx: &mut Context<Self>) {
        let _gone = self.begin.send(Instant::now());
        (0..self.in_flight).for_each(|_| self.ask(cx));
    }
}

/// Tells `n` words, at most [`WINDOW`] beyond what the other side has counted: a message that finds the far mailbox full goes
/// to the dead letters.
struct Teller {
    mirror: VirtualRef<Mirror>,
    next: u64,
    n: u64,
    /// The first word that may not be sent yet, and where the next question goes.
    limit: u64,
    question: u64,
    begin: Sender<Instant>,
    end: Sender<Instant>,
}

impl Actor for Teller {}

impl Teller {
    fn produce(&mut self, cx: &mut Context<Self>) {
        let until = self.n.min(self.next + YIELD_EVERY).min(self.limit);
        while self.next < until {
            if self.mirror.tell(Word { words: [self.next; 8] }).is_err() {
                break;
            }
            self.next += 1;
            if self.next == self.question || self.next == self.n {
                self.question += WINDOW / 2;
                cx.ask(&self.mirror, Counted { words: self.next }).then(|this, counted, cx| this.counted(counted, cx));
            }
        }
        if self.next < self.n.min(self.limit) {
            cx.me().tell(Begin).expect("only few messages are in the teller's mailbox");
        }
    }

    fn counted(&mut self, counted: Result<u64, AskError>, cx: &mut Context<Self>) {
        if counted.expect("the other node answers") == self.n {
            let _gone = self.end.send(Instant::now());
        }
        let waits = self.next == self.limit;
        self.limit += WINDOW / 2;
        if waits {
            self.produce(cx);
        }
    }
}

impl Handler<Begin> for Teller {
    fn handle(&mut self, _: Begin, cx: &mut Context<Self>) {
        if self.next == 0 {
            let _gone = self.begin.send(Instant::now());
        }
        self.produce(cx);
    }
}

fn tell(idle: IdleStrategy, n: u64) -> Duration {
    let (engines, mirror, _certificates) = two_nodes(idle);
    let (clock, begin, end) = Clock::new();
    let teller = engines[0].spawn(move || {
        let (mirror, begin, end) = (mirror.clone(), begin.clone(), end.clone());
        Teller { mirror, next: 0, n, limit: WINDOW, question: WINDOW / 2, begin, end }
    });
    teller.expect("the engine runs").tell(Begin).expect("its mailbox is empty");
    clock.elapsed()
}

fn ask(idle: IdleStrategy, in_flight: u64, n: u64) -> Duration {
    let (engines, mirror, _certificates) = two_nodes(idle);
    let (clock, begin, end) = Clock::new();
    let asker = engines[0].spawn(move || {
        let (mirror, begin, end) = (mirror.clone(), begin.clone(), end.clone());
        Asker { mirror, unsent: n, missing: n, in_flight, begin, end }
    });
    asker.expect("the engine runs").tell(Begin).expect("its mailbox is empty");
    clock.elapsed()
}

/// Sends a message to all viewers, waits until the last viewer of each node has handled it, and goes on.
struct Announcer {
    viewers: Vec<VirtualRef<Mirror>>,
    audience: Audience<VirtualRef<Mirror>>,
    /// The last viewer of each node.
    last: [VirtualRef<Mirror>; 2],
    at_once: bool,
    unheard: usize,
    sent: u64,
    n: u64,
    begin: Sender<Instant>,
    end: Sender<Instant>,
}

impl Actor for Announcer {}

impl Announcer {
    fn announce(&mut self, cx: &mut Context<Self>) {
        self.sent += 1;
        let words = [self.sent; 8];
        if self.at_once {
            let sent = cx.tell_many(&mut self.audience, Moved { words });
            assert_eq!(sent.accepted, self.viewers.len(), "nobody is full");
        } else {
            for viewer in &self.viewers {
                viewer.tell(Moved { words }).expect("nobody is full");
            }
        }
        self.unheard = self.last.len();
        for viewer in &self.last {
            cx.ask(viewer, Counted { words: self.sent }).then(|this, counted, cx| {
                counted.expect("it answers");
                this.unheard -= 1;
                if this.unheard > 0 {
                } else if this.sent == this.n {
                    let _gone = this.end.send(Instant::now());
                } else {
                    this.announce(cx);
                }
            });
        }
    }
}

impl Handler<Begin> for Announcer {
    fn handle(&mut self, _: Begin, cx: &mut Context<Self>) {
        let _gone = self.begin.send(Instant::now());
        self.announce(cx);
    }
}

fn fan_out(at_once: bool, n: u64) -> Duration {
    let (engines, _mirror, _certificates) = two_nodes(IdleStrategy::Spin);
    let viewers: Vec<_> = (0..VIEWERS).map(|number| engines[0].actor::<Mirror>(format!("viewer-{number}"))).collect();
    let node = |viewer: &VirtualRef<Mirror>| u32::from(viewer.slot().group().get()) % 2;
    let last =
        [0, 1].map(|wanted| viewers.iter().rfind(|viewer| node(viewer) == wanted).expect("half of them").clone());
    let (clock, begin, end) = Clock::new();
    let announcer = engines[0].spawn_once(move || Announcer {
        audience: viewers.iter().cloned().collect(),
        viewers,
        last,
        at_once,
        unheard: 0,
        sent: 0,
        n,
        begin,
        end,
    });
    announcer.expect("the engine runs").tell(Begin).expect("its mailbox is empty");
    clock.elapsed()
}

/// What is left of it without nodes and actors: a count of an `Arc` into each queue, and out of it again.
fn bare_fan_out(n: u64) -> Duration {
    on_core(0, || {
        let mut queues: Vec<VecDeque<Arc<[u64; 8]>>> = (0..VIEWERS).map(|_| VecDeque::with_capacity(4)).collect();
        let start = Instant::now();
        let mut sum = 0;
        for number in 0..n {
            let message = Arc::new([number; 8]);
            queues.iter_mut().for_each(|queue| queue.push_back(Arc::clone(&message)));
            for queue in &mut queues {
                sum += queue.pop_front().map_or(0, |message| message[7]);
            }
        }
        std::hint::black_box(sum);
        start.elapsed()
    })
}

/// Two engines that have met, and a mirror that lives on the second.
fn two_nodes(idle: IdleStrategy) -> ([Engine; 2], VirtualRef<Mirror>, tempfile::TempDir) {
    let certificates = tempfile::tempdir().expect("a directory can be made");
    let sockets = [0, 1].map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port"));
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().expect("it is bound"));
    drop(sockets);
    let engines = [0, 1].map(|index| start(index, &addresses, idle, certificates.path()));
    let state = engines[0].wait_for_peer(NodeId::new(1), PEER_UP);
    assert_eq!(state.sessions, 1, "the nodes meet: {state:?}");
    // Engine 0 has one shard, so the first key that answers from another thread than most lies on node 1.
    let lives_at = |key: &str| engines[0].actor::<Mirror>(key).ask(Where { nothing: 0 }).wait().expect("it answers");
    let here = engines[0].spawn(Mirror::default).expect("the engine runs");
    let here = here.ask(Where { nothing: 0 }).wait().expect("it answers");
    let key = (0..).map(|number| format!("mirror-{number}")).find(|key| lives_at(key) != here);
    let mirror = engines[0].actor::<Mirror>(key.expect("half of all keys lie there"));
    (engines, mirror, certificates)
}

fn echo_socket(blocking: bool) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    socket.set_nonblocking(!blocking).expect("a socket can be switched");
    // A small datagram takes over 800 bytes of it: by default a few hundred in flight overrun it, and one that is lost is waited
    // for without end.
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BYTES)
        .expect("a buffer's size can be asked for");
    socket
}

/// Receives one datagram, polling if the socket does not block.
fn receive(socket: &UdpSocket, buffer: &mut [u8; ECHO_BYTES]) {
    while let Err(error) = socket.recv(buffer) {
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "loopback works");
        std::hint::spin_loop();
    }
}

fn udp_echo(blocking: bool, in_flight: u64, n: u64) -> Duration {
    let (client, server) = (echo_socket(blocking), echo_socket(blocking));
    client.connect(server.local_addr().expect("it is bound")).expect("loopback works");
    server.connect(client.local_addr().expect("it is bound")).expect("loopback works");
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            let mut buffer = [0; ECHO_BYTES];
            for _ in 0..n {
                receive(&server, &mut buffer);
                server.send(&buffer).expect("the client's buffer holds all that is in flight");
            }
        });
        on_core(0, || {
            let mut buffer = [7; ECHO_BYTES];
            let start = Instant::now();
            let mut sent = in_flight.min(n);
            for _ in 0..sent {
                client.send(&buffer).expect("the server's buffer holds all that is in flight");
            }
            for _ in 0..n {
                receive(&client, &mut buffer);
                if sent < n {
                    client.send(&buffer).expect("the server's buffer holds all that is in flight");
                    sent += 1;
                }
            }
            start.elapsed()
        })
    })
}

/// Sends a datagram for each message, at most [`WINDOW`] of them beyond what the other side has counted.
fn udp_one_way(n: u64) -> Duration {
    let (client, server) = (echo_socket(false), echo_socket(false));
    client.connect(server.local_addr().expect("it is bound")).expect("loopback works");
    server.connect(client.local_addr().expect("it is bound")).expect("loopback works");
    // What a socket's default buffer holds without loss.
    let window = WINDOW / 8;
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            let mut buffer = [0; ECHO_BYTES];
            for counted in 1..=n {
                receive(&server, &mut buffer);
                if counted.is_multiple_of(window) || counted == n {
                    server.send(&buffer).expect("the client's buffer is nearly empty");
                }
            }
        });
        on_core(0, || {
            let mut buffer = [7; ECHO_BYTES];
            let start = Instant::now();
            let mut heard = 0;
            for sent in 0..n {
                if sent == heard + 2 * window {
                    receive(&client, &mut buffer);
                    heard += window;
                }
                client.send(&buffer).expect("the server's buffer holds all that is under way");
            }
            while heard < n {
                receive(&client, &mut buffer);
                heard += window;
            }
            start.elapsed()
        })
    })
}
