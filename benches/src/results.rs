//! `Row` and `Cell`: what the processes of a comparison measured, and what follows from it.
//!
//! A cell keeps one figure a round, so that ours and the limit of the same round, measured right after each other, can be
//! divided before anything is averaged: the distance between two cores of a guest changes from minute to minute.

use std::fmt::Write;

use crate::goals::{Against, spec};
use crate::log::schedule::Tail;
use crate::workload::{Entry, Role, Work, entries};

/// One entry's results.
pub struct Cell {
    /// Who does what.
    pub entry: Entry,
    /// The figure of each round; `None` where the process failed.
    pub rounds: Vec<Option<f64>>,
    /// Why, the last time it failed.
    pub failure: Option<String>,
    /// What operations took that came at half of the rate, where that was measured.
    pub tails: Vec<Tail>,
}

impl Cell {
    /// Before the first round.
    #[must_use]
    pub fn new(entry: Entry) -> Self {
        Self { entry, rounds: Vec::new(), failure: None, tails: Vec::new() }
    }

    /// The figures there are, best first.
    fn sorted(&self) -> Vec<f64> {
        let mut figures: Vec<f64> = self.rounds.iter().copied().flatten().collect();
        figures.sort_by(f64::total_cmp);
        figures
    }

    /// The middle of the rounds; `None` when every process failed.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        middle(&self.sorted())
    }

    /// The least round.
    #[must_use]
    pub fn best(&self) -> Option<f64> {
        self.sorted().first().copied()
    }

    /// The middle of the rounds, each percentile by itself.
    #[must_use]
    pub fn tail(&self) -> Option<Tail> {
        let of = |percentile: fn(&Tail) -> f64| {
            let mut figures: Vec<f64> = self.tails.iter().map(percentile).collect();
            figures.sort_by(f64::total_cmp);
            middle(&figures)
        };
        Some(Tail {
            p50_us: of(|tail| tail.p50_us)?,
            p99_us: of(|tail| tail.p99_us)?,
            p999_us: of(|tail| tail.p999_us)?,
        })
    }

    /// The greatest round.
    #[must_use]
    pub fn worst(&self) -> Option<f64> {
        self.sorted().last().copied()
    }
}

fn middle(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

/// One work's results.
pub struct Row {
    /// What was measured.
    pub work: Work,
    /// One an entry, in the order of [`entries`].
    pub cells: Vec<Cell>,
}

impl Row {
    /// Empty cells for every entry of `work`.
    #[must_use]
    pub fn new(work: Work) -> Self {
        let cells = entries(work).into_iter().map(Cell::new).collect();
        Self { work, cells }
    }

    /// The cell of that name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.entry.name == name)
    }

    /// The cell of ours that the goals are held against.
    #[must_use]
    pub fn ours(&self) -> Option<&Cell> {
        self.named(spec(self.work).ours)
    }

    /// The peer with the best process, and that figure.
    #[must_use]
    pub fn best_peer(&self) -> Option<(&Cell, f64)> {
        self.best_of(Role::Peer)
    }

    /// The limit with the best process, and that figure.
    #[must_use]
    pub fn limit(&self) -> Option<(&Cell, f64)> {
        self.best_of(Role::Limit)
    }

    fn best_of(&self, role: Role) -> Option<(&Cell, f64)> {
        let cells = self.cells.iter().filter(|cell| cell.entry.role == role);
        cells.filter_map(|cell| Some((cell, cell.best()?))).min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// How many times the limit's cost ours is: the middle of the rounds' ratios, each against the best limit of its round.
    #[must_use]
    pub fn limit_ratio(&self) -> Option<f64> {
        let ours = self.ours()?;
        let limits: Vec<&Cell> = self.cells.iter().filter(|cell| cell.entry.role == Role::Limit).collect();
        let in_round = |round: usize| {
            let limit = limits.iter().filter_map(|limit| limit.rounds.get(round).copied()?).min_by(f64::total_cmp)?;
            Some(ours.rounds.get(round).copied()?? / limit)
        };
        let mut ratios: Vec<f64> = (0..ours.rounds.len()).filter_map(in_round).collect();
        ratios.sort_by(f64::total_cmp);
        middle(&ratios)
    }

    /// What the goals are held against; `None` when ours failed. `one_shard` is the median of one shard's pairs.
    #[must_use]
    pub fn against(&self, one_shard: Option<f64>) -> Option<Against> {
        let ours = self.ours()?.median()?;
        let peer = self.best_peer().map(|(_, best)| best / ours).filter(|ratio| ratio.is_finite());
        let limit = match self.work {
            Work::Pairs(shards) => one_shard.map(|one| ours / (one / f64::from(shards))),
            _ => self.limit_ratio(),
        };
        let peers = self.cells.iter().filter(|cell| cell.entry.role == Role::Peer);
        let peers = peers.filter_map(|cell| Some((cell.entry.name, cell.best()? / ours))).collect();
        Some(Against { ours, peer, limit, peers })
    }
}

/// The median of one shard's pairs, which several shards are held against.
#[must_use]
pub fn one_shard(rows: &[Row]) -> Option<f64> {
    rows.iter().find(|row| row.work == Work::Pairs(1))?.ours()?.median()
}

/// Every figure, for other programs. Raw: less is better, nanoseconds an operation where the row is a rate.
#[must_use]
pub fn csv(rows: &[Row]) -> String {
    let mut out =
        String::from("work,entry,role,unit,best,median,worst,processes,open p50 us,open p99 us,open p99.9 us\n");
    for row in rows {
        let unit = match spec(row.work).unit {
            crate::goals::Unit::PerSecond(_) => "ns an operation",
            other => other.name(),
        };
        for cell in &row.cells {
            let role = match cell.entry.role {
                Role::Ours => "ours",
                Role::Peer => "peer",
                Role::Limit => "limit",
            };
            let text =
                |figure: Option<f64>| figure.map_or_else(|| "failed".to_owned(), |figure| format!("{figure:.3}"));
            let processes: Vec<String> = cell.rounds.iter().copied().map(text).collect();
            writeln!(
                out,
                "\"{}\",\"{}\",{role},{unit},{},{},{},{},{}",
                row.work,
                cell.entry.name,
                text(cell.best()),
                text(cell.median()),
                text(cell.worst()),
                processes.join(" "),
                cell.tail().map_or_else(
                    || ",,".to_owned(),
                    |tail| { format!("{:.1},{:.1},{:.1}", tail.p50_us, tail.p99_us, tail.p999_us) }
                ),
            )
            .expect("writing to a string does not fail");
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ours::PARKED;
    use crate::workload::{Place, Run};

    /// A row with made-up rounds.
    pub(crate) fn row(work: Work, cells: &[(&'static str, Role, &[f64])]) -> Row {
        let cells = cells
            .iter()
            .map(|&(name, role, rounds)| Cell {
                rounds: rounds.iter().copied().map(Some).collect(),
                ..Cell::new(Entry { work, name, role, run: Run::Figure(|_| 0.0) })
            })
            .collect();
        Row { work, cells }
    }

    #[test]
    fn ratios_are_taken_where_they_mean_something() {
        let row = row(
            Work::PingPongParked,
            &[
                (PARKED, Role::Ours, &[20.0, 200.0, 22.0]),
                ("two futex wakes", Role::Limit, &[10.0, 100.0, 11.0]),
                ("two eventfd wakes", Role::Limit, &[20.0, 80.0, 30.0]),
                ("kameo", Role::Peer, &[300.0, 44.0, 500.0]),
                ("actix", Role::Peer, &[50.0, 50.0, 50.0]),
            ],
        );
        assert_eq!(row.limit_ratio(), Some(2.0), "each round against its own limit");
        let (peer, best) = row.best_peer().expect("two peers");
        assert_eq!((peer.entry.name, best), ("kameo", 44.0));
        let against = row.against(None).expect("ours ran");
        assert_eq!((against.ours, against.peer), (22.0, Some(2.0)), "our median against their best process");
    }

    #[test]
    fn a_failed_process_is_no_figure() {
        let mut row = row(Work::Tell(Place::SameShard), &[(PARKED, Role::Ours, &[1.0, 2.0])]);
        row.cells[0].rounds.push(None);
        assert_eq!(row.ours().and_then(Cell::median), Some(2.0));
        assert!(csv(&[row]).contains("1.000 2.000 failed"));
    }
}
