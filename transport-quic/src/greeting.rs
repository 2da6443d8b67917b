//! The first frame of each side: who speaks, by which rules, with which messages; and whether that fits.
//!
//! Invariant: a refusal names both sides. Pure apart from the node list it was made with; shard's thread.

use shardstage::port::transport::{ClusterConfig, NodeInfo, SchemaLine};
use shardstage_codec::{AlignedBytes, FrameHeader, FrameKind, Hello, NodeId, Schema, ShardId};

/// What this shard says, and expects.
#[derive(Debug)]
pub(crate) struct Greeting {
    hello: Hello,
    /// Sorted by id.
    schemas: Vec<Schema<'static>>,
    frame: AlignedBytes,
}

impl Greeting {
    pub(crate) fn new(cluster: &ClusterConfig, me: &NodeInfo, shard: ShardId, schema: &[SchemaLine]) -> Self {
        let line = |line: &SchemaLine| Schema {
            id: line.id,
            version: line.version,
            fingerprint: line.fingerprint,
            name: line.name,
        };
        let mut schemas: Vec<_> = schema.iter().map(line).collect();
        schemas.sort_by_key(|schema| (schema.id, schema.version));
        Self { hello: Hello::new(&cluster.name, me.id, 0, shard, me.shards), schemas, frame: AlignedBytes::new() }
    }

    /// Fixes this start's number and writes the frame.
    pub(crate) fn start(&mut self, incarnation: u64) {
        self.hello.incarnation = incarnation;
        self.frame.clear();
        self.hello
            .append_frame(&self.schemas, &mut self.frame)
            .expect("a greeting within the registry's bounds fits one frame");
    }

    /// The whole frame.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Reads a peer's greeting and returns the shard that speaks.
    ///
    /// # Errors
    /// Why we must not talk, naming both sides.
    pub(crate) fn accept(&self, frame: &[u8], peer: &NodeInfo) -> Result<ShardId, String> {
        let sides = |why: String| {
            format!("this is node {}, the peer is node {} ('{}'): {why}", self.hello.node, peer.id, peer.name)
        };
        let header = FrameHeader::decode(frame).map_err(|e| sides(format!("unreadable greeting: {e}")))?;
        if header.kind != FrameKind::Hello {
            return Err(sides("its first frame is no greeting".to_owned()));
        }
        let payload = header.payload(frame).map_err(|e| sides(format!("unreadable greeting: {e}")))?;
        let (hello, theirs) = Hello::decode(payload).map_err(|e| sides(format!("unreadable greeting: {e}")))?;
        self.hello.accept(&hello).map_err(|e| sides(format!("its greeting has {e}")))?;
        check_node(&hello, peer).map_err(sides)?;
        for schema in theirs {
            for own in self.with_id(&schema) {
                own.compare(&schema).map_err(|e| sides(e.to_string()))?;
            }
        }
        Ok(hello.shard)
    }

    fn with_id<'s>(&'s self, wanted: &Schema<'_>) -> impl Iterator<Item = &'s Schema<'static>> {
        let id = wanted.id;
        let start = self.schemas.partition_point(|own| own.id < id);
        self.schemas[start..].iter().take_while(move |own| own.id == id)
    }
}

fn check_node(hello: &Hello, peer: &NodeInfo) -> Result<(), String> {
    if hello.node != peer.id {
        let said: NodeId = hello.node;
        return Err(format!(
            "its certificate says '{}', its greeting says node {said}: the two node lists differ",
            peer.name
        ));
    }
    if hello.shard_count != peer.shards {
        return Err(format!("it has {} shards, this node's list says {}", hello.shard_count, peer.shards));
    }
    Ok(())
}
