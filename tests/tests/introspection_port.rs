//! Hazard: the introspection port shows what no scraper can read, falls to what anybody may send to it, or keeps an engine busy.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use shardstage::prelude::*;
use shardstage::{EngineBuilder, StartError};
use shardstage_tests::kit_actors::{Add, Counter};

mod support;
use support::{config, start_built};

fn open(builder: EngineBuilder) -> (Engine, SocketAddr) {
    let engine = start_built(builder.config(config(2)).introspection(0)).unwrap();
    let address = engine.introspection_address().unwrap();
    assert!(address.ip().is_loopback());
    (engine, address)
}

/// Sends these bytes and nothing more; everything that comes back.
fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    // A port that has refused already may have closed: what it said counts.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// A page's status, headers and body, whose length must be what was announced.
fn get(address: SocketAddr, target: &str) -> (String, BTreeMap<String, String>, String) {
    let answer = exchange(address, format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    let headers: BTreeMap<_, _> = headers
        .lines()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(n, v)| (n.to_lowercase(), v.to_owned()))
        .collect();
    assert_eq!(headers["content-length"].parse(), Ok(body.len()));
    assert_eq!(headers["connection"], "close");
    (status.strip_prefix("HTTP/1.1 ").unwrap().to_owned(), headers, body.to_owned())
}

fn ok(address: SocketAddr, target: &str) -> String {
    let (status, _, body) = get(address, target);
    assert_eq!(status, "200 OK", "{target}: {body}");
    body
}

/// As much JSON as there is.
#[derive(Debug, Clone, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    fn parse(text: &str) -> Self {
        let mut rest = text;
        let value = Self::value(&mut rest);
        assert_eq!(rest.trim(), "", "behind the value");
        value
    }

    fn eat(rest: &mut &str, token: &str) -> bool {
        let found = rest.strip_prefix(token);
        *rest = found.unwrap_or(rest);
        found.is_some()
    }

    fn value(rest: &mut &str) -> Self {
        for (token, value) in [("null", Self::Null), ("true", Self::Bool(true)), ("false", Self::Bool(false))] {
            if Self::eat(rest, token) {
                return value;
            }
        }
        if rest.starts_with('"') {
            return Self::Text(Self::text(rest));
        }
        if Self::eat(rest, "[") {
            let mut list = Vec::new();
            while !Self::eat(rest, "]") {
                assert!(list.is_empty() || Self::eat(rest, ","), "{rest}");
                list.push(Self::value(rest));
            }
            return Self::List(list);
        }
        if Self::eat(rest, "{") {
            let mut object = BTreeMap::new();
            while !Self::eat(rest, "}") {
                assert!(object.is_empty() || Self::eat(rest, ","), "{rest}");
                let key = Self::text(rest);
                assert!(Self::eat(rest, ":"), "{rest}");
                assert!(object.insert(key, Self::value(rest)).is_none(), "a key twice");
            }
            return Self::Object(object);
        }
        let end = rest.find(|c: char| !"+-.eE0123456789".contains(c)).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(end);
        *rest = behind;
        Self::Number(number.parse().unwrap_or_else(|_| panic!("{number:?} before {behind}")))
    }

    fn text(rest: &mut &str) -> String {
        assert!(Self::eat(rest, "\""), "{rest}");
        let mut out = String::new();
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    *rest = &rest[at + 1..];
                    return out;
                }
                '\\' => match chars.next().unwrap().1 {
                    'u' => {
                        let digits: String = (0..4).map(|_| chars.next().unwrap().1).collect();
                        out.push(char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap());
                    }
                    plain @ ('"' | '\\' | '/') => out.push(plain),
                    other => panic!("\\{other}"),
                },
                '\0'..' ' => panic!("a control character"),
                _ => out.push(c),
            }
        }
        panic!("a text without an end");
    }

    fn at(&self, key: &str) -> &Self {
        let Self::Object(object) = self else { panic!("{self:?} is no object") };
        object.get(key).unwrap_or_else(|| panic!("no {key} in {object:?}"))
    }

    fn list(&self) -> &[Self] {
        let Self::List(list) = self else { panic!("{self:?} is no list") };
        list
    }

    fn number(&self) -> f64 {
        let Self::Number(number) = self else { panic!("{self:?} is no number") };
        *number
    }

    fn str(&self) -> &str {
        let Self::Text(text) = self else { panic!("{self:?} is no text") };
        text
    }
}

/// Samples by name with labels, after everything was checked that a scraper would stumble over.
fn scrape(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let (mut samples, mut families) = (BTreeMap::new(), BTreeMap::new());
    let (mut helped, mut family) = (BTreeSet::new(), String::new());
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(helped.insert(name.to_owned()) && !help.is_empty() && !help.contains(['[', '`']), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(is_name(name) && helped.contains(name), "{line}");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} in two places");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(matches!(kind, "counter" | "gauge"), "{line}");
            name.clone_into(&mut family);
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap();
            assert_eq!(name, family, "each family's samples stand together");
            let mut labels = labels.strip_suffix('}').unwrap();
            while !labels.is_empty() {
                let (label, rest) = labels.split_once("=\"").unwrap();
                assert!(is_name(label.trim_start_matches(',')), "{line}");
                let mut escaped = false;
                let end = rest.find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                });
                labels = &rest[end.unwrap() + 1..];
            }
            let value: f64 = value.parse().unwrap();
            assert!(value >= 0.0 && samples.insert(series.to_owned(), value).is_none(), "{line}");
        }
    }
    samples
}

#[test]
fn a_scraper_reads_every_counter() {
    let (engine, address) = open(Engine::builder());
    let counters: Vec<_> = (0..2).map(|shard| engine.spawn_on(shard, Counter::default).unwrap()).collect();
    for _ in 0..10 {
        assert!(counters.iter().all(|counter| counter.ask(Add(1)).wait().is_ok()));
    }
    let stopped = engine.spawn(Counter::default).unwrap();
    stopped.stop().wait();
    // What is published at the end of a turn is not there at once.
    let samples = loop {
        let (status, headers, body) = get(address, "/metrics");
        assert_eq!(
            (status.as_str(), headers["content-type"].as_str()),
            ("200 OK", "text/plain; version=0.0.4; charset=utf-8")
        );
        let samples = scrape(&body);
        let handled = |shard: u16| samples[&format!("shardstage_shard_handled_total{{shard=\"{shard}\"}}")];
        if handled(0) >= 10.0 && handled(1) >= 10.0 {
            break samples;
        }
    };
    assert!(samples.keys().filter(|name| name.contains("shard=\"1\"")).count() >= 20, "{samples:?}");
    assert!(samples["shardstage_shard_busy_seconds_total{shard=\"0\"}"] < 60.0, "seconds, not nanoseconds");
    assert!(samples["shardstage_shard_elapsed_seconds{shard=\"0\"}"] > 0.0);
    assert_eq!(samples["shardstage_dead_letters_total{reason=\"no_handler\"}"], 0.0);
    assert_eq!(samples.keys().filter(|name| name.starts_with("shardstage_build_info{version=\"")).count(), 1);
    engine.shutdown().unwrap();
}

#[test]
fn actors_shards_and_waits_are_json() {
    struct Quote;
    impl Actor for Quote {}
    impl VirtualActor for Quote {
        const TYPE: &'static str = "introspection-port.quote";
        fn activate(_key: &str) -> Self {
            Self
        }
    }
    #[message(id = "introspection-port.say", reply = u32)]
    struct Say;
    impl Handler<Say> for Quote {
        fn handle(&mut self, _: Say, _cx: &mut Context<Self>) -> u32 {
            7
        }
    }
    let (engine, address) = open(Engine::builder().register::<Quote>(|quote| quote.accept::<Say, _>()));
    let key = "\"\\\n\u{1}ü</script>";
    assert_eq!(engine.actor::<Quote>(key).ask(Say).wait(), Ok(7));
    let counters: Vec<_> = (0..25).map(|_| engine.spawn(Counter::default).unwrap()).collect();
    assert!(counters.iter().all(|counter| counter.ask(Add(1)).wait().is_ok()));

    let page = Json::parse(&ok(address, "/actors?type=Quote"));
    let [quote] = page.at("actors").list() else { panic!("{page:?}") };
    assert_eq!((quote.at("key").str(), quote.at("state").str()), (key, "idle"));
    assert_eq!((page.at("live").number(), page.at("matching").number()), (26.0, 1.0));
    assert_eq!((page.at("whole"), page.at("next")), (&Json::Bool(true), &Json::Null));
    assert_eq!(page.at("types").list().len(), 2);

    // Page by page.
    let (mut seen, mut after) = (BTreeSet::new(), String::new());
    loop {
        let page = Json::parse(&ok(address, &format!("/actors?limit=10&type=%43ounter{after}")));
        for actor in page.at("actors").list() {
            assert!(seen.insert(actor.at("id").str().to_owned()));
        }
        let Json::Text(next) = page.at("next") else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen.len(), 25);
    assert_eq!(Json::parse(&ok(address, "/actors?order=queued&limit=3")).at("actors").list().len(), 3);

    let page = Json::parse(&ok(address, "/shards"));
    let shards = page.at("shards").list();
    assert_eq!(shards.len(), 2);
    for (number, shard) in (0..).zip(shards) {
        assert_eq!(shard.at("shard").number(), f64::from(number));
        assert_eq!((shard.at("answered"), shard.at("stuck")), (&Json::Bool(true), &Json::Null));
        assert!((0.0..=1.0).contains(&shard.at("busy_share").number()) && shard.at("turns").number() >= 1.0);
    }
    let page = Json::parse(&ok(address, "/waits"));
    assert_eq!((page.at("waits").list().len(), page.at("cycles").list().len()), (0, 0));
    assert_eq!(ok(address, "/healthz"), "ok\n");
    assert!(ok(address, "/").contains("/metrics"));
    engine.shutdown().unwrap();
}

/// Answers nothing before the test lets go.
#[derive(Default)]
struct Silent {
    owed: Vec<Reply<()>>,
}
impl Actor for Silent {}

#[message]
struct Never;
impl DeferredHandler<Never> for Silent {
    fn handle(&mut self, _: Never, reply: Reply<()>, _cx: &mut Context<Self>) {
        self.owed.push(reply);
    }
}

#[message(reply = usize)]
struct Owed;
impl Handler<Owed> for Silent {
    fn handle(&mut self, _: Owed, _cx: &mut Context<Self>) -> usize {
        self.owed.len()
    }
}

#[message]
struct LetGo;
impl Handler<LetGo> for Silent {
    fn handle(&mut self, _: LetGo, _cx: &mut Context<Self>) {
        self.owed.drain(..).for_each(|reply| reply.send(()));
    }
}

/// Asks without waiting.
#[derive(Default)]
struct Asker;
impl Actor for Asker {}

#[message]
struct Ask(ActorRef<Silent>, u32);
impl Handler<Ask> for Asker {
    fn handle(&mut self, Ask(silent, times): Ask, cx: &mut Context<Self>) {
        for _ in 0..times {
            cx.ask(silent, Never).deadline(std::time::Duration::from_secs(3600)).then(|_, _, _| ());
        }
    }
}

#[test]
fn a_page_of_waits_is_bounded_and_says_that_it_was_cut() {
    let (engine, address) = open(Engine::builder());
    let silent = engine.spawn_on(0, Silent::default).unwrap();
    let asker = engine.spawn_on(0, Asker::default).unwrap();
    asker.tell(Ask(silent, 150)).unwrap();
    while silent.ask(Owed).wait() != Ok(150) {
        std::thread::yield_now();
    }
    let shown = |target: &str| {
        let page = Json::parse(&ok(address, target));
        assert_eq!(page.at("whole"), &Json::Bool(true));
        (page.at("waits").list().len(), page.at("cut") == &Json::Bool(true), page.at("waiting").number())
    };
    assert_eq!(shown("/waits"), (100, true, 150.0));
    assert_eq!(shown("/waits?limit=10"), (10, true, 150.0));
    assert_eq!(shown("/waits?limit=150"), (150, false, 150.0));
    assert_eq!(shown("/waits?limit=999999"), (150, false, 150.0));
    assert_eq!(get(address, "/waits?limit=all").0, "400 Bad Request");
    assert_eq!(get(address, "/waits?type=Silent").0, "400 Bad Request");
    silent.tell(LetGo).unwrap();
    engine.shutdown().unwrap();
}

#[test]
fn what_is_wrong_is_refused_by_status() {
    let (engine, address) = open(Engine::builder());
    for (target, status) in [
        ("/nowhere", "404 Not Found"),
        ("/actors?limit=many", "400 Bad Request"),
        ("/actors?order=best", "400 Bad Request"),
        ("/actors?after=9/1.1", "400 Bad Request"),
        ("/actors?after=0/1", "400 Bad Request"),
        ("/actors?colour=red", "400 Bad Request"),
    ] {
        assert_eq!(get(address, target).0, status, "{target}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(9000));
    let endless = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}", "X-A: b\r\n".repeat(200_000));
    for (bytes, status) in [
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "405 "),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421 "),
        ("GET /metrics HTTP/1.1\r\n\r\n", "400 "),
        ("GET /metrics HTTP/3.0\r\nHost: localhost\r\n\r\n", "505 "),
        ("GET /met", "400 "),
        ("\r\n\r\n", "400 "),
        ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n", "400 "),
        (&long, "431 "),
        (&endless, "431 "),
    ] {
        let answer = exchange(address, bytes.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{:?}: {answer:?}", &bytes[..bytes.len().min(40)]);
    }
    // The head of an answer without its body.
    let head = exchange(address, b"HEAD /healthz HTTP/1.0\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n")
    );
    engine.shutdown().unwrap();
}

#[test]
fn clients_that_say_nothing_keep_only_themselves_waiting() {
    let (engine, address) = open(Engine::builder());
    let counter = engine.spawn(Counter::default).unwrap();
    let mut slow: Vec<TcpStream> = Vec::new();
    let refused = loop {
        let mut stream = TcpStream::connect(address).unwrap();
        if slow.len() >= 16 {
            break exchange(address, b"GET /healthz HTTP/1.0\r\n\r\n");
        }
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc").unwrap();
        slow.push(stream);
    };
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert_eq!(counter.ask(Add(1)).wait(), Ok(1));
    // Each is told that its time is over; a byte now and then does not buy more of it.
    for stream in &mut slow {
        let _ = stream.write_all(b"a");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    }
    drop(slow);
    while get(address, "/healthz").0 != "200 OK" {}
    engine.shutdown().unwrap();
}

#[test]
fn a_stuck_shard_is_not_healthy_and_the_port_says_whose_fault_it_is() {
    struct Blocker(std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>);
    impl Actor for Blocker {}
    #[message]
    struct Block;
    impl Handler<Block> for Blocker {
        fn handle(&mut self, _: Block, _cx: &mut Context<Self>) {
            self.1.send(()).unwrap();
            let _ = self.0.recv();
        }
    }
    let (engine, address) = open(Engine::builder());
    let (go, gate) = std::sync::mpsc::channel();
    let (begun, begins) = std::sync::mpsc::channel();
    let blocker = engine.spawn_once(move || Blocker(gate, begun)).unwrap();
    assert_eq!(get(address, "/healthz").0, "200 OK");
    let named = loop {
        blocker.tell(Block).unwrap();
        begins.recv().unwrap();
        let (status, _, body) = get(address, "/healthz");
        assert_eq!(status, "503 Service Unavailable");
        assert!(body.starts_with("shard 0"), "{body}");
        // Whoever looks for the culprit may be late; then another message is to blame.
        if !body.contains("does not answer") {
            break body;
        }
        go.send(()).unwrap();
    };
    assert!(named.contains("::Blocker has handled ") && named.contains("::Block for "), "{named}");
    let page = Json::parse(&ok(address, "/shards"));
    let stuck = page.at("shards").list()[0].at("stuck");
    assert!(stuck.at("message").str().ends_with("::Block") && stuck.at("running_seconds").number() > 0.0);
    drop(go);
    while get(address, "/healthz").0 != "200 OK" {}
    engine.shutdown().unwrap();
}

#[test]
fn the_port_is_closed_unless_it_is_asked_for_and_after_the_end() {
    let engine = start_built(Engine::builder().config(config(1))).unwrap();
    assert_eq!(engine.introspection_address(), None);
    engine.shutdown().unwrap();
    let (engine, address) = open(Engine::builder());
    // An address that is taken refuses the start.
    let mut taken = config(1);
    taken.introspection = Some(address);
    let refused = start_built(Engine::builder().config(taken));
    assert!(matches!(&refused, Err(StartError::Introspection(_))), "{refused:?}");
    engine.shutdown().unwrap();
    assert!(TcpStream::connect(address).is_err());
    let (engine, address) = open(Engine::builder());
    drop(engine);
    assert!(TcpStream::connect(address).is_err());
}
