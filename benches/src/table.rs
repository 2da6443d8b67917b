//! The page that a comparison writes: one table, what it was measured on, and what each column means.

use std::fmt::Write;

use crate::goals::{Unit, spec};
use crate::machine::Machine;
use crate::ours::{PARKED, SPINNING};
use crate::peers;
use crate::results::{Cell, Row, one_shard};
use crate::stores;
use crate::workload::{Place, Work};

/// A part of the table: its title, what belongs to it, and the peers that have a column.
type Part = (&'static str, fn(Work) -> bool, &'static [&'static str]);

const PARTS: [Part; 4] = [
    ("Same shard", |work| !other_shard(work) && !other_node(work) && !log(work), peers::NAMES),
    ("Other shard", other_shard, peers::NAMES),
    ("Other nodes", other_node, peers::NAMES),
    ("The event log", log, stores::NAMES),
];

fn other_shard(work: Work) -> bool {
    matches!(
        work,
        Work::PingPong(Place::OtherShard)
            | Work::PingPongParked
            | Work::Tell(Place::OtherShard)
            | Work::TellBounced
            | Work::Ask(Place::OtherShard)
            | Work::Big(Place::OtherShard)
            | Work::Pairs(_)
    )
}

fn other_node(work: Work) -> bool {
    matches!(work, Work::RemoteAsk(_) | Work::RemoteTell | Work::FanOut)
}

fn log(work: Work) -> bool {
    matches!(work, Work::Log(_))
}

/// Why the columns of a row's peers are empty; `None` when they are not.
fn why_not(work: Work) -> Option<&'static str> {
    if let Work::Log(work) = work { work.why_no_store() } else { peers::why_not(work) }
}

/// How a comparison was made.
pub struct Conditions<'a> {
    /// Processes a figure.
    pub rounds: usize,
    /// Whether it did a part of the work only.
    pub quick: bool,
    /// Where.
    pub machine: &'a Machine,
}

/// The table alone.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut out = String::new();
    let one = one_shard(rows);
    for (title, belongs, names) in PARTS {
        let part: Vec<&Row> = rows.iter().filter(|row| belongs(row.work)).collect();
        if part.is_empty() {
            continue;
        }
        write!(out, "| {title} | unit | idle | shardstage | limit | ours / limit | times the best peer |")
            .expect(STRING);
        names.iter().for_each(|name| write!(out, " {name} |").expect(STRING));
        out.push_str(" floor | aim |\n|---|---|---|---|---|---:|---:|");
        names.iter().for_each(|_| out.push_str("---:|"));
        out.push_str("---|---|\n");
        part.iter().for_each(|row| line(&mut out, row, one, names));
        out.push('\n');
    }
    out.push_str(&tails(rows));
    out
}

const STRING: &str = "writing to a string does not fail";

fn line(out: &mut String, row: &Row, one: Option<f64>, names: &[&'static str]) {
    let spec = spec(row.work);
    let unit = spec.unit;
    let against = row.against(one);
    let idle = if spec.ours == SPINNING { "spin" } else { "park" };
    write!(out, "| {} | {} | {idle} |", row.work, unit.name()).expect(STRING);
    let ours = row.ours().map_or_else(|| "-".to_owned(), |cell| bold(&with_range(unit, cell)));
    let other = if spec.ours == SPINNING { PARKED } else { SPINNING };
    let other = row.named(other).map_or_else(String::new, |cell| {
        let name = if spec.ours == SPINNING { "parked" } else { "spinning" };
        format!("; {name} {}", median(unit, cell))
    });
    write!(out, " {ours}{other} |").expect(STRING);
    let limit =
        row.limit().map_or_else(|| "-".to_owned(), |(cell, _)| format!("{} ({})", median(unit, cell), cell.entry.name));
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    let peer = against.as_ref().and_then(|against| against.peer);
    write!(out, " {limit} | {} |", ratio(against.as_ref().and_then(|against| against.limit))).expect(STRING);
    let best = row.best_peer().map(|(cell, _)| cell.entry.name);
    let times = peer.zip(best).map_or_else(|| "-".to_owned(), |(times, name)| format!("{times:.1} ({name})"));
    write!(out, " {times} |").expect(STRING);
    for name in names {
        let text = match row.named(name) {
            Some(cell) if best == Some(name) => bold(&figure(unit, cell.best())),
            Some(cell) => figure(unit, cell.best()),
            None => why_not(row.work).map_or_else(|| "-".to_owned(), |why| format!("-{}", note(why))),
        };
        write!(out, " {text} |").expect(STRING);
    }
    for goal in [spec.floor, spec.aim] {
        let verdict = match against.as_ref().and_then(|against| goal.met(unit, against)) {
            Some(true) => ": **met**",
            Some(false) => ": missed",
            None if row.ours().is_some_and(|cell| cell.median().is_none()) => ": failed",
            None => "",
        };
        write!(out, " {}{verdict} |", goal.text(unit)).expect(STRING);
    }
    out.push('\n');
}

/// What operations took that came at half of what each could do at most.
fn tails(rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows.iter().filter(|row| row.cells.iter().any(|cell| !cell.tails.is_empty())) {
        for cell in &row.cells {
            let Some((tail, median)) = cell.tail().zip(cell.median()) else { continue };
            let rate = Unit::PerSecond("").number(2.0 * median);
            let [p50, p99, p999] = [tail.p50_us, tail.p99_us, tail.p999_us].map(|us| Unit::Microseconds.number(us));
            writeln!(out, "| {} | {} | {rate} | {p50} | {p99} | {p999} |", row.work, cell.entry.name).expect(STRING);
        }
    }
    if out.is_empty() {
        return out;
    }
    let head = "| Open loop at half of the highest rate | who | events/s | p50 us | p99 us | p99.9 us |\n|---|---|---:|---:|---:|---:|\n";
    format!("{head}{out}\n")
}

fn bold(text: &str) -> String {
    format!("**{text}**")
}

fn figure(unit: Unit, raw: Option<f64>) -> String {
    raw.map_or_else(|| "failed".to_owned(), |raw| unit.number(raw))
}

fn median(unit: Unit, cell: &Cell) -> String {
    figure(unit, cell.median())
}

fn with_range(unit: Unit, cell: &Cell) -> String {
    match (cell.best(), cell.worst()) {
        (Some(best), Some(worst)) if best < worst => {
            let (mut from, mut to) = (unit.number(best), unit.number(worst));
            if matches!(unit, Unit::PerSecond(_)) {
                std::mem::swap(&mut from, &mut to);
            }
            format!("{} ({from} to {to})", median(unit, cell))
        }
        _ => median(unit, cell),
    }
}

/// The marks of the footnotes.
const MARKS: [&str; 12] = ["¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹", "¹⁰", "¹¹", "¹²"];

/// The mark of a footnote.
fn note(why: &str) -> &'static str {
    let at = notes().iter().position(|known| *known == why);
    MARKS[at.expect("every reason is a note")]
}

/// Why some cells are empty, each reason once.
fn notes() -> Vec<&'static str> {
    let mut found = Vec::new();
    let works = Work::ALL.into_iter().chain([Work::Pairs(1)]);
    for why in works.filter_map(why_not) {
        if !found.contains(&why) {
            found.push(why);
        }
    }
    found
}

/// The whole page.
#[must_use]
pub fn page(rows: &[Row], conditions: &Conditions<'_>) -> String {
    let machine = conditions.machine;
    let mut out = String::from("# Benchmarks\n\n");
    write!(
        out,
        "Written by `cargo run --release -p shardstage-benches --features peers`; do not edit. Raw figures: [results.csv](results.csv).\n\n\
         ![Operations a second, ours beside every peer and the limit](messages.svg)\n\n\
         ![Durable events a second, ours beside other stores and the disk](log.svg)\n\n\
         **Machine**: {}, {} cores, {}, {}. **Commit** {}. **Date** {}. {} process(es) a figure{}.\n\n\
         **Versions**: {}. mimalloc for everyone.\n\n",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.rustc,
        machine.commit,
        machine.date,
        conditions.rounds,
        if conditions.quick { ", a tenth of the work: NOT for publication" } else { "" },
        machine.versions,
    )
    .expect(STRING);
    out.push_str(&table(rows));
    for (number, why) in notes().iter().enumerate() {
        writeln!(out, "{} {why}.  ", MARKS[number]).expect(STRING);
    }
    if !rows.iter().any(|row| matches!(row.work, Work::Pairs(_))) {
        out.push_str("\nIndependent pairs over 1 to 16 shards were not measured: they need at least 4 cores.\n");
    }
    let failures: Vec<_> = rows
        .iter()
        .flat_map(|row| row.cells.iter().filter_map(move |cell| Some((row.work, cell, cell.failure.as_ref()?))))
        .collect();
    if !failures.is_empty() {
        out.push_str("\nFailed processes, the last of each:\n\n");
        for (work, cell, why) in failures {
            let count = cell.rounds.iter().filter(|round| round.is_none()).count();
            writeln!(out, "- {work}, {} ({count} of {}): {why}", cell.entry.name, cell.rounds.len()).expect(STRING);
        }
    }
    out.push_str(HOW);
    out
}

/// What the columns mean and how the work is done.
const HOW: &str = "
## How it is measured

Every measurement is a process of its own, and every round goes through all cells before any comes again. A process runs
its work once to warm up and three times for its figure, the median. Ours and the limit's are the median of the
processes, ours with its range; a peer's is its *best* process, and *times the best peer* divides our median by it, so
noise speaks for the peers. *Ours / limit* is divided within each round, where the two ran right after each other; the
figure is the median of these ratios. For rates it is the ratio of the times, so 2.00 is half of the limit's rate.

Ours runs `Config::default()` apart from the number of shards and, where the *idle* column says spin, the idle strategy.
Producers and askers are actors, messages are type-erased, two types of 32 bytes alternate, the mailbox bound of 1,024
holds, and panic containment, budgets and counters are on. A tell to another shard that bounced into the dead letters
does not count as told; a row of its own says how many did.

Peers run their fastest variant that does the same: no tracing, one pinned single-threaded runtime a side, or one for
both on the same shard; kompact its own pool, with a dedicated component as the far side and a pool of two for `big` on
two shards. kameo, xtra and tokio have bounded mailboxes (1,024) and wait when they are full; ractor, kompact and actix'
`do_send` have no bound and pay nothing for one. Producers and askers of the libraries on tokio are plain tasks.

| work | definition |
|---|---|
| ping-pong | two actors, one message in flight; the mean on one shard, the median of single round trips between two |
| tell | Savina Count: one producer, 2 M messages to one counting actor; it yields every 1,024; ends with the last count |
| tell, 8 producers | the same messages from eight |
| ask | a request of 32 bytes and a reply of 8; so many in flight |
| big | Savina Big: 1,000 actors, each pings a random one and waits for its pong, 500 times; counts both |
| spawn and stop | 50,000 actors, each stopped right after its spawn; ends when the last state is dropped |
| fibonacci(23) | 57,313 actors, each spawns two children, adds their answers, answers and stops |
| memory of an idle actor | growth of the resident set over 100,000 actors, less their state of 8 bytes |
| allocations | calls of the global allocator by 2 n operations less those by n, by n |
| 60 Hz tick | 20 timers a shard while handlers of 70 us keep both shards 70 % busy; lateness against each timer's grid |
| 100,000 idle actors | CPU time of the whole process while they and two parked shards have nothing to do |
| independent pairs | a ping-pong pair on each shard; *ours / limit* is one shard's rate times the shards over theirs |
| limits | a loop of virtual calls; a box made and dropped; one cache line; a ring of 64-byte slots in batches of 64; two \
threads that wake each other by futex or eventfd, the faster of the two |

### The event log

Events of 128 bytes, each durable before it counts: `O_DIRECT | O_DSYNC` writes, fsync or fdatasync, whichever the store has;
the head of each file in `benches/src/stores/` says which setting that is. All files lie on a real disk, which `--dir` names;
a file system in memory is refused. A process measures for a second at most, so slow stores write fewer events. Payloads are
random, so nobody gains by compressing.

Stores are called by as many threads as there are writers, or by one committer with a batch. Ours is the log of one shard,
whose writers are parts of one actor, each with one event in flight; the whole path is 64 durable actors and their askers.
*Open loop* is a second run in the same process: events come as a Poisson process at half of the rate that the first run
reached, and an event's time runs from when it was due.

| work | definition |
|---|---|
| 1 writer | one event in flight; *polling* on a shard that spins, *blocking* on one that parks |
| 64 writers | one event in flight each; stores are called by 64 threads |
| batches of 64 | one committer, 64 events at a time; `std::fs` is append and `sync_data` with a CRC-32C a record |
| both shards saturated | 64 writers a shard beside four actors that work 20 us at a time without a pause; p99 of a commit |
| while snapshotting | 64 writers beside snapshots of 256 KiB at 100 MiB/s; p99 of a commit |
| recovery | from opening to the first read, page cache dropped; stores open and read, or index, every event |
| limits | one write of 4 KiB, or of 12 KiB with 64 events, after another into a file written before; 1 MiB reads, 4 in flight |
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::row;
    use crate::workload::Role;

    #[test]
    fn a_line_says_it_all() {
        let row = row(
            Work::Tell(Place::SameShard),
            &[
                (PARKED, Role::Ours, &[10.0, 8.0, 9.0]),
                ("virtual call", Role::Limit, &[5.0, 4.0, 3.0]),
                ("kameo", Role::Peer, &[300.0, 200.0, 400.0]),
                ("actix", Role::Peer, &[50.0, 45.0, 60.0]),
            ],
        );
        let text = table(&[row]);
        let wanted = "| tell, same shard | messages/s | park | **111 M (100 M to 125 M)** | 250 M (virtual call) | 2.00 \
                      | 5.0 (actix) | 5 M | - | **22.2 M** | - | - | - | >= 110 M, 5 x peer: **met** | >= 160 M: missed |";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn every_reason_has_a_mark() {
        for work in Work::ALL {
            if let Some(why) = why_not(work) {
                assert!(!note(why).is_empty());
            }
        }
        assert!(notes().len() <= MARKS.len());
    }

    #[test]
    fn a_failure_is_told() {
        let mut row = row(Work::FanIn, &[(PARKED, Role::Ours, &[])]);
        row.cells[0].rounds.push(None);
        row.cells[0].failure = Some("it fell".to_owned());
        let machine = Machine::unknown();
        let page = page(&[row], &Conditions { rounds: 1, quick: true, machine: &machine });
        assert!(page.contains("it fell") && page.contains(": failed"), "{page}");
    }
}
