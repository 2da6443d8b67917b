//! `#[message]` and `#[wire]` against the cage, without the engine: this file stands in for it with the few
//! names that the macros use. What they write must pass the lints of the strictest user crate.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unreachable_pub, unused_qualifications, clippy::all)]

extern crate self as shardstage;

use shardstage_codec::{
    AlignedBytes, MessageId, Wire, WireValue, access, decode, encode, fingerprint, fingerprint_with_reply,
};

#[path = "cage/engine.rs"]
mod engine;

pub use engine::{__private, Message, WireMessage, WireOps, message, wire};

/// A message that stays inside: it holds what no wire could carry.
#[message(reply = i64)]
pub struct Local {
    /// A closure.
    pub work: Box<dyn FnOnce() -> i64 + Send>,
}

/// Nothing is said.
#[message]
pub struct Tick;

/// A struct of everything.
#[message(id = "test.everything", version = 3, reply = Result<Vec<Part>, String>)]
#[derive(Clone, Debug, PartialEq)]
pub struct Everything {
    /// Scalars.
    pub scalars: (u8, i128, f64, char),
    /// A raw name.
    pub r#type: [u16; 3],
    /// Text.
    pub text: Option<String>,
    /// Parts.
    pub parts: Vec<Part>,
}

pub use parts::Part;

/// Apart, as rkyv writes one undocumented item for a public enum with named fields.
#[allow(missing_docs)]
mod parts {
    use crate::wire;
    /// A part, as an enum of all forms.
    #[wire]
    #[derive(Clone, Debug, PartialEq)]
    pub enum Part {
        /// No field.
        Empty,
        /// Unnamed fields.
        Pair(u8, String),
        /// Named fields.
        Named {
            /// A list.
            list: Vec<u128>,
        },
    }
}

/// An event: named, but no message.
#[wire(id = "test.happened")]
#[derive(Clone, Debug, PartialEq)]
struct Happened(u64);

#[message(id = "test.ping")]
#[derive(Debug, PartialEq)]
struct Ping;

fn everything() -> Everything {
    Everything {
        scalars: (1, -2, 3.5, 'ß'),
        r#type: [4, 5, 6],
        text: Some("long enough to lie outside".into()),
        parts: vec![Part::Empty, Part::Pair(7, String::new()), Part::Named { list: vec![8, u128::MAX] }],
    }
}

#[test]
fn a_macro_type_survives_the_wire() {
    let mut out = AlignedBytes::new();
    let len = encode(&everything(), &mut out).expect("it fits");
    assert_eq!(decode::<Everything>(&out[..len]), Ok(everything()));
    let view = access::<Everything>(&out[..len]).expect("it is valid");
    assert_eq!(view.parts.len(), 3);
    assert_eq!(view.text.as_ref().map(|text| text.as_str()), Some("long enough to lie outside"));

    out.clear();
    let len = encode(&Ping, &mut out).expect("it fits");
    assert_eq!((len, decode::<Ping>(&out[..len])), (0, Ok(Ping)));
}

#[test]
fn names_versions_and_replies_are_as_written() {
    assert_eq!((Everything::NAME, Everything::VERSION), ("test.everything", 3));
    assert_eq!(Everything::ID, MessageId::of("test.everything"));
    assert_eq!((Happened::NAME, Happened::VERSION), ("test.happened", 1));
    assert!(Everything::WIRE.is_some() && Ping::WIRE.is_some());
    assert!(Local::WIRE.is_none() && Tick::WIRE.is_none());
    let local = Local { work: Box::new(|| 42) };
    let reply: <Local as Message>::Reply = (local.work)();
    assert_eq!(reply, 42);
    let () = <Tick as Message>::Reply::default();
}

#[test]
fn the_fingerprint_covers_the_reply() {
    assert_eq!(Everything::FINGERPRINT, fingerprint_with_reply::<Everything, Result<Vec<Part>, String>>());
    assert_ne!(Everything::FINGERPRINT, fingerprint_with_reply::<Everything, ()>());
    assert_eq!(Happened::FINGERPRINT, fingerprint::<Happened>());
    assert_ne!(Happened::FINGERPRINT, Ping::FINGERPRINT);
}

#[test]
fn the_shape_covers_names_order_and_types_of_fields() {
    /// Ways to have two fields, all but one different.
    mod ways {
        use crate::wire;

        #[wire]
        pub(super) struct A {
            pub(super) x: u32,
            pub(super) y: u32,
        }
        #[wire]
        pub(super) struct Renamed {
            pub(super) x: u32,
            pub(super) y: u32,
        }
        #[wire]
        pub(super) struct OtherField {
            pub(super) x: u32,
            pub(super) z: u32,
        }
        #[wire]
        pub(super) struct OtherOrder {
            pub(super) y: u32,
            pub(super) x: u32,
        }
        #[wire]
        pub(super) struct OtherType {
            pub(super) x: u32,
            pub(super) y: f32,
        }
        #[wire]
        pub(super) enum AsEnum {
            A { x: u32, y: u32 },
        }
        #[wire]
        pub(super) enum OtherVariant {
            B { x: u32, y: u32 },
        }
        #[wire]
        pub(super) struct Tuple(pub(super) u32, pub(super) u32);
    }
    use ways::*;
    let (_, _) = (A { x: 1, y: 2 }.x, Renamed { x: 1, y: 2 }.y);
    let (_, _) = (OtherField { x: 1, z: 2 }.z, OtherOrder { y: 1, x: 2 }.x);
    let _ = OtherVariant::B { x: 1, y: 2 };
    let (_, _, _) = (OtherType { x: 1, y: 2.0 }.y, AsEnum::A { x: 1, y: 2 }, Tuple(1, 2).0);
    assert_eq!(A::SHAPE, Renamed::SHAPE);
    let different = [
        A::SHAPE,
        OtherField::SHAPE,
        OtherOrder::SHAPE,
        OtherType::SHAPE,
        AsEnum::SHAPE,
        OtherVariant::SHAPE,
        Tuple::SHAPE,
    ];
    for (index, shape) in different.iter().enumerate() {
        assert!(!different[..index].contains(shape), "shape {index} is taken");
    }
}

#[test]
fn depth_counts_containers() {
    assert_eq!(u8::DEPTH, 0);
    assert_eq!(Vec::<String>::DEPTH, 1);
    assert_eq!(Ping::DEPTH, 1);
    assert_eq!(Part::DEPTH, 2);
    assert_eq!(Everything::DEPTH, 4);
}
