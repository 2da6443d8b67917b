//! The picture of a comparison: horizontal bars on a logarithmic scale, ours beside every peer and the limit.
//!
//! Plain SVG, written by hand, the same text for the same results. Colours follow the reader's light or dark scheme; none
//! carries meaning alone, every bar has its name and figure.

use std::fmt::Write;

use crate::goals::{Unit, spec};
use crate::log::LogWork;
use crate::results::{Cell, Row};
use crate::workload::{Place, Role, Work};

/// A group of bars.
struct Group {
    title: &'static str,
    work: Work,
}

const fn group(title: &'static str, work: Work) -> Group {
    Group { title, work }
}

/// A picture: what it shows.
pub struct Picture {
    title: &'static str,
    columns: &'static [(&'static str, &'static [Group])],
    /// From the scale's left end to its right one, operations a second.
    scale: (f64, f64),
    /// Whether memory stands below the last column.
    memory: bool,
}

/// Messages inside a node.
pub const MESSAGES: Picture = Picture {
    title: "Messages inside a node, operations a second",
    columns: &COLUMNS,
    scale: (1e4, 1e9),
    memory: true,
};

/// Durable events.
pub const LOG: Picture = Picture {
    title: "Durable events of 128 bytes, events a second",
    columns: &LOG_COLUMNS,
    scale: (1e3, 1e7),
    memory: false,
};

const LOG_COLUMNS: [(&str, &[Group]); 2] = [
    (
        "appending",
        &[
            group("1 writer, polling", Work::Log(LogWork::OneSpinning)),
            group("1 writer, blocking", Work::Log(LogWork::OneParked)),
            group("64 writers", Work::Log(LogWork::Writers)),
            group("one committer, batches of 64", Work::Log(LogWork::Batches)),
        ],
    ),
    (
        "around it",
        &[
            group("recovery of 1 M events", Work::Log(LogWork::Recovery)),
            group("message to durable reply, 64 actors", Work::Log(LogWork::WholePath)),
            group("64 writers on each of two shards", Work::Log(LogWork::TwoShards)),
        ],
    ),
];

/// The columns of the messages' picture.
const COLUMNS: [(&str, &[Group]); 2] = [
    (
        "inside a shard",
        &[
            group("ping-pong, round trips/s", Work::PingPong(Place::SameShard)),
            group("tell, messages/s", Work::Tell(Place::SameShard)),
            group("tell, 8 producers to 1 actor", Work::FanIn),
            group("ask, one in flight, asks/s", Work::Ask(Place::SameShard)),
            group("big: 1,000 actors, messages/s", Work::Big(Place::SameShard)),
            group("spawn and stop, actors/s", Work::SpawnStop),
            group("fibonacci(23), actors/s", Work::Fibonacci),
        ],
    ),
    (
        "between two shards",
        &[
            group("ping-pong, spinning, round trips/s", Work::PingPong(Place::OtherShard)),
            group("ping-pong, parked, round trips/s", Work::PingPongParked),
            group("tell, messages/s", Work::Tell(Place::OtherShard)),
            group("ask, 64 in flight, asks/s", Work::Ask(Place::OtherShard)),
            group("big on 2 shards, messages/s", Work::Big(Place::OtherShard)),
        ],
    ),
];

const COLUMN: f64 = 500.0;
const BAR: f64 = 13.0;
const NAMES: f64 = 108.0;
/// Bytes at the right end of the memory group's scale, which is linear.
const BYTES: f64 = 10_000.0;
/// From the scale's left end to its right one; the rest is for figures.
const SPAN: f64 = 300.0;
const TOP: f64 = 74.0;
const TITLE: f64 = 26.0;
const GAP: f64 = 16.0;

const STYLE: &str = "
  svg{--bg:#ffffff;--ink:#1f2328;--dim:#59636e;--line:#d1d9e0;--ours:#d9480f;--peer:#8c98a4;--limit:#c6d4e1}
  @media(prefers-color-scheme:dark){svg{--bg:#0d1117;--ink:#f0f6fc;--dim:#9198a1;--line:#2f3742;--ours:#ff7b39;--peer:#656f7a;--limit:#2d4257}}
  text{font:11px ui-sans-serif,system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:var(--dim)}
  .h{font-size:20px;font-weight:700;fill:var(--ink)}.c{font-size:14px;font-weight:600;fill:var(--ink)}
  .t{font-size:12.5px;font-weight:600;fill:var(--ink)}.n{text-anchor:end}.a{text-anchor:middle;font-size:10px}
  .o{font-weight:700;fill:var(--ours)}.x{font-weight:700;fill:var(--ink)}
  .bg{fill:var(--bg)}.line{stroke:var(--line)}.ours{fill:var(--ours)}.peer{fill:var(--peer)}.limit{fill:var(--limit)}
";

/// The picture of what was measured; groups without figures are left out.
#[must_use]
pub fn svg(rows: &[Row], picture: &Picture, caption: &str) -> String {
    let columns: Vec<(&str, Vec<(&Group, &Row)>)> = picture
        .columns
        .iter()
        .map(|(title, groups)| {
            let found = groups.iter().filter_map(|group| Some((group, row_of(rows, group.work)?)));
            (*title, found.collect())
        })
        .collect();
    let memory = row_of(rows, Work::IdleMemory).filter(|_| picture.memory);
    let depth = |groups: &[(&Group, &Row)]| -> f64 { groups.iter().map(|(_, row)| height(row)).sum() };
    let memory_top = TOP + columns.last().map_or(0.0, |(_, groups)| depth(groups)) + 2.0 * GAP;
    let deepest = columns.iter().map(|(_, groups)| TOP + depth(groups)).fold(0.0, f64::max);
    let deepest = memory.map_or(deepest, |row| deepest.max(memory_top + self::height(row)));
    let (width, height) = (COLUMN * columns.len() as f64 + 20.0, deepest + 58.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" role=\"img\" aria-label=\"Operations a second, Shardstage beside its peers\">\n\
         <style>{STYLE}</style>\n<rect class=\"bg\" width=\"100%\" height=\"100%\" rx=\"10\"/>\n"
    );
    text(&mut out, "h", 20.0, 32.0, picture.title);
    text(&mut out, "", 20.0, 50.0, "more is better; every step of the scale is ten times the one before");
    for (number, (title, groups)) in columns.iter().enumerate() {
        let left = 10.0 + COLUMN * number as f64;
        axis(&mut out, left, depth(groups), picture.scale);
        text(&mut out, "c", left + 10.0, TOP - 4.0, title);
        let mut y = TOP;
        for (group, row) in groups {
            bars(&mut out, left, y, group.title, row, picture.scale);
            y += self::height(row);
        }
    }
    if let Some(row) = memory {
        let left = 10.0 + COLUMN * (columns.len() - 1) as f64;
        bars(&mut out, left, memory_top, "memory of an idle actor, bytes: less is better", row, picture.scale);
    }
    text(&mut out, "", 20.0, height - 14.0, caption);
    out.push_str("</svg>\n");
    out
}

fn row_of(rows: &[Row], work: Work) -> Option<&Row> {
    rows.iter().find(|row| row.work == work && row.cells.iter().any(|cell| cell.median().is_some()))
}

fn shown(row: &Row) -> impl Iterator<Item = (&Cell, f64)> {
    let limit = row.limit().map(|(cell, _)| cell.entry.name);
    let wanted = move |cell: &&Cell| match cell.entry.role {
        Role::Ours => cell.entry.name == spec(row.work).ours,
        Role::Limit => Some(cell.entry.name) == limit,
        Role::Peer => true,
    };
    // Ours, then the peers, then what the machine allows.
    let in_role = move |role| row.cells.iter().filter(wanted).filter(move |cell| cell.entry.role == role);
    let ordered = in_role(Role::Ours).chain(in_role(Role::Peer)).chain(in_role(Role::Limit));
    ordered.filter_map(|cell| {
        let raw = if cell.entry.role == Role::Peer { cell.best() } else { cell.median() };
        Some((cell, raw?))
    })
}

fn height(row: &Row) -> f64 {
    TITLE + BAR * shown(row).count() as f64 + GAP
}

fn x_of(rate: f64, scale: (f64, f64)) -> f64 {
    let (from, to) = (scale.0.log10(), scale.1.log10());
    ((rate.log10() - from) / (to - from)).clamp(0.005, 1.0) * SPAN
}

fn axis(out: &mut String, left: f64, depth: f64, scale: (f64, f64)) {
    let mut rate = scale.0;
    while rate <= scale.1 * 1.01 {
        let x = left + NAMES + x_of(rate, scale);
        writeln!(
            out,
            "<line class=\"line\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>",
            TOP + 8.0,
            TOP + depth - 4.0
        )
        .expect(STRING);
        let label = Unit::PerSecond("").number(1e9 / rate).replace(' ', "").replace("1000M", "1G");
        text(out, "a", x, TOP + depth + 10.0, &label);
        rate *= 10.0;
    }
}

const STRING: &str = "writing to a string does not fail";

fn bars(out: &mut String, left: f64, top: f64, title: &str, row: &Row, scale: (f64, f64)) {
    text(out, "t", left + 10.0, top + 18.0, title);
    let against = row.against(None);
    for (number, (cell, raw)) in shown(row).enumerate() {
        let y = top + TITLE + BAR * number as f64;
        let (class, label, name) = match cell.entry.role {
            Role::Ours => ("ours", "n o", "shardstage"),
            Role::Peer => ("peer", "n", cell.entry.name),
            Role::Limit => ("limit", "n", cell.entry.name),
        };
        text(out, label, left + NAMES - 6.0, y + 9.5, name);
        let rate = row.work != Work::IdleMemory;
        let length = if rate { x_of(1e9 / raw, scale) } else { (raw / BYTES).clamp(0.005, 1.0) * SPAN };
        writeln!(
            out,
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\" rx=\"2\"/>",
            left + NAMES,
            y + 1.0,
            BAR - 2.5
        )
        .expect(STRING);
        let mut figure = if rate { Unit::PerSecond("") } else { Unit::Bytes }.number(raw);
        let times = against.as_ref().and_then(|against| against.peer).filter(|_| cell.entry.role == Role::Ours);
        if let Some(times) = times {
            write!(figure, "  ({times:.1} x best peer)").expect(STRING);
        }
        // Beside its bar where there is room, else in it.
        let room = left + NAMES + length + 5.0 + 6.0 * figure.len() as f64 <= left + COLUMN;
        let (at, style) = if room { (length + 5.0, "") } else { (length - 5.0, ";text-anchor:end;fill:var(--bg)") };
        let class = if cell.entry.role == Role::Ours { "x" } else { "" };
        writeln!(
            out,
            "<text class=\"{class}\" style=\"white-space:pre{style}\" x=\"{:.1}\" y=\"{:.1}\">{figure}</text>",
            left + NAMES + at,
            y + 9.5
        )
        .expect(STRING);
    }
}

fn text(out: &mut String, class: &str, x: f64, y: f64, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>").expect(STRING);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ours::PARKED;
    use crate::results::tests::row;

    #[test]
    fn bars_grow_with_the_rate_and_the_text_is_the_same_each_time() {
        assert!([1e5, 1e6, 1e7].map(|rate| x_of(rate, MESSAGES.scale)).is_sorted());
        let rows = || {
            [row(
                Work::Tell(Place::SameShard),
                &[(PARKED, Role::Ours, &[10.0]), ("virtual call", Role::Limit, &[4.0]), ("actix", Role::Peer, &[50.0])],
            )]
        };
        let picture = svg(&rows(), &MESSAGES, "a < b & c");
        assert_eq!(picture, svg(&rows(), &MESSAGES, "a < b & c"));
        assert_eq!(picture.matches("<rect class=\"ours\"").count(), 1);
        assert!(picture.contains("100 M  (5.0 x best peer)") && picture.contains("a &lt; b &amp; c"), "{picture}");
    }
}
