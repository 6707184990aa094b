//! The kinds of requests that the load is made of, and what each may lead to.

use crate::ask::{encoded, repeated, script, Ask, Body, Manner, Outcome, EARLY};
use crate::random::Random;
use Outcome::{Cut, Status};

pub struct Class {
    pub name: &'static str,
    /// How often it comes, beside the others.
    pub weight: u64,
    pub make: fn(&mut Random, &str) -> Ask,
    /// Why an outcome other than success is what has to come.
    pub why: &'static str,
    /// An outcome that may come, and the share of all that it may have.
    pub rarely: Option<(Outcome, f64)>,
    /// What `auth_subrequest` must have decided.
    pub decision: Option<&'static str>,
}

const PLAIN: Class =
    Class { name: "", weight: 1, make: |_, id| Ask::new("/", id, 0), why: "", rarely: None, decision: None };

const FAILS: &[Outcome] = &[Status(502)];
const LATE: &[Outcome] = &[Status(504)];
/// What has come just before a reset may go with it.
const RESET: &[Outcome] = &[Cut(200), Status(502)];
const BEGUN: &[Outcome] = &[Status(200), Cut(200)];
const BROKEN: &[Outcome] = &[Cut(200)];

const ENDS: &str = "the server was told to end the connection there";
const HANGS: &str = "the server was told to hang, the location waits 0.7 s";
const DENIES: &str = "the authorisation server was told to say so";
const DIES: &str = "its server may be killed at any moment";
const PARTLY: &str = "a body that nginx has in part only cannot be sent again when the server says goodbye";
const RACES: &str = "the server closes in the very moment in which the request comes";

pub const CLASSES: &[Class] = &[
    // Ordinary requests, to pools of all kinds.
    Class { name: "get", weight: 24, make: |r, id| Ask::new("/plain", id, r.below(3000)), ..PLAIN },
    Class {
        name: "get, old client",
        weight: 4,
        make: |r, id| Ask::new("/plain", id, r.below(3000)).version_1_0(),
        ..PLAIN
    },
    Class { name: "head", weight: 4, make: |r, id| Ask::new("/plain", id, r.below(3000)).head(), ..PLAIN },
    Class {
        name: "no body",
        weight: 4,
        make: |_, id| Ask::new("/plain", id, 0).with("status=204").gives(&[Status(204)]),
        ..PLAIN
    },
    Class {
        name: "chunks, trailers",
        weight: 6,
        make: |r, id| {
            let framing = r.one_of(&["chunked", "trailers"]);
            Ask::new("/plain", id, r.below(9000)).with(format_args!("framing={framing}"))
        },
        ..PLAIN
    },
    Class {
        name: "large answer",
        weight: 3,
        make: |r, id| Ask::new("/plain", id, r.between(50_000, 400_000)),
        ..PLAIN
    },
    Class {
        name: "slow answer",
        weight: 4,
        make: |r, id| {
            let script = format!("delay={}&drip={}", r.below(100), r.between(1, 15));
            Ask::new("/plain", id, 4000).with(script)
        },
        ..PLAIN
    },
    Class {
        name: "full pool, few uses",
        weight: 12,
        make: |r, id| Ask::new("/bare", id, r.below(2000)).with("delay=2"),
        ..PLAIN
    },
    Class { name: "per server", weight: 8, make: |r, id| Ask::new("/each", id, r.below(2000)), ..PLAIN },
    Class { name: "unix socket", weight: 6, make: |r, id| Ask::new("/socket", id, r.below(2000)), ..PLAIN },
    Class { name: "fastcgi", weight: 6, make: |r, id| Ask::new("/fastcgi", id, r.below(2000)), ..PLAIN },
    // Servers that end each connection.
    Class {
        name: "old server",
        weight: 4,
        make: |r, id| {
            let script = r.one_of(&[
                "version=1.0",
                "version=1.0&header=Connection:keep-alive",
                "framing=eof",
                "version=1.0&framing=eof",
            ]);
            Ask::new("/bare", id, r.below(2000)).with(script)
        },
        ..PLAIN
    },
    Class {
        name: "Connection: close",
        weight: 4,
        make: |r, id| {
            let (location, script) = r.one_of(&[
                ("/bare", "header=Connection:close"),
                ("/bare", "header=Connection:close&stay=1"),
                ("/bare", "header=Keep-Alive:max=1"),
                ("/closes", "x=x"),
                ("/version-1.0", "x=x"),
            ]);
            Ask::new(location, id, r.below(2000)).with(script)
        },
        ..PLAIN
    },
    // Request bodies.
    Class {
        name: "post, in memory",
        weight: 8,
        make: |r, id| post("/plain", id, Body::Length(r.below(9000) as usize)),
        ..PLAIN
    },
    Class {
        name: "post, in a file",
        weight: 3,
        make: |r, id| post("/plain", id, Body::Length(r.between(20_000, 300_000) as usize)),
        ..PLAIN
    },
    Class {
        name: "post, in chunks",
        weight: 4,
        make: |r, id| post("/plain", id, Body::Chunked(r.between(1, 60_000) as usize)),
        ..PLAIN
    },
    Class {
        name: "post, unbuffered",
        weight: 5,
        make: |r, id| {
            let length = r.between(1, 100_000) as usize;
            post("/direct", id, r.one_of(&[Body::Length(length), Body::Chunked(length)]))
        },
        ..PLAIN
    },
    Class {
        name: "answered before sent",
        weight: 2,
        make: |r, id| {
            let mut ask = post("/direct", id, Body::Length(r.between(1, 30_000) as usize)).with(EARLY);
            ask.told.truncate(1);
            ask
        },
        ..PLAIN
    },
    // Authorisation.
    Class {
        name: "auth_request, allowed",
        weight: 8,
        make: |r, id| {
            let answer = allowance(r);
            authorised("/asked", id, answer)
        },
        ..PLAIN
    },
    Class {
        name: "auth_request, denied",
        weight: 3,
        make: |_, id| authorised("/asked", id, "status=403&len=500").unknown().gives(&[Status(403)]),
        why: DENIES,
        ..PLAIN
    },
    Class {
        name: "auth_request, body unsent",
        weight: 2,
        make: |_, id| authorised("/asked", id, "status=204&early=1").post(Body::Length(700)),
        ..PLAIN
    },
    Class {
        name: "auth_subrequest, allowed",
        weight: 12,
        make: |r, id| {
            let answer = allowance(r);
            authorised("/authorised", id, answer).tells("X-User", id)
        },
        decision: Some("allowed"),
        ..PLAIN
    },
    Class {
        name: "auth_subrequest, denied",
        weight: 3,
        make: |_, id| {
            authorised("/authorised", id, format!("status=401&body={id}&len=300"))
                .unknown()
                .text(repeated(id, 300))
                .gives(&[Status(401)])
        },
        why: DENIES,
        decision: Some("denied"),
        ..PLAIN
    },
    Class {
        name: "auth_subrequest, fails",
        weight: 2,
        make: |r, id| {
            let answer = r.one_of(&["status=500", "fault=close&at=start", "fault=reset&at=header"]);
            authorised("/authorised", id, answer).unknown().gives(&[Status(500)])
        },
        why: DENIES,
        decision: Some("failed"),
        ..PLAIN
    },
    Class {
        name: "auth_subrequest, timeout",
        weight: 1,
        make: |_, id| authorised("/impatient", id, "fault=hang&at=start").unknown().gives(&[Status(503)]),
        why: "the authorisation server was told to hang, auth_subrequest_timeout is 0.3 s",
        decision: Some("timed_out"),
        ..PLAIN
    },
    Class {
        name: "auth_subrequest, fail-open",
        weight: 1,
        make: |r, id| {
            let mut ask = authorised("/open", id, r.one_of(&["status=500", "fault=hang&at=header"]));
            ask.told.truncate(1);
            ask
        },
        decision: Some("failed_open"),
        ..PLAIN
    },
    Class {
        name: "auth_subrequest, post",
        weight: 4,
        make: |r, id| {
            let body = r.one_of(&[Body::Length(5000), Body::Chunked(3000), Body::Length(30_000)]);
            authorised("/with-body", id, "len=10").post(body)
        },
        decision: Some("allowed"),
        ..PLAIN
    },
    // TLS: each answer tells over whose connection it came.
    Class {
        name: "tls, by name",
        weight: 8,
        make: |r, id| {
            let name = r.one_of(&["a.example", "b.example", "c.example"]);
            tls("/tls/name", id, r)
                .with(format_args!("name={name}"))
                .tells("X-Name", name)
                .tells("X-Client", "")
        },
        ..PLAIN
    },
    Class {
        name: "tls, by certificate",
        weight: 6,
        make: |r, id| {
            let (location, client) = r.one_of(&[("/tls/one", "CN=one"), ("/tls/two", "CN=two")]);
            tls(location, id, r).tells("X-Client", client)
        },
        ..PLAIN
    },
    Class {
        name: "tls, verified",
        weight: 4,
        make: |r, id| tls("/tls/verified", id, r).tells("X-Name", "server").tells("X-Client", ""),
        ..PLAIN
    },
    // Who waits in the queue.
    Class {
        name: "queue",
        weight: 12,
        make: |r, id| Ask::new("/queued", id, r.below(2000)).with(format_args!("delay={}", r.below(200))),
        ..PLAIN
    },
    Class {
        name: "queue, post",
        weight: 3,
        make: |r, id| post("/queued", id, Body::Length(r.between(1, 40_000) as usize)).with("delay=20"),
        ..PLAIN
    },
    Class {
        name: "queue full",
        weight: 12,
        make: |r, id| {
            let script = format!("delay={}", r.between(30, 150));
            Ask::new("/short", id, r.below(2000)).with(script).gives(&[Status(200), Status(503)])
        },
        why: "four may wait in each worker, for 0.15 s: 503 is what the directive says",
        ..PLAIN
    },
    // Answers that nobody reads, and subrequests.
    Class {
        name: "mirror",
        weight: 4,
        make: |r, id| {
            let copy = format!("len={}&drip={}", r.below(9000), r.below(4));
            Ask::new("/mirrored", id, r.below(2000)).header("X-Copy", copy)
        },
        ..PLAIN
    },
    Class { name: "ssi", weight: 4, make: |r, id| page(r, id), ..PLAIN },
    Class {
        name: "X-Accel-Redirect",
        weight: 3,
        make: |r, id| {
            let length = r.below(2000);
            let there = encoded(&format!("/instead?{}", script(id, length)));
            Ask::new("/parts", id, length)
                .with(format_args!("header=X-Accel-Redirect:{there}&len={}", r.below(9000)))
        },
        ..PLAIN
    },
    Class {
        name: "error_page",
        weight: 3,
        make: |r, id| {
            let length = r.below(2000);
            Ask::new("/intercepted", id, length)
                .header("X-Instead", script(id, length))
                .with(format_args!("status=404&len={}", r.below(9000)))
        },
        ..PLAIN
    },
    Class { name: "upgrade", weight: 2, make: |_, id| tunnel(id), ..PLAIN },
    // Servers that break.
    Class {
        name: "ends before the answer",
        weight: 3,
        make: |r, id| faulty(r, id).with("at=start").unknown().gives(FAILS),
        why: ENDS,
        ..PLAIN
    },
    Class {
        name: "ends in the head",
        weight: 2,
        make: |r, id| faulty(r, id).with("at=header").unknown().gives(FAILS),
        why: ENDS,
        ..PLAIN
    },
    Class {
        name: "ends in the body",
        weight: 3,
        make: |r, id| faulty(r, id).with("at=body").gives(BROKEN),
        why: ENDS,
        ..PLAIN
    },
    Class {
        name: "ends after the answer",
        weight: 4,
        make: |r, id| {
            let after = r.one_of(&[0, 1, 5, 50]);
            faulty(r, id).with(format_args!("at=end&after={after}"))
        },
        ..PLAIN
    },
    Class {
        name: "hangs before the answer",
        weight: 1,
        make: |r, id| {
            let at = r.one_of(&["start", "header"]);
            Ask::new("/faulty", id, 500).with(format_args!("fault=hang&at={at}")).unknown().gives(LATE)
        },
        why: HANGS,
        ..PLAIN
    },
    Class {
        name: "hangs in the body",
        weight: 1,
        make: |_, id| Ask::new("/faulty", id, 500).with("fault=hang&at=body").gives(BROKEN),
        why: HANGS,
        ..PLAIN
    },
    Class {
        name: "says too much",
        weight: 4,
        make: |r, id| {
            // In one piece with the answer: what comes later may be taken for that to the next request, by any client.
            let script = r.one_of(&["fault=extra", "fault=endless"]);
            Ask::new("/faulty", id, r.below(2000)).with(script)
        },
        ..PLAIN
    },
    // Connections that turn out to be stale.
    Class {
        name: "stale, get",
        weight: 8,
        make: |r, id| {
            let script = r.one_of(&[
                "x=x",
                "idle=20",
                "idle=100",
                "fault=close&at=start&from=2",
                "fault=reset&at=start&from=3",
            ]);
            Ask::new("/dying", id, r.below(2000)).with(script)
        },
        ..PLAIN
    },
    Class {
        name: "stale, post",
        weight: 6,
        make: |r, id| {
            let script = r.one_of(&["x=x", "idle=20", "idle=100"]);
            post("/dying", id, Body::Length(r.below(5000) as usize)).with(script)
        },
        why: RACES,
        rarely: Some((Status(502), 0.01)),
        ..PLAIN
    },
    Class {
        name: "refused, get",
        weight: 6,
        make: |r, id| Ask::new("/refusing", id, r.below(2000)),
        ..PLAIN
    },
    // Clients that leave.
    Class {
        name: "leaves waiting",
        weight: 4,
        make: |r, id| {
            let after = r.between(1, 60);
            let manner = r.one_of(&[Manner::Leaves(after), Manner::Resets(after)]);
            Ask::new("/plain", id, 1000).with("delay=80").like(manner)
        },
        why: "so it was told",
        ..PLAIN
    },
    Class {
        name: "leaves reading",
        weight: 3,
        make: |r, id| Ask::new("/direct", id, 100_000).with("drip=10").like(Manner::Leaves(r.between(1, 90))),
        why: "so it was told",
        ..PLAIN
    },
    Class {
        name: "leaves sending",
        weight: 3,
        make: |r, id| {
            let location = r.one_of(&["/plain", "/direct"]);
            post(location, id, Body::Length(80_000)).like(Manner::LeavesSending(r.between(1, 30)))
        },
        why: "so it was told",
        ..PLAIN
    },
    Class {
        name: "leaves the queue",
        weight: 3,
        make: |r, id| {
            let after = r.between(1, 60);
            let manner = r.one_of(&[Manner::Leaves(after), Manner::Resets(after)]);
            Ask::new("/queued", id, 1000).with("delay=50").like(manner)
        },
        why: "so it was told",
        ..PLAIN
    },
    // HTTP/2: many requests over each connection.
    Class { name: "streams", weight: 24, make: |r, id| Ask::new("/streams", id, r.below(3000)), ..PLAIN },
    Class {
        name: "streams, head",
        weight: 2,
        make: |r, id| Ask::new("/streams", id, r.below(3000)).head(),
        ..PLAIN
    },
    Class {
        name: "streams, no body",
        weight: 2,
        make: |_, id| Ask::new("/streams", id, 0).with("status=204").gives(&[Status(204)]),
        ..PLAIN
    },
    Class {
        name: "streams, trailers",
        weight: 2,
        make: |r, id| {
            Ask::new("/streams", id, r.below(9000)).with("length=none&trailer=x-sum:1&interim=103&pad=9")
        },
        ..PLAIN
    },
    Class {
        name: "streams, slow answer",
        weight: 4,
        make: |r, id| {
            let script = format!("delay={}&drip={}", r.below(100), r.between(1, 15));
            Ask::new("/streams", id, 4000).with(script)
        },
        ..PLAIN
    },
    Class {
        name: "streams, download",
        weight: 3,
        make: |r, id| Ask::new(r.one_of(&["/streams", "/streams/direct"]), id, r.between(50_000, 1_500_000)),
        ..PLAIN
    },
    Class {
        name: "streams, post",
        weight: 8,
        make: |r, id| {
            let length = r.between(1, 60_000) as usize;
            let body = r.one_of(&[Body::Length(length), Body::Chunked(length)]);
            Ask::new(r.one_of(&["/streams", "/streams/direct"]), id, 0).reflected(body)
        },
        why: PARTLY,
        rarely: Some((Status(502), 0.02)),
        ..PLAIN
    },
    Class {
        name: "streams, upload",
        weight: 2,
        make: |r, id| {
            let body = Body::Length(r.between(100_000, 1_000_000) as usize);
            Ask::new(r.one_of(&["/streams", "/streams/direct"]), id, 0).reflected(body)
        },
        why: PARTLY,
        rarely: Some((Status(502), 0.02)),
        ..PLAIN
    },
    Class {
        name: "streams, gRPC",
        weight: 4,
        make: |r, id| Ask::new("/streams/grpc", id, r.below(9000)),
        ..PLAIN
    },
    Class {
        name: "streams, gRPC post",
        weight: 4,
        make: |r, id| Ask::new("/streams/grpc", id, 0).reflected(Body::Length(r.between(1, 60_000) as usize)),
        why: PARTLY,
        rarely: Some((Status(502), 0.02)),
        ..PLAIN
    },
    Class {
        name: "streams, auth_request",
        weight: 4,
        make: |r, id| authorised("/streams/asked", id, r.one_of(STREAM_ALLOWANCES)),
        ..PLAIN
    },
    Class {
        name: "streams, auth_subrequest",
        weight: 4,
        make: |r, id| authorised("/streams/authorised", id, r.one_of(STREAM_ALLOWANCES)),
        decision: Some("allowed"),
        ..PLAIN
    },
    Class {
        name: "streams, denied",
        weight: 2,
        make: |_, id| authorised("/streams/asked", id, "status=403&len=500").unknown().gives(&[Status(403)]),
        why: DENIES,
        ..PLAIN
    },
    Class {
        name: "streams, tls",
        weight: 6,
        make: |r, id| {
            let name = r.one_of(&["a.example", "b.example", "c.example"]);
            tls("/streams/tls/name", id, r)
                .with(format_args!("name={name}"))
                .tells("X-Name", name)
                .tells("X-Client", "")
        },
        ..PLAIN
    },
    Class {
        name: "streams, tls, certificate",
        weight: 3,
        make: |r, id| tls("/streams/tls/one", id, r).tells("X-Client", "CN=one"),
        ..PLAIN
    },
    Class {
        name: "streams, tls, verified",
        weight: 3,
        make: |r, id| tls("/streams/tls/verified", id, r).tells("X-Name", "server").tells("X-Client", ""),
        ..PLAIN
    },
    Class {
        name: "streams, refused",
        weight: 3,
        make: |r, id| {
            let ask =
                Ask::new("/streams", id, r.below(2000)).with(r.one_of(&["fault=refuse", "fault=goaway"]));
            let ask = ask.with("times=1");
            match r.below(2) {
                0 => ask.reflected(Body::Length(r.between(1, 30_000) as usize)),
                _ => ask,
            }
        },
        ..PLAIN
    },
    Class {
        name: "streams, reset",
        weight: 2,
        make: |_, id| Ask::new("/streams", id, 500).with("fault=reset&at=start").unknown().gives(FAILS),
        why: ENDS,
        ..PLAIN
    },
    Class {
        name: "streams, reset in the body",
        weight: 2,
        make: |_, id| Ask::new("/streams", id, 5000).with("fault=reset&at=body&after=30").gives(RESET),
        why: ENDS,
        ..PLAIN
    },
    Class {
        name: "streams, hangs",
        weight: 1,
        make: |_, id| Ask::new("/streams/hasty", id, 500).with("fault=hang").unknown().gives(LATE),
        why: HANGS,
        ..PLAIN
    },
    Class {
        name: "streams, leaves",
        weight: 6,
        make: |r, id| {
            let after = r.between(1, 90);
            let manner = r.one_of(&[Manner::Leaves(after), Manner::Resets(after)]);
            let location = r.one_of(&["/streams", "/streams/direct", "/streams/grpc"]);
            Ask::new(location, id, 200_000).with("delay=20&drip=10").like(manner)
        },
        why: "so it was told",
        ..PLAIN
    },
    Class {
        name: "streams, leaves sending",
        weight: 3,
        make: |r, id| {
            let location = r.one_of(&["/streams", "/streams/direct", "/streams/grpc"]);
            Ask::new(location, id, 0)
                .reflected(Body::Length(300_000))
                .like(Manner::LeavesSending(r.between(1, 30)))
        },
        why: "so it was told",
        ..PLAIN
    },
    // HTTP/2 servers that are killed: what they have begun to answer is cut off, and what is no GET fails.
    Class {
        name: "mortal, get",
        weight: 16,
        make: |r, id| {
            let script = format!("delay={}", r.below(300));
            Ask::new("/mortal", id, r.below(5000)).with(script).gives(BEGUN)
        },
        why: DIES,
        ..PLAIN
    },
    Class {
        name: "mortal, download",
        weight: 4,
        make: |r, id| Ask::new("/mortal", id, r.between(50_000, 500_000)).with("drip=20").gives(BEGUN),
        why: DIES,
        ..PLAIN
    },
    Class {
        name: "mortal, post",
        weight: 6,
        make: |r, id| {
            let length = r.between(1, 200_000) as usize;
            let body = r.one_of(&[Body::Length(length), Body::Chunked(length)]);
            let ask = Ask::new(r.one_of(&["/mortal", "/mortal/direct"]), id, 0).reflected(body);
            ask.with(format_args!("delay={}", r.below(100))).gives(&[Status(200), Cut(200), Status(502)])
        },
        why: DIES,
        ..PLAIN
    },
    Class {
        name: "mortal, auth_request",
        weight: 4,
        make: |r, id| authorised("/mortal/asked", id, r.one_of(STREAM_ALLOWANCES)),
        ..PLAIN
    },
    Class { name: "status", weight: 1, make: |r, _| status(r), ..PLAIN },
];

fn post(location: &str, id: &str, body: Body) -> Ask {
    Ask::new(location, id, 200).post(body)
}

/// What the authorisation server says is told by a header of the answer, so that it is seen to belong to this request.
fn authorised(location: &str, id: &str, answer: impl std::fmt::Display) -> Ask {
    Ask::new(location, id, 600)
        .header("X-Auth-Script", format!("header=x-echo:{id}&{answer}"))
        .tells("X-Auth", id)
}

fn allowance(random: &mut Random) -> &'static str {
    random.one_of(&["status=204", "len=3000", "len=20000&framing=chunked&drip=1", "status=204&delay=10"])
}

const STREAM_ALLOWANCES: &[&str] =
    &["status=204", "len=3000", "len=20000&length=none&drip=1", "status=204&delay=10"];

fn tls(location: &str, id: &str, random: &mut Random) -> Ask {
    let ask = Ask::new(location, id, random.below(5000));
    match random.below(4) {
        0 => ask.post(Body::Length(random.below(30_000) as usize)),
        _ => ask,
    }
}

/// A page of two parts, each of which a subrequest fetches.
fn page(random: &mut Random, id: &str) -> Ask {
    let mut source = String::new();
    let mut text = String::new();
    for part in ["first", "second"] {
        let (name, length) = (format!("{id}-{part}"), random.between(1, 3000));
        source.push_str(&format!("[<!--# include virtual=\"/parts?{}\" -->]", script(&name, length)));
        text.push_str(&format!("[{}]", repeated(&name, length as usize)));
    }
    Ask {
        target: format!("/page?header=x-echo:{id}&header=Content-Type:text/html&body={}", encoded(&source)),
        ..Ask::new("/page", id, 0).text(text)
    }
}

fn faulty(random: &mut Random, id: &str) -> Ask {
    let fault = random.one_of(&["close", "reset"]);
    Ask::new("/faulty", id, 500).with(format_args!("fault={fault}"))
}

fn tunnel(id: &str) -> Ask {
    Ask::new("/upgrade", id, 0)
        .with("upgrade=1")
        .header("Connection", "upgrade")
        .header("Upgrade", "echo")
        .unknown()
        .like(Manner::Tunnels)
        .gives(&[Status(101)])
}

fn status(random: &mut Random) -> Ask {
    let format = random.one_of(&["json", "prometheus", "html"]);
    Ask { target: format!("/status?format={format}"), ..Ask::new("/status", "", 0).unknown() }
}

/// One of them, according to their weights.
pub fn choose(random: &mut Random) -> usize {
    let mut rest = random.below(CLASSES.iter().map(|class| class.weight).sum());
    CLASSES
        .iter()
        .position(|class| match rest.checked_sub(class.weight) {
            Some(left) => {
                rest = left;
                false
            }
            None => true,
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn chooses_all_of_them() {
        let mut random = Random::new(1);
        let chosen: HashSet<_> = (0..20_000).map(|_| choose(&mut random)).collect();
        assert_eq!(chosen.len(), CLASSES.len());
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = CLASSES.iter().map(|class| class.name).collect();
        assert_eq!(names.len(), CLASSES.len());
    }
}
