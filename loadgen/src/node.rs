//! One node process: an engine that hosts the model, and one more thread, which generates load when the parent says so.
//!
//! Commands come in on standard input, facts go out on standard output, one a line. The end of standard input ends the node.

use std::fmt;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use shardstage::port::transport::{ClusterConfig, NodeInfo};
use shardstage::{Config, Engine, IdleStrategy, NodeId, ShardStats};
use shardstage_persistence::EventLog;
use shardstage_quic::{Quic, QuicConfig};

use crate::cores;
use crate::data::Day;
use crate::generator::{Listener, Phase, Progress};
use crate::geo::Square;
use crate::ledger::AreaEvent;
use crate::limits::{HISTORY_PAGE_EVENTS, NODES, PEER_IDLE, SHARD_NICE, START};
use crate::model::messages::History;
use crate::model::{self, Area, area_key};
use crate::protocol::{Command, PhaseName, Said, ShardFacts};
use crate::schedule::{FlightId, Pace, Plan, Share};
use crate::traffic::Traffic;

/// What a node process is told on its command line.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Position in the list of addresses.
    pub index: usize,
    /// Shards.
    pub shards: u16,
    /// Holds certificates and each node's data.
    pub directory: PathBuf,
    /// Shard 0 of each node.
    pub addresses: Vec<SocketAddr>,
    /// Whether idle shards spin.
    pub spin: bool,
    /// The cores that all processes share; see [`cores::divide`].
    pub cores: Vec<usize>,
    /// Process id of the parent.
    pub parent: i32,
}

/// Why a node ends early.
#[derive(Debug)]
pub struct NodeError(String);

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NodeError {}

fn because<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> NodeError {
    move |error| NodeError(format!("{what}: {error}"))
}

/// Runs a node until the parent stops it or is gone.
///
/// # Errors
/// What kept the engine from starting, or a broken pipe.
pub fn run(options: &NodeOptions) -> Result<(), NodeError> {
    die_with_parent(options.parent)?;
    let day = Day::load().map_err(because("flight data"))?;
    let engine = start_engine(options)?;
    let (generators, shards) = cores::divide(&options.cores);
    cores::pin(&generators[options.index.min(generators.len() - 1)..][..1]);
    let spin = generators != shards;
    for peer in (0..NODES).filter(|peer| *peer != options.index) {
        let peer = NodeId::new(u32::try_from(peer).expect("few nodes"));
        let state = engine.wait_for_peer(peer, START);
        if state.sessions < options.shards {
            let why = state.last_down.map_or_else(|| "nothing was heard".to_owned(), |down| down.to_string());
            return Err(NodeError(format!("no session with {peer:?}: {why}")));
        }
    }
    say(&Said::Ready { driver: engine.driver_kind().to_string() })?;
    let mut node = Node { options, day, engine, spin, phase: PhaseName::Main, plan: None, next: 0 };
    for line in io::stdin().lock().lines() {
        let line = line.map_err(because("reading a command"))?;
        let command = line.parse().map_err(because("reading a command"))?;
        if !node.obey(command)? {
            break;
        }
    }
    node.engine.shutdown().map_err(because("shutting down"))
}

/// Has the kernel kill this process when the parent is gone, however it went.
fn die_with_parent(parent: i32) -> Result<(), NodeError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(because("parent death signal"))?;
    // It may have gone before the line above.
    if getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != parent) {
        return Err(NodeError("the parent is gone".to_owned()));
    }
    Ok(())
}

fn start_engine(options: &NodeOptions) -> Result<Engine, NodeError> {
    let name = |index: usize| format!("node{index}");
    let nodes = options.addresses.iter().enumerate().map(|(index, address)| NodeInfo {
        id: NodeId::new(u32::try_from(index).expect("few nodes")),
        name: name(index),
        address: *address,
        shards: options.shards,
    });
    let me = NodeId::new(u32::try_from(options.index).expect("few nodes"));
    let cluster = ClusterConfig { name: "traffic".to_owned(), me, nodes: nodes.collect() };
    let certificates = options.directory.join("certificates");
    let quic = QuicConfig::development(&certificates, &cluster.name, &name(options.index))
        .map_err(because("certificates"))?
        .with_idle_timeout(PEER_IDLE);
    let mut config = Config::default();
    config.shards = Some(options.shards);
    config.idle = if options.spin { IdleStrategy::Spin } else { IdleStrategy::Park };
    let builder = Engine::builder().config(config).cluster(cluster).transport(Quic::new(quic));
    let builder = builder.service(EventLog::open(options.directory.join(name(options.index))));
    let builder = model::register(builder);
    // Threads inherit the priority and the cores of the thread that starts them.
    std::thread::scope(|scope| {
        let shards = scope.spawn(|| {
            let (generators, shards) = cores::divide(&options.cores);
            cores::pin(shards);
            if generators == shards {
                // Refused only to processes that may not even lower their own priority; costs precision then.
                let _refused = rustix::process::nice(SHARD_NICE);
            }
            builder.start()
        });
        shards.join().expect("starting does not panic").map_err(because("starting the engine"))
    })
}

fn say(said: &Said) -> Result<(), NodeError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{said}").and_then(|()| out.flush()).map_err(because("writing to the parent"))
}

struct Node<'a> {
    options: &'a NodeOptions,
    day: Day,
    engine: Engine,
    /// Whether the generator has a core of its own.
    spin: bool,
    phase: PhaseName,
    plan: Option<Plan>,
    /// First operation of the plan that was not part of an earlier step.
    next: usize,
}

impl Node<'_> {
    /// `false` when that was the last command.
    fn obey(&mut self, command: Command) -> Result<bool, NodeError> {
        match command {
            Command::Prepare { phase, density, from_utc_s } => {
                let share = Share { index: self.options.index, of: cores::generators(&self.options.cores) };
                let plan = Plan::new(&self.day, share, density, from_utc_s);
                say(&Said::Prepared { operations: plan.operations().len() as u64, flights: plan.flights })?;
                (self.phase, self.plan, self.next) = (phase, Some(plan), 0);
            }
            Command::Go { start_ns, rate, duration_ns, ledger } => {
                let pace = Pace { start_ns, rate };
                self.go(pace, duration_ns, ledger)?;
                say(&Said::End)?;
            }
            Command::History(squares) => {
                for square in squares {
                    self.history(square)?;
                }
                say(&Said::End)?;
            }
            Command::Stop => return Ok(false),
        }
        Ok(true)
    }

    fn go(&mut self, pace: Pace, duration_ns: u64, ledger: bool) -> Result<(), NodeError> {
        let plan = self.plan.as_ref().ok_or_else(|| NodeError("told to go without a plan".to_owned()))?;
        let operations = &plan.operations()[self.next..];
        let mut traffic = Traffic::new(&self.engine, &self.day, self.phase);
        let mut telling = Telling { ledger, lines: String::new(), broken: None };
        let before = self.engine.stats();
        let stats = Phase { operations, pace, duration_ns, spin: self.spin }.run(&mut traffic, &mut telling);
        let after = self.engine.stats();
        self.next += usize::try_from(stats.offered).expect("a plan fits memory");
        telling.finish()?;
        for line in stats.to_lines() {
            say(&Said::Stats(line))?;
        }
        for (index, (before, after)) in before.iter().zip(&after).enumerate() {
            say(&Said::Shard(index, facts(before, after)))?;
        }
        Ok(())
    }

    fn history(&self, square: Square) -> Result<(), NodeError> {
        let area = self.engine.actor::<Area>(area_key(PhaseName::Kill, square));
        let mut after = 0;
        loop {
            let page = area.ask(History { after }).wait().map_err(because("reading a square's history"))?;
            for passage in &page {
                let id = FlightId { flight: passage.flight, copy: passage.copy };
                let (number, step, entered) = (passage.number, passage.step, passage.entered);
                say(&Said::Event(AreaEvent { square, number, id, step, entered }))?;
            }
            match page.last() {
                Some(last) if page.len() == HISTORY_PAGE_EVENTS => after = last.number,
                _ => return Ok(()),
            }
        }
    }
}

fn facts(before: &ShardStats, after: &ShardStats) -> ShardFacts {
    ShardFacts {
        messages: after.handled - before.handled,
        busy_ns: after.busy_ns - before.busy_ns,
        elapsed_ns: after.elapsed_ns - before.elapsed_ns,
    }
}

/// Tells the parent what happens, in as few writes as there are seconds or kilobytes.
struct Telling {
    ledger: bool,
    lines: String,
    broken: Option<NodeError>,
}

/// Acknowledgements are written once they fill this, bytes: less than a pipe takes without blocking.
const TELLING_BYTES: usize = 4096;

impl Telling {
    fn flush(&mut self) {
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(self.lines.as_bytes()).and_then(|()| out.flush()) {
            self.broken = Some(because("writing to the parent")(error));
        }
        self.lines.clear();
    }

    fn finish(mut self) -> Result<(), NodeError> {
        self.flush();
        self.broken.map_or(Ok(()), Err)
    }

    fn line(&mut self, said: &Said) {
        use fmt::Write as _;
        writeln!(self.lines, "{said}").expect("a string takes all");
    }
}

impl Listener for Telling {
    fn second(&mut self, progress: Progress) {
        self.line(&Said::Second(progress));
        self.flush();
    }

    fn acked(&mut self, event: AreaEvent) {
        if self.ledger {
            self.line(&Said::Acked(event));
            if self.lines.len() >= TELLING_BYTES {
                self.flush();
            }
        }
    }
}

/// How long `wait_for_peer` may take at most, checked against the parent's patience.
const _: () = assert!(START.as_secs() >= Duration::from_secs(5).as_secs());
