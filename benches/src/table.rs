//! The page that a comparison writes: one table, what it was measured on, and what each column means.

use std::fmt::Write;

use crate::goals::{Unit, spec};
use crate::machine::Machine;
use crate::ours::{PARKED, SPINNING};
use crate::peers;
use crate::results::{Cell, Row, one_shard};
use crate::workload::{Place, Work};

/// A part of the table: its title and what belongs to it.
type Part = (&'static str, fn(Work) -> bool);

const PARTS: [Part; 3] = [
    ("Same shard", |work| !other_shard(work) && !beyond(work)),
    ("Other shard", other_shard),
    ("Other nodes and the log", beyond),
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

fn beyond(work: Work) -> bool {
    matches!(work, Work::LogAppend(_) | Work::RemoteAsk(_))
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
    for (title, belongs) in PARTS {
        let part: Vec<&Row> = rows.iter().filter(|row| belongs(row.work)).collect();
        if part.is_empty() {
            continue;
        }
        write!(out, "| {title} | unit | idle | shardstage | limit | ours / limit | times the best peer |")
            .expect(STRING);
        peers::NAMES.iter().for_each(|name| write!(out, " {name} |").expect(STRING));
        out.push_str(" floor | aim |\n|---|---|---|---|---|---:|---:|");
        peers::NAMES.iter().for_each(|_| out.push_str("---:|"));
        out.push_str("---|---|\n");
        part.iter().for_each(|row| line(&mut out, row, one));
        out.push('\n');
    }
    out
}

const STRING: &str = "writing to a string does not fail";

fn line(out: &mut String, row: &Row, one: Option<f64>) {
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
    let peer = against.and_then(|against| against.peer);
    write!(out, " {limit} | {} |", ratio(against.and_then(|against| against.limit))).expect(STRING);
    let best = row.best_peer().map(|(cell, _)| cell.entry.name);
    let times = peer.zip(best).map_or_else(|| "-".to_owned(), |(times, name)| format!("{times:.1} ({name})"));
    write!(out, " {times} |").expect(STRING);
    for name in peers::NAMES {
        let text = match row.named(name) {
            Some(cell) if best == Some(name) => bold(&figure(unit, cell.best())),
            Some(cell) => figure(unit, cell.best()),
            None => peers::why_not(row.work).map_or_else(|| "-".to_owned(), |why| format!("-{}", note(why))),
        };
        write!(out, " {text} |").expect(STRING);
    }
    for goal in [spec.floor, spec.aim] {
        let verdict = match against.and_then(|against| goal.met(unit, &against)) {
            Some(true) => ": **met**",
            Some(false) => ": missed",
            None if row.ours().is_some_and(|cell| cell.median().is_none()) => ": failed",
            None => "",
        };
        write!(out, " {}{verdict} |", goal.text(unit)).expect(STRING);
    }
    out.push('\n');
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
const MARKS: [&str; 8] = ["¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸"];

/// The mark of a footnote.
fn note(why: &str) -> &'static str {
    let at = notes().iter().position(|known| *known == why);
    MARKS[at.expect("every reason is a note")]
}

/// Why some cells are empty, each reason once.
fn notes() -> Vec<&'static str> {
    let mut found = Vec::new();
    let works = Work::ALL.into_iter().chain([Work::Pairs(1)]);
    for why in works.filter_map(peers::why_not) {
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
        "Written by `cargo run --release -p shardstage-benches`; do not edit. Raw figures: [results.csv](results.csv).\n\n\
         ![Operations a second, ours beside every peer and the limit](messages.svg)\n\n\
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
            if let Some(why) = peers::why_not(work) {
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
