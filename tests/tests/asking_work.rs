//! Hazard: what an actor waits for while it goes on must come back as its turn, in order, bounded, and end with it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Waker};

use futures_core::Stream;
use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Directive, Failure, Panicked, Reentrancy, Resume, StreamEvent, ask_all, limits};
use support::Log;
use tokio::sync::oneshot;

/// A source of items that a test fills; counts how often it was asked and says when it is dropped.
#[derive(Clone, Default)]
struct Source(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    items: VecDeque<u64>,
    ended: bool,
    taken: usize,
    dropped: bool,
    waker: Option<Waker>,
}

impl Source {
    fn push(&self, items: impl IntoIterator<Item = u64>) {
        let mut inner = self.0.lock().unwrap();
        inner.items.extend(items);
        let waker = inner.waker.take();
        drop(inner);
        waker.into_iter().for_each(Waker::wake);
    }

    fn end(&self) {
        self.0.lock().unwrap().ended = true;
        self.push([]);
    }

    fn taken(&self) -> usize {
        self.0.lock().unwrap().taken
    }

    fn is_dropped(&self) -> bool {
        self.0.lock().unwrap().dropped
    }
}

struct Items(Source);

impl Stream for Items {
    type Item = u64;

    fn poll_next(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<u64>> {
        let mut inner = self.0.0.lock().unwrap();
        if let Some(item) = inner.items.pop_front() {
            inner.taken += 1;
            return Poll::Ready(Some(item));
        }
        if inner.ended {
            return Poll::Ready(None);
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().dropped = true;
    }
}

#[message]
struct Said(StreamEvent<u64>);

#[message]
struct Attach(Source);

#[message]
struct Each(Source);

#[message]
struct Fall;

/// Writes down what it hears.
struct Listener {
    heard: Log<String>,
}
impl Actor for Listener {}

impl Handler<Said> for Listener {
    fn handle(&mut self, said: Said, _cx: &mut Context<Self>) {
        self.heard.push(format!("{:?}", said.0));
    }
}

impl Handler<Attach> for Listener {
    fn handle(&mut self, Attach(source): Attach, cx: &mut Context<Self>) {
        cx.attach(Items(source), Said);
    }
}

impl Handler<Each> for Listener {
    fn handle(&mut self, Each(source): Each, cx: &mut Context<Self>) {
        cx.for_each(Items(source), |this, item, _| this.heard.push(format!("{item:?}")));
    }
}

impl Handler<Fall> for Listener {
    fn handle(&mut self, _: Fall, _cx: &mut Context<Self>) {
        panic!("it falls");
    }
}

fn listener(kit: &TestKit) -> (ActorRef<Listener>, Log<String>) {
    let heard = Log::new();
    let shared = heard.clone();
    let listener = kit.spawn_on(0, move || Listener { heard: shared.clone() }).unwrap();
    listener.started().wait().unwrap();
    (listener, heard)
}

#[test]
fn an_attached_stream_says_started_its_items_and_finished() {
    TestKit::check_seeds(0..10, |kit| {
        let ((listener, heard), source) = (listener(kit), Source::default());
        listener.tell(Attach(source.clone())).unwrap();
        kit.run_until_idle();
        source.push([1, 2]);
        kit.run_until_idle();
        source.push([3]);
        source.end();
        kit.run_until_idle();
        assert_eq!(heard.all(), ["Started", "Item(1)", "Item(2)", "Item(3)", "Finished"]);
        assert!(source.is_dropped(), "an ended stream is let go");
        let (each, source) = (heard.len(), Source::default());
        source.push([4, 5]);
        source.end();
        listener.tell(Each(source.clone())).unwrap();
        kit.run_until_idle();
        assert_eq!(heard.all()[each..], ["Some(4)", "Some(5)", "None"]);
        assert!(source.is_dropped());
    });
}

#[test]
fn a_full_mailbox_holds_the_stream_up() {
    TestKit::check_seeds(0..10, |kit| {
        let ((listener, heard), source) = (listener(kit), Source::default());
        listener.tell(Attach(source.clone())).unwrap();
        kit.run_until_idle();
        let stall = kit.stall(listener);
        let mut sent = 0;
        while listener.tell(Said(StreamEvent::Item(0))).is_ok() {
            sent += 1;
            kit.run_until_idle();
        }
        source.push(1..=1000);
        kit.run_until_idle();
        assert!(source.taken() <= 1, "no more than the one that waits for room");
        drop(stall);
        kit.run_until_idle();
        assert_eq!(heard.len(), 1 + sent + 1000);
        assert_eq!(heard.all().last().unwrap(), "Item(1000)");
    });
}

#[test]
fn an_attached_stream_ends_with_its_actor_and_with_its_rebuild() {
    TestKit::check_seeds(0..10, |kit| {
        kit.allow_panics();
        for falls in [false, true] {
            let ((listener, heard), source) = (listener(kit), Source::default());
            listener.tell(Attach(source.clone())).unwrap();
            kit.run_until_idle();
            assert!(!source.is_dropped());
            if falls {
                listener.tell(Fall).unwrap();
                kit.run_until_idle();
            } else {
                listener.stop().wait();
            }
            assert!(source.is_dropped(), "it waited for an item that nobody wants any more");
            source.push([1]);
            kit.run_until_idle();
            assert_eq!(heard.all(), ["Started"]);
        }
    });
}

/// Calls something that blocks until the test lets it go.
#[message]
struct Call {
    entered: Sender<()>,
    go: Receiver<u64>,
}

#[message]
struct CallPanics;

#[message(reply = u64)]
struct Free;

/// How many calls were handed back.
#[message(reply = usize)]
struct Flood(usize);

struct Caller {
    results: Sender<Result<u64, Panicked>>,
}
impl Actor for Caller {}

impl Handler<Call> for Caller {
    fn handle(&mut self, Call { entered, go }: Call, cx: &mut Context<Self>) {
        let call = move || {
            entered.send(()).unwrap();
            go.recv().unwrap_or(0)
        };
        cx.spawn_blocking(call).then(|this, result, _| drop(this.results.send(result))).unwrap();
    }
}

impl Handler<CallPanics> for Caller {
    fn handle(&mut self, _: CallPanics, cx: &mut Context<Self>) {
        let call = || -> u64 { panic!("the disk is gone") };
        cx.spawn_blocking(call).then(|this, result, _| drop(this.results.send(result))).unwrap();
    }
}

impl Handler<Free> for Caller {
    fn handle(&mut self, _: Free, _cx: &mut Context<Self>) -> u64 {
        1
    }
}

impl Handler<Flood> for Caller {
    fn handle(&mut self, Flood(calls): Flood, cx: &mut Context<Self>) -> usize {
        let refused = (0..calls).filter_map(|number| {
            let call = move || number as u64;
            let back = cx.spawn_blocking(call).then(|this, result, _| drop(this.results.send(result))).err()?;
            assert_eq!((back.0)(), number as u64, "the closure comes back");
            Some(())
        });
        refused.count()
    }
}

fn caller(engine: &Engine) -> (ActorRef<Caller>, Receiver<Result<u64, Panicked>>) {
    let (results, all) = channel();
    (engine.spawn_on(0, move || Caller { results: results.clone() }).unwrap(), all)
}

fn call(caller: ActorRef<Caller>) -> Sender<u64> {
    let ((entered, is_in), (hold, go)) = (channel(), channel());
    caller.tell(Call { entered, go }).unwrap();
    is_in.recv().unwrap();
    hold
}

#[test]
fn a_blocking_call_leaves_its_actor_free_and_comes_back_as_its_turn() {
    let engine = support::engine(1);
    let (caller, results) = caller(&engine);
    let hold = call(caller);
    assert_eq!(caller.ask(Free).wait(), Ok(1), "the shard and the actor go on");
    assert!(results.try_recv().is_err());
    hold.send(7).unwrap();
    assert_eq!(results.recv().unwrap(), Ok(7));
    caller.tell(CallPanics).unwrap();
    assert_eq!(results.recv().unwrap(), Err(Panicked("the disk is gone".into())));
    assert_eq!(caller.ask(Free).wait(), Ok(1), "a panic of the call is no panic of the actor");
    engine.shutdown().unwrap();
}

#[test]
fn a_full_pool_hands_the_closure_back() {
    let engine = support::engine(1);
    let (caller, results) = caller(&engine);
    let held: Vec<_> = (0..limits::BLOCKING_THREADS).map(|_| call(caller)).collect();
    let refused = caller.ask(Flood(limits::BLOCKING_QUEUE + 3)).wait().unwrap();
    assert_eq!(refused, 3);
    held.iter().for_each(|hold| hold.send(1).unwrap());
    for _ in 0..limits::BLOCKING_QUEUE + held.len() {
        results.recv().unwrap().unwrap();
    }
    assert_eq!(caller.ask(Flood(1)).wait(), Ok(0), "there is room again");
    results.recv().unwrap().unwrap();
    engine.shutdown().unwrap();
}

#[test]
fn a_call_whose_actor_is_gone_comes_back_to_nobody() {
    let engine = support::engine(1);
    let (caller, results) = caller(&engine);
    let hold = call(caller);
    caller.stop().wait();
    drop(hold);
    assert!(results.recv().is_err(), "the actor, its factory and the continuation are dropped; nothing came");
    engine.shutdown().unwrap();
}

#[test]
fn a_shutdown_waits_for_a_blocking_call() {
    let engine = support::engine(1);
    let (caller, results) = caller(&engine);
    let hold = call(caller);
    let shutdown = std::thread::spawn(move || engine.shutdown());
    while caller.ask(Free).wait().is_ok() {}
    // It has begun: nobody outside is listened to any more.
    hold.send(9).unwrap();
    shutdown.join().unwrap().unwrap();
    assert_eq!(results.recv(), Ok(Ok(9)));
}

#[test]
fn in_virtual_time_a_blocking_call_runs_at_once() {
    let kit = TestKit::new();
    let (caller, results) = caller(kit.engine());
    assert_eq!(caller.ask(Flood(100)).wait(), Ok(0));
    kit.run_until_idle();
    let all: Vec<_> = results.try_iter().map(Result::unwrap).collect();
    assert_eq!(all, (0..100).collect::<Vec<u64>>(), "in order");
}

/// Has a tokio runtime do something.
#[message]
struct OnTokio(tokio::runtime::Handle, Receiver<u64>);

impl Handler<OnTokio> for Caller {
    fn handle(&mut self, OnTokio(tokio, go): OnTokio, cx: &mut Context<Self>) {
        let job = tokio.spawn(async move {
            tokio::task::yield_now().await;
            tokio::task::spawn_blocking(move || go.recv().unwrap()).await.unwrap()
        });
        cx.reenter_after(job, |this, done, _| {
            drop(this.results.send(done.map_err(|error| Panicked(error.to_string().into()))));
        });
    }
}

#[test]
fn a_future_of_a_tokio_runtime_comes_back_as_a_turn() {
    let engine = support::engine(1);
    let (caller, results) = caller(&engine);
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (handle, (stop, stopped)) = (tokio.handle().clone(), tokio::sync::oneshot::channel::<()>());
    let runs = std::thread::spawn(move || drop(tokio.block_on(stopped)));
    let (hold, go) = channel();
    caller.tell(OnTokio(handle, go)).unwrap();
    assert_eq!(caller.ask(Free).wait(), Ok(1), "the actor is free meanwhile");
    hold.send(5).unwrap();
    assert_eq!(results.recv().unwrap(), Ok(5));
    engine.shutdown().unwrap();
    drop(stop);
    runs.join().unwrap();
}

/// Goes on with its state whatever happens.
struct Stubborn {
    heard: Log<String>,
    pauses: Sender<Resume>,
}

impl Actor for Stubborn {
    fn panicked(&mut self, _failure: &Failure, _cx: &mut Context<Self>) -> Directive {
        Directive::Resume
    }
}

/// Attach so many things at once: two streams, and between them something that does `what`.
#[message]
struct Among {
    before: Source,
    what: What,
    behind: Source,
}

#[derive(Clone, Copy)]
enum What {
    Panic,
    Stop,
    Suspend,
}

impl Handler<Among> for Stubborn {
    fn handle(&mut self, Among { before, what, behind }: Among, cx: &mut Context<Self>) {
        cx.for_each(Items(before), |this, item, _| this.heard.push(format!("before {item:?}")));
        cx.reenter_after(std::future::ready(()), move |this, (), cx| {
            this.heard.push("between".to_owned());
            match what {
                What::Panic => panic!("the hands slip"),
                What::Stop => cx.stop(),
                What::Suspend => this.pauses.send(cx.suspend()).unwrap(),
            }
        });
        cx.for_each(Items(behind), |this, item, _| this.heard.push(format!("behind {item:?}")));
        cx.reenter_after(std::future::ready(()), |this, (), _| this.heard.push("last".to_owned()));
    }
}

fn stubborn(kit: &TestKit, what: What) -> (Log<String>, [Source; 2], Receiver<Resume>) {
    let heard = Log::new();
    let (shared, sources) = (heard.clone(), [Source::default(), Source::default()]);
    let (pauses, paused) = channel();
    let stubborn = kit.spawn_on(0, move || Stubborn { heard: shared.clone(), pauses: pauses.clone() }).unwrap();
    for source in &sources {
        source.push([1, 2]);
        source.end();
    }
    let [before, behind] = sources.clone();
    stubborn.tell(Among { before, what, behind }).unwrap();
    kit.run_until_idle();
    (heard, sources, paused)
}

#[test]
fn a_panic_ends_only_the_work_that_panicked_where_the_actor_goes_on() {
    TestKit::check_seeds(0..10, |kit| {
        kit.allow_panics();
        let (heard, sources, _) = stubborn(kit, What::Panic);
        let of = |who: &str| heard.all().into_iter().filter(|line| line.starts_with(who)).collect::<Vec<_>>();
        assert_eq!(of("before"), ["before Some(1)", "before Some(2)", "before None"]);
        assert_eq!(of("behind"), ["behind Some(1)", "behind Some(2)", "behind None"]);
        assert_eq!((of("between").len(), of("last").len()), (1, 1));
        assert!(sources.iter().all(Source::is_dropped));
    });
}

#[test]
fn work_has_no_turn_once_its_actor_stops_or_is_suspended() {
    TestKit::check_seeds(0..10, |kit| {
        let (heard, sources, _) = stubborn(kit, What::Stop);
        assert_eq!(heard.all(), ["before Some(1)", "between"]);
        assert!(sources.iter().all(Source::is_dropped));

        let (heard, sources, paused) = stubborn(kit, What::Suspend);
        assert_eq!(heard.all(), ["before Some(1)", "between"]);
        assert!(!sources.iter().any(Source::is_dropped));
        drop(paused.recv().unwrap());
        kit.run_until_idle();
        let heard = heard.all();
        assert_eq!(heard.iter().filter(|line| line.starts_with("before")).count(), 3, "{heard:?}");
        assert_eq!(heard.iter().filter(|line| line.starts_with("behind")).count(), 3, "{heard:?}");
        assert_eq!(heard.last().map(String::as_str), Some("behind None"), "{heard:?}");
        assert!(heard.iter().any(|line| line == "last"), "{heard:?}");
    });
}

type Answers = Sender<Result<u64, AskError>>;

/// Asks itself and others in work beside its messages.
struct Host {
    answers: Answers,
}
impl Actor for Host {}

/// Asks itself.
#[message]
struct Muse(bool);

impl Handler<Muse> for Host {
    fn handle(&mut self, Muse(among_all): Muse, cx: &mut Context<Self>) {
        let me = cx.me();
        if among_all {
            let answer = async move { ask_all([me], Knock).await.remove(0) };
            cx.reenter_after(answer, |this, answer, _| this.answers.send(answer).unwrap());
        } else {
            cx.reenter_after(me.ask(Knock), |this, answer, _| this.answers.send(answer).unwrap());
        }
    }
}

#[message(reply = u64)]
#[derive(Clone)]
struct Knock;

impl Handler<Knock> for Host {
    fn handle(&mut self, _: Knock, _cx: &mut Context<Self>) -> u64 {
        1
    }
}

/// Keeps the host from its messages for a while.
#[message]
struct Doze(oneshot::Receiver<()>);

impl AsyncHandler<Doze> for Host {
    async fn handle(&mut self, Doze(up): Doze, _cx: &mut Context<Self>) {
        let _ = up.await;
    }
}

/// Has a guest ask back, while the host goes on.
#[message]
struct Invite(ActorRef<Guest>, Gate, bool);

impl Handler<Invite> for Host {
    fn handle(&mut self, Invite(guest, gate, among_all): Invite, cx: &mut Context<Self>) {
        let visit = Visit(cx.me(), gate);
        if among_all {
            let answer = async move { ask_all([guest], visit).await.remove(0)? };
            cx.reenter_after(answer, |this, answer, _| this.answers.send(answer).unwrap());
        } else {
            let answer = async move { guest.ask(visit).await? };
            cx.reenter_after(answer, |this, answer, _| this.answers.send(answer).unwrap());
        }
    }
}

type Gate = Arc<Mutex<Option<oneshot::Receiver<()>>>>;

/// Asks the host once the gate opens.
#[derive(Default)]
struct Guest;
impl Actor for Guest {}

#[message(reply = Result<u64, AskError>)]
#[derive(Clone)]
struct Visit(ActorRef<Host>, Gate);

impl AsyncHandler<Visit> for Guest {
    async fn handle(&mut self, Visit(host, gate): Visit, _cx: &mut Context<Self>) -> Result<u64, AskError> {
        let gate = gate.lock().unwrap().take().unwrap();
        let _ = gate.await;
        host.ask(Knock).await
    }
}

#[test]
fn an_ask_in_attached_work_is_nobodys_deadlock() {
    for among_all in [false, true] {
        TestKit::check_seeds(0..10, |kit| {
            let (answers, heard) = channel();
            let host = kit.engine().spawn_on(0, move || Host { answers: answers.clone() }).unwrap();
            host.tell(Muse(among_all)).unwrap();
            kit.run_until_idle();
            assert_eq!(heard.try_recv(), Ok(Ok(1)), "it asked itself, and was free to answer");

            let guest = kit.engine().spawn_on(0, Guest::default).unwrap();
            let ((open, gate), (rouse, up)) = (oneshot::channel::<()>(), oneshot::channel::<()>());
            host.tell(Invite(guest, Arc::new(Mutex::new(Some(gate))), among_all)).unwrap();
            kit.run_until_idle();
            host.tell(Doze(up)).unwrap();
            kit.run_until_idle();
            drop(open);
            kit.run_until_idle();
            assert!(heard.try_recv().is_err(), "it dozes, but not for the guest");
            drop(rouse);
            kit.run_until_idle();
            assert_eq!(heard.try_recv(), Ok(Ok(1)));
        });
    }
}

/// Lets nothing in while it waits for an answer.
struct Closed {
    heard: Log<&'static str>,
}

impl Actor for Closed {
    const REENTRANCY: Reentrancy = Reentrancy::Off;
}

/// Attach two things; the first asks.
#[message]
struct AskFirst(ActorRef<Host>);

impl Handler<AskFirst> for Closed {
    fn handle(&mut self, AskFirst(host): AskFirst, cx: &mut Context<Self>) {
        cx.reenter_after(std::future::ready(()), move |this, (), cx| {
            this.heard.push("asks");
            cx.ask(host, Knock).then(|this, _, _| this.heard.push("has its answer"));
        });
        cx.reenter_after(std::future::ready(()), |this, (), _| this.heard.push("goes on"));
    }
}

#[test]
fn work_waits_for_the_answer_that_work_before_it_asked_for() {
    TestKit::check_seeds(0..10, |kit| {
        let (heard, (answers, _)) = (Log::new(), channel());
        let shared = heard.clone();
        let host = kit.spawn_on(1, move || Host { answers: answers.clone() }).unwrap();
        let closed = kit.spawn_on(0, move || Closed { heard: shared.clone() }).unwrap();
        closed.tell(AskFirst(host)).unwrap();
        kit.run_until_idle();
        assert_eq!(heard.all(), ["asks", "has its answer", "goes on"]);
    });
}
