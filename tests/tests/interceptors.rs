//! Interceptors see what is received, sent and spawned, and nothing else changes; without them nothing is looked at.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, Interceptor, Outcome, Reason, Received, Request, Sent, Verdict};

/// Writes down what it sees; rejects and decorates what it is told to.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    rejects: Option<&'static str>,
    decorates: Option<&'static str>,
    name: &'static str,
}

impl Log {
    fn write(&self, line: String) {
        self.lines.lock().unwrap().push(format!("{}{line}", self.name));
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }
}

fn short(name: &str) -> &str {
    name.rsplit("::").next().unwrap_or(name)
}

impl Interceptor for Log {
    fn receive(&self, message: &Received<'_>) -> Verdict {
        let name = short(message.message);
        let tenant = message.request.and_then(|request| request.header("tenant")).unwrap_or("-");
        let from = if message.sender.is_some() { "an actor" } else { "nobody" };
        let kind = if message.is_ask { "ask" } else { "tell" };
        self.write(format!("{kind} {name} for {} by {from} of {tenant}", short(message.actor_type)));
        if self.rejects == Some(name) {
            return Verdict::Reject;
        }
        if self.decorates == Some(name) {
            let request = message.request.cloned().unwrap_or_default();
            return Verdict::HandleIn(request.with_header("tenant", "decorated").unwrap());
        }
        Verdict::Handle
    }

    fn handled(&self, message: &Received<'_>, outcome: Outcome) {
        self.write(format!("{} {outcome:?}", short(message.message)));
    }

    fn send(&self, message: &Sent<'_>) {
        assert!(message.to.is_some() && message.key.is_none());
        let kind = if message.is_ask { "asks" } else { "tells" };
        self.write(format!("{kind} {}", short(message.message)));
    }

    fn spawned(&self, _actor: ActorId, actor_type: &'static str) {
        self.write(format!("spawned {}", short(actor_type)));
    }
}

/// Passes messages on to the other.
struct Front(Option<ActorRef<Back>>);
impl Actor for Front {}
#[derive(Default)]
struct Back(u32);
impl Actor for Back {}

#[message(reply = u32)]
#[derive(Clone, Debug)]
struct Count;
#[message(reply = u32)]
#[derive(Clone, Debug)]
struct Both;
#[message]
#[derive(Clone, Debug)]
struct Note;
#[message]
#[derive(Clone, Debug)]
struct Boom;
#[message(reply = Option<String>)]
#[derive(Clone, Debug)]
struct Whose;

impl AsyncHandler<Both> for Front {
    async fn handle(&mut self, _: Both, _cx: &mut Context<Self>) -> u32 {
        let back = self.0.unwrap();
        back.tell(Note).unwrap();
        let first = back.ask(Count).await.unwrap();
        back.tell(Note).unwrap();
        first + back.ask(Count).await.unwrap()
    }
}
impl Handler<Note> for Front {
    fn handle(&mut self, _: Note, cx: &mut Context<Self>) {
        cx.ask(self.0.unwrap(), Count).then(|this, _, _| this.0.unwrap().tell(Note).unwrap());
    }
}
impl Handler<Boom> for Front {
    fn handle(&mut self, _: Boom, _cx: &mut Context<Self>) {
        panic!("planted in the test");
    }
}
impl Handler<Count> for Back {
    fn handle(&mut self, _: Count, cx: &mut Context<Self>) -> u32 {
        assert!(cx.request().is_none_or(|request| request.headers().len() > 0), "nobody's request shows");
        self.0 += 1;
        self.0
    }
}
impl Handler<Note> for Back {
    fn handle(&mut self, _: Note, _cx: &mut Context<Self>) {}
}
impl Handler<Whose> for Back {
    fn handle(&mut self, _: Whose, cx: &mut Context<Self>) -> Option<String> {
        Some(cx.request()?.header("tenant")?.to_owned())
    }
}

fn pair(kit: &TestKit) -> (ActorRef<Front>, ActorRef<Back>) {
    let back = kit.engine().spawn_on(1, Back::default).unwrap();
    let front = kit.engine().spawn_on(0, move || Front(Some(back))).unwrap();
    kit.run_until_idle();
    (front, back)
}

fn intercepted(logs: &[Log]) -> TestKit {
    let logs = logs.to_vec();
    let kit = TestKit::builder().engine(move |mut engine| {
        for log in logs.clone() {
            engine = engine.intercept_actor::<Front>(log);
        }
        engine
    });
    kit.start()
}

#[test]
fn an_intercepted_type_is_seen_whole_and_others_are_not() {
    let log = Log::default();
    let kit = intercepted(std::slice::from_ref(&log));
    let (front, back) = pair(&kit);
    assert_eq!(log.take(), ["spawned Front"]);
    assert_eq!(front.ask(Both).wait(), Ok(3));
    assert_eq!(
        log.take(),
        ["ask Both for Front by nobody of -", "tells Note", "asks Count", "Both Waits", "tells Note", "asks Count"]
    );
    front.tell_with(Note, &Request::new().with_header("tenant", "blue").unwrap()).unwrap();
    kit.run_until_idle();
    assert_eq!(log.take(), ["tell Note for Front by nobody of blue", "asks Count", "Note Handled", "tells Note"]);
    back.tell(Note).unwrap();
    kit.run_until_idle();
    assert_eq!(log.take(), [""; 0]);
}

#[test]
fn what_is_rejected_is_counted_and_its_asker_told() {
    let log = Log { rejects: Some("Both"), ..Log::default() };
    let kit = intercepted(std::slice::from_ref(&log));
    let (front, back) = pair(&kit);
    assert_eq!(front.ask(Both).wait(), Err(AskError::Rejected(Rejected::NoHandler)));
    front.tell(Both).unwrap();
    kit.run_until_idle();
    for _ in 0..2 {
        kit.expect_dead_letter(|letter| letter.reason == Reason::NoHandler && letter.receiver == Some(front.id()));
    }
    assert_eq!(back.ask(Count).wait(), Ok(1), "nothing was sent on");
    assert_eq!(
        log.take(),
        ["spawned Front", "ask Both for Front by nobody of -", "tell Both for Front by nobody of -"]
    );
}

#[test]
fn a_panic_is_an_outcome_and_the_next_message_is_seen_too() {
    let log = Log::default();
    let kit = intercepted(std::slice::from_ref(&log));
    kit.allow_panics();
    let (front, _) = pair(&kit);
    for _ in 0..2 {
        front.tell(Boom).unwrap();
    }
    kit.run_until_idle();
    let lines = log.take();
    assert_eq!(lines[1..], ["tell Boom for Front by nobody of -", "Boom Panicked"].repeat(2));
    assert_eq!(front.ask(Both).wait(), Ok(3));
}

#[test]
fn interceptors_nest_in_their_order() {
    let lines = Arc::default();
    let logs = ["1 ", "2 "].map(|name| Log { name, lines: Arc::clone(&lines), ..Log::default() });
    let kit = intercepted(&logs);
    let (front, _) = pair(&kit);
    logs[0].take();
    front.tell(Note).unwrap();
    kit.run_until_idle();
    let seen = logs[0].take();
    let at = |line: &str| seen.iter().position(|seen| seen == line).unwrap_or_else(|| panic!("{line} in {seen:?}"));
    assert!(at("1 tell Note for Front by nobody of -") < at("2 tell Note for Front by nobody of -"));
    assert!(at("1 asks Count") < at("2 asks Count"));
    assert!(at("2 Note Handled") < at("1 Note Handled"));
}

#[test]
fn an_interceptor_decorates_what_travels_on() {
    let log = Log { decorates: Some("Whose"), ..Log::default() };
    let to = log.clone();
    let kit = TestKit::builder().engine(move |engine| engine.intercept_actor::<Back>(to.clone())).start();
    let (_, back) = pair(&kit);
    assert_eq!(back.ask(Whose).wait(), Ok(Some("decorated".to_owned())));
    let blue = Request::new().with_header("tenant", "blue").unwrap();
    assert_eq!(back.ask(Whose).in_request(&blue).wait(), Ok(Some("decorated".to_owned())));
    assert_eq!(back.ask(Count).wait(), Ok(1), "the next message is part of nothing");
}

#[test]
fn an_interceptor_that_panics_changes_nothing() {
    struct Broken;
    impl Interceptor for Broken {
        fn receive(&self, _: &Received<'_>) -> Verdict {
            panic!("planted in the test")
        }
        fn handled(&self, _: &Received<'_>, _: Outcome) {
            panic!("planted in the test")
        }
        fn send(&self, _: &Sent<'_>) {
            panic!("planted in the test")
        }
        fn spawned(&self, _: ActorId, _: &'static str) {
            panic!("planted in the test")
        }
    }
    let kit = TestKit::builder().engine(|engine| engine.intercept(Broken)).start();
    kit.allow_panics();
    let (front, back) = pair(&kit);
    assert_eq!(front.ask(Both).wait(), Ok(3));
    assert_eq!(back.ask(Count).wait(), Ok(3));
}
