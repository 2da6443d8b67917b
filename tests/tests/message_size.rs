//! Large messages between nodes: 1 MiB passes, more is refused at the sender and comes back.

#![forbid(unsafe_code)]

use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{AskError, Rejected, TellError};
use shardstage_tests::sim_cluster::{B, Blob, Counter, SECOND, key_on, start_both};

#[test]
fn one_mebibyte_passes_and_two_are_refused_at_the_sender() {
    let world = SimWorld::new(SimOptions::seeded(8));
    let nodes = start_both(&world);
    let counter = nodes[0].actor::<Counter>(key_on(&nodes[0], B));

    let mebibyte = Blob { bytes: vec![7; 1 << 20] };
    let answer = world.block_on(counter.ask(mebibyte), 20 * SECOND).expect("it ends");
    assert_eq!(answer, Ok(1 << 20));

    let frames = |nodes: &[shardstage::Engine]| nodes[0].stats().iter().map(|shard| shard.frames_sent).sum::<u64>();
    let before = frames(&nodes);
    let too_large = Blob { bytes: vec![7; 2 << 20] };
    match counter.tell(too_large.clone()) {
        Err(TellError::TooLarge { message, limit }) => {
            assert_eq!(message, too_large);
            assert!(limit >= 1 << 20);
        }
        other => panic!("{other:?}"),
    }
    let answer = world.block_on(counter.ask(too_large), SECOND).expect("refused at once");
    assert_eq!(answer, Err(AskError::Rejected(Rejected::TooLarge)));
    assert_eq!(frames(&nodes), before);
}
