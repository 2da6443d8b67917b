//! A watcher is told when another actor stops, and why; one that is gone already is reported at once.

use shardstage::ActorId;
use shardstage::prelude::*;

struct Worker;
impl Actor for Worker {}

#[message]
struct Work;

impl Handler<Work> for Worker {
    fn handle(&mut self, _: Work, _cx: &mut Context<Self>) {
        panic!("out of luck");
    }
}

#[derive(Default)]
struct Foreman {
    ends: Vec<String>,
}

impl Actor for Foreman {
    fn terminated(&mut self, _who: ActorId, reason: &StopReason, _cx: &mut Context<Self>) {
        self.ends.push(match reason {
            StopReason::Panicked(why) => format!("panicked: {why}"),
            other => format!("{other:?}"),
        });
    }
}

#[message]
struct Watch(ActorId);

impl Handler<Watch> for Foreman {
    fn handle(&mut self, Watch(worker): Watch, cx: &mut Context<Self>) {
        cx.watch(worker);
    }
}

#[message(reply = Vec<String>)]
struct Ends;

impl Handler<Ends> for Foreman {
    fn handle(&mut self, _: Ends, _cx: &mut Context<Self>) -> Vec<String> {
        self.ends.clone()
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let foreman = engine.spawn(Foreman::default)?;
    let (clumsy, tired) = (engine.spawn_once(|| Worker)?, engine.spawn(|| Worker)?);
    for worker in [clumsy.id(), tired.id()] {
        foreman.tell(Watch(worker))?;
    }
    foreman.ask(Ends).wait()?; // both watches are placed
    clumsy.tell(Work)?;
    clumsy.stopped().wait();
    tired.stop().wait();
    let mut ends = loop {
        let ends = foreman.ask(Ends).wait()?;
        if ends.len() == 2 {
            break ends;
        }
    };
    ends.sort();
    assert_eq!(ends, ["Stopped", "panicked: out of luck"]);
    engine.shutdown()
}
