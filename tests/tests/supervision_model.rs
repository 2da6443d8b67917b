//! Hazard: supervision trees under random failures, stops and restarts, against a naive model and against what must always hold.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, Backoff, BoxError, ChildSpec, Supervision};
use shardstage_tests::draw::Draw;

const SEEDS: u64 = 200;
const SECOND: Duration = Duration::from_secs(1);

fn spec(number: u64) -> ChildSpec {
    [ChildSpec::permanent(), ChildSpec::transient(), ChildSpec::never()][usize::try_from(number).unwrap() % 3]
}

/// What all nodes of a tree report to.
#[derive(Default)]
struct Watchtower {
    /// Who has a state, and whose child it is.
    live: BTreeMap<String, Option<String>>,
    /// Work handled by each, in order.
    handled: BTreeMap<String, Vec<u64>>,
    /// When each was restarted, ns.
    restarts: BTreeMap<String, Vec<u64>>,
}

type Tower = Arc<Mutex<Watchtower>>;

fn name(id: ActorId) -> String {
    format!("{id:?}")
}

struct Node {
    policy: u64,
    tower: Tower,
    me: Option<String>,
}

impl Node {
    fn make(policy: u64, tower: &Tower) -> impl Fn() -> Self + Send + Clone + 'static {
        let tower = Arc::clone(tower);
        move || Self { policy, tower: Arc::clone(&tower), me: None }
    }
}

/// How often a node of this policy lets a child restart in 10 s, if it starts them without a wait.
fn limit(policy: u64) -> u32 {
    u32::try_from(policy % 4).unwrap()
}

impl Actor for Node {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        let me = name(cx.me().id());
        let mut tower = self.tower.lock().unwrap();
        let orphans: Vec<_> = tower.live.iter().filter(|(_, parent)| parent.as_ref() == Some(&me)).collect();
        assert!(orphans.is_empty(), "{me} starts while children of its predecessor live: {orphans:?}");
        assert!(tower.live.insert(me.clone(), cx.parent().map(name)).is_none(), "{me} has two states");
        self.me = Some(me);
        Ok(())
    }

    fn supervision(&self) -> Supervision {
        let strategy = match self.policy / 4 % 3 {
            0 => Supervision::one_for_one(),
            1 => Supervision::all_for_one(),
            _ => Supervision::rest_for_one(),
        };
        let policy = strategy.at_most(limit(self.policy), 10 * SECOND);
        match self.policy / 12 % 2 {
            0 => policy,
            _ => policy.backoff(Backoff::exponential(Duration::from_millis(10), SECOND)),
        }
    }

    fn restarted(&mut self, _: &shardstage::Failure, cx: &mut Context<Self>) {
        let me = name(cx.me().id());
        self.tower.lock().unwrap().restarts.entry(me).or_default().push(cx.now_ns());
    }

    fn stopped(&mut self, _: &StopReason, cx: &mut Context<Self>) {
        let me = name(cx.me().id());
        let tower = self.tower.lock().unwrap();
        assert!(!tower.live.values().any(|parent| parent.as_ref() == Some(&me)), "{me} stops before its children");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(me) = self.me.take() {
            self.tower.lock().unwrap().live.remove(&me).unwrap();
        }
    }
}

#[message]
struct Work(u64);

#[message]
struct Fail;

#[message]
struct Leave;

#[message(reply = Option<ActorRef<Node>>)]
struct Breed(u64, u64);

impl Handler<Work> for Node {
    fn handle(&mut self, work: Work, cx: &mut Context<Self>) {
        self.tower.lock().unwrap().handled.entry(name(cx.me().id())).or_default().push(work.0);
    }
}

impl Handler<Fail> for Node {
    fn handle(&mut self, _: Fail, _: &mut Context<Self>) {
        panic!("planted");
    }
}

impl Handler<Leave> for Node {
    fn handle(&mut self, _: Leave, cx: &mut Context<Self>) {
        cx.stop();
    }
}

impl Handler<Breed> for Node {
    fn handle(&mut self, breed: Breed, cx: &mut Context<Self>) -> Option<ActorRef<Node>> {
        cx.spawn_with(spec(breed.0), Self::make(breed.1, &self.tower)).ok()
    }
}

/// One node as the test knows it.
struct Known {
    node: ActorRef<Node>,
    policy: u64,
    parent: Option<usize>,
    sent: Vec<u64>,
    /// Somebody stopped it at some time, so that what it had queued may be dead letters.
    may_lose: bool,
}

fn random_tree(kit: &mut TestKit) {
    kit.allow_panics();
    kit.allow_dead_letters(|_| true);
    let mut draw = Draw(kit.seed());
    let tower = Tower::default();
    let root = kit.spawn_on(0, Node::make(3, &tower)).unwrap();
    let mut known = vec![Known { node: root, policy: 3, parent: None, sent: Vec::new(), may_lose: false }];
    for number in 0..150 {
        let at = usize::try_from(draw.below(known.len() as u64)).unwrap();
        let node = known[at].node;
        match draw.below(12) {
            0..=2 => {
                let policy = draw.below(24);
                if let Ok(Some(child)) = node.ask(Breed(draw.below(3), policy)).deadline(SECOND).wait() {
                    known.push(Known { node: child, policy, parent: Some(at), sent: Vec::new(), may_lose: false });
                }
            }
            3..=6 => {
                if node.tell(Work(number)).is_ok() {
                    known[at].sent.push(number);
                }
            }
            7 | 8 if at != 0 => drop(node.tell(Fail)),
            9 if at != 0 => {
                known[at].may_lose = true;
                match draw.below(3) {
                    0 => drop(node.stop()),
                    1 => drop(node.drain()),
                    _ => drop(node.tell(Leave)),
                }
            }
            10 => kit.run_until_idle(),
            _ => kit.advance(Duration::from_millis(draw.below(4000))),
        }
    }
    kit.advance(100 * SECOND);
    let tower_now = tower.lock().unwrap();
    let census = kit.census();
    assert_eq!(census.of::<Node>(), tower_now.live.len(), "who lives has a state");
    let lives = |id: ActorId| tower_now.live.contains_key(&name(id));
    for (at, one) in known.iter().enumerate() {
        let id = name(one.node.id());
        let handled = tower_now.handled.get(&id).cloned().unwrap_or_default();
        assert!(handled.is_sorted_by(|a, b| a < b), "{id}: in order, nothing twice: {handled:?}");
        if let Some(parent) = one.parent {
            assert!(!lives(one.node.id()) || lives(known[parent].node.id()), "{id} outlives its parent");
            let policy = known[parent].policy;
            let restarts = tower_now.restarts.get(&id).cloned().unwrap_or_default();
            // With a wait, restarts come later than they are counted, by more and more.
            let counted = policy / 12 % 2 == 0;
            let window = u64::try_from((10 * SECOND).as_nanos()).unwrap() - 1_000_000;
            for (first, from) in restarts.iter().enumerate() {
                let within = restarts[first..].iter().filter(|at| **at - from < window).count();
                assert!(!counted || within <= limit(policy) as usize, "{id} at {at}: {restarts:?}, policy {policy}");
            }
        }
        if lives(one.node.id()) && !one.may_lose {
            assert_eq!(handled, one.sent, "{id}: what was sent is handled across all restarts");
        }
    }
    drop(tower_now);
    root.stop().wait();
    assert!(tower.lock().unwrap().live.is_empty());
    kit.assert_no_leaks();
}

#[test]
fn random_trees_keep_what_must_always_hold() {
    TestKit::check_seeds(0..SEEDS, random_tree);
}

/// One supervisor with children, as a naive reader of the documentation has it.
struct Naive {
    strategy: u64,
    limit: usize,
    specs: Vec<u64>,
    /// How much work each state has done; `None` for those that are gone.
    done: Vec<Option<u64>>,
    /// When restarts happened that count: for each child, or in the first place for all.
    counted: Vec<Vec<u64>>,
    supervisor_restarts: u64,
}

impl Naive {
    fn new(strategy: u64, limit: usize, specs: Vec<u64>) -> Self {
        let children = specs.len();
        let (done, counted) = (vec![Some(0); children], vec![Vec::new(); children]);
        Self { strategy, limit, specs, done, counted, supervisor_restarts: 0 }
    }

    /// A child fails (or ends, which only a permanent one comes back from).
    fn ends(&mut self, child: usize, failed: bool, now_s: u64) {
        if self.done[child].is_none() {
            return;
        }
        let comes_back = match self.specs[child] {
            0 => true,
            1 => failed,
            _ => false,
        };
        if !comes_back {
            self.done[child] = None;
            return;
        }
        let counted = &mut self.counted[if self.strategy == 0 { child } else { 0 }];
        counted.retain(|at| now_s - at < 10);
        if counted.len() >= self.limit {
            // The supervisor restarts, with children that the test does not know.
            self.done.fill(None);
            self.supervisor_restarts += 1;
            return;
        }
        counted.push(now_s);
        for other in 0..self.done.len() {
            let with_it = match self.strategy {
                0 => other == child,
                1 => true,
                _ => other >= child,
            };
            if with_it && self.done[other].is_some() {
                self.done[other] = if self.specs[other] == 2 { None } else { Some(0) };
            }
        }
    }
}

struct Staff {
    strategy: u64,
    limit: u32,
    starts: Arc<Mutex<u64>>,
}

struct Clerk(u64);
impl Actor for Clerk {}

#[message(reply = u64)]
struct Do;

impl Handler<Do> for Clerk {
    fn handle(&mut self, _: Do, _: &mut Context<Self>) -> u64 {
        self.0 += 1;
        self.0
    }
}

impl Handler<Fail> for Clerk {
    fn handle(&mut self, _: Fail, _: &mut Context<Self>) {
        panic!("planted");
    }
}

impl Actor for Staff {
    fn started(&mut self, _: &mut Context<Self>) -> Result<(), BoxError> {
        *self.starts.lock().unwrap() += 1;
        Ok(())
    }

    fn supervision(&self) -> Supervision {
        let strategies = [Supervision::one_for_one(), Supervision::all_for_one(), Supervision::rest_for_one()];
        strategies[usize::try_from(self.strategy).unwrap()].clone().at_most(self.limit, 10 * SECOND)
    }
}

#[message(reply = ActorRef<Clerk>)]
struct Hire(u64);

impl Handler<Hire> for Staff {
    fn handle(&mut self, hire: Hire, cx: &mut Context<Self>) -> ActorRef<Clerk> {
        cx.spawn_with(spec(hire.0), || Clerk(0)).unwrap()
    }
}

fn naive_office(kit: &mut TestKit) {
    kit.allow_panics();
    let mut draw = Draw(kit.seed());
    let (strategy, limit) = (draw.below(3), u32::try_from(draw.below(4)).unwrap());
    let starts = Arc::new(Mutex::new(0));
    let for_staff = Arc::clone(&starts);
    let staff = kit.spawn(move || Staff { strategy, limit, starts: Arc::clone(&for_staff) }).unwrap();
    let specs: Vec<_> = (0..=draw.below(5)).map(|_| draw.below(3)).collect();
    let clerks: Vec<_> = specs.iter().map(|spec| staff.ask(Hire(*spec)).wait().unwrap()).collect();
    let mut naive = Naive::new(strategy, limit as usize, specs);
    let mut now_s = 0;
    for _ in 0..60 {
        let child = usize::try_from(draw.below(clerks.len() as u64)).unwrap();
        match draw.below(6) {
            0 | 1 => {
                let said = clerks[child].ask(Do).wait().ok();
                naive.done[child] = naive.done[child].map(|done| done + 1);
                assert_eq!(said, naive.done[child], "strategy {strategy}, limit {limit}, specs {:?}", naive.specs);
            }
            2 => {
                let _ = clerks[child].tell(Fail);
                kit.run_until_idle();
                naive.ends(child, true, now_s);
            }
            3 => {
                clerks[child].stop().wait();
                kit.run_until_idle();
                naive.ends(child, false, now_s);
            }
            _ => {
                let seconds = draw.below(5);
                kit.advance(Duration::from_secs(seconds));
                now_s += seconds;
            }
        }
        let alive = naive.done.iter().flatten().count();
        assert_eq!(kit.census().of::<Clerk>(), alive, "strategy {strategy}, limit {limit}, specs {:?}", naive.specs);
        assert_eq!(*starts.lock().unwrap(), 1 + naive.supervisor_restarts);
    }
    kit.allow_dead_letters(|_| true);
    staff.stop().wait();
    kit.assert_no_leaks();
}

#[test]
fn one_supervisor_does_what_a_naive_model_does() {
    TestKit::check_seeds(0..SEEDS, naive_office);
}
