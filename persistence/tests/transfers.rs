//! Transfers between two accounts through the outbox: power is lost at every disk event, and stores fail at every commit. The
//! total stays, each transfer is applied once, and a command that is sent again gets its recorded reply.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
#![forbid(unsafe_code)]

mod either;

use std::collections::BTreeMap;
use std::time::Duration;

use either::{Bench, NODE, SECOND, Store};
use shardstage::EngineBuilder;
use shardstage::prelude::*;
use shardstage_persistence::{
    CommandContext, CommandHandler, Durable, Effect, EventSourced, Idempotent, MemoryFault, MemoryStore, NotRun,
    OutboxRoutes,
};

#[message(id = "transfers.deposit", reply = u64)]
#[derive(Clone, Debug)]
struct Deposit {
    amount: i64,
}

#[message(id = "transfers.transfer", reply = u64)]
#[derive(Clone, Debug)]
struct Transfer {
    id: u64,
    to: String,
    amount: i64,
}

#[message(id = "transfers.credit")]
struct Credit {
    id: u64,
    amount: i64,
}

/// Balance, identities of transfers that came and that went, in order.
#[message(id = "transfers.audit", reply = (i64, Vec<u64>, Vec<u64>))]
struct Audit {}

#[wire(id = "transfers.event")]
enum Event {
    Deposited { amount: i64 },
    Came { id: u64, amount: i64 },
    Went { id: u64, amount: i64 },
}

#[wire]
#[derive(Clone, Default)]
struct Account {
    balance: i64,
    came: Vec<u64>,
    went: Vec<u64>,
    /// Deposits and transfers: their replies count them.
    commands: u64,
}

impl EventSourced for Account {
    const TYPE: &'static str = "transfers.account";
    const SNAPSHOT_EVERY: u64 = 7;
    type Event = Event;
    type Snapshot = Self;

    fn new(_key: &str) -> Self {
        Self::default()
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Deposited { amount } => {
                self.balance += amount;
                self.commands += 1;
            }
            Event::Came { id, amount } => {
                self.balance += amount;
                self.came.push(*id);
            }
            Event::Went { id, amount } => {
                self.balance -= amount;
                self.went.push(*id);
                self.commands += 1;
            }
        }
    }

    fn snapshot(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn restore(&mut self, snapshot: Self) {
        *self = snapshot;
    }
}

impl CommandHandler<Deposit> for Account {
    fn handle(&self, Deposit { amount }: Deposit, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::persist(Event::Deposited { amount }).reply(self.commands + 1)
    }
}

impl CommandHandler<Transfer> for Account {
    fn handle(&self, transfer: Transfer, cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        let Transfer { id, to, amount } = transfer;
        let receiver = cx.actor::<Durable<Self>>(to);
        let went = Effect::persist(Event::Went { id, amount });
        went.send(&receiver, &Credit { id, amount }).reply(self.commands + 1)
    }
}

impl CommandHandler<Credit> for Account {
    fn handle(&self, Credit { id, amount }: Credit, _cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        Effect::persist(Event::Came { id, amount })
    }
}

impl CommandHandler<Audit> for Account {
    fn handle(&self, _: Audit, _cx: &CommandContext<'_, Self>) -> Effect<Self, (i64, Vec<u64>, Vec<u64>)> {
        Effect::none().reply((self.balance, self.came.clone(), self.went.clone()))
    }
}

fn register(builder: EngineBuilder) -> EngineBuilder {
    builder.register::<Durable<Account>>(|account| account.idle_timeout(Duration::from_millis(400)))
}

#[derive(Clone, Debug)]
enum Command {
    Deposit(Deposit),
    Transfer(Transfer),
}

/// One client's numbers at one account.
#[derive(Default)]
struct Numbers {
    opened: u64,
    seq: u64,
}

struct Teller {
    bench: Bench,
    numbers: BTreeMap<(&'static str, &'static str), Numbers>,
    /// Commands that each account has answered.
    answered: BTreeMap<&'static str, u64>,
    deposited: i64,
    transfers: Vec<(u64, &'static str, &'static str)>,
    /// Disk events after a restart until the next power loss.
    again: Option<u64>,
    repeated: u64,
}

impl Teller {
    fn new(bench: Bench) -> Self {
        let teller = Self {
            bench,
            numbers: BTreeMap::new(),
            answered: BTreeMap::new(),
            deposited: 0,
            transfers: Vec::new(),
            again: None,
            repeated: 0,
        };
        teller.start_outbox();
        teller
    }

    fn start_outbox(&self) {
        OutboxRoutes::<Account>::new().to::<Durable<Account>, Credit, _>().start(&self.bench.engine).unwrap();
        // Both shards are up when an actor on each has answered.
        self.bench.counter("outbox_sent");
    }

    fn restart(&mut self) {
        self.bench.restart();
        self.start_outbox();
        if let Some(events) = self.again.take() {
            self.bench.world.crash_at_io(NODE, self.bench.world.io_events(NODE) + events);
        }
    }

    /// One attempt, whatever becomes of it.
    fn attempt(
        &mut self,
        account: &str,
        client: &str,
        opened: u64,
        seq: u64,
        command: &Command,
    ) -> Option<Result<u64, NotRun>> {
        let actor = self.bench.engine.actor::<Durable<Account>>(account);
        let (client, acked) = (client.to_owned(), seq - 1);
        let limit = Duration::from_secs(2);
        let answer = match command.clone() {
            Command::Deposit(command) => {
                let ask = actor.ask(Idempotent { client, opened, seq, after: 0, acked, command });
                self.bench.world.block_on(ask.deadline(limit), 3 * SECOND)
            }
            Command::Transfer(command) => {
                let ask = actor.ask(Idempotent { client, opened, seq, after: 0, acked, command });
                self.bench.world.block_on(ask.deadline(limit), 3 * SECOND)
            }
        };
        answer?.ok()
    }

    /// Sends a command until it is answered, through every crash, then once more.
    fn run(&mut self, account: &'static str, client: &'static str, command: &Command) {
        let numbers = self.numbers.entry((account, client)).or_default();
        numbers.seq += 1;
        let (mut opened, seq) = (numbers.opened, numbers.seq);
        let expected = self.answered.get(account).copied().unwrap_or(0) + 1;
        let mut attempts = 0;
        let reply = loop {
            attempts += 1;
            assert!(attempts < 50, "{command:?} is never answered");
            match self.attempt(account, client, opened, seq, command) {
                Some(Ok(reply)) => break reply,
                Some(Err(NotRun::Open { opened: number })) => opened = number,
                Some(Err(why)) => panic!("{command:?}: {why}"),
                None if !self.bench.world.is_running(NODE) => self.restart(),
                None if attempts % 3 == 0 => {
                    // A poisoned store stays so until the process starts again.
                    if let Some(store) = self.bench.memory() {
                        store.heal();
                    }
                    self.bench.world.crash(NODE);
                    self.restart();
                }
                None => self.bench.world.run_for(SECOND / 100),
            }
        };
        assert_eq!(reply, expected, "{command:?} of {client}, after {attempts} attempts");
        self.answered.insert(account, expected);
        self.numbers.insert((account, client), Numbers { opened, seq });
        match command {
            Command::Deposit(deposit) => self.deposited += deposit.amount,
            Command::Transfer(transfer) => {
                let to = if transfer.to == "alice" { "alice" } else { "bob" };
                self.transfers.push((transfer.id, account, to));
            }
        }
        if let Some(again) = self.attempt(account, client, opened, seq, command) {
            assert_eq!(again, Ok(expected), "{command:?}, repeated");
            self.repeated += 1;
        }
    }

    fn audit(&mut self, account: &str) -> (i64, Vec<u64>, Vec<u64>) {
        for _ in 0..50 {
            let ask = self.bench.engine.actor::<Durable<Account>>(account).ask(Audit {});
            match self.bench.world.block_on(ask, 10 * SECOND) {
                Some(Ok(audit)) => return audit,
                _ if !self.bench.world.is_running(NODE) => self.restart(),
                _ => {}
            }
        }
        panic!("{account} does not answer");
    }

    /// Everything arrives, once and in order; nothing else does.
    fn judge(&mut self) {
        let arrived = |transfers: &[(u64, &str, &str)], account: &str| -> Vec<u64> {
            transfers.iter().filter(|(_, _, to)| *to == account).map(|(id, ..)| *id).collect()
        };
        let went = |transfers: &[(u64, &str, &str)], account: &str| -> Vec<u64> {
            transfers.iter().filter(|(_, from, _)| *from == account).map(|(id, ..)| *id).collect()
        };
        let mut total = 0;
        for account in ["alice", "bob"] {
            let expected = arrived(&self.transfers, account);
            let mut audit = self.audit(account);
            for _ in 0..300 {
                if audit.1.len() >= expected.len() {
                    break;
                }
                self.bench.world.run_for(SECOND / 10);
                audit = self.audit(account);
            }
            assert_eq!(audit.1, expected, "what came to {account}");
            assert_eq!(audit.2, went(&self.transfers, account), "what left {account}");
        }
        for account in ["alice", "bob"] {
            total += self.audit(account).0;
        }
        assert_eq!(total, self.deposited, "the total");
    }

    fn scenario(&mut self) {
        self.run("alice", "till-1", &Command::Deposit(Deposit { amount: 1000 }));
        self.run("bob", "till-1", &Command::Deposit(Deposit { amount: 1000 }));
        for id in 1..=8 {
            let (from, to) = if id % 3 == 0 { ("bob", "alice") } else { ("alice", "bob") };
            let client = if id % 2 == 0 { "till-1" } else { "till-2" };
            self.run(from, client, &Command::Transfer(Transfer { id, to: to.to_owned(), amount: id as i64 }));
            if id % 4 == 0 {
                // Long enough that both sleep.
                self.bench.world.run_for(5 * SECOND);
            }
        }
        self.bench.world.cancel_crash(NODE);
        if !self.bench.world.is_running(NODE) {
            self.restart();
            self.bench.world.cancel_crash(NODE);
        }
        self.judge();
        self.bench.world.crash(NODE);
        self.again = None;
        self.restart();
        self.judge();
    }
}

/// Disk events of the scenario without a crash.
fn length(seed: u64) -> u64 {
    let mut teller = Teller::new(Bench::new(seed, Store::SmallLog, register));
    let before = teller.bench.world.io_events(NODE);
    teller.scenario();
    teller.bench.world.io_events(NODE) - before
}

fn lose_power(seed: u64, after: u64, again: Option<u64>) -> u64 {
    let mut teller = Teller::new(Bench::new(seed, Store::SmallLog, register));
    let at = teller.bench.world.io_events(NODE) + after;
    teller.bench.world.crash_at_io(NODE, at);
    teller.again = again;
    teller.scenario();
    teller.repeated
}

#[test]
fn power_is_lost_at_every_disk_event() {
    let length = length(1);
    let repeated: u64 = (0..length).map(|after| lose_power(1, after, None)).sum();
    println!("{length} crash points, {repeated} repetitions answered from the record");
    assert!(length > 100, "{length}");
    assert!(repeated > length, "{repeated}");
}

#[test]
fn power_is_lost_twice() {
    const ROUNDS: u64 = 100;
    let length = length(2);
    for round in 0..ROUNDS {
        lose_power(2 + round % 7, round * length / ROUNDS, Some(5 + round * 7 % 60));
    }
}

#[test]
fn a_store_in_memory_fails_at_every_command() {
    for fault in [MemoryFault::FailWrite, MemoryFault::LoseAck, MemoryFault::Full, MemoryFault::LowSpace] {
        for at in 0..10 {
            let store = MemoryStore::new();
            let mut teller = Teller::new(Bench::new(at, Store::Memory(store.clone()), register));
            for id in 1..=10 {
                if id == at + 1 {
                    store.inject(fault);
                }
                let (from, to) = if id % 2 == 0 { ("bob", "alice") } else { ("alice", "bob") };
                teller.run(from, "till", &Command::Transfer(Transfer { id, to: to.to_owned(), amount: 1 }));
            }
            store.heal();
            teller.bench.world.crash(NODE);
            teller.restart();
            teller.judge();
        }
    }
}
