//! Power loss at the disk events of several scenarios: every acknowledged event is there afterwards, once and in order,
//! nothing is invented, no torn tail is taken for damage, and what is damaged afterwards is not cut as a torn tail.
//!
//! `SHARDSTAGE_POWER_CUTS` sets the number of cases over all scenarios (default 1,000).
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;
#[path = "common/files.rs"]
mod on_disk;

use common::{NODE, Plan, Shared, counter, forget_checkpoints, ledger, must_recover, settle, start, world};
use on_disk::{LOG, files, frames, segment};
use shardstage::sim::{SimOptions, SimWorld};
use shardstage_persistence::PlantedBug;

const ACCOUNTS: usize = 3;
/// Crash points of one seed, spread over its whole scenario; then the next seed.
const POINTS: u64 = 250;
/// Scenarios that share the cases.
const SCENARIOS: u64 = 5;

/// What runs until the cut.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    /// A life before, which ends by a power loss in its midst.
    before: Option<Plan>,
    plan: Plan,
    /// Whether the world's options are drawn from the seed.
    swarm: bool,
    /// What must have happened in each seed, else the scenario shows nothing: (counter, at least).
    happens: &'static [(&'static str, u64)],
}

const APPENDS: Scenario = Scenario {
    name: "appends, snapshots, checkpoints, pauses and segment changes",
    before: None,
    plan: Plan { commands: 650, stop: false },
    swarm: false,
    happens: &[("frames", 200), ("heartbeats", 3), ("segments_ended", 4), ("snapshots", 10), ("checkpoints", 3)],
};
const FIRST_START: Scenario = Scenario {
    name: "the making of a log and its first events",
    before: None,
    plan: Plan { commands: 6, stop: false },
    swarm: false,
    happens: &[("frames", 3)],
};
const STOP: Scenario = Scenario {
    name: "a short life and its orderly end",
    before: None,
    plan: Plan { commands: 90, stop: true },
    swarm: false,
    happens: &[("checkpoints", 1)],
};
const REOPEN: Scenario = Scenario {
    name: "opening after a power loss, working, stopping",
    before: Some(Plan { commands: 200, stop: false }),
    plan: Plan { commands: 30, stop: true },
    swarm: false,
    happens: &[("recovered_records", 1)],
};
const SWARM: Scenario = Scenario {
    name: "drawn latencies, keeping and tearing",
    before: None,
    plan: Plan { commands: 200, stop: false },
    swarm: true,
    happens: &[("frames", 30), ("segments_ended", 1)],
};

impl Scenario {
    /// A world in which the life before is over.
    fn world(&self, seed: u64) -> (SimWorld, Shared) {
        let world = if self.swarm {
            let mut options = SimOptions::swarm(seed);
            let disk = SimOptions::seeded(seed).disk;
            (options.disk.error_ppm, options.disk.short_write_ppm) = (disk.error_ppm, disk.short_write_ppm);
            options.disk.no_space_ppm = disk.no_space_ppm;
            SimWorld::new(options)
        } else {
            world(seed)
        };
        let ledger = ledger(ACCOUNTS);
        if let Some(plan) = self.before {
            world.crash_at_io(NODE, 150 + seed * 37 % 400);
            start(&world, &ledger, plan, PlantedBug::None, seed);
            settle(&world, &ledger, plan);
            world.cancel_crash(NODE);
            if world.is_running(NODE) {
                world.crash(NODE);
            }
        }
        (world, ledger)
    }

    fn live(&self, world: &SimWorld, ledger: &Shared, planted: PlantedBug, seed: u64) {
        start(world, ledger, self.plan, planted, seed);
        settle(world, ledger, self.plan);
    }

    /// The disk events of the scenario: the last before it, and its last.
    fn events(&self, seed: u64) -> (u64, u64) {
        let (world, ledger) = self.world(seed);
        let before = world.io_events(NODE);
        self.live(&world, &ledger, PlantedBug::None, seed);
        let ledger_now = ledger.borrow();
        assert_eq!(ledger_now.start_error, None, "{}, seed {seed}", self.name);
        assert_eq!(ledger_now.order_broken, None, "{}, seed {seed}", self.name);
        drop(ledger_now);
        for (name, least) in self.happens {
            let found = counter(&ledger, name);
            assert!(found >= *least, "{}, seed {seed}: {name} is {found}, the scenario is blind", self.name);
        }
        (before, world.io_events(NODE))
    }

    /// Power fails at event `n`; in some cases again during the recovery; then everything must be there, and stay there, and
    /// in some cases damage is done to it that must be noticed.
    fn cut(&self, seed: u64, n: u64, case: u64, planted: PlantedBug) -> Result<Seen, String> {
        let (world, ledger) = self.world(seed);
        world.crash_at_io(NODE, n);
        self.live(&world, &ledger, planted, seed);
        world.cancel_crash(NODE);
        if world.is_running(NODE) {
            world.crash(NODE);
        }
        let acked = ledger.borrow().accounts.iter().map(|account| account.acked).sum();
        let mut twice = 0;
        if case.is_multiple_of(3) {
            world.crash_at_io(NODE, world.io_events(NODE) + 1 + case * 13 % 41);
            let _interrupted = must_recover(&world, &ledger, planted);
            if let Some(why) = &ledger.borrow().start_error
                && world.is_running(NODE)
            {
                return Err(format!("refused to start: {why}"));
            }
            twice = u64::from(!world.is_running(NODE));
            world.cancel_crash(NODE);
            world.crash(NODE);
        }
        must_recover(&world, &ledger, planted)?;
        let torn = counter(&ledger, "torn_tails_cut");
        world.crash(NODE);
        must_recover(&world, &ledger, planted)?;
        let more = Plan { commands: 20, stop: false };
        world.crash(NODE);
        start(&world, &ledger, more, planted, case);
        settle(&world, &ledger, more);
        world.crash(NODE);
        must_recover(&world, &ledger, planted)?;
        world.crash(NODE);
        let damaged = case.is_multiple_of(4);
        if damaged {
            damage(&world, &ledger, case, planted)?;
        }
        Ok(Seen { acked, torn, twice, damaged: u64::from(damaged) })
    }
}

struct Seen {
    acked: u64,
    torn: u64,
    twice: u64,
    damaged: u64,
}

/// Flips a bit in some frame before the last one; the next start must refuse it by name, or, when a checkpoint makes it pass
/// over the place, find everything or name what it cannot read.
fn damage(world: &SimWorld, ledger: &Shared, case: u64, planted: PlantedBug) -> Result<(), String> {
    let files = files(world);
    let mut all = frames(&files);
    all.pop();
    // Half of them near the end, where no later segment and no manifest speaks of them.
    let near_the_end = case.is_multiple_of(8);
    let among = if near_the_end { all.len().min(4) } else { all.len() };
    let frame = all[all.len() - 1 - usize::try_from(case / 4 * 7919).unwrap() % among];
    let byte = frame.offset + case * 104_729 % u64::from(frame.header.len);
    let file = segment(frame.segment);
    world.flip_bit(NODE, format!("{LOG}/{file}"), byte * 8 + case % 8);
    if near_the_end {
        forget_checkpoints(world);
    }
    let recovered = must_recover(world, ledger, planted);
    let ledger = ledger.borrow();
    let named = format!("segment {:016x}", frame.segment);
    match ledger.start_error.as_ref().or(ledger.load_error.as_ref()) {
        Some(why) if why.contains(&named) => Ok(()),
        Some(why) => Err(format!("damage in {file} at byte {byte} is not named: {why}")),
        None if recovered.is_ok() && !near_the_end => Ok(()),
        None => Err(format!("damage in {file} at byte {byte} was cut in silence: {recovered:?}")),
    }
}

/// The scenario's share of all cases.
fn cut_everywhere(scenario: &Scenario) {
    let cases: u64 = std::env::var("SHARDSTAGE_POWER_CUTS").map_or(1_000, |value| value.parse().unwrap());
    let cases = cases.div_ceil(SCENARIOS);
    let (mut torn, mut acked, mut twice, mut damaged) = (0, 0, 0, 0);
    let mut left = cases;
    let mut seed = 0;
    while left > 0 {
        seed += 1;
        let (first, last) = scenario.events(seed);
        let points = POINTS.min(left).min(last - first);
        for point in 0..points {
            let n = first + 1 + point * (last - first) / points;
            match scenario.cut(seed, n, seed * POINTS + point, PlantedBug::None) {
                Ok(seen) => {
                    torn += seen.torn;
                    acked += seen.acked;
                    twice += seen.twice;
                    damaged += seen.damaged;
                }
                Err(why) => panic!("{}, seed {seed}, power loss at disk event {n}: {why}", scenario.name),
            }
        }
        left -= points;
    }
    println!(
        "{}: {cases} power losses over {seed} seeds, {acked} acknowledged events, {torn} torn tails cut, {twice} losses \
         during recovery, {damaged} damages refused",
        scenario.name
    );
    assert!(twice > 0 && damaged > 0, "the scenario is blind");
    assert!(torn > 0 || cases < 100, "the scenario is blind: no torn tail");
}

#[test]
fn nothing_acknowledged_is_lost_while_appending() {
    cut_everywhere(&APPENDS);
}

#[test]
fn nothing_acknowledged_is_lost_at_the_first_start() {
    cut_everywhere(&FIRST_START);
}

#[test]
fn nothing_acknowledged_is_lost_while_stopping() {
    cut_everywhere(&STOP);
}

#[test]
fn nothing_acknowledged_is_lost_while_opening_again() {
    cut_everywhere(&REOPEN);
}

#[test]
fn nothing_acknowledged_is_lost_on_drawn_disks() {
    cut_everywhere(&SWARM);
}

fn catches(planted: PlantedBug) {
    let caught = (1..=500).step_by(7).find_map(|n| APPENDS.cut(3, 200 + n, n, planted).err());
    println!("{planted:?}: {}", caught.expect("the checker must see this fault"));
}

#[test]
fn an_acknowledgement_at_submission_is_caught() {
    catches(PlantedBug::AckAtSubmit);
}

#[test]
fn a_missing_sync_is_caught() {
    catches(PlantedBug::NoSync);
}

#[test]
fn a_rule_that_stops_at_the_first_bad_frame_is_caught() {
    let caught = (0..500).step_by(8).find_map(|n| APPENDS.cut(3, 200 + n, n, PlantedBug::CutAtFirstBad).err());
    let caught = caught.expect("the checker must see this fault");
    assert!(caught.contains("cut in silence"), "{caught}");
}
