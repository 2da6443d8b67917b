//! The ratio table: one row a workload, with the median of every entry and what it means beside the best peer.

use std::fmt::Write;

use crate::ours::{PARKED, SPINNING};
use crate::workload::{Role, Work, entries};

/// The medians of one workload, in nanoseconds an operation, in the order of [`entries`].
pub struct Row {
    /// What was measured.
    pub work: Work,
    /// One an entry.
    pub cells: Vec<Cell>,
}

/// One entry's result.
pub struct Cell {
    /// Who.
    pub name: &'static str,
    /// As what.
    pub role: Role,
    /// Nanoseconds an operation, one a round, sorted.
    pub rounds_ns: Vec<f64>,
}

impl Cell {
    /// The middle of the rounds, nanoseconds an operation.
    ///
    /// # Panics
    /// Without a round.
    #[must_use]
    pub fn median_ns(&self) -> f64 {
        self.rounds_ns[self.rounds_ns.len() / 2]
    }
}

impl Row {
    /// Empty cells for every entry of `work`.
    #[must_use]
    pub fn new(work: Work) -> Self {
        let cells = entries(work)
            .into_iter()
            .map(|entry| Cell { name: entry.name, role: entry.role, rounds_ns: Vec::new() })
            .collect();
        Self { work, cells }
    }

    fn lowest(&self, role: Role) -> Option<&Cell> {
        self.cells.iter().filter(|cell| cell.role == role).min_by(|a, b| a.median_ns().total_cmp(&b.median_ns()))
    }
}

/// The whole table as Markdown, which also reads well on a terminal.
///
/// Peers sleep when they have nothing to do, so they are held against the parking engine; the limits between shards spin, so
/// the spinning engine is held against them.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut out = String::from(
        "| work (ns an operation, median) | shardstage | spinning | kameo | ractor | actix | limit | best peer / parked | best ours / limit |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let named = |name| row.cells.iter().find(|cell| cell.name == name);
        let limit = row.lowest(Role::Limit);
        let ratio = |above: Option<&Cell>, below: Option<&Cell>| match (above, below) {
            (Some(above), Some(below)) => format!("{:.1}", above.median_ns() / below.median_ns()),
            _ => "-".to_owned(),
        };
        let text = |cell: Option<&Cell>| cell.map_or_else(|| "-".to_owned(), ns);
        writeln!(
            out,
            "| {:<30} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.work,
            text(named(PARKED)),
            text(named(SPINNING)),
            text(named("kameo")),
            text(named("ractor")),
            text(named("actix")),
            limit.map_or_else(|| "-".to_owned(), |cell| format!("{} ({})", ns(cell), cell.name)),
            ratio(row.lowest(Role::Peer), named(PARKED)),
            ratio(row.lowest(Role::Ours), limit),
        )
        .expect("writing to a string does not fail");
    }
    out
}

fn ns(cell: &Cell) -> String {
    let median = cell.median_ns();
    if median < 100.0 { format!("{median:.1}") } else { format!("{median:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Place;

    #[test]
    fn the_ratio_is_taken_to_the_best_peer() {
        let cell = |name, role, ns| Cell { name, role, rounds_ns: vec![1.0, ns, 9e9] };
        let row = Row {
            work: Work::Tell(Place::SameShard),
            cells: vec![
                cell(PARKED, Role::Ours, 10.0),
                cell(SPINNING, Role::Ours, 8.0),
                cell("kameo", Role::Peer, 300.0),
                cell("actix", Role::Peer, 50.0),
                cell("virtual call", Role::Limit, 4.0),
            ],
        };
        let text = markdown(&[row]);
        assert!(text.contains("| 10.0 | 8.0 | 300 | - | 50.0 | 4.0 (virtual call) | 5.0 | 2.0 |"), "{text}");
    }
}
