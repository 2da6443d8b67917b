//! A supervisor and its children: who restarts with whom, how often, after what wait, and what happens when that is not enough.
//! On virtual time here, so that the waits take none; `cargo run --example supervision`

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Backoff, BoxError, ChildSpec, Directive, Failure, Supervision};

/// Fetches pages; a bad address panics.
#[derive(Default)]
struct Fetcher {
    fetched: u32,
}
impl Actor for Fetcher {}

#[message(reply = u32)]
struct Fetch(&'static str);

impl Handler<Fetch> for Fetcher {
    fn handle(&mut self, fetch: Fetch, _: &mut Context<Self>) -> u32 {
        assert!(fetch.0.starts_with("https://"), "bad address {}", fetch.0);
        self.fetched += 1;
        self.fetched
    }
}

#[derive(Default)]
struct Crawler {
    fetchers: Vec<ActorRef<Fetcher>>,
    failures: Vec<String>,
}

impl Actor for Crawler {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        for _ in 0..2 {
            self.fetchers.push(cx.spawn_with(ChildSpec::permanent(), Fetcher::default)?);
        }
        Ok(())
    }

    fn supervision(&self) -> Supervision {
        let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(30));
        Supervision::one_for_one().at_most(3, Duration::from_secs(60)).backoff(backoff)
    }

    fn child_failed(&mut self, failure: &Failure, taken: Directive, _: &mut Context<Self>) {
        self.failures.push(format!("{taken:?}: {}", failure.text)); // also who, which message, from whom
    }
}

#[message(reply = (Vec<ActorRef<Fetcher>>, Vec<String>))]
struct Report;

impl Handler<Report> for Crawler {
    fn handle(&mut self, _: Report, _: &mut Context<Self>) -> (Vec<ActorRef<Fetcher>>, Vec<String>) {
        (self.fetchers.clone(), self.failures.clone())
    }
}

fn main() -> shardstage::Result<()> {
    let kit = TestKit::new();
    kit.allow_panics();
    let crawler = kit.spawn(Crawler::default)?;
    let fetchers = crawler.ask(Report).wait()?.0;
    assert_eq!(fetchers[0].ask(Fetch("https://a")).wait()?, 1);
    assert_eq!(fetchers[0].ask(Fetch("https://a")).wait()?, 2);
    assert!(matches!(fetchers[0].ask(Fetch("gopher://b")).wait(), Err(AskError::Failed(_))));
    // The same reference; what is sent during the wait of a second is kept, and answered by a fresh state.
    assert_eq!(fetchers[0].ask(Fetch("https://a")).wait()?, 1);
    assert_eq!(crawler.ask(Report).wait()?.1, ["Restart: bad address gopher://b"]);
    for _ in 0..3 {
        let _ = fetchers[0].ask(Fetch("gopher://b")).deadline(Duration::from_secs(20)).wait();
    }
    kit.run_until_idle();
    // The fourth failure within a minute was too many: the crawler itself was restarted, with new fetchers.
    assert_ne!(crawler.ask(Report).wait()?.0, fetchers);
    Ok(())
}
