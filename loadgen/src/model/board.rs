//! `Board`: an airport's board. It asks the four squares around the airport who is near.

use std::cell::RefCell;
use std::rc::Rc;

use shardstage::prelude::*;

use super::messages::{Near, Show};
use super::{Area, area_key, split_key};
use crate::geo::{Position, Square};
use crate::protocol::PhaseName;

/// The board of one airport.
pub struct Board {
    phase: PhaseName,
}

impl Actor for Board {}

impl VirtualActor for Board {
    const TYPE: &'static str = "traffic.board";

    fn activate(key: &str) -> Self {
        Self { phase: split_key(key).0 }
    }
}

struct Survey {
    reply: Option<Reply<Result<u32, String>>>,
    answer: Result<u32, String>,
    missing: usize,
}

impl DeferredHandler<Show> for Board {
    fn handle(&mut self, show: Show, reply: Reply<Result<u32, String>>, cx: &mut Context<Self>) {
        let Show { latitude, longitude } = show;
        let squares = Square::around(Position { latitude: f64::from(latitude), longitude: f64::from(longitude) });
        let survey = Rc::new(RefCell::new(Survey { reply: Some(reply), answer: Ok(0), missing: squares.len() }));
        for square in squares {
            let survey = Rc::clone(&survey);
            let area = cx.actor::<Area>(area_key(self.phase, square));
            cx.ask(&area, Near { latitude, longitude }).then(move |_, near, _| {
                let mut survey = survey.borrow_mut();
                match near {
                    Ok(near) => survey.answer = survey.answer.clone().map(|sum| sum + near),
                    Err(error) => survey.answer = Err(error.to_string()),
                }
                survey.missing -= 1;
                if survey.missing == 0
                    && let Some(reply) = survey.reply.take()
                {
                    reply.send(survey.answer.clone());
                }
            });
        }
    }
}
