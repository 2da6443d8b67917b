//! `export`: records as NDJSON, oldest first.
//!
//! Memory stays bounded by the entities of one segment: each segment defines the keys that it uses. The fields of a line
//! are described in `docs/log.md`.

use std::io::Write;

use shardstage_persistence::format::record::{FLAG_LAST_OF_COMMAND, KeyDef, RecordKind};
use shardstage_persistence::inspect::{Names, Seen, SeenRecord};

use crate::args::Args;
use crate::directory::{LogDir, logs};
use crate::json::{Object, base64};
use crate::scan::pass;
use crate::{Failure, Health};

pub(crate) fn run(
    args: &Args,
    type_name: Option<&str>,
    key: Option<&str>,
    out: &mut dyn Write,
) -> Result<Health, Failure> {
    let mut worst = Health::Clean;
    for path in logs(&args.dir)? {
        let log = LogDir::open(path, args.live)?;
        let shard = log.name();
        let mut names = Names::default();
        let mut segment = 0;
        let mut failed = None;
        let verdict = pass(&log, false, &mut |seen| {
            let Seen::Record(record) = seen else { return };
            if failed.is_some() {
                return;
            }
            if record.segment != segment {
                segment = record.segment;
                names = Names::default();
            }
            if record.view.header.kind == RecordKind::KeyDef {
                // One that contradicts another is exported as it stands; `verify` is the command that judges.
                let _ = names.admit(record.segment, record.offset, &record.view);
            }
            let entity = names.get(record.view.header.entity);
            let fits = |wanted: Option<&str>, found: Option<&str>| wanted.is_none_or(|wanted| found == Some(wanted));
            if fits(type_name, entity.map(|entity| &*entity.type_name)) && fits(key, entity.map(|entity| &*entity.key))
            {
                let line = line(&shard, record, &names);
                failed = writeln!(out, "{line}").err();
            }
        })?;
        if let Some(error) = failed {
            return Err(Failure::Output(error));
        }
        for finding in &verdict.findings {
            eprintln!("{}: {finding}", log.path.display());
        }
        worst = worst.max(verdict.health);
    }
    Ok(worst)
}

/// The word for a record's kind: its name in the format, in lower case with hyphens; `key` for a key definition.
pub(crate) fn kind_word(kind: RecordKind) -> String {
    if kind == RecordKind::KeyDef {
        return "key".into();
    }
    let mut word = String::new();
    for c in format!("{kind:?}").chars() {
        if c.is_ascii_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.push(c.to_ascii_lowercase());
    }
    word
}

fn line(shard: &str, record: &SeenRecord<'_>, names: &Names) -> String {
    let header = record.view.header;
    let entity = names.get(header.entity);
    let event_id = match header.kind {
        RecordKind::KeyDef => KeyDef::decode(record.view.payload).map(|def| def.event_id),
        _ => entity.map(|entity| entity.event_id),
    };
    Object::new()
        .text("log", shard)
        .number("lsn", record.lsn)
        .number("incarnation", record.incarnation)
        .number("group", u64::from(record.group.get()))
        .number("epoch", record.epoch.get())
        .number("entity", header.entity)
        .text_or_null("type", entity.map(|entity| &*entity.type_name))
        .text_or_null("key", entity.map(|entity| &*entity.key))
        .number("seq", header.seq)
        .text("kind", &kind_word(header.kind))
        .text_or_null("event_id", event_id.map(|id| format!("{id:016x}")).as_deref())
        .number("version", u64::from(header.schema_version))
        .bool("last_of_command", header.flags & FLAG_LAST_OF_COMMAND != 0)
        .bool("salvaged", record.salvaged)
        .text("payload", &base64(record.view.payload))
        .text("meta", &base64(record.view.meta))
        .end()
}
