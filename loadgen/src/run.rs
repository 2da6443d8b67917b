//! The main job, as the parent sees it: start the nodes, find the highest rate, measure below it, kill a node, check the
//! ledger, print.
//!
//! Phases share no actors (their keys differ), so what one leaves behind does not weigh on the next.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::clock::now_ns;
use crate::cluster::{Cluster, ClusterConfig, ClusterError, Heard};
use crate::cores;
use crate::data::{DataError, Day};
use crate::generator::Progress;
use crate::geo::Square;
use crate::ledger::{AreaEvent, Ledger};
use crate::limits::{
    ACHIEVED_PER_MILLE, DRAIN, KILL_AFTER, KILL_OUTAGE, KILL_RATE_PERCENT, KILL_RECOVERED, LEAD_TIME,
    MAIN_RATE_PERCENT, NODES, PLAN, SEARCH_BACKOFF_PERCENT, SEARCH_BISECTIONS, SEARCH_CONFIRM, SEARCH_DOUBLINGS,
    SEARCH_FIRST_RATE, SEARCH_STEP, SETTLE, STOP,
};
use crate::protocol::{Command, PhaseName, Said, ShardFacts};
use crate::report::{self, Measured, grouped};
use crate::schedule::Density;
use crate::stats::Stats;
use crate::verdict::flaws;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Operations a second of the measured phase; searched for when absent.
    pub rate: Option<u64>,
    /// Length of the measured phase.
    pub length: Duration,
    /// Shards a node.
    pub shards: u16,
    /// Where the data directory is made.
    pub directory: PathBuf,
    /// This binary, for starting nodes.
    pub program: PathBuf,
}

/// Why a run could not be finished.
#[derive(Debug)]
pub enum RunError {
    /// See [`DataError`].
    Data(DataError),
    /// See [`ClusterError`].
    Cluster(ClusterError),
    /// The data directory could not be made.
    Directory(std::io::Error),
    /// Not even the lowest rate of the search was kept up.
    TooSlow,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(error) => error.fmt(f),
            Self::Cluster(error) => error.fmt(f),
            Self::Directory(error) => write!(f, "making the data directory: {error}"),
            Self::TooSlow => write!(f, "not even {SEARCH_FIRST_RATE} operations a second were answered in time"),
        }
    }
}

impl std::error::Error for RunError {}

impl From<ClusterError> for RunError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(error)
    }
}

/// Runs everything and prints it to standard output. `true` when the run is valid and the ledger holds.
///
/// # Errors
/// What stopped the run; no process is left behind.
pub fn run(options: &Options) -> Result<bool, RunError> {
    let day = Day::load().map_err(RunError::Data)?;
    let directory = tempfile::Builder::new()
        .prefix("shardstage-loadgen-")
        .tempdir_in(&options.directory)
        .map_err(RunError::Directory)?;
    let cores = cores::available();
    let (generator_cores, shard_cores) = cores::divide(&cores);
    let shards = NODES * usize::from(options.shards);
    let spin = generator_cores != shard_cores && shards <= shard_cores.len();
    cores::pin(&generator_cores[..1]);
    let cluster = Cluster::start(ClusterConfig {
        program: options.program.clone(),
        arguments: vec!["node".to_owned(), "--cores".to_owned(), cores::to_text(&cores)],
        spin,
        shards: options.shards,
        directory: directory.path().to_owned(),
    })?;
    println!(
        "Shardstage: a day of air traffic on {NODES} node processes x {} shards, {} cores, driver {}, QUIC with mutual TLS",
        options.shards,
        cores.len(),
        cluster.drivers[0]
    );
    println!(
        "{} flights of 10 January 2001 between {} airports; positions are interpolated on the great circle",
        grouped(day.flights.len() as u64),
        day.airports.len()
    );
    println!("data in {} (removed at the end)", directory.path().display());
    if generator_cores == shard_cores {
        println!("the only core is shared by generator and shards: expect the generator to be late");
    } else {
        println!("{} core(s) are kept for generating load, {} for shards", generator_cores.len(), shard_cores.len());
    }
    if spin {
        println!("idle shards spin: every one has a core");
    } else {
        println!(
            "idle shards park: {shards} shards share {} core(s), so times contain waking and waiting for a core",
            shard_cores.len()
        );
    }
    let mut parent = Parent { cluster, day, generators: cores::generators(&cores) };
    let highest = match options.rate {
        Some(rate) => rate * 100 / MAIN_RATE_PERCENT,
        None => parent.search()?,
    };
    let measured = parent.measure(options.rate.unwrap_or(highest * MAIN_RATE_PERCENT / 100), options.length)?;
    let ledger_holds = parent.kill(highest * KILL_RATE_PERCENT / 100)?;
    parent.cluster.stop(STOP);
    let flaws = flaws(&measured.stats, measured.busiest_percent());
    println!("\n{}", report::screen(&measured, &flaws));
    println!("{ledger_holds}");
    Ok(flaws.is_empty() && ledger_holds.breaches == 0 && ledger_holds.recovered)
}

struct Parent {
    cluster: Cluster,
    day: Day,
    generators: usize,
}

/// What all generators of a phase said together.
#[derive(Default)]
struct Heap {
    stats: [Stats; NODES],
    shards: Vec<(usize, usize, ShardFacts)>,
    /// What each node said of a second that not all have said yet.
    seconds: BTreeMap<u64, [Option<Progress>; NODES]>,
    /// What each node said last.
    last: [Progress; NODES],
    /// Failures in the last whole second.
    last_failed: u64,
}

impl Heap {
    /// Takes one fact; prints a live line when all generators have said their second.
    fn take(&mut self, heard: &Heard, generators: usize, live: bool) -> Result<(), ClusterError> {
        match &heard.said {
            Said::Stats(line) => self.stats[heard.node]
                .take_line(line)
                .ok_or_else(|| ClusterError::Line(crate::protocol::BadLine(line.clone()))),
            Said::Shard(shard, facts) => {
                self.shards.push((heard.node, *shard, *facts));
                Ok(())
            }
            Said::Second(progress) => {
                let said = self.seconds.entry(progress.second).or_default();
                said[heard.node] = Some(*progress);
                if said.iter().flatten().count() >= generators {
                    let said = *said;
                    self.tell_second(&said, live);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn tell_second(&mut self, said: &[Option<Progress>; NODES], live: bool) {
        let last = self.last;
        let both = || said.iter().zip(&last).filter_map(|(now, before)| now.as_ref().map(|now| (now, before)));
        let (now, before) = (together(both().map(|pair| pair.0)), together(both().map(|pair| pair.1)));
        self.last_failed = now.failed - before.failed;
        if live {
            println!("{}", report::second(&now, &before));
        }
        for (last, now) in self.last.iter_mut().zip(said) {
            *last = now.unwrap_or(*last);
        }
    }

    fn stats(&self) -> Stats {
        let mut all = Stats::default();
        self.stats.iter().for_each(|one| all.add(one));
        all
    }
}

/// Sums the counts; of the percentiles the worse one is shown.
fn together<'a>(said: impl Iterator<Item = &'a Progress>) -> Progress {
    said.fold(Progress::default(), |all, one| Progress {
        second: one.second,
        sent: all.sent + one.sent,
        completed: all.completed + one.completed,
        failed: all.failed + one.failed,
        events: all.events + one.events,
        p50_ns: all.p50_ns.max(one.p50_ns),
        p99_ns: all.p99_ns.max(one.p99_ns),
    })
}

/// How the kill ended.
struct KillResult {
    acked: u64,
    squares: usize,
    breaches: usize,
    restart: Duration,
    failed: BTreeMap<String, u64>,
    recovered: bool,
}

impl fmt::Display for KillResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "SIGKILL of node 1 in mid-load: serving again {} after its restart began",
            report::time(self.restart.as_nanos() as u64)
        )?;
        for (reason, count) in &self.failed {
            writeln!(f, "  while it was away, {} operations of node 0 ended as: {reason}", grouped(*count))?;
        }
        if !self.recovered {
            writeln!(f, "  NOT RECOVERED: operations still failed in the last second")?;
        }
        let (acked, squares) = (grouped(self.acked), self.squares);
        if self.breaches == 0 {
            write!(f, "  all {acked} acknowledged events of {squares} squares are there, once, in order")
        } else {
            write!(f, "  BROKEN: {} contradictions among {acked} acknowledged events", self.breaches)
        }
    }
}

impl Parent {
    /// Lets both nodes lay out a plan; returns operations and flights in it, and the fewest operations of one node.
    fn prepare(&mut self, phase: PhaseName, density: Density, from_utc_s: f64) -> Result<Prepared, RunError> {
        for node in 0..NODES {
            self.cluster.order(node, &Command::Prepare { phase, density, from_utc_s })?;
        }
        let deadline = Instant::now() + PLAN;
        let mut prepared = Prepared { operations: 0, flights: 0 };
        for _ in 0..NODES {
            let heard = self.cluster.hear(deadline)?.ok_or(ClusterError::Silent { waiting_for: "prepared" })?;
            if let Said::Prepared { operations, flights } = heard.said {
                prepared.operations += operations;
                prepared.flights += flights;
            }
        }
        Ok(prepared)
    }

    /// Lays out the busy half of the day, with enough operations for `rate` over `length`.
    fn prepare_afternoon(&mut self, phase: PhaseName, rate: u64, length: Duration) -> Result<Prepared, RunError> {
        let needed = (rate as f64 * length.as_secs_f64() * AFTERNOON_ROOM) as u64;
        self.prepare(phase, Density::for_operations(&self.day, needed), BUSY_HOUR_S)
    }

    /// Starts a part of the plan on both nodes; returns when it starts on the monotonic clock.
    fn go(&mut self, rate: f64, length: Duration, ledger: bool) -> Result<u64, RunError> {
        let start_ns = now_ns() + LEAD_TIME.as_nanos() as u64;
        for node in 0..NODES {
            let rate = rate / self.generators as f64;
            // The generators' operations fall between each other's.
            let start_ns = start_ns + (node as f64 * 1e9 / rate / self.generators as f64) as u64;
            self.cluster.order(node, &Command::Go { start_ns, rate, duration_ns: length.as_nanos() as u64, ledger })?;
        }
        Ok(start_ns)
    }

    fn phase(&mut self, rate: f64, length: Duration, live: bool) -> Result<Heap, RunError> {
        self.go(rate, length, false)?;
        let deadline = Instant::now() + LEAD_TIME + length + DRAIN + SETTLE;
        let mut heap = Heap::default();
        let mut running = NODES;
        while running > 0 {
            let heard = self.cluster.hear(deadline)?.ok_or(ClusterError::Silent { waiting_for: "end" })?;
            running -= usize::from(heard.said == Said::End);
            heap.take(&heard, NODES, live)?;
        }
        heap.shards.sort_by_key(|(node, shard, _)| (*node, *shard));
        Ok(heap)
    }

    fn search(&mut self) -> Result<u64, RunError> {
        println!("\nlooking for the highest rate that is answered to 99 % in time");
        let mut good = 0;
        let mut bad = None;
        for _ in 0..=SEARCH_DOUBLINGS {
            let rate = if good == 0 { SEARCH_FIRST_RATE } else { good * 2 };
            if !self.step(rate, SEARCH_STEP)? {
                bad = Some(rate);
                break;
            }
            good = rate;
        }
        if good == 0 {
            return Err(RunError::TooSlow);
        }
        if let Some(mut bad) = bad {
            for _ in 0..SEARCH_BISECTIONS {
                let rate = good.midpoint(bad);
                if self.step(rate, SEARCH_STEP)? {
                    good = rate;
                } else {
                    bad = rate;
                }
            }
        }
        while !self.step(good, SEARCH_CONFIRM)? {
            good = good * SEARCH_BACKOFF_PERCENT / 100;
            if good < SEARCH_FIRST_RATE {
                return Err(RunError::TooSlow);
            }
        }
        println!("highest rate: {} operations/s", grouped(good));
        Ok(good)
    }

    fn step(&mut self, rate: u64, length: Duration) -> Result<bool, RunError> {
        self.prepare_afternoon(PhaseName::Search, rate, length)?;
        let stats = self.phase(rate as f64, length, false)?.stats();
        let achieved =
            stats.offered > 0 && stats.in_time * 1000 >= stats.offered * ACHIEVED_PER_MILLE && stats.failures() == 0;
        let response = stats.response_all();
        println!(
            "  {:>9}/s for {:.1} s   {:>5.1} % in time   failed {:>5}   p50 {:>8}   p99 {:>8}   {}",
            grouped(rate),
            length.as_secs_f64(),
            stats.in_time as f64 * 100.0 / stats.offered.max(1) as f64,
            stats.failures(),
            report::time(response.percentile_ns(50.0)),
            report::time(response.percentile_ns(99.0)),
            if achieved { "kept up" } else { "too much" }
        );
        Ok(achieved)
    }

    fn measure(&mut self, rate: u64, length: Duration) -> Result<Measured, RunError> {
        let seconds = length.as_secs_f64();
        let density = Density::for_operations(&self.day, (rate as f64 * seconds) as u64);
        let prepared = self.prepare(PhaseName::Main, density, 0.0)?;
        // The plan holds about as many operations as were asked for; the rate is made to fit it exactly.
        let rate = prepared.operations as f64 / seconds;
        println!(
            "\nmeasuring {seconds:.0} s at {} operations/s, open loop: the whole day in UTC order, about {} times faster than life",
            grouped(rate as u64),
            grouped((DAY_SPAN_S / seconds) as u64),
        );
        println!(
            "{} flights ({} {}), a report every {:.0} simulated seconds each; 1 in {} operations asks an airport's board",
            grouped(prepared.flights),
            density.copies,
            if density.copies == 1 { "copy of each, unshifted" } else { "time-shifted copies of each" },
            density.interval_s,
            crate::limits::BOARD_EVERY,
        );
        let heap = self.phase(rate, length, true)?;
        Ok(Measured { stats: heap.stats(), seconds, shards: heap.shards })
    }

    fn kill(&mut self, rate: u64) -> Result<KillResult, RunError> {
        println!("\nkilling node 1 in mid-load (SIGKILL) at {} operations/s, then starting it again", grouped(rate));
        let length = KILL_AFTER + KILL_OUTAGE + KILL_RECOVERED;
        self.prepare_afternoon(PhaseName::Kill, rate, length)?;
        self.go(rate as f64, length, true)?;
        let mut story =
            Story { heap: Heap::default(), ledger: Ledger::default(), generators: NODES, ready: false, ended: false };
        let start = Instant::now() + LEAD_TIME;
        self.listen_until(start + KILL_AFTER, &mut story)?;
        self.cluster.kill(1);
        println!("  node 1 killed");
        story.generators = 1;
        self.listen_until(start + KILL_AFTER + KILL_OUTAGE, &mut story)?;
        let restarted = Instant::now();
        self.cluster.restart(1)?;
        let deadline = start + length + DRAIN + SETTLE;
        while !story.ready {
            let heard = self.cluster.hear(deadline)?.ok_or(ClusterError::Silent { waiting_for: "ready" })?;
            story.take(&heard)?;
        }
        let restart = restarted.elapsed();
        println!("  node 1 serves again");
        while !story.ended {
            let heard = self.cluster.hear(deadline)?.ok_or(ClusterError::Silent { waiting_for: "end" })?;
            story.take(&heard)?;
        }
        let squares: Vec<Square> = story.ledger.squares().collect();
        println!("  comparing {} acknowledged events with what the squares recorded", grouped(story.ledger.entries()));
        let histories = self.histories(squares.clone())?;
        let breaches = story.ledger.check(&histories);
        breaches.iter().take(SHOWN_BREACHES).for_each(|breach| println!("  {breach}"));
        Ok(KillResult {
            acked: story.ledger.entries(),
            squares: squares.len(),
            breaches: breaches.len(),
            restart,
            failed: story.heap.stats().failed,
            recovered: story.heap.last_failed == 0,
        })
    }

    fn listen_until(&mut self, deadline: Instant, story: &mut Story) -> Result<(), RunError> {
        while let Some(heard) = self.cluster.hear(deadline)? {
            story.take(&heard)?;
        }
        Ok(())
    }

    fn histories(&mut self, squares: Vec<Square>) -> Result<BTreeMap<Square, Vec<AreaEvent>>, RunError> {
        self.cluster.order(0, &Command::History(squares))?;
        let deadline = Instant::now() + PLAN;
        let mut histories: BTreeMap<Square, Vec<AreaEvent>> = BTreeMap::new();
        loop {
            let heard = self.cluster.hear(deadline)?.ok_or(ClusterError::Silent { waiting_for: "end" })?;
            match heard.said {
                Said::Event(event) => histories.entry(event.square).or_default().push(event),
                Said::End => return Ok(histories),
                _ => {}
            }
        }
    }
}

/// What is known while a node is killed and comes back.
struct Story {
    heap: Heap,
    ledger: Ledger,
    generators: usize,
    ready: bool,
    ended: bool,
}

impl Story {
    fn take(&mut self, heard: &Heard) -> Result<(), ClusterError> {
        match heard.said {
            Said::Acked(event) => self.ledger.acked(event),
            Said::Ready { .. } => self.ready = true,
            // Node 1 never ends its part.
            Said::End => self.ended = true,
            _ => self.heap.take(heard, self.generators, true)?,
        }
        Ok(())
    }
}

/// What two nodes laid out.
struct Prepared {
    operations: u64,
    flights: u64,
}

/// The first departure to the last arrival, simulated seconds.
const DAY_SPAN_S: f64 = 130_000.0;

/// When most flights are in the air, seconds after midnight UTC.
const BUSY_HOUR_S: f64 = 17.0 * 3600.0;

/// The day holds this many times the operations of the part after [`BUSY_HOUR_S`], with room to spare.
const AFTERNOON_ROOM: f64 = 2.5;

/// More contradictions than this are only counted.
const SHOWN_BREACHES: usize = 10;
