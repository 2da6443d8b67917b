//! A handler that reads a wire message in place: no list is rebuilt, no text is copied.

use shardstage::ArchivedHandler;
use shardstage::prelude::*;

#[message(id = "example.track", version = 1, reply = f64)]
struct Track {
    name: String,
    speeds: Vec<f64>,
}

/// Archives are validated once, before the handler gets the view.
struct Radar;
impl Actor for Radar {}

impl ArchivedHandler<Track> for Radar {
    fn handle(&mut self, track: &ArchivedTrack, _cx: &mut Context<Self>) -> f64 {
        if track.name.is_empty() {
            return 0.0;
        }
        track.speeds.iter().map(|speed| speed.to_native()).fold(0.0, f64::max)
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let radar = engine.spawn(|| Radar)?;
    let track = Track { name: "LH400".to_owned(), speeds: vec![120.0, 240.5, 180.0] };
    assert_eq!(radar.ask(track).wait()?, 240.5);
    engine.shutdown()
}
