//! Hazard: the bytes change without anyone meaning to, or bytes that are not ours are taken for ours.
//!
//! Golden bytes fix the formats; the properties hold for whatever a peer may send.

use proptest::{collection::vec, option, prelude::*};
use shardstage_codec::{
    ActorTypeId, AlignedBytes, Caller, DecodeError, Disagreement, EncodeError, Epoch, FrameHeader, FrameKind, GroupId,
    HeaderError, Hello, HelloError, HelloRefusal, MessageId, NodeId, ReplyStatus, RequestBlock, Schema, ShardId,
    ShortHeader, Slot, TraceParent, Wire, WireValue, access, append_frame, append_frame_bytes, assert_wire, checksum,
    decode, encode, fan_out, frame_len,
    limits::{KEY_BYTES_MAX, MAX_FRAME_BYTES, PAYLOAD_BYTES_MAX, USER_BYTES_MAX},
    request, rkyv, slot_of, wire,
};

#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(crate = rkyv)]
struct Order {
    id: u64,
    name: String,
    lines: Vec<(u32, String)>,
    note: Option<Vec<u128>>,
}

impl WireValue for Order {
    const DEPTH: u32 = wire::depth_over(&[<Vec<(u32, String)>>::DEPTH, <Option<Vec<u128>>>::DEPTH]);
    const SHAPE: u64 = shardstage_codec::Shape::structure()
        .field("id", u64::SHAPE)
        .field("name", String::SHAPE)
        .field("lines", <Vec<(u32, String)>>::SHAPE)
        .field("note", <Option<Vec<u128>>>::SHAPE)
        .finish();
}
const _: () = assert_wire::<Order>();

impl Wire for Order {
    const NAME: &'static str = "test.order";
    const VERSION: u16 = 2;
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        let separator = if index == 0 {
            ""
        } else if index % 16 == 0 {
            "\n"
        } else if index % 4 == 0 {
            " "
        } else {
            ""
        };
        text.push_str(&format!("{separator}{byte:02x}"));
    }
    text
}

fn aligned(bytes: &[u8]) -> AlignedBytes {
    let mut out = AlignedBytes::new();
    out.extend_from_slice(bytes);
    out
}

fn ask() -> FrameHeader {
    FrameHeader {
        message_version: 0x0203,
        group: GroupId::new(63).expect("below 64"),
        message_id: MessageId::new(0x0102_0304_0506_0708),
        actor_type: ActorTypeId::new(0x1112_1314_1516_1718),
        group_epoch: Epoch::new(0x2122_2324_2526_2728),
        correlation: 0x3132_3334_3536_3738,
        ttl_ns: 0x4142_4344_4546_4748,
        shard: ShardId::new(0x5152),
        ..FrameHeader::new(FrameKind::Ask)
    }
}

fn order() -> Order {
    Order {
        id: 7,
        name: "a name that lies outside".into(),
        lines: vec![(1, "one".into()), (2, "a second line".into())],
        note: Some(vec![u128::MAX, 5]),
    }
}

#[test]
fn a_frame_is_these_bytes() {
    let mut out = AlignedBytes::new();
    append_frame_bytes(&mut out, ask(), "alice", b"payload").expect("it fits");
    assert_eq!(
        hex(&out),
        "57000000 2110ba49 01000300 03023f00\n\
         08070605 04030201 18171615 14131211\n\
         28272625 24232221 38373635 34333231\n\
         48474645 44434241 07000000 05005251\n\
         616c6963 65000000 00000000 00000000\n\
         7061796c 6f616400 00000000 00000000"
    );
    let header = FrameHeader::decode(&out).expect("it is valid");
    assert_eq!(header, FrameHeader { key_len: 5, payload_len: 7, ..ask() });
    assert_eq!((header.key(&out), header.payload(&out)), (Ok("alice"), Ok(&b"payload"[..])));
}

#[test]
fn a_message_with_a_request_is_these_bytes() {
    let block = RequestBlock {
        ttl_ns: 0x0102_0304,
        trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().ok(),
        headers: vec![("tenant", "blue")],
        callers: vec![Caller { node: NodeId::new(1), wait: 2, actor: 3, label: "A(x)" }],
    };
    let mut out = AlignedBytes::new();
    let header = FrameHeader { kind: FrameKind::AskWith, ..ask() };
    shardstage_codec::append_frame_with(&mut out, header, "alice", |out| {
        let len = request::append(out, &block);
        out.extend_from_slice(b"payload");
        Ok(len + 7)
    })
    .expect("it fits");
    let header = FrameHeader::decode(&out).expect("it is valid");
    let payload = header.payload(&out).expect("it is whole");
    assert_eq!(
        hex(payload),
        "4b000000 01010100 04030201 00000000\n\
         36470e0e 9d92cea3 a64db377 352ff94b\n\
         b702a90b aa67f000 01060400 74656e61\n\
         6e74626c 75650100 00000200 00000300\n\
         00000000 00000441 28782900 00000000\n\
         7061796c 6f6164"
    );
    assert_eq!(request::decode(payload), Ok((block, &b"payload"[..])));
}

#[test]
fn a_greeting_is_these_bytes() {
    let mut out = AlignedBytes::new();
    let hello = Hello::new("test", NodeId::new(3), 9, ShardId::new(1), 2);
    let schema = Schema { fingerprint: 0x0102_0304_0506_0708, ..Schema::of::<Order>() };
    hello.append_frame(&[schema], &mut out).expect("it fits");
    let header = FrameHeader::decode(&out).expect("it is valid");
    assert_eq!(header.kind, FrameKind::Hello);
    let payload = header.payload(&out).expect("it is whole");
    assert_eq!(
        hex(payload),
        "03000100 03000000 252b7c19 efe6e6f9\n\
         09000000 00000000 01000200 00100100\n\
         e3dbb29d c21dd12a 08070605 04030201\n\
         02000a00 74657374 2e6f7264 6572"
    );
    let (decoded, mut schemas) = Hello::decode(payload).expect("it is valid");
    assert_eq!((decoded, schemas.len()), (hello, 1));
    assert_eq!((schemas.next(), schemas.next()), (Some(schema), None));
}

#[test]
fn an_archive_is_these_bytes() {
    let mut out = AlignedBytes::new();
    encode(&order(), &mut out).expect("it fits");
    assert_eq!(
        hex(&out),
        "61206e61 6d652074 68617420 6c696573\n\
         206f7574 73696465 61207365 636f6e64\n\
         206c696e 65000000 01000000 6f6e65ff\n\
         ffffffff 02000000 8d000000 e0ffffff\n\
         ffffffff ffffffff ffffffff ffffffff\n\
         05000000 00000000 00000000 00000000\n\
         07000000 00000000 98000000 98ffffff\n\
         b8ffffff 02000000 01000000 c4ffffff\n\
         02000000 00000000"
    );
    assert_eq!(Order::FINGERPRINT, 0x75ab_4f08_7200_5b40);
}

#[test]
fn names_hash_to_these_ids() {
    assert_eq!(MessageId::of("").get(), 0xcbf2_9ce4_8422_2325);
    assert_eq!(MessageId::of("bank.account").get(), 0x1402_6d95_a846_804e);
    assert_eq!(ActorTypeId::of("flight").get(), 0x4d15_cccd_2bc1_bf83);
}

#[test]
fn keys_fall_into_these_slots() {
    // Computed by an independent program from the steps in the documentation of `slot_of`.
    let long = "x".repeat(512);
    let golden = [
        ("bank.account", "alice", 2089),
        ("bank.account", "", 3961),
        ("", "", 2937),
        ("flight", "UA-1204/2001-01-10", 3154),
        ("area", "Zürich", 2208),
        ("flight", &long, 35),
    ];
    for (actor_type, key, slot) in golden {
        assert_eq!(slot_of(ActorTypeId::of(actor_type), key).get(), slot, "{actor_type} {key}");
    }
}

#[test]
fn keys_spread_over_all_slots() {
    let mut counts = vec![0u32; 4096];
    for index in 0..40_960 {
        counts[usize::from(slot_of(ActorTypeId::of("flight"), &index.to_string()).get())] += 1;
    }
    // Ten on average; a fair hash leaves about 0.2 of 4,096 slots empty and fills none beyond 28.
    assert!(counts.iter().filter(|&&count| count == 0).count() <= 2);
    assert!(counts.iter().all(|&count| count <= 28));
}

#[test]
fn slots_and_groups_end_where_they_should() {
    assert_eq!(Slot::new(4095).map(|slot| slot.group().get()), Some(63));
    assert_eq!(Slot::new(64).map(|slot| slot.group().get()), Some(1));
    assert_eq!((Slot::new(4096), GroupId::new(64)), (None, None));
    assert_eq!(GroupId::all().len(), 64);
    assert_eq!(Epoch::FIRST.next(), Epoch::new(2));
}

#[test]
fn a_mebibyte_passes_and_more_is_refused_at_the_sender() {
    let mut out = AlignedBytes::new();
    out.extend_from_slice(b"before");
    let exact = vec![7u8; USER_BYTES_MAX];
    let header = FrameHeader { message_id: MessageId::new(1), ..FrameHeader::new(FrameKind::Tell) };
    let key = "k".repeat(KEY_BYTES_MAX);
    append_frame(&mut out, header, &key, &exact).expect("one mebibyte passes");
    let header = FrameHeader::decode(&out[16..]).expect("it is valid");
    let payload = header.payload(&out[16..]).expect("it is whole");
    assert!(decode::<Vec<u8>>(payload).expect("it is valid") == exact);
    assert!(header.frame_len() <= MAX_FRAME_BYTES);

    let oversize = vec![7u8; PAYLOAD_BYTES_MAX + 1];
    out.resize(6, 0);
    let refused = append_frame(&mut out, header, &key, &oversize);
    assert_eq!(refused, Err(EncodeError::TooLarge { limit: PAYLOAD_BYTES_MAX }));
    let refused = append_frame_bytes(&mut out, header, &key, &oversize);
    assert_eq!(refused, Err(EncodeError::TooLarge { limit: PAYLOAD_BYTES_MAX }));
    let refused = append_frame(&mut out, header, &"k".repeat(513), &1u8);
    assert_eq!(refused, Err(EncodeError::KeyTooLong { len: 513, limit: 512 }));
    assert_eq!(&out[..], b"before", "a refused frame leaves the buffer as it was");
    let mut oversize = aligned(&oversize);
    assert!(matches!(access::<Vec<u8>>(&oversize), Err(DecodeError::TooLarge { .. })));
    oversize.clear();
    assert!(matches!(access::<Vec<u8>>(&oversize), Err(DecodeError::TooShort { len: 0, need: 8 })));
}

#[test]
fn an_archive_is_aligned_and_bounded_wherever_the_buffer_ends() {
    let mut out = AlignedBytes::new();
    out.extend_from_slice(&[1; 1001]);
    let len = encode(&order(), &mut out).expect("it fits");
    let start = out.len() - len;
    assert_eq!(start, 1008, "padded to a multiple of 16");
    assert_eq!(decode::<Order>(&out[start..]), Ok(order()));

    // The list's own 8 bytes fill the bound exactly, whatever lies in front.
    let largest = vec![7u8; PAYLOAD_BYTES_MAX - 8];
    assert_eq!(encode(&largest, &mut out), Ok(PAYLOAD_BYTES_MAX));
    out.resize(1001, 0);
    let larger = vec![7u8; PAYLOAD_BYTES_MAX - 7];
    let refused = encode(&larger, &mut out);
    assert_eq!(refused, Err(EncodeError::TooLarge { limit: PAYLOAD_BYTES_MAX }));
    assert_eq!(out.len(), 1001, "a refused value leaves the buffer as it was");
}

#[test]
fn a_forged_greeting_says_what_is_wrong() {
    let hello = Hello::new("test", NodeId::new(3), 9, ShardId::new(1), 2);
    let mut out = AlignedBytes::new();
    hello.encode(&[Schema::of::<Order>()], &mut out);
    let forged = |change: fn(&mut [u8])| {
        let mut bytes = out.to_vec();
        change(&mut bytes);
        Hello::decode(&bytes).map(|_| ())
    };
    assert_eq!(forged(|_| ()), Ok(()));
    assert!(matches!(forged(|h| h[30] = 0), Err(HelloError::Trailing { len: 30 })));
    assert!(matches!(forged(|h| h[30] = 2), Err(HelloError::Short { what: "a schema" })));
    assert!(matches!(forged(|h| h[31] = 0xff), Err(HelloError::TooManySchemas { count: 0xff01 })));
    assert!(matches!(forged(|h| h[32] ^= 1), Err(HelloError::NotItsName { .. })));
    assert!(matches!(forged(|h| h[50] = 129), Err(HelloError::NameTooLong { name_len: 129 })));
    assert!(matches!(forged(|h| h[50] = 11), Err(HelloError::Short { what: "a schema's name" })));
    assert!(matches!(forged(|h| h[52] = 0xff), Err(HelloError::NameText)));
}

#[test]
fn a_used_buffer_is_not_allocated_again() {
    let mut out = AlignedBytes::new();
    encode(&order(), &mut out).expect("it fits");
    let (start, capacity) = (out.as_ptr(), out.capacity());
    for _ in 0..100 {
        out.clear();
        encode(&order(), &mut out).expect("it fits");
    }
    assert_eq!((out.as_ptr(), out.capacity()), (start, capacity));
}

#[test]
fn misaligned_bytes_are_an_error_at_every_offset() {
    let mut out = AlignedBytes::new();
    let len = encode(&order(), &mut out).expect("it fits");
    for off_by in 1..16 {
        let mut shifted = AlignedBytes::new();
        shifted.resize(off_by, 0);
        shifted.extend_from_slice(&out[..len]);
        assert_eq!(access::<Order>(&shifted[off_by..]).map(|_| ()), Err(DecodeError::Misaligned { off_by }));
    }
}

#[test]
fn values_without_bytes_need_none() {
    let mut out = AlignedBytes::new();
    assert_eq!(encode(&(), &mut out), Ok(0));
    assert_eq!(decode::<()>(&[]), Ok(()));
}

#[test]
fn every_flipped_bit_of_a_header_is_noticed() {
    let mut out = AlignedBytes::new();
    append_frame_bytes(&mut out, ask(), "alice", b"payload").expect("it fits");
    for bit in 0..64 * 8 {
        out[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(FrameHeader::decode(&out), Err(HeaderError::Checksum { .. })), "bit {bit}");
        out[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(FrameHeader::decode(&out).is_ok());
}

/// Changes a header by `change` and mends its checksum, as a hostile peer would.
fn forged(change: impl FnOnce(&mut [u8])) -> Result<FrameHeader, HeaderError> {
    let mut out = AlignedBytes::new();
    append_frame_bytes(&mut out, ask(), "alice", b"payload").expect("it fits");
    change(&mut out[..]);
    out[4..8].fill(0);
    let crc = checksum::crc32c(&out[..64]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    FrameHeader::decode(&out)
}

#[test]
fn a_header_that_contradicts_itself_says_how() {
    assert!(forged(|_| ()).is_ok());
    assert!(matches!(forged(|h| h[0] += 1), Err(HeaderError::Len { len: 0x58, key_len: 5, payload_len: 7 })));
    assert!(matches!(forged(|h| h[8] = 2), Err(HeaderError::Version { version: 2 })));
    assert!(matches!(forged(|h| h[10] = 11), Err(HeaderError::Kind { kind: 11 })));
    assert!(matches!(forged(|h| h[14] = 64), Err(HeaderError::Group { group: 64 })));
    assert!(matches!(forged(|h| h[15] = 10), Err(HeaderError::Status { status: 10 })));
    assert!(matches!(forged(|h| h[15] = 1), Err(HeaderError::Contradiction { .. })));
    assert!(matches!(forged(|h| h[16..24].fill(0)), Err(HeaderError::Contradiction { .. })));
    assert!(matches!(forged(|h| h[10] = 1), Err(HeaderError::Contradiction { .. })));
    assert!(matches!(forged(|h| h[10] = 6), Err(HeaderError::Contradiction { .. })));
    assert!(matches!(forged(|h| h[10] = 7), Err(HeaderError::Contradiction { .. })));
    assert!(matches!(forged(|h| h[10] = 8), Err(HeaderError::Contradiction { .. })));
    assert!(matches!(forged(|h| h[10] = 5), Err(HeaderError::Contradiction { .. })));
    assert!(matches!(forged(|h| h[59] = 0xff), Err(HeaderError::Payload { .. })));
    assert!(matches!(forged(|h| h[61] = 0xff), Err(HeaderError::Key { .. })));
    assert!(matches!(
        forged(|h| (h[10], h[15]) = (4, ReplyStatus::Full as u8)),
        Err(HeaderError::Contradiction { .. })
    ));
    assert!(forged(|h| (h[10], h[15]) = (4, ReplyStatus::Failed as u8)).is_ok());
}

#[test]
fn an_incomplete_frame_waits_and_a_key_is_text() {
    let mut out = AlignedBytes::new();
    append_frame_bytes(&mut out, ask(), "alice", b"payload").expect("it fits");
    assert_eq!(FrameHeader::decode(&out[..63]), Err(HeaderError::Short { len: 63 }));
    let header = FrameHeader::decode(&out[..64]).expect("a header suffices");
    let need = header.unpadded_len();
    for len in 64..need {
        assert_eq!(header.payload(&out[..len]), Err(HeaderError::Incomplete { len, need }));
        assert_eq!(header.key(&out[..len]), Err(HeaderError::Incomplete { len, need }));
    }
    out[64] = 0xff;
    assert_eq!(header.key(&out), Err(HeaderError::KeyText));
}

#[test]
fn nodes_that_differ_say_in_what() {
    let own = Hello::new("test", NodeId::new(3), 9, ShardId::new(1), 2);
    assert_eq!(own.accept(&Hello { node: NodeId::new(4), incarnation: 1, ..own }), Ok(()));
    assert_eq!(
        own.accept(&Hello { protocol_version: 4, ..own }),
        Err(HelloRefusal::Differs { what: "protocol version", own: 3, theirs: 4 })
    );
    assert!(matches!(own.accept(&Hello { placement_hash_version: 0, ..own }), Err(HelloRefusal::Differs { .. })));
    assert!(matches!(own.accept(&Hello { slot_count: 1, ..own }), Err(HelloRefusal::Differs { .. })));
    let other = Hello::new("other", NodeId::new(3), 9, ShardId::new(1), 2);
    assert_eq!(own.accept(&other), Err(HelloRefusal::OtherCluster));
    assert!(matches!(own.accept(&Hello { shard_count: 1, ..own }), Err(HelloRefusal::NoSuchShard { .. })));
}

#[test]
fn a_schema_mismatch_is_reported_by_name() {
    let own = Schema::of::<Order>();
    assert_eq!(own.compare(&own), Ok(()));
    assert_eq!(own.compare(&Schema { version: 3, fingerprint: 1, ..own }), Ok(()));
    assert_eq!(own.compare(&Schema { id: MessageId::of("else"), name: "else", ..own }), Ok(()));
    assert_eq!(
        own.compare(&Schema { fingerprint: 1, ..own }),
        Err(Disagreement::Structure { name: "test.order".into(), version: 2 })
    );
    assert_eq!(
        own.compare(&Schema { name: "twin", ..own }),
        Err(Disagreement::SameId { own: "test.order".into(), theirs: "twin".into() })
    );
}

fn order_strategy() -> impl Strategy<Value = Order> {
    let text = "\\PC{0,24}";
    (any::<u64>(), text, vec((any::<u32>(), text), 0..6), option::of(vec(any::<u128>(), 0..4)))
        .prop_map(|(id, name, lines, note)| Order { id, name, lines, note })
}

fn header_strategy() -> impl Strategy<Value = FrameHeader> {
    (any::<(u16, u64, u64, u64, u64, u64, u16)>(), 0u8..64, 0usize..5).prop_map(
        |((message_version, id, actor_type, epoch, correlation, ttl_ns, shard), group, kind)| {
            let (kind, status) = [
                (FrameKind::Tell, ReplyStatus::Ok),
                (FrameKind::Ask, ReplyStatus::Ok),
                (FrameKind::Reply, ReplyStatus::Ok),
                (FrameKind::Reply, ReplyStatus::Failed),
                (FrameKind::Reply, ReplyStatus::Fenced),
            ][kind];
            FrameHeader {
                kind,
                message_version,
                group: GroupId::new(group).expect("below 64"),
                status,
                message_id: MessageId::new(id.max(1)),
                actor_type: ActorTypeId::new(actor_type),
                group_epoch: Epoch::new(epoch),
                correlation,
                ttl_ns,
                payload_len: 0,
                key_len: 0,
                shard: ShardId::new(shard),
            }
        },
    )
}

proptest! {
    #[test]
    fn frames_in_one_buffer_all_come_back(
        frames in vec((header_strategy(), "\\PC{0,40}", order_strategy()), 1..5),
    ) {
        let mut out = AlignedBytes::new();
        for (header, key, value) in &frames {
            append_frame(&mut out, *header, key, value).expect("it fits");
        }
        let mut rest = &out[..];
        for (header, key, value) in &frames {
            let decoded = FrameHeader::decode(rest).expect("it is valid");
            prop_assert_eq!(FrameHeader { key_len: 0, payload_len: 0, ..decoded }, *header);
            prop_assert_eq!(decoded.key(rest), Ok(key.as_str()));
            let payload = decoded.payload(rest).expect("it is whole");
            prop_assert_eq!(&decode::<Order>(payload), &Ok(value.clone()));
            prop_assert_eq!(decoded.frame_len(), frame_len(key.len(), payload.len()));
            rest = &rest[decoded.frame_len()..];
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn a_cut_archive_never_panics(value in order_strategy(), at in any::<prop::sample::Index>()) {
        let mut out = AlignedBytes::new();
        let len = encode(&value, &mut out).expect("it fits");
        // A shorter archive may be valid by chance, for another value; it must not panic.
        let _ = decode::<Order>(&out[..at.index(len)]);
    }

    #[test]
    fn a_changed_archive_never_panics(
        value in order_strategy(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
    ) {
        let mut out = AlignedBytes::new();
        let len = encode(&value, &mut out).expect("it fits");
        for (at, byte) in changes {
            out[at.index(len)] = byte;
        }
        if let Ok(other) = decode::<Order>(&out) {
            let mut again = AlignedBytes::new();
            encode(&other, &mut again).expect("what fitted fits");
            prop_assert_eq!(decode::<Order>(&again), Ok(other));
        }
    }

    #[test]
    fn any_bytes_are_a_short_frame_or_an_error(mut bytes in vec(any::<u8>(), 0..200), form in 0_u8..5, len in 0_u8..200) {
        let _ = ShortHeader::decode(&bytes);
        if bytes.len() > 3 {
            // So that what stands behind the length is reached.
            bytes[..4].copy_from_slice(&[len, 0, 0, form]);
        }
        if let Ok((header, payload)) = ShortHeader::decode(&bytes) {
            let mut again = [0; 16];
            if !matches!(header, ShortHeader::Ask { .. }) {
                header.encode(payload.len(), &mut again);
                prop_assert_eq!(&again[..], &bytes[..16]);
            }
        }
    }

    #[test]
    fn any_bytes_are_receivers_and_a_message_or_an_error(mut bytes in vec(any::<u8>(), 0..200), count in 0_u8..100) {
        let _ = fan_out::decode(&bytes).map(|(receivers, _)| receivers.count());
        if bytes.len() > 8 {
            bytes[..8].copy_from_slice(&u64::from(count).to_le_bytes());
        }
        if let Ok((receivers, archive)) = fan_out::decode(&bytes) {
            prop_assert_eq!(receivers.len(), usize::from(count));
            prop_assert!(8 + 2 * receivers.len() + archive.len() <= bytes.len());
        }
    }

    #[test]
    fn any_bytes_are_a_request_and_a_message_or_an_error(mut bytes in vec(any::<u8>(), 0..300), headers in 0_u8..20) {
        let _ = request::decode(&bytes);
        if bytes.len() > 16 {
            let len = u32::try_from(bytes.len()).expect("short") & !15;
            bytes[..4].copy_from_slice(&len.to_le_bytes());
            bytes[4..8].copy_from_slice(&[1, headers % 3, headers, 0]);
        }
        if let Ok((block, archive)) = request::decode(&bytes) {
            let mut again = AlignedBytes::new();
            let len = request::append(&mut again, &block);
            prop_assert_eq!(&again[..], &bytes[..len]);
            prop_assert_eq!(len + archive.len(), bytes.len());
        }
    }

    #[test]
    fn any_text_is_a_trace_parent_or_an_error(text in "[0-9a-g-]{0,60}|00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}") {
        if let Ok(parent) = text.parse::<TraceParent>() {
            prop_assert_eq!(parent.to_string().parse(), Ok(parent));
        }
    }

    #[test]
    fn any_bytes_are_a_greeting_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok((_, schemas)) = Hello::decode(&bytes) {
            prop_assert_eq!(schemas.clone().count(), schemas.len());
        }
    }

    #[test]
    fn greetings_come_back_whole_and_cut_ones_are_refused(
        names in vec("[a-z.]{1,128}", 0..6),
        at in any::<prop::sample::Index>(),
        fingerprint: u64,
        version: u16,
    ) {
        let hello = Hello::new("test", NodeId::new(3), 9, ShardId::new(1), 2);
        let schemas: Vec<_> = names
            .iter()
            .map(|name| Schema { id: MessageId::of(name), version, fingerprint, name })
            .collect();
        let mut out = AlignedBytes::new();
        let len = hello.encode(&schemas, &mut out);
        prop_assert_eq!(len, out.len());
        let (decoded, read) = Hello::decode(&out).expect("it is valid");
        prop_assert_eq!(decoded, hello);
        prop_assert_eq!(read.collect::<Vec<_>>(), schemas);
        let short = matches!(Hello::decode(&out[..at.index(len)]), Err(HelloError::Short { .. }));
        prop_assert!(short);
        out.push(0);
        prop_assert_eq!(Hello::decode(&out).map(|_| ()), Err(HelloError::Trailing { len: 1 }));
    }
}
