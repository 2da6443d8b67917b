//! The ratio table: one row a workload, with the median of every entry and what it means beside the best peer.

use std::fmt::Write;

use crate::workload::{Role, Work, entries};

/// The medians of one workload, in nanoseconds an operation, in the order of [`entries`].
pub struct Row {
    /// What was measured.
    pub work: Work,
    /// `(name, role, median of the rounds, lowest, highest)`.
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
            .map(|entry| Cell {
                name: entry.name,
                role: entry.role,
                rounds_ns: Vec::new(),
            })
            .collect();
        Self { work, cells }
    }

    fn lowest(&self, role: Role) -> Option<&Cell> {
        self.cells
            .iter()
            .filter(|cell| cell.role == role)
            .min_by(|a, b| a.median_ns().total_cmp(&b.median_ns()))
    }
}

/// The whole table as Markdown, which also reads well on a terminal.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut out = String::from(
        "| work (ns an operation, median) | shardstage | kameo | ractor | actix | limit | best peer / ours | ours / limit |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let ours = row.lowest(Role::Ours);
        let limit = row.lowest(Role::Limit);
        let peer = row.lowest(Role::Peer);
        let named = |name| row.cells.iter().find(|cell| cell.name == name);
        let ratio = |above: Option<&Cell>, below: Option<&Cell>| match (above, below) {
            (Some(above), Some(below)) => format!("{:.1}", above.median_ns() / below.median_ns()),
            _ => "-".to_owned(),
        };
        let limit_text = limit.map_or_else(
            || "-".to_owned(),
            |cell| format!("{} ({})", ns(cell), cell.name),
        );
        writeln!(
            out,
            "| {:<30} | {} | {} | {} | {} | {} | {} | {} |",
            row.work,
            ours.map_or_else(|| "-".to_owned(), ns),
            named("kameo").map_or_else(|| "-".to_owned(), ns),
            named("ractor").map_or_else(|| "-".to_owned(), ns),
            named("actix").map_or_else(|| "-".to_owned(), ns),
            limit_text,
            ratio(peer, ours),
            ratio(ours, limit),
        )
        .expect("writing to a string does not fail");
    }
    out
}

fn ns(cell: &Cell) -> String {
    let median = cell.median_ns();
    if median < 100.0 {
        format!("{median:.1}")
    } else {
        format!("{median:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Place;

    #[test]
    fn the_ratio_is_taken_to_the_best_peer() {
        let cell = |name, role, ns| Cell {
            name,
            role,
            rounds_ns: vec![1.0, ns, 9e9],
        };
        let row = Row {
            work: Work::Tell(Place::SameShard),
            cells: vec![
                cell("shardstage", Role::Ours, 10.0),
                cell("kameo", Role::Peer, 300.0),
                cell("actix", Role::Peer, 50.0),
                cell("virtual call", Role::Limit, 4.0),
            ],
        };
        let text = markdown(&[row]);
        assert!(
            text.contains("| 10.0 | 300 | - | 50.0 | 4.0 (virtual call) | 5.0 | 2.5 |"),
            "{text}"
        );
    }
}
