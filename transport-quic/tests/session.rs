//! Sessions: order, sizes, back-pressure, loss of a peer, orderly ends, repeatable runs.

#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod support;

use shardstage::port::transport::{Lane, PeerDown, ReserveError};
use shardstage_codec::{MAX_FRAME_BYTES, NodeId};
use support::{CALM, MS, SECOND, STORM, Seen, World, cluster, config, frame};

#[test]
fn two_nodes_meet_and_exchange_frames_on_every_lane() {
    let mut world = World::pair(1, CALM);
    assert_eq!(world.shards[0].try_send(1, Lane::User, &frame(0, 64)), Err(ReserveError::Down));
    world.connect();
    for lane in Lane::ALL {
        world.shards[0].send(1, lane, &frame(1, 100));
        world.shards[1].send(0, lane, &frame(2, 77));
    }
    world.run_for(SECOND);
    for (shard, peer, number, len) in [(1, 0, 1, 100), (0, 1, 2, 77)] {
        let mut got = std::mem::take(&mut world.shards[shard].sink.frames);
        got.sort_by_key(|(_, lane, _)| *lane);
        let wanted: Vec<_> = Lane::ALL.into_iter().map(|lane| (NodeId::new(peer), lane, frame(number, len))).collect();
        assert_eq!(got, wanted);
        assert_eq!(world.shards[shard].ups().len(), 1);
    }
    assert_eq!(world.shards[0].try_send(0, Lane::User, &frame(0, 64)), Err(ReserveError::UnknownPeer));
    assert_eq!(world.shards[0].try_send(9, Lane::User, &frame(0, 64)), Err(ReserveError::UnknownPeer));
}

#[test]
fn ten_thousand_frames_arrive_in_order_through_loss_and_reordering() {
    let mut world = World::pair(2, STORM);
    world.connect();
    let (mut next, total) = ([0u64; 2], 10_000);
    world.run_until(600 * SECOND, "all frames", |world| {
        for (from, next) in next.iter_mut().enumerate() {
            let to = u32::try_from(1 - from).unwrap();
            for _ in 0..50 {
                if *next < total
                    && world.shards[from].try_send(to, Lane::User, &frame(*next, 64 + *next as usize % 700)).is_ok()
                {
                    *next += 1;
                }
            }
        }
        world.shards.iter().all(|shard| shard.sink.frame_count as u64 == total)
    });
    for shard in &world.shards {
        assert_eq!(shard.ups().len(), 1, "one session carried them all");
        for (number, (_, lane, got)) in shard.sink.frames.iter().enumerate() {
            assert_eq!((*lane, got), (Lane::User, &frame(number as u64, 64 + number % 700)));
        }
    }
}

#[test]
fn the_largest_frame_passes_and_larger_ones_are_refused() {
    let mut world = World::pair(3, CALM);
    world.connect();
    for (number, len) in [1 << 20, MAX_FRAME_BYTES].into_iter().enumerate() {
        world.shards[0].send(1, Lane::Bulk, &frame(number as u64, len));
        world.run_until(10 * SECOND, "a large frame", |world| world.shards[1].sink.frames.len() == number + 1);
        assert_eq!(world.shards[1].sink.frames[number].2, frame(number as u64, len));
    }
    let refused = world.shards[0].try_send(1, Lane::Bulk, &frame(0, MAX_FRAME_BYTES + 16));
    assert_eq!(refused, Err(ReserveError::TooLarge { limit: MAX_FRAME_BYTES }));
}

#[test]
fn a_stalled_peer_fills_the_lane_and_loses_nothing() {
    let mut world = World::pair(4, CALM);
    world.connect();
    world.shards[1].stalled = true;
    let (mut sent, mut full) = (0, false);
    world.run_until(5 * SECOND, "Full", |world| {
        for _ in 0..5000 {
            match world.shards[0].try_send(1, Lane::User, &frame(sent, 4096)) {
                Ok(()) => sent += 1,
                Err(error) => {
                    assert_eq!(error, ReserveError::Full);
                    full = true;
                    break;
                }
            }
        }
        full
    });
    world.shards[0].send(1, Lane::Control, &frame(7, 64));
    world.shards[1].stalled = false;
    world.run_until(20 * SECOND, "everything", |world| world.shards[1].sink.frame_count as u64 == sent + 1);
    let numbers = world.shards[1].sink.frames.iter().filter(|(_, lane, _)| *lane == Lane::User);
    for (number, (_, _, got)) in numbers.enumerate() {
        assert_eq!(got, &frame(number as u64, 4096));
    }
    world.shards[0].send(1, Lane::User, &frame(sent, 4096));
}

#[test]
fn a_full_socket_keeps_the_datagrams() {
    let mut world = World::pair(5, CALM);
    world.connect();
    for number in 0..200 {
        world.shards[0].send(1, Lane::User, &frame(number, 5000));
    }
    for _ in 0..2000 {
        world.shards[0].driver.room = Some(u32::from(world.now().is_multiple_of(3)));
        world.run_for(50_000);
    }
    world.shards[0].driver.room = None;
    world.run_until(20 * SECOND, "everything", |world| world.shards[1].sink.frame_count == 200);
}

#[test]
fn a_batch_that_the_socket_refused_goes_out_as_soon_as_it_can() {
    let mut world = World::pair(5, CALM);
    world.connect();
    world.run_for(SECOND);
    world.shards[0].driver.room = Some(0);
    world.shards[0].send(1, Lane::User, &frame(0, 64));
    world.run_for(MS);
    world.shards[0].driver.room = None;
    // Long before the protocol would repeat a lost datagram.
    world.run_until(2 * MS, "the frame", |world| world.shards[1].sink.frame_count == 1);
}

#[test]
fn a_killed_peer_times_out_and_comes_back_with_another_session() {
    for killed in 0..2 {
        let mut world = World::pair(6, CALM);
        world.connect();
        let stays = 1 - killed;
        let first = world.shards[stays].ups()[0];
        world.kill(killed);
        world.run_until(30 * SECOND, "down", |world| !world.shards[stays].downs().is_empty());
        assert_eq!(world.shards[stays].downs(), [PeerDown::TimedOut]);
        let refused = world.shards[stays].try_send(u32::try_from(killed).unwrap(), Lane::User, &frame(0, 64));
        assert_eq!(refused, Err(ReserveError::Down));
        world.run_for(60 * SECOND);
        assert_eq!(world.shards[stays].downs(), [PeerDown::TimedOut], "said once");
        let name = ["a", "b"][killed];
        world.restart(killed, &config("ca", name), cluster("sim", killed, &[("a", 1), ("b", 1)]));
        world.run_until(10 * SECOND, "up again", |world| world.shards[stays].ups().len() == 2);
        assert_ne!(world.shards[stays].ups()[1], first);
        world.shards[stays].send(u32::try_from(killed).unwrap(), Lane::User, &frame(5, 64));
        world.run_until(SECOND, "a frame", |world| world.shards[killed].sink.frame_count == 1);
    }
}

#[test]
fn a_quick_restart_is_noticed_long_before_the_idle_time() {
    for killed in 0..2 {
        let mut world = World::pair(7, CALM);
        world.connect();
        let (stays, name) = (1 - killed, ["a", "b"][killed]);
        world.restart(killed, &config("ca", name), cluster("sim", killed, &[("a", 1), ("b", 1)]));
        world.shards[stays].send(u32::try_from(killed).unwrap(), Lane::User, &frame(0, 64));
        world.run_until(SECOND, "up again", |world| world.shards[stays].ups().len() == 2);
        assert!(
            matches!(world.shards[stays].sink.seen[1], Seen::Down(_, PeerDown::Failed(_))),
            "down is said before the next up"
        );
    }
}

#[test]
fn a_partition_ends_the_session_on_both_sides_and_heals() {
    let mut world = World::pair(8, STORM);
    world.connect();
    world.net.borrow_mut().cut = true;
    world.run_until(40 * SECOND, "both down", |world| {
        world.shards.iter().all(|shard| shard.downs().contains(&PeerDown::TimedOut))
    });
    world.net.borrow_mut().cut = false;
    world.run_until(20 * SECOND, "both up", |world| world.shards.iter().all(|shard| shard.ups().len() == 2));
}

#[test]
fn an_idle_session_stays_open() {
    let mut world = World::pair(9, CALM);
    world.connect();
    world.run_for(300 * SECOND);
    assert!(world.shards.iter().all(|shard| shard.downs().is_empty()));
}

#[test]
fn stop_delivers_what_was_queued_and_says_goodbye() {
    for stopped in 0..2 {
        let mut world = World::pair(10, STORM);
        world.connect();
        let stays = 1 - stopped;
        for number in 0..500 {
            world.shards[stopped].send(u32::try_from(stays).unwrap(), Lane::User, &frame(number, 1000));
        }
        let mut done = false;
        world.run_until(3 * SECOND, "stopped", |world| {
            let shard = &mut world.shards[stopped];
            done = done || shard.transport.stop(&mut shard.driver);
            shard.stalled = done;
            done
        });
        world.run_for(20 * SECOND);
        assert_eq!(world.shards[stays].sink.frame_count, 500);
        assert!(
            matches!(world.shards[stays].downs()[0], PeerDown::Closed | PeerDown::TimedOut),
            "{:?}",
            world.shards[stays].downs()
        );
    }
}

#[test]
fn stop_ends_in_bounded_time_when_the_peer_is_silent() {
    let mut world = World::pair(11, CALM);
    world.connect();
    world.kill(1);
    world.shards[0].send(1, Lane::User, &frame(0, 64));
    world.run_until(3 * SECOND, "stopped", |world| {
        let shard = &mut world.shards[0];
        shard.transport.stop(&mut shard.driver)
    });
}

fn trace(seed: u64) -> Vec<(u64, u16, u16, usize)> {
    let mut world = World::pair(seed, STORM);
    world.connect();
    for number in 0..300 {
        world.shards[0].send(1, Lane::User, &frame(number, 64 + number as usize));
        world.run_for(MS / 4);
    }
    world.run_until(60 * SECOND, "all frames", |world| world.shards[1].sink.frame_count == 300);
    world.run_for(20 * SECOND);
    world.take_trace()
}

#[test]
fn equal_seeds_give_equal_traces() {
    assert_eq!(trace(12), trace(12));
    assert_ne!(trace(12), trace(13));
}

#[test]
fn uneven_shard_counts_reach_each_other_both_ways() {
    let mut world = World::new(14, CALM);
    let nodes = [("a", 1), ("b", 3)];
    world.add(&config("ca", "a"), cluster("sim", 0, &nodes), 0, &[]);
    for shard in 0..3 {
        world.add(&config("ca", "b"), cluster("sim", 1, &nodes), shard, &[]);
    }
    world.connect();
    world.run_for(SECOND);
    for index in 1..4 {
        world.shards[index].send(0, Lane::User, &frame(index as u64, 64));
    }
    world.shards[0].send(1, Lane::User, &frame(9, 64));
    world.run_for(SECOND);
    assert_eq!(world.shards[0].sink.frame_count, 3);
    assert_eq!(world.shards[0].ups().len(), 1, "only the primary link is reported");
    assert_eq!(world.shards.iter().skip(1).map(|shard| shard.sink.frame_count).collect::<Vec<_>>(), [1, 0, 0]);
}
