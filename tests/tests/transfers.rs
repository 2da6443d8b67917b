//! Transfers between accounts on two nodes: packets are lost, either node loses power, and the total stays.

#![forbid(unsafe_code)]

use std::time::Duration;

use shardstage::NodeId;
use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage_persistence::{
    CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced, Idempotent, NotRun, OnPoison, OutboxRoutes,
};
use shardstage_quic::Quic;
use shardstage_tests::sim_cluster::{A, B, SECOND, cluster, quic};

#[message(id = "two.transfer", reply = u64)]
#[derive(Clone)]
struct Transfer {
    id: u64,
    to: String,
    amount: i64,
}

#[message(id = "two.credit")]
struct Credit {
    id: u64,
    amount: i64,
}

/// Balance, and the transfers that came, in order.
#[message(id = "two.audit", reply = (i64, Vec<u64>))]
struct Audit {}

#[wire(id = "two.event")]
enum Event {
    Came { id: u64, amount: i64 },
    Went { amount: i64 },
}

#[wire]
#[derive(Clone, Default)]
struct Account {
    balance: i64,
    came: Vec<u64>,
    went: u64,
}

impl EventSourced for Account {
    const TYPE: &'static str = "two.account";
    const SNAPSHOT_EVERY: u64 = 6;
    type Event = Event;
    type Snapshot = Self;

    fn new(_key: &str) -> Self {
        Self::default()
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Came { id, amount } => {
                self.balance += amount;
                self.came.push(*id);
            }
            Event::Went { amount } => {
                self.balance -= amount;
                self.went += 1;
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

impl CommandHandler<Transfer> for Account {
    fn handle(&self, Transfer { id, to, amount }: Transfer, cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        let receiver = cx.actor::<Durable<Self>>(to);
        Effect::persist(Event::Went { amount }).send(&receiver, &Credit { id, amount }).reply(self.went + 1)
    }
}

impl CommandHandler<Credit> for Account {
    fn handle(&self, Credit { id, amount }: Credit, _cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        Effect::persist(Event::Came { id, amount })
    }
}

impl CommandHandler<Audit> for Account {
    fn handle(&self, _: Audit, _cx: &CommandContext<'_, Self>) -> Effect<Self, (i64, Vec<u64>)> {
        Effect::none().reply((self.balance, self.came.clone()))
    }
}

type Actor = Durable<Account>;

/// What happens to the nodes, drawn from the seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

struct Bank {
    world: SimWorld,
    nodes: [Option<Engine>; 2],
    dice: Dice,
    crashes: u64,
}

/// One account on each node.
const ACCOUNTS: [NodeId; 2] = [A, B];

impl Bank {
    fn new(seed: u64) -> Self {
        let world = SimWorld::new(SimOptions::seeded(seed));
        let mut bank = Self { world, nodes: [None, None], dice: Dice(seed), crashes: 0 };
        bank.start(A);
        bank.start(B);
        bank
    }

    fn start(&mut self, node: NodeId) {
        let file = if node == A { "a" } else { "b" };
        let log = EventLog::open("/data").segment_bytes(256 * 1024).on_poison(OnPoison::Stay);
        let engine = Engine::builder()
            .service(log)
            .register::<Actor>(|account| {
                account.accept::<Idempotent<Transfer>, _>().accept::<Idempotent<Credit>, _>().accept::<Audit, _>()
            })
            .cluster(cluster("sim", node))
            .transport(Quic::new(quic("ca", file)))
            .start_in_sim(&self.world, node)
            .expect("a sound description");
        OutboxRoutes::<Account>::new().to::<Actor, Credit, _>().start(&engine).expect("it runs");
        self.nodes[node.get() as usize] = Some(engine);
    }

    fn engine(&self, node: NodeId) -> &Engine {
        self.nodes[node.get() as usize].as_ref().expect("both were started")
    }

    /// The account that lives on `node`.
    fn key(&self, node: NodeId) -> String {
        let owner = |key: &str| u32::from(self.engine(A).actor::<Actor>(key).slot().group().get()) % 2;
        (0..).map(|number| format!("account-{number}")).find(|key| owner(key) == node.get()).expect("half of all keys")
    }

    /// Sometimes a node loses power, sometimes packets are lost for a while.
    fn weather(&mut self) {
        match self.dice.roll(6) {
            0 | 1 => {
                let node = ACCOUNTS[self.dice.roll(2) as usize];
                self.world.run_for(self.dice.roll(20_000_000));
                if self.dice.roll(2) == 0 {
                    self.world.crash(node)
                } else {
                    self.world.kill(node)
                }
                self.crashes += 1;
                self.world.run_for(self.dice.roll(3 * SECOND));
                self.start(node);
                // A start that is cut off by a power loss is another test's concern.
                let probe = self.engine(node).spawn_on(0, Probe::default).expect("it runs");
                self.world.block_on(probe.started(), 20 * SECOND).expect("the node starts").expect("it runs");
            }
            2 => {
                let loss_ppm = self.dice.roll(200_000) as u32;
                self.world.set_network(|network| network.loss_ppm = loss_ppm);
            }
            3 => self.world.cut(A, B),
            _ => {
                self.world.heal_all();
                self.world.set_network(|network| network.loss_ppm = 0);
            }
        }
    }

    /// Asks the account on `at` from the other node, until there is an answer.
    fn transfer(&mut self, at: NodeId, opened: &mut u64, seq: u64, command: &Transfer) -> u64 {
        for _ in 0..500 {
            let via = ACCOUNTS[self.dice.roll(2) as usize];
            let actor = self.engine(via).actor::<Actor>(self.key(at));
            let command = command.clone();
            let message =
                Idempotent { client: "teller".into(), opened: *opened, seq, after: seq - 1, acked: seq - 1, command };
            let ask = actor.ask(message).deadline(Duration::from_millis(300));
            match self.world.block_on(ask, 2 * SECOND) {
                Some(Ok(Ok(reply))) => return reply,
                Some(Ok(Err(NotRun::Open { opened: number }))) => *opened = number,
                Some(Ok(Err(why))) => panic!("transfer {}: {why}", command_id(seq)),
                _ => self.weather(),
            }
        }
        panic!("transfer {seq} is never answered");
    }

    fn audit(&self, at: NodeId) -> (i64, Vec<u64>) {
        let actor = self.engine(at).actor::<Actor>(self.key(at));
        for _ in 0..100 {
            if let Some(Ok(audit)) = self.world.block_on(actor.ask(Audit {}), 10 * SECOND) {
                return audit;
            }
        }
        panic!("no audit");
    }
}

fn command_id(seq: u64) -> String {
    format!("number {seq}")
}

#[derive(Default)]
struct Probe {}

impl Actor_ for Probe {}

use shardstage::Actor as Actor_;

fn run(seed: u64) -> u64 {
    let mut bank = Bank::new(seed);
    bank.world.run_for(2 * SECOND);
    let mut opened = [0; 2];
    let mut went: [Vec<u64>; 2] = [Vec::new(), Vec::new()];
    for id in 1..=24u64 {
        let at = usize::from(bank.dice.roll(3) == 0);
        let (from, to) = (ACCOUNTS[at], ACCOUNTS[1 - at]);
        let transfer = Transfer { id, to: bank.key(to), amount: id as i64 };
        let seq = went[at].len() as u64 + 1;
        let reply = bank.transfer(from, &mut opened[at], seq, &transfer);
        assert_eq!(reply, seq, "seed {seed}: the reply to transfer {id}");
        went[at].push(id);
        if bank.dice.roll(3) == 0 {
            bank.weather();
        }
        let again = bank.transfer(from, &mut opened[at], seq, &transfer);
        assert_eq!(again, seq, "seed {seed}: transfer {id}, repeated");
    }
    bank.world.heal_all();
    bank.world.set_network(|network| network.loss_ppm = 0);
    let arrived = |bank: &Bank| ACCOUNTS.map(|node| bank.audit(node).1.len());
    for _ in 0..60 {
        bank.world.run_for(SECOND);
        if arrived(&bank) == [went[1].len(), went[0].len()] {
            break;
        }
    }
    let audits = ACCOUNTS.map(|node| bank.audit(node));
    assert_eq!(audits[0].1, went[1], "seed {seed}: what came to node a");
    assert_eq!(audits[1].1, went[0], "seed {seed}: what came to node b");
    assert_eq!(audits[0].0 + audits[1].0, 0, "seed {seed}: the total");
    bank.crashes
}

#[test]
fn transfers_between_nodes_are_applied_once_through_losses_and_crashes() {
    let crashes: u64 = (0..40).map(run).sum();
    println!("40 seeds, {crashes} crashes");
    assert!(crashes > 100, "{crashes}");
}
