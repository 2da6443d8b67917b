//! A request reaches every hop of its chain of calls, and nobody else: headers, deadline and trace parent on one shard, across
//! shards, from threads, through answers, and between nodes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::testkit::TestKit;
use shardstage::{BoxError, Request, RequestError, TraceParent};
use shardstage_tests::sim_cluster::{A, B, SECOND, cluster, quic};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const LONG: Duration = Duration::from_secs(60);

/// What a handler saw of its request.
type Seen = Option<(String, bool, Option<String>)>;

fn seen<T: Actor>(cx: &Context<T>) -> Seen {
    let request = cx.request()?;
    Some((
        request.header("tenant").unwrap_or_default().to_owned(),
        request.time_left().is_some(),
        request.trace_parent().map(|trace| trace.to_string()),
    ))
}

/// How a hop passes a message on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Tell,
    Send,
    Then,
    Await,
    Pipe,
    Forward,
    /// What is forwarded was asked, so that the answer's place goes along.
    ForwardAsk,
    Stash,
    /// Puts aside what was told to a handler that may answer later.
    StashTold,
    /// The same for what was asked.
    StashAsked,
    Panic,
}

const WAYS: [Way; 11] = [
    Way::Tell,
    Way::Send,
    Way::Then,
    Way::Await,
    Way::Pipe,
    Way::Forward,
    Way::ForwardAsk,
    Way::Stash,
    Way::StashTold,
    Way::StashAsked,
    Way::Panic,
];

/// Goes along the ways from the last to the first, one a hop; whoever handles it tells the witness what it saw.
#[message]
#[derive(Clone, Debug)]
struct Go {
    name: u32,
    ways: Vec<Way>,
    among: [ActorRef<Hop>; 2],
}

#[message]
struct Awaiting(Go);

#[message]
struct Placed(Go);

/// Puts the next one aside and takes it up again.
#[message]
struct Aside(Go);

#[message]
struct Unstashed(Go);

#[message]
#[derive(Debug, PartialEq)]
struct Witnessed {
    name: u32,
    seen: Seen,
}

struct Hop(Recipient<Witnessed>);

impl Actor for Hop {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        assert!(cx.request().is_none(), "a start is part of no request");
        Ok(())
    }
}

impl Hop {
    fn witness(&self, name: u32, cx: &Context<Self>) {
        let untold = Request::new();
        // The probe's message is part of the request too, which is nothing to it.
        self.0.tell_with(Witnessed { name, seen: seen(cx) }, &untold).unwrap();
    }
}

impl Handler<Go> for Hop {
    fn handle(&mut self, mut go: Go, cx: &mut Context<Self>) {
        self.witness(go.name, cx);
        let Some(way) = go.ways.pop() else { return };
        let (next, name) = (go.among[go.ways.len() % 2], go.name);
        match way {
            Way::Tell => next.tell(go).unwrap(),
            Way::Then => cx.ask(next, go).deadline(LONG).then(move |this, _, cx| this.witness(name, cx)),
            Way::Pipe => {
                let end = Go { ways: Vec::new(), ..go.clone() };
                cx.ask(next, go).deadline(LONG).pipe_to(next, move |_| end);
            }
            Way::Panic => {
                next.tell(go).unwrap();
                panic!("planted in the test");
            }
            Way::Await | Way::Send => {
                go.ways.push(way);
                cx.me().tell(Awaiting(go)).unwrap();
            }
            Way::Forward => cx.me().tell(Placed(go)).unwrap(),
            Way::ForwardAsk => {
                let me = cx.me();
                cx.ask(me, Placed(go)).deadline(LONG).then(move |this, _, cx| this.witness(name, cx));
            }
            Way::Stash => {
                cx.stash(Awaiting(Go { ways: [go.ways, vec![Way::Send]].concat(), ..go })).unwrap();
                cx.unstash();
            }
            Way::StashTold => cx.me().tell(Aside(go)).unwrap(),
            Way::StashAsked => {
                let me = cx.me();
                cx.ask(me, Aside(go)).deadline(LONG).then(move |this, _, cx| this.witness(name, cx));
            }
        }
    }
}

impl AsyncHandler<Awaiting> for Hop {
    async fn handle(&mut self, Awaiting(mut go): Awaiting, cx: &mut Context<Self>) {
        let (way, name) = (go.ways.pop().unwrap(), go.name);
        let next = go.among[go.ways.len() % 2];
        self.witness(name, cx);
        if way == Way::Send {
            next.send(go).await.unwrap();
        } else {
            // One that waits for itself ends by its deadline; what it asked is done afterwards, as part of nothing else.
            let _ = next.ask(go).deadline(Duration::from_millis(3)).await;
        }
        self.witness(name, cx);
    }
}

impl DeferredHandler<Placed> for Hop {
    fn handle(&mut self, Placed(go): Placed, reply: Reply<()>, cx: &mut Context<Self>) {
        self.witness(go.name, cx);
        reply.forward(go.among[go.ways.len() % 2], go);
    }
}

impl DeferredHandler<Aside> for Hop {
    fn handle(&mut self, Aside(go): Aside, reply: Reply<()>, cx: &mut Context<Self>) {
        cx.stash_ask(Unstashed(go), reply).unwrap();
        cx.unstash();
    }
}

impl DeferredHandler<Unstashed> for Hop {
    fn handle(&mut self, Unstashed(go): Unstashed, reply: Reply<()>, cx: &mut Context<Self>) {
        self.witness(go.name, cx);
        go.among[go.ways.len() % 2].tell(go).unwrap();
        reply.send(());
    }
}

/// Two hops on two shards, and who hears from them.
fn hops(kit: &TestKit) -> ([ActorRef<Hop>; 2], shardstage::testkit::Probe<Witnessed>) {
    let probe = kit.probe::<Witnessed>();
    let witness = probe.recipient();
    ([0, 1].map(|shard| kit.engine().spawn_on(shard, move || Hop(witness)).unwrap()), probe)
}

fn request(name: u32) -> Request {
    let request = Request::new().with_header("tenant", &name.to_string()).unwrap();
    request.with_deadline(LONG).with_trace_parent(TRACE.parse().unwrap())
}

fn whole(name: u32) -> Seen {
    Some((name.to_string(), true, Some(TRACE.to_owned())))
}

#[test]
fn every_way_of_sending_carries_the_request_on() {
    use Way::{Await, Tell};
    for way in WAYS {
        // From shard 0 to the other and back, and from 0 to itself, except where one would wait for itself.
        for ways in [vec![way, Tell], vec![Tell, way], vec![way, way, way, way], vec![Tell, Tell, way]] {
            if way == Await && ways.len() == 3 {
                continue;
            }
            let kit = TestKit::new();
            kit.allow_panics();
            let (among, probe) = hops(&kit);
            let count = ways.len();
            among[0].tell_with(Go { name: 7, ways, among }, &request(7)).unwrap();
            kit.run_until_idle();
            let mut heard = 0;
            while let Some(witnessed) = probe.try_msg() {
                heard += 1;
                assert_eq!(witnessed, Witnessed { name: 7, seen: whole(7) }, "by {way:?}");
            }
            assert!(heard > count, "{heard} of {count} by {way:?}");
        }
    }
}

#[test]
fn nobody_else_sees_a_request() {
    TestKit::check_seeds(0..60, |kit| {
        kit.allow_panics();
        let (among, probe) = hops(kit);
        let mut draws = kit.seed().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: usize| {
            draws = draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(draws >> 33).unwrap() % below
        };
        for name in 0..12 {
            let ways = (0..draw(6)).map(|_| WAYS[draw(WAYS.len())]).collect();
            let (to, go) = (among[draw(2)], Go { name, ways, among });
            match draw(4) {
                0 | 1 => to.tell(go).unwrap(),
                2 => to.tell_with(go, &request(100 + name)).unwrap(),
                _ => drop(to.ask(Go { name, ..go }).in_request(&request(100 + name)).wait()),
            }
            if name < 2 {
                continue;
            }
            // Names that were sent with one are known by it.
            while let Some(Witnessed { name, seen }) = probe.try_msg() {
                assert!(seen.is_none() || seen == whole(100 + name), "{name} saw {seen:?}");
            }
        }
        kit.run_until_idle();
        let mut last: std::collections::BTreeMap<u32, Seen> = std::collections::BTreeMap::new();
        while let Some(Witnessed { name, seen }) = probe.try_msg() {
            assert!(seen.is_none() || seen == whole(100 + name), "{name} saw {seen:?}");
            let before = last.insert(name, seen.clone());
            assert!(before.is_none_or(|before| before == seen), "{name} lost or found a request");
        }
    });
}

/// Asks on, with what time is left, after it has worked for a while.
struct Slow {
    next: Option<ActorRef<Slow>>,
    works: Duration,
    probe: Recipient<Worked>,
}
impl Actor for Slow {}

#[message(reply = u32)]
#[derive(Clone, Debug)]
struct Work(u32);

#[message]
#[derive(Debug, PartialEq)]
struct Worked(u32, Duration);

#[message]
struct Rested;

impl Handler<Rested> for Slow {
    fn handle(&mut self, _: Rested, _cx: &mut Context<Self>) {}
}

/// Answers after a while.
#[message]
struct For(Duration);

#[message]
struct Over;

struct Sleeper(Option<Reply<()>>);
impl Actor for Sleeper {}
impl DeferredHandler<For> for Sleeper {
    fn handle(&mut self, For(time): For, reply: Reply<()>, cx: &mut Context<Self>) {
        self.0 = Some(reply);
        cx.after(time, Over);
    }
}
impl Handler<Over> for Sleeper {
    fn handle(&mut self, _: Over, _cx: &mut Context<Self>) {
        if let Some(reply) = self.0.take() {
            reply.send(());
        }
    }
}

impl AsyncHandler<Work> for Slow {
    async fn handle(&mut self, Work(hops): Work, cx: &mut Context<Self>) -> u32 {
        let left = cx.request().and_then(|request| request.time_left()).unwrap_or_default();
        self.probe.tell_with(Worked(hops, left), &Request::new()).unwrap();
        let sleeper = cx.spawn(|| Sleeper(None)).unwrap();
        let _ = Request::new().attach(sleeper.ask(For(self.works))).await;
        drop(sleeper.stop());
        let Some(next) = self.next else { return hops };
        next.ask(Work(hops + 1)).deadline(LONG).await.unwrap_or(hops)
    }
}

#[test]
fn an_expired_chain_is_dropped_before_work_at_every_hop() {
    let kit = TestKit::new();
    let probe = kit.probe::<Worked>();
    let to = probe.recipient();
    let works = Duration::from_millis(400);
    let mut next = None;
    for shard in [0, 1, 1, 0] {
        next = Some(kit.engine().spawn_on(shard, move || Slow { next, works, probe: to }).unwrap());
    }
    let first = next.unwrap();
    // 4 hops of 400 ms: all of them, two of them, and the one that was under way.
    assert_eq!(first.ask(Work(1)).deadline(LONG).with_deadline(LONG).wait(), Ok(4));
    let mut lefts = Vec::new();
    while let Some(Worked(hop, left)) = probe.try_msg() {
        assert_eq!(hop as usize, lefts.len() + 1);
        lefts.push(left);
    }
    assert!(lefts.is_sorted_by(|one, next| *one > *next + works), "{lefts:?}");
    let ends = first.ask(Work(1)).with_deadline(Duration::from_millis(1000)).wait();
    assert_eq!(ends, Err(AskError::Unknown(Unknown::Deadline)));
    kit.run_until_idle();
    let mut hops = 0;
    while probe.try_msg().is_some() {
        hops += 1;
    }
    assert_eq!(hops, 3, "the fourth would have begun after 1,200 ms");
    // What waits in a mailbox meanwhile is dropped, and the asker told; a tell is counted.
    let stall = kit.stall(first);
    first.tell_with(Rested, &Request::new().with_deadline(works)).unwrap();
    let asked = kit.block_on(async {
        let ask = first.ask(Work(1)).deadline(LONG).with_deadline(works);
        ask.await
    });
    assert_eq!(asked, Err(AskError::Unknown(Unknown::Deadline)));
    drop(stall);
    kit.run_until_idle();
    assert_eq!(probe.try_msg(), None);
    // The tell came too late, and for the ask nobody waits any more.
    let stats = kit.engine().stats();
    assert_eq!(stats.iter().map(|shard| shard.expired).sum::<u64>(), 1);
    assert_eq!(stats.iter().map(|shard| shard.cancelled).sum::<u64>(), 1);
}

#[test]
fn the_deadline_of_a_chain_ends_an_ask_that_has_a_later_one_of_its_own() {
    for shard in [0, 1] {
        let kit = TestKit::new();
        let (hops, probe) = hops(&kit);
        let stuck = hops[shard];
        let stall = kit.stall(stuck);
        let asker = kit
            .spawn_on(0, {
                let to = probe.recipient();
                move || Hop(to)
            })
            .unwrap();
        let go = Go { name: 7, ways: vec![Way::Then], among: [stuck; 2] };
        let chain = Request::new().with_header("tenant", "7").unwrap().with_deadline(Duration::from_secs(1));
        asker.tell_with(go, &chain).unwrap();
        kit.advance(Duration::from_millis(998));
        assert!(probe.try_msg().is_some(), "it has asked");
        assert_eq!(probe.try_msg(), None, "and waits, on shard {shard}");
        kit.advance(Duration::from_millis(4));
        assert!(probe.try_msg().is_some(), "the chain is over, and so is the ask, on shard {shard}");
        drop(stall);
        kit.run_until_idle();
        assert_eq!(probe.try_msg(), None, "what was asked is dropped before work");
    }
}

#[test]
fn a_request_has_bounds_and_says_which_was_broken() {
    let long = "x".repeat(65);
    assert_eq!(Request::new().with_header("", "v").unwrap_err(), RequestError::Name);
    assert_eq!(Request::new().with_header("a b", "v").unwrap_err(), RequestError::Name);
    assert_eq!(Request::new().with_header(&long, "v").unwrap_err(), RequestError::Name);
    assert_eq!(Request::new().with_header("n", "line\n").unwrap_err(), RequestError::Value);
    assert_eq!(Request::new().with_header("n", &"x".repeat(513)).unwrap_err(), RequestError::Value);
    let mut request = Request::new();
    for number in 0..16 {
        request = request.with_header(&format!("n{number}"), "v").unwrap();
    }
    // The same name again is no other header.
    request = request.with_header("n3", "w").unwrap();
    assert_eq!((request.header("n3"), request.headers().len()), (Some("w"), 16));
    assert_eq!(request.with_header("n16", "v").unwrap_err(), RequestError::TooMany);
    let mut request = Request::new();
    for number in 0..4 {
        request = request.with_header(&format!("{number}"), &"x".repeat(500)).unwrap();
    }
    assert_eq!(request.with_header("4", &"x".repeat(60)).unwrap_err(), RequestError::TooMany);
    assert!("00-0-0-0".parse::<TraceParent>().is_err());
}

#[test]
fn scopes_nest_and_end() {
    let kit = TestKit::new();
    let (among, probe) = hops(&kit);
    let go = |name| Go { name, ways: Vec::new(), among };
    request(1).scope(|| {
        among[1].tell(go(1)).unwrap();
        request(2).scope(|| among[0].tell(go(2)).unwrap());
        among[0].tell(go(1)).unwrap();
    });
    assert_eq!(Request::current().map(|request| request.headers().len()), None);
    among[0].tell(go(3)).unwrap();
    kit.run_until_idle();
    let mut all = Vec::new();
    while let Some(Witnessed { name, seen }) = probe.try_msg() {
        assert_eq!(seen, if name == 3 { None } else { whole(name) });
        all.push(name);
    }
    all.sort_unstable();
    assert_eq!(all, [1, 1, 2, 3]);
}

/// Says what it sees, from either node; asks on along a list of keys.
struct Remote;
impl Actor for Remote {}
impl VirtualActor for Remote {
    const TYPE: &'static str = "test.remote";
    fn activate(_key: &str) -> Self {
        Self
    }
}

#[message(id = "test.visit", reply = Vec<String>)]
#[derive(Debug, Clone)]
struct Visit {
    keys: Vec<String>,
}

impl AsyncHandler<Visit> for Remote {
    async fn handle(&mut self, mut visit: Visit, cx: &mut Context<Self>) -> Vec<String> {
        let mut all = vec![seen(cx).map_or("nothing".to_owned(), |(tenant, timed, trace)| {
            format!("{tenant} {timed} {}", trace.unwrap_or_default())
        })];
        let Some(next) = visit.keys.pop() else { return all };
        match cx.actor::<Self>(next).ask(visit).deadline(LONG).await {
            Ok(more) => all.extend(more),
            Err(error) => all.push(error.to_string()),
        }
        all
    }
}

fn nodes(world: &SimWorld) -> [Engine; 2] {
    let nodes = [(A, "a"), (B, "b")].map(|(me, file)| {
        let builder = Engine::builder().register::<Remote>(|remote| remote.accept::<Visit, _>());
        let transport = shardstage_quic::Quic::new(quic("ca", file));
        builder.cluster(cluster("sim", me)).transport(transport).start_in_sim(world, me).unwrap()
    });
    let met = world.run_until(|_| nodes[0].peer(B).sessions == 2 && nodes[1].peer(A).sessions == 2, 10 * SECOND);
    assert!(met);
    nodes
}

#[test]
fn a_request_crosses_nodes_there_and_back() {
    let world = SimWorld::new(SimOptions::seeded(3));
    let nodes = nodes(&world);
    let key = |node: shardstage::NodeId, number: u32| {
        (number * 1000..)
            .map(|number| format!("key-{number}"))
            .find(|key| u32::from(nodes[0].actor::<Remote>(key.as_str()).slot().group().get()) % 2 == node.get())
            .unwrap()
    };
    // From a to b, back to a, to another of a, and to b.
    let keys = vec![key(B, 4), key(A, 3), key(A, 2)];
    let visit = || nodes[0].actor::<Remote>(key(B, 1)).ask(Visit { keys: keys.clone() });
    let expected = format!("blue true {TRACE}");
    for _ in 0..3 {
        let ask = visit().with_header("tenant", "blue").unwrap().with_deadline(LONG);
        let ask = ask.with_trace_parent(TRACE.parse().unwrap());
        let seen = world.block_on(ask, 70 * SECOND).unwrap().unwrap();
        assert_eq!(seen, vec![expected.clone(); 4]);
        // The next message on the same way is part of nothing.
        assert_eq!(world.block_on(visit(), 70 * SECOND).unwrap().unwrap(), vec!["nothing"; 4]);
    }
    // A deadline that is over at the first node is over at all.
    let late = visit().with_deadline(Duration::from_nanos(1));
    let late = world.block_on(late, 70 * SECOND).unwrap();
    assert!(
        matches!(late, Err(AskError::Rejected(Rejected::Expired) | AskError::Unknown(Unknown::Deadline))),
        "{late:?}"
    );
}
