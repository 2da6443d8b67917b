//! A state machine: a connection that puts what is sent aside until it is up, and goes down when nobody uses it.

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::{Behaviours, StateTimeout};

const IDLE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Down,
    Connecting,
    Up,
}

struct Connection {
    state: Behaviours<State>,
    sent: Vec<u32>,
}
impl Actor for Connection {}

#[message]
struct Send(u32);
#[message]
struct Connected;
#[message(reply = (State, Vec<u32>))]
struct Report;

impl Handler<Send> for Connection {
    fn handle(&mut self, send: Send, cx: &mut Context<Self>) {
        match *self.state.current() {
            State::Up => {
                self.sent.push(send.0);
                self.state.timeout(IDLE, cx); // begins anew with each use
            }
            State::Connecting => cx.stash(send).expect("fewer than a mailbox holds"),
            State::Down => {
                self.state.become_(State::Connecting, cx);
                cx.stash(send).expect("the first");
                cx.after(Duration::from_millis(5), Connected);
            }
        }
    }
}

impl Handler<Connected> for Connection {
    fn handle(&mut self, _: Connected, cx: &mut Context<Self>) {
        self.state.become_(State::Up, cx);
        cx.unstash(); // comes before whatever is in the mailbox
    }
}

impl Handler<StateTimeout> for Connection {
    fn handle(&mut self, timeout: StateTimeout, cx: &mut Context<Self>) {
        if self.state.is_due(timeout) {
            self.state.become_(State::Down, cx);
        }
    }
}

impl Handler<Report> for Connection {
    fn handle(&mut self, _: Report, _cx: &mut Context<Self>) -> (State, Vec<u32>) {
        (*self.state.current(), self.sent.clone())
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let connection = engine.spawn(|| Connection { state: Behaviours::new(State::Down), sent: Vec::new() })?;
    for number in 0..5 {
        connection.tell(Send(number))?;
    }
    while connection.ask(Report).wait()?.1.len() < 5 || connection.ask(Report).wait()?.0 != State::Down {}
    assert_eq!(connection.ask(Report).wait()?, (State::Down, vec![0, 1, 2, 3, 4]));
    engine.shutdown()
}
