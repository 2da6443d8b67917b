//! What the fuzz targets, the seeds and their test share: one wire type of all forms, and the oracles.
//!
//! Invariant: each oracle takes any bytes whatever and returns whether they were valid.
#![forbid(unsafe_code)]

extern crate self as shardstage;

use shardstage_codec::{AlignedBytes, FrameHeader, Hello, ShortHeader, TraceParent, access, decode, encode, wire::rebuild};
use shardstage_macros::wire;

/// What the macros reach through the engine.
pub mod __private {
    pub use shardstage_codec as codec;
    pub use shardstage_codec::rkyv;
}

/// Every form a wire value can have.
#[wire(id = "fuzz.value")]
#[derive(Clone, Debug)]
pub enum Value {
    Nothing,
    Scalars(u8, i16, u32, i64, u128, f32, f64, bool, char),
    Text {
        name: String,
        note: Option<String>,
    },
    Lists {
        numbers: Vec<u64>,
        lines: Vec<Vec<String>>,
        fixed: [u16; 5],
    },
    Parts(Vec<Part>, Result<Part, String>, (u8, Option<Part>)),
}

/// A part of a [`Value`].
#[wire]
#[derive(Clone, Debug)]
pub struct Part {
    pub id: u64,
    pub tag: Option<char>,
    pub text: String,
    pub bytes: Vec<u8>,
}

/// Decodes a header; what passes must describe itself and come back bit by bit.
pub fn frame_header(bytes: &[u8]) -> bool {
    let Ok(header) = FrameHeader::decode(bytes) else {
        return false;
    };
    assert!(header.unpadded_len() <= header.frame_len());
    assert!(header.frame_len() <= shardstage_codec::MAX_FRAME_BYTES);
    let mut again = [0; 64];
    header.encode(&mut again);
    assert_eq!(again, bytes[..64], "encode undoes decode");
    let _ = header.key(bytes);
    header.payload(bytes).is_ok()
}

/// The same with the checksum mended first, so that the checks behind it are reached.
pub fn frame_header_with_checksum(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    if let Some(header) = bytes.first_chunk_mut::<64>() {
        header[4..8].fill(0);
        let crc = shardstage_codec::checksum::crc32c(header);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    frame_header(&bytes)
}

/// Decodes a short frame; what passes must come back byte by byte, but for the deadline, which is rounded.
pub fn short_frame(bytes: &[u8]) -> bool {
    let Ok((header, payload)) = ShortHeader::decode(bytes) else {
        return false;
    };
    let mut again = [0; 16];
    header.encode(payload.len(), &mut again);
    match header {
        ShortHeader::Ask { .. } => assert_eq!((&again[..6], &again[8..]), (&bytes[..6], &bytes[8..16])),
        _ => assert_eq!(again, bytes[..16], "encode undoes decode"),
    }
    true
}

/// The same with the first word mended, so that the checks behind it are reached: a known form, the length that is there.
pub fn short_frame_with_length(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX) & 0xff_ffff;
    if let Some(first) = bytes.first_chunk_mut::<4>() {
        let form = u32::from(first[3] % 3 + 1);
        *first = (len | form << 24).to_le_bytes();
    }
    short_frame(&bytes)
}

/// Decodes the payload of a message for many; the receivers must come back as they were.
pub fn fan_out(bytes: &[u8]) -> bool {
    let Ok((numbers, archive)) = shardstage_codec::fan_out::decode(bytes) else {
        return false;
    };
    let numbers: Vec<u16> = numbers.collect();
    let mut again = AlignedBytes::new();
    let list = shardstage_codec::fan_out::append_receivers(&mut again, &numbers);
    assert_eq!(bytes[..8 + 2 * numbers.len()], again[..8 + 2 * numbers.len()]);
    assert_eq!(bytes.len() - list, archive.len());
    true
}

/// Decodes the payload of a message that carries a request; the request must come back byte by byte.
pub fn request(bytes: &[u8]) -> bool {
    let Ok((block, archive)) = shardstage_codec::request::decode(bytes) else {
        return false;
    };
    let mut again = AlignedBytes::new();
    let len = shardstage_codec::request::append(&mut again, &block);
    assert_eq!(bytes[..len], again[..], "encode undoes decode");
    assert_eq!(bytes.len() - len, archive.len());
    true
}

/// Reads a trace parent; what passes must be the same after another trip.
pub fn trace_parent(bytes: &[u8]) -> bool {
    let parent = core::str::from_utf8(bytes).ok().and_then(|text| text.parse::<TraceParent>().ok());
    let Some(parent) = parent else {
        return false;
    };
    assert_eq!(parent.to_string().parse(), Ok(parent));
    true
}

/// Decodes a greeting; what passes must come back byte by byte.
pub fn hello(bytes: &[u8]) -> bool {
    let Ok((hello, schemas)) = Hello::decode(bytes) else {
        return false;
    };
    let schemas: Vec<_> = schemas.collect();
    let mut again = AlignedBytes::new();
    hello.encode(&schemas, &mut again);
    assert_eq!(again[..], *bytes, "encode undoes decode");
    true
}

/// Decodes an archive; what passes must survive another trip, and not take many times its bytes.
pub fn wire_value(bytes: &[u8]) -> bool {
    let mut aligned = AlignedBytes::new();
    aligned.extend_from_slice(bytes);
    let Ok(view) = access::<Value>(&aligned) else {
        return false;
    };
    let value = rebuild::<Value>(view).expect("what is valid can be rebuilt");
    let mut again = AlignedBytes::new();
    encode(&value, &mut again).expect("what came in a frame fits one");
    let value_again = decode::<Value>(&again).expect("what was encoded is valid");
    // Text, as a NaN is not equal to itself.
    assert_eq!(format!("{value:?}"), format!("{value_again:?}"));
    true
}
