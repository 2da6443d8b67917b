//! What lives in an engine: the fullest mailboxes, who waits for whom, and the same for a scraper over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;

use shardstage::introspect::Order;
use shardstage::prelude::*;

struct Philosopher {
    neighbour: Option<ActorRef<Self>>,
}
impl Actor for Philosopher {}

#[message]
struct Sit(ActorRef<Philosopher>);

impl Handler<Sit> for Philosopher {
    fn handle(&mut self, Sit(neighbour): Sit, _cx: &mut Context<Self>) {
        self.neighbour = Some(neighbour);
    }
}

#[message(reply = bool)]
struct Fork;

/// Gives the fork away when it has got its neighbour's: with everybody else doing the same, never.
impl AsyncHandler<Fork> for Philosopher {
    async fn handle(&mut self, _: Fork, _cx: &mut Context<Self>) -> bool {
        let neighbour = self.neighbour.expect("everybody sits");
        neighbour.ask(Fork).await.unwrap_or(false)
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::builder().introspection(0).start()?; // on a free port of the loopback address
    let table = (0..3).map(|_| engine.spawn(|| Philosopher { neighbour: None })).collect::<Result<Vec<_>, _>>()?;
    for (seat, philosopher) in table.iter().enumerate() {
        philosopher.ask(Sit(table[(seat + 1) % 3])).wait()?;
    }
    table[0].tell(Fork)?;

    let found = loop {
        let found = engine.introspect().of::<Philosopher>().order(Order::Suspended).waits().wait();
        if !found.cycles.is_empty() {
            break found;
        }
    };
    assert_eq!(found.cycles[0].len(), 3, "each waits for the next");
    assert!(found.actors.iter().all(|actor| actor.message.is_some_and(|message| message.ends_with("Fork"))));

    let address = engine.introspection_address().expect("it was asked for");
    let mut http = TcpStream::connect(address).expect("it listens");
    http.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it reads");
    let mut metrics = String::new();
    http.read_to_string(&mut metrics).expect("it answers");
    assert!(metrics.contains("shardstage_shard_actors{shard=\"0\"}"));
    drop(engine); // `shutdown` would wait for the philosophers
    Ok(())
}
