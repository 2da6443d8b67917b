//! What the introspection port shows: pages by path, as text and JSON.
//!
//! Invariant: read-only, and each page is bounded in size.

use std::time::Duration;

use super::json::Json;
use super::queue::Queue;
use super::request::{Refusal, Request};
use super::{ActorInfo, Asker, Introspect, Order, ShardInfo, Snapshot, metrics};
use crate::actor_ref::ActorId;
use crate::engine_link::EngineLink;
use crate::limits::{HEALTH_PATIENCE, HTTP_ACTORS, HTTP_ACTORS_MAX, INTROSPECT_PATIENCE};

/// One answer.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

const OK: &str = "200 OK";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const INDEX: &str = "Shardstage introspection\n\n\
    /metrics   counters of every shard, for Prometheus\n\
    /actors    actors: ?type=part of a name &shard=0 &order=place|queued|suspended|rebuilds &limit=100 &after=id\n\
    /shards    counters, queues and stuck handlers of every shard\n\
    /waits     asks without an answer, and circles of actors that wait for each other: ?limit=100\n\
    /healthz   200 if every shard takes its turns\n";

impl Page {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self { status, content_type: TEXT, body: body.into() }
    }

    fn json(write: impl FnOnce(&mut Json)) -> Self {
        let mut json = Json::default();
        write(&mut json);
        Self { status: OK, content_type: JSON, body: json.into_string() + "\n" }
    }
}

impl From<Refusal> for Page {
    fn from(refusal: Refusal) -> Self {
        Self::text(refusal.status(), format!("{}\n", refusal.status()))
    }
}

/// The page that a request asks for. Waits for shards; called by threads of the port.
pub(crate) fn page(engine: &'static EngineLink, walks: &Queue, request: &Request<'_>) -> Page {
    let look = Introspect::new(engine);
    match request.path {
        "/" => Page::text(OK, INDEX),
        "/metrics" => {
            Page { status: OK, content_type: "text/plain; version=0.0.4; charset=utf-8", body: metrics::page(engine) }
        }
        "/healthz" => health(&look.only_shards().within(HEALTH_PATIENCE).wait()),
        "/shards" => {
            let found = look.only_shards().wait();
            Page::json(|json| {
                shards(json.open('{').key("shards"), &found.shards).close('}');
            })
        }
        "/actors" => match question(engine, look, &request.query) {
            Ok((look, limit)) => walk(walks, look.top(limit), |found| actors(found, limit)),
            Err(wrong) => Page::text(Refusal::BadRequest.status(), wrong + "\n"),
        },
        "/waits" => match waits_limit(&request.query) {
            Ok(limit) => walk(walks, look.top(0).waits(), |found| waits(found, limit)),
            Err(wrong) => Page::text(Refusal::BadRequest.status(), wrong + "\n"),
        },
        _ => Refusal::NotFound.into(),
    }
}

/// Looks at every actor once it is this thread's turn to.
fn walk(walks: &Queue, look: Introspect, show: impl FnOnce(&Snapshot) -> Page) -> Page {
    let Some(turn) = walks.enter(INTROSPECT_PATIENCE) else { return Refusal::Busy.into() };
    let found = look.wait();
    drop(turn);
    show(&found)
}

/// What the query asks for, and how many actors; or what is wrong with it.
fn question(
    engine: &'static EngineLink,
    mut look: Introspect,
    query: &[(String, String)],
) -> Result<(Introspect, usize), String> {
    let mut limit = HTTP_ACTORS;
    for (name, value) in query {
        let wrong = || format!("{name} is {value:?}");
        look = match name.as_str() {
            "type" => look.named(value.as_str()),
            "shard" => look.on_shard(value.parse().map_err(|_| wrong())?),
            "order" => look.order(match value.as_str() {
                "place" => Order::Place,
                "queued" => Order::Queued,
                "suspended" => Order::Suspended,
                "rebuilds" => Order::Rebuilds,
                _ => return Err(wrong() + "; known are place, queued, suspended and rebuilds"),
            }),
            "after" => look.after(actor_id(engine, value).ok_or_else(wrong)?),
            "limit" => {
                limit = limit_of(value).ok_or_else(wrong)?;
                look
            }
            _ => return Err(format!("{name} is not known; known are type, shard, order, limit and after")),
        };
    }
    Ok((look, limit))
}

/// How many waits are wanted; or what is wrong with the query.
fn waits_limit(query: &[(String, String)]) -> Result<usize, String> {
    query.iter().try_fold(HTTP_ACTORS, |_, (name, value)| match name.as_str() {
        "limit" => limit_of(value).ok_or_else(|| format!("{name} is {value:?}")),
        _ => Err(format!("{name} is not known; known is limit")),
    })
}

fn limit_of(value: &str) -> Option<usize> {
    value.parse().ok().map(|limit: usize| limit.min(HTTP_ACTORS_MAX))
}

/// `0/1041.1`, as ids are written.
fn actor_id(engine: &'static EngineLink, text: &str) -> Option<ActorId> {
    let (shard, rest) = text.split_once('/')?;
    let (index, generation) = rest.split_once('.')?;
    let shard = shard.parse().ok().filter(|shard| *shard < engine.shard_count())?;
    Some(ActorId::new(engine.link(shard), index.parse().ok()?, generation.parse().ok()?))
}

fn health(found: &Snapshot) -> Page {
    let sick: Vec<String> = found.shards.iter().filter(|shard| shard.queues.is_none()).map(complaint).collect();
    if sick.is_empty() { Page::text(OK, "ok\n") } else { Page::text(Refusal::Busy.status(), sick.concat()) }
}

fn complaint(shard: &ShardInfo) -> String {
    let number = shard.stats.shard;
    shard.stuck.as_ref().map_or_else(
        || format!("shard {number} does not answer\n"),
        |stuck| {
            let (culprit, seconds) = (&stuck.culprit, stuck.running_for.as_secs_f64());
            format!("shard {number}: {} has handled {} for {seconds:.3} s\n", culprit.actor, culprit.message)
        },
    )
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn shards<'a>(json: &'a mut Json, shards: &[ShardInfo]) -> &'a mut Json {
    json.open('[');
    for shard in shards {
        json.open('{').key("shard").plain(shard.stats.shard);
        for (name, _) in crate::stats::ShardStats::FIELDS {
            json.key(name).plain(shard.stats.get(name).unwrap_or_default());
        }
        json.key("busy_share").plain(shard.stats.busy_share(&crate::stats::ShardStats::default()));
        json.key("injected").plain(shard.injected);
        json.key("answered").plain(shard.queues.is_some());
        json.key("ready_actors").plain_or_null(shard.queues.map(|queues| queues.ready_actors));
        json.key("in_rings").plain_or_null(shard.queues.map(|queues| queues.in_rings));
        json.key("stuck");
        match &shard.stuck {
            None => json.plain("null"),
            Some(stuck) => {
                json.open('{').key("actor").text(stuck.culprit.actor).key("message").text(stuck.culprit.message);
                json.key("running_seconds").plain(seconds(stuck.running_for)).close('}')
            }
        };
        json.close('}');
    }
    json.close(']')
}

fn actors(found: &Snapshot, limit: usize) -> Page {
    Page::json(|json| {
        json.open('{').key("live").plain(found.live()).key("matching").plain(found.matching);
        json.key("whole").plain(found.is_whole()).key("types").open('[');
        for kind in &found.types {
            json.open('{').key("actor").text(kind.actor).key("actors").plain(kind.actors);
            json.key("queued").plain(kind.queued).key("deepest").plain(kind.deepest);
            json.key("suspended").plain(kind.suspended).close('}');
        }
        json.close(']').key("actors").open('[');
        found.actors.iter().for_each(|actor| describe(json, actor));
        let last = found.actors.last().filter(|_| found.actors.len() == limit);
        json.close(']').key("next").text_or_null(last.map(|actor| id(actor.id)).as_deref()).close('}');
    })
}

fn describe(json: &mut Json, actor: &ActorInfo) {
    json.open('{').key("id").text(&id(actor.id)).key("shard").plain(actor.id.shard());
    json.key("actor").text(actor.actor).key("key").text_or_null(actor.key.as_deref());
    json.key("names").open('[');
    for name in &actor.names {
        json.text(name);
    }
    json.close(']').key("parent").text_or_null(actor.parent.map(id).as_deref());
    json.key("children").plain(actor.children);
    json.key("state").text(actor.state.as_str()).key("queued").plain(actor.queued);
    json.key("capacity").plain(actor.capacity).key("stashed").plain(actor.stashed);
    json.key("queued_bytes").plain(actor.queued_bytes);
    json.key("capacity_bytes").plain_or_null(actor.capacity_bytes);
    json.key("message").text_or_null(actor.message);
    json.key("suspended_seconds").plain_or_null(actor.suspended_for.map(seconds));
    json.key("rebuilds").plain(actor.rebuilds).key("watchers").plain(actor.watchers).close('}');
}

/// Waits that block their asker come first.
fn waits(found: &Snapshot, limit: usize) -> Page {
    let mut members = 0;
    let cycles = found.cycles.iter().take_while(|cycle| {
        members += cycle.len();
        members <= HTTP_ACTORS_MAX
    });
    let cycles: Vec<_> = cycles.collect();
    let is_cut = found.waits_cut || found.waits.len() > limit || found.cycles.len() > cycles.len();
    let (blocked, others): (Vec<_>, Vec<_>) = found.waits.iter().partition(|wait| wait.blocked);
    Page::json(|json| {
        json.open('{').key("whole").plain(found.is_whole()).key("cut").plain(is_cut);
        json.key("waiting").plain(found.waits.len()).key("cycles").open('[');
        for cycle in cycles {
            json.open('[');
            for member in cycle {
                json.text(&id(*member));
            }
            json.close(']');
        }
        json.close(']').key("waits").open('[');
        for wait in blocked.into_iter().chain(others).take(limit) {
            let asker = match wait.asker {
                Asker::Actor(asker) => id(asker),
                Asker::Outside => "outside".to_owned(),
                Asker::OtherNode => "other node".to_owned(),
            };
            json.open('{').key("asker").text(&asker).key("asker_type").text_or_null(wait.asker_type);
            json.key("blocked").plain(wait.blocked);
            json.key("asked").text_or_null(wait.asked.map(id).as_deref());
            json.key("asked_type").text_or_null(wait.asked_type);
            json.key("asked_node").plain_or_null(wait.asked_node.map(|node| node.get()));
            json.key("message").text_or_null(wait.message).key("begun").plain(wait.begun).close('}');
        }
        json.close(']').close('}');
    })
}

fn id(id: ActorId) -> String {
    format!("{id:?}")
}
