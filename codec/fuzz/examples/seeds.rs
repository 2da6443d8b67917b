//! Writes the seed corpora: valid bytes of every kind, so that a fuzz run begins behind the first checks.

use std::{fs, io, path::Path};

use shardstage_codec::{
    ActorTypeId, AlignedBytes, Caller, FrameHeader, FrameKind, Hello, MessageId, NodeId, ReplyStatus,
    RequestBlock, Schema, ShardId, ShortHeader, append_frame_bytes, encode, fan_out::append_receivers,
    request::append as append_request,
};
use shardstage_codec_fuzz::{Part, Value};

fn main() -> io::Result<()> {
    frame_headers()?;
    short_frames()?;
    fan_outs()?;
    requests()?;
    hellos()?;
    wire_values()
}

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

fn frame_headers() -> io::Result<()> {
    let message = MessageId::of("fuzz.value");
    let tell = FrameHeader {
        message_id: message,
        message_version: 1,
        actor_type: ActorTypeId::of("fuzz.actor"),
        correlation: 7,
        ttl_ns: 5_000_000_000,
        ..FrameHeader::new(FrameKind::Tell)
    };
    let seeds = [
        (
            "hello",
            FrameHeader::new(FrameKind::Hello),
            "",
            &b"greeting"[..],
        ),
        ("tell", tell, "alice", b"payload"),
        (
            "ask",
            FrameHeader {
                kind: FrameKind::Ask,
                ..tell
            },
            "",
            b"",
        ),
        (
            "reply",
            FrameHeader {
                kind: FrameKind::Reply,
                ..tell
            },
            "",
            b"answer",
        ),
        (
            "rejection",
            FrameHeader {
                kind: FrameKind::Reply,
                status: ReplyStatus::Full,
                ..tell
            },
            "",
            b"",
        ),
        (
            "bounce",
            FrameHeader {
                kind: FrameKind::Bounce,
                status: ReplyStatus::Closed,
                ..tell
            },
            "alice",
            b"",
        ),
    ];
    for (name, header, key, payload) in seeds {
        let mut out = AlignedBytes::new();
        append_frame_bytes(&mut out, header, key, payload).expect("a seed fits");
        write("frame_header", name, &out)?;
    }
    Ok(())
}

fn short_frames() -> io::Result<()> {
    let seeds = [
        ("tell", ShortHeader::Tell { route: 7 }, &b"payload"[..]),
        ("ask", ShortHeader::Ask { route: 8191, ttl_ns: 5_000_000_000, correlation: 9 }, b"question"),
        ("reply", ShortHeader::Reply { epoch: 1, correlation: 9 }, b""),
    ];
    for (name, header, payload) in seeds {
        let mut bytes = vec![0; 16];
        header.encode(payload.len(), &mut bytes);
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        write("short_frame", name, &bytes)?;
    }
    Ok(())
}

fn fan_outs() -> io::Result<()> {
    for (name, numbers) in [("few", &[3, 1][..]), ("many", &[0, 1, 2, 3, 4, 5, 6, 7, 8191])] {
        let mut out = AlignedBytes::new();
        append_receivers(&mut out, numbers);
        out.extend_from_slice(b"message");
        write("fan_out", name, &out)?;
    }
    Ok(())
}

fn requests() -> io::Result<()> {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let caller = Caller { node: NodeId::new(1), wait: 2, actor: 3, label: "Account(alice)" };
    let whole = RequestBlock {
        ttl_ns: 5,
        trace: trace.parse().ok(),
        headers: vec![("tenant", "blue"), ("user", "7")],
        callers: vec![caller],
    };
    let bare = RequestBlock { ttl_ns: 0, trace: None, headers: Vec::new(), callers: Vec::new() };
    for (name, block) in [("whole", whole), ("bare", bare)] {
        let mut out = AlignedBytes::new();
        append_request(&mut out, &block);
        out.extend_from_slice(b"message");
        write("request", name, &out)?;
    }
    Ok(())
}

fn hellos() -> io::Result<()> {
    let hello = Hello::new("fuzz", NodeId::new(1), 2, ShardId::new(0), 2);
    let other = Schema {
        id: MessageId::of("b"),
        version: 2,
        fingerprint: 3,
        name: "b",
    };
    for (name, schemas) in [
        ("none", &[][..]),
        ("one", &[Schema::of::<Value>()]),
        ("two", &[Schema::of::<Value>(), other]),
    ] {
        let mut out = AlignedBytes::new();
        hello.encode(schemas, &mut out);
        write("hello", name, &out)?;
    }
    Ok(())
}

fn wire_values() -> io::Result<()> {
    let part = |id| Part {
        id,
        tag: Some('ß'),
        text: "longer than inline".into(),
        bytes: vec![1, 2, 3],
    };
    let seeds = [
        ("nothing", Value::Nothing),
        (
            "scalars",
            Value::Scalars(1, -2, 3, -4, 5, 6.0, -7.0, true, 'x'),
        ),
        (
            "text_short",
            Value::Text {
                name: "short".into(),
                note: None,
            },
        ),
        (
            "text_long",
            Value::Text {
                name: "longer than inline".into(),
                note: Some(String::new()),
            },
        ),
        (
            "lists",
            Value::Lists {
                numbers: vec![1, 2, 3],
                lines: vec![vec!["a".into(), "longer than inline".into()], vec![]],
                fixed: [1, 2, 3, 4, 5],
            },
        ),
        (
            "parts_ok",
            Value::Parts(vec![part(1), part(2)], Ok(part(3)), (4, Some(part(5)))),
        ),
        (
            "parts_err",
            Value::Parts(vec![], Err("longer than inline".into()), (0, None)),
        ),
    ];
    for (name, value) in seeds {
        let mut out = AlignedBytes::new();
        encode(&value, &mut out).expect("a seed fits");
        write("wire_value", name, &out)?;
    }
    Ok(())
}
