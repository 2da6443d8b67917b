//! State that is saved as a whole: `cargo run -p shardstage-persistence --example profile`.

use shardstage::prelude::*;
use shardstage_persistence::prelude::*;

#[wire]
#[derive(Clone, Default)]
struct Profile {
    name: String,
    renamed: u32,
}

impl SavedState for Profile {
    const NAME: &'static str = "chat.profile";
}

#[message(id = "chat.rename", reply = u32)]
struct Rename {
    name: String,
}

#[message(id = "chat.name", reply = String)]
struct Name {}

impl CommandHandler<Rename> for Saved<Profile> {
    fn handle(&self, Rename { name }: Rename, _cx: &CommandContext<'_, Self>) -> Effect<Self, u32> {
        let renamed = self.renamed + 1;
        Effect::save(Profile { name, renamed }).reply(renamed)
    }
}

impl CommandHandler<Name> for Saved<Profile> {
    fn handle(&self, _: Name, _cx: &CommandContext<'_, Self>) -> Effect<Self, String> {
        Effect::none().reply(self.name.clone())
    }
}

fn start(dir: &std::path::Path) -> shardstage::Result<Engine> {
    let log = EventLog::open(dir).segment_bytes(1024 * 1024);
    Ok(Engine::builder().service(log).register::<Durable<Saved<Profile>>>(|profile| profile).start()?)
}

fn main() -> shardstage::Result<()> {
    let dir = tempfile::tempdir().expect("the system has room for a temporary directory");
    let engine = start(dir.path())?;
    let profile = engine.actor::<Durable<Saved<Profile>>>("p1");
    assert_eq!(profile.ask(Rename { name: "Ada".into() }).wait()?, 1);
    engine.shutdown()?;

    let engine = start(dir.path())?;
    assert_eq!(engine.actor::<Durable<Saved<Profile>>>("p1").ask(Name {}).wait()?, "Ada");
    engine.shutdown()
}
