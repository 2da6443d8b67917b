//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

/// The command could not do its work.
pub(crate) const EXIT_FAILED: u8 = 3;
/// The command line is wrong.
pub(crate) const EXIT_USAGE: u8 = 64;

pub(crate) const HELP: &str = "\
Looks at Shardstage event logs. Never writes to the log that it is given.

usage: shardstage-log inspect DIR [--frames] [--json]
       shardstage-log verify  DIR [--json] [--live]
       shardstage-log export  DIR [--type TYPE] [--key KEY] [--live]
       shardstage-log repair  DIR --into NEWDIR [--json]

DIR is the directory that the engine's EventLog was opened with, or one log-<shard> in it.

inspect   identity, manifest, segments, groups, space; --frames lists every frame. Works beside a running engine.
verify    checks every frame, record, sequence and file, and says exactly what is wrong where.
export    one JSON object a line for each record, oldest first, payloads in base64. What is damaged is left out and
          named on standard error. --type and --key choose entities.
repair    copies what is verifiably intact into NEWDIR, which must not exist, as a log that opens cleanly, and lists
          what had to be left behind: LSNs, and entities with their last intact event.

What the disk does not give back (an input/output error) is named with its bytes, and every command goes on around it.

--json    the report as one JSON object instead of text
--live    read although an engine is running; the log's end may then look unfinished

A log whose engine is running is refused (except by inspect), and an engine cannot start while one is being read.

exit codes: 0 clean   1 unfinished: a crash's torn tail, which the next start cuts; nothing acknowledged is concerned
            2 damaged: an engine refuses this log   3 the command failed   64 wrong usage
            repair: 0 when everything was copied, 2 when something was left behind

examples:
  shardstage-log inspect /var/lib/game/log
  shardstage-log verify /var/lib/game/log && echo good
  shardstage-log export /var/lib/game/log --type bank.account --key alice | jq .seq
  shardstage-log repair /var/lib/game/log --into /var/lib/game/log-repaired
";

#[derive(Debug)]
pub(crate) enum Command {
    Inspect { frames: bool },
    Verify,
    Export { type_name: Option<String>, key: Option<String> },
    Repair { into: PathBuf },
}

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) command: Command,
    pub(crate) dir: PathBuf,
    pub(crate) json: bool,
    pub(crate) live: bool,
}

impl Args {
    /// `None`: the user asked for help.
    pub(crate) fn parse(given: impl Iterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut given = given;
        let Some(name) = given.next() else { return Err("no command given".into()) };
        let name = name.into_string().map_err(|name| format!("unknown command {}", name.display()))?;
        if matches!(name.as_str(), "--help" | "-h" | "help") {
            return Ok(None);
        }
        let (mut dir, mut into, mut type_name, mut key) = (None, None, None, None);
        let (mut frames, mut json, mut live) = (false, false, false);
        while let Some(word) = given.next() {
            let mut value = |option: &str| given.next().ok_or_else(|| format!("{option} needs a value"));
            match word.to_str() {
                Some("--help" | "-h") => return Ok(None),
                Some("--frames") => frames = true,
                Some("--json") => json = true,
                Some("--live") => live = true,
                Some("--into") => into = Some(PathBuf::from(value("--into")?)),
                Some("--type") => type_name = Some(text(value("--type")?)?),
                Some("--key") => key = Some(text(value("--key")?)?),
                Some(option) if option.starts_with('-') => return Err(format!("unknown option {option}")),
                _ if dir.is_some() => return Err(format!("one directory at a time: {}", word.display())),
                _ => dir = Some(PathBuf::from(word)),
            }
        }
        let applies = |given: bool, option: &str, to: &[&str]| {
            if given && !to.contains(&name.as_str()) { Err(format!("{name} takes no {option}")) } else { Ok(()) }
        };
        applies(frames, "--frames", &["inspect"])?;
        applies(json, "--json", &["inspect", "verify", "repair"])?;
        applies(live, "--live", &["verify", "export"])?;
        applies(into.is_some(), "--into", &["repair"])?;
        applies(type_name.is_some(), "--type", &["export"])?;
        applies(key.is_some(), "--key", &["export"])?;
        let command = match name.as_str() {
            "inspect" => Command::Inspect { frames },
            "verify" => Command::Verify,
            "export" => Command::Export { type_name, key },
            "repair" => Command::Repair { into: into.ok_or("repair needs --into NEWDIR")? },
            _ => return Err(format!("unknown command {name}")),
        };
        let dir = dir.ok_or_else(|| format!("{name} needs a directory"))?;
        Ok(Some(Self { command, dir, json, live }))
    }
}

fn text(value: OsString) -> Result<String, String> {
    value.into_string().map_err(|value| format!("{} is not UTF-8", value.display()))
}
