//! Tests of the formats, and of which one a client gets.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::*;
use crate::base::atomic::AtomicU64;
use crate::metrics::{
    Cause, Decision, Dropped, End, Generation, Http2Count, Phase, Plan, ServerInfo, UpstreamInfo,
    HTTP2_COUNTS,
};

fn chosen(argument: Option<&str>, accept: &[&str]) -> Option<Format> {
    choose(argument.map(str::as_bytes), accept.iter().map(|value| value.as_bytes()))
}

#[test]
fn the_argument_names_the_format() {
    assert_eq!(chosen(Some("json"), &["text/html"]), Some(Format::Json));
    assert_eq!(chosen(Some("prometheus"), &[]), Some(Format::Prometheus));
    assert_eq!(chosen(Some("html"), &[]), Some(Format::Html));
    for unknown in ["", "xml", "JSON", "json2"] {
        assert_eq!(chosen(Some(unknown), &["*/*"]), None, "{unknown}");
    }
}

#[test]
fn the_client_gets_what_it_likes_best() {
    assert_eq!(chosen(None, &[]), Some(Format::Html));
    assert_eq!(chosen(None, &["*/*"]), Some(Format::Html));
    assert_eq!(chosen(None, &[""]), Some(Format::Html));
    assert_eq!(chosen(None, &["text/html,application/xhtml+xml,*/*;q=0.8"]), Some(Format::Html));
    assert_eq!(chosen(None, &["application/json"]), Some(Format::Json));
    assert_eq!(chosen(None, &["Application/JSON ; q=0.5 , text/html;Q=0.4"]), Some(Format::Json));
    assert_eq!(chosen(None, &["text/html;q=0.1", "text/plain"]), Some(Format::Prometheus));
    let scraper = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    assert_eq!(chosen(None, &[scraper]), Some(Format::Prometheus));
    // The most specific range counts.
    assert_eq!(chosen(None, &["text/html;q=0,*/*"]), Some(Format::Json));
    assert_eq!(chosen(None, &["text/*"]), Some(Format::Html));
    assert_eq!(chosen(None, &["image/png"]), None);
    assert_eq!(chosen(None, &["application/json;q=0"]), None);
    assert_eq!(chosen(None, &["application/json;q=0.000, text/plain;q=0.001"]), Some(Format::Prometheus));
    for odd in
        ["application/json;q=2", "application/json;q=x", "application/json;q=", "application/json;q=0.0001"]
    {
        assert_eq!(chosen(None, &[odd]), Some(Format::Json), "{odd}");
    }
    assert_eq!(chosen(None, &["nonsense"]), Some(Format::Html));
    // A range with parameters that our media type does not have does not match. Matching parameters make it more specific.
    let level = "text/html;level=1, text/html;q=0.1, application/json;q=0.5";
    assert_eq!(chosen(None, &[level]), Some(Format::Json));
    let newer =
        "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.2";
    assert_eq!(chosen(None, &[newer]), Some(Format::Prometheus));
    let not_this = "text/plain;version=0.0.4;q=0, text/plain, text/html;q=0.1";
    assert_eq!(chosen(None, &[not_this]), Some(Format::Html));
    let quoted = r#"application/json;x=",text/html,\"";q=0.9, text/plain;q=0.1"#;
    assert_eq!(chosen(None, &[quoted]), Some(Format::Prometheus));
    assert_eq!(chosen(None, &["application/json;", ",, ,"]), Some(Format::Json));
}

const ODD: &str = "a\"b\\c\nd<e>&é";

fn server(address: &[u8], text: &str) -> ServerInfo {
    let (address, text, name) = (address.to_vec(), text.into(), ODD.into());
    ServerInfo { address, text, name, backup: true, down: false, max_conns: 7 }
}

fn numbers() -> Snapshot {
    let first = UpstreamInfo {
        name: "a".into(),
        servers: [server(b"1", "10.0.0.1:80"), server(b"2", ODD)].into_iter().collect(),
        limit: 32,
        queue: Some(9),
        http2: true,
        learns: true,
        ..UpstreamInfo::default()
    };
    let second = UpstreamInfo {
        name: ODD.into(),
        per_server: true,
        changing: true,
        learns: true,
        ..UpstreamInfo::default()
    };
    let plan = Plan::new(vec![first, second], vec!["/auth".into(), ODD.into()]);
    let words: Vec<AtomicU64> = (0..plan.memory(1)).map(|_| AtomicU64::new(0)).collect();
    let generation = Generation::new(plan, 1, words.leak(), Box::new(()), None, |_| true).unwrap();
    let worker = generation.enter(0, 1, |_| false).unwrap();
    let meter = worker.upstreams[0].meter(b"1").unwrap();
    meter.open();
    meter.open();
    meter.pass(Phase::Active, Phase::Idle);
    meter.reuse();
    meter.end(Phase::Active, End::ServerClosed);
    worker.upstreams[1].meter(b"new").unwrap().open();
    // Three connections are handed over. One is taken, one is dropped, and one is on its way.
    let meter = worker.upstreams[0].meter(b"2").unwrap();
    for _ in 0..3 {
        meter.open();
        meter.pass(Phase::Active, Phase::Idle);
        meter.give();
    }
    meter.take();
    let handover = worker.upstreams[0].handover().unwrap();
    handover.drop(Dropped::Protocol);
    handover.ask();
    handover.ask();
    handover.answer();
    let http2 = worker.upstreams[0].http2().unwrap();
    http2.carrier_opened();
    http2.stream_opened();
    http2.stream_opened();
    http2.stream_closed();
    http2.add(Http2Count::Repeats, 4);
    let queue = worker.upstreams[0].queue().unwrap();
    queue.begin();
    queue.begin();
    queue.end(1500);
    queue.overflow();
    worker.auth[1].decide(Decision::FailedOpen, 70_000);
    Arc::new(generation).snapshot(|_| true, &|_, _| Some(server(b"", "new"))).unwrap()
}

/// Of one server of the first upstream both limits are known, of the other one the idle time; of the server that is not
/// configured, the requests.
fn learned(address: &[u8]) -> View {
    match address {
        b"1" => View { age: Some((5001, 8)), requests: Some((50, 6)) },
        b"2" => View { age: Some((60_000, 4)), requests: None },
        _ => View { age: None, requests: Some((1, 4)) },
    }
}

fn written(format: Format) -> String {
    let mut writer = Writer::new(format, numbers(), &learned, 1.5);
    let mut text = Text::new(0).unwrap();
    while writer.write(&mut text) {}
    assert!(!writer.write(&mut text) && text.is_whole());
    String::from_utf8(text.bytes().to_vec()).unwrap()
}

#[test]
fn writes_json() {
    let text = written(Format::Json);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["schema"], &json["timestamp"], &json["workers"]), (&1.into(), &1.5.into(), &1.into()));
    let upstream = &json["upstreams"]["a"];
    for (name, value) in [("keepalive", 1), ("limit", 32), ("active", 1), ("requests", 6), ("opened", 5)] {
        assert_eq!(upstream[name], value, "{name}");
    }
    assert_eq!((&upstream["given"], &upstream["taken"]), (&3.into(), &1.into()));
    let handover = &upstream["handover"];
    for (name, value) in [("in_transit", 1), ("asked", 2), ("answered", 1)] {
        assert_eq!(handover[name], value, "{name}");
    }
    assert_eq!(handover["dropped"].as_object().unwrap().len(), 8);
    assert_eq!((&handover["dropped"]["protocol"], &handover["dropped"]["server"]), (&1.into(), &0.into()));
    assert_eq!(json["upstreams"][ODD]["handover"]["in_transit"], 0);
    let http2 = &upstream["http2"];
    for (name, value) in [("carriers", 1), ("streams", 1), ("opened", 2), ("repeats", 4), ("waits", 0)] {
        assert_eq!(http2[name], value, "{name}");
    }
    assert_eq!(http2.as_object().unwrap().len(), 2 + HTTP2_COUNTS.len());
    assert!(json["upstreams"][ODD].get("http2").is_none());
    assert_eq!(upstream["queue"]["size"], 1);
    assert_eq!(upstream["queue"]["max_size"], 9);
    assert_eq!(upstream["queue"]["overflows"], 1);
    assert_eq!(upstream["queue"]["wait"]["buckets"]["1"], 0);
    assert_eq!(upstream["queue"]["wait"]["buckets"]["2.5"], 1);
    assert_eq!(upstream["queue"]["wait"]["sum"], 1.5);
    let peer = &upstream["peers"][0];
    assert_eq!((&peer["server"], &peer["name"]), (&"10.0.0.1:80".into(), &ODD.into()));
    assert_eq!(peer["down"], false);
    let known = |peer: &serde_json::Value| {
        ["idle_timeout", "idle_timeout_closes", "requests", "requests_closes"]
            .map(|name| peer["learned"].get(name).and_then(serde_json::Value::as_f64))
    };
    assert_eq!(known(peer), [Some(5.001), Some(8.0), Some(50.0), Some(6.0)]);
    assert_eq!(known(&upstream["peers"][1]), [Some(60.0), Some(4.0), None, None]);
    assert_eq!(peer["learned"].as_object().unwrap().len(), 4);
    assert!(text.contains(r#""requests":null,"requests_closes":null"#), "null where nothing is known");
    assert_eq!((&peer["backup"], &peer["max_conns"], &peer["id"]), (&true.into(), &7.into(), &0.into()));
    assert_eq!((&peer["reused"], &peer["closed"]["server_closed"]), (&1.into(), &1.into()));
    assert_eq!((&peer["given"], &peer["taken"]), (&0.into(), &0.into()));
    assert_eq!((&upstream["peers"][1]["given"], &upstream["peers"][1]["taken"]), (&3.into(), &1.into()));
    assert_eq!(upstream["peers"].as_array().unwrap().len(), 2);
    assert_eq!(json["upstreams"][ODD]["peers"][0]["server"], "new");
    assert_eq!(known(&json["upstreams"][ODD]["peers"][0]), [None, None, Some(1.0), Some(4.0)]);
    assert!(json["upstreams"][ODD].get("queue").is_none());
    assert_eq!(json["auth"][ODD]["failed_open"], 1);
    assert_eq!(json["auth"][ODD]["time"]["buckets"]["60"], 0);
    assert_eq!(json["auth"][ODD]["time"]["buckets"]["+Inf"], 1);
}

#[test]
fn writes_for_prometheus() {
    let text = written(Format::Prometheus);
    let odd = r#"a\"b\\c\nd<e>&é"#;
    for line in [
        "nginx_upstream_keepalive_workers 1".into(),
        "nginx_upstream_keepalive_limit{upstream=\"a\"} 32".into(),
        "nginx_upstream_keepalive_connections{upstream=\"a\",server=\"10.0.0.1:80\",state=\"active\"} 1".into(),
        format!("nginx_upstream_keepalive_opened_total{{upstream=\"a\",server=\"{odd}\"}} 3"),
        format!("nginx_upstream_keepalive_given_total{{upstream=\"a\",server=\"{odd}\"}} 3"),
        format!("nginx_upstream_keepalive_taken_total{{upstream=\"a\",server=\"{odd}\"}} 1"),
        "nginx_upstream_keepalive_in_transit{upstream=\"a\"} 1".into(),
        format!("nginx_upstream_keepalive_in_transit{{upstream=\"{odd}\"}} 0"),
        "nginx_upstream_keepalive_asked_total{upstream=\"a\"} 2".into(),
        "nginx_upstream_keepalive_answered_total{upstream=\"a\"} 1".into(),
        "nginx_upstream_keepalive_dropped_total{upstream=\"a\",reason=\"protocol\"} 1".into(),
        "nginx_upstream_keepalive_dropped_total{upstream=\"a\",reason=\"limit\"} 0".into(),
        format!("nginx_upstream_keepalive_opened_total{{upstream=\"{odd}\",server=\"new\"}} 1"),
        "nginx_upstream_keepalive_closed_total{upstream=\"a\",server=\"10.0.0.1:80\",reason=\"server_closed\"} 1".into(),
        "nginx_upstream_keepalive_learned_idle_timeout_seconds{upstream=\"a\",server=\"10.0.0.1:80\"} 5.001".into(),
        format!("nginx_upstream_keepalive_learned_idle_timeout_seconds{{upstream=\"a\",server=\"{odd}\"}} 60"),
        format!("nginx_upstream_keepalive_learned_idle_timeout_closes{{upstream=\"a\",server=\"{odd}\"}} 4"),
        "nginx_upstream_keepalive_learned_requests{upstream=\"a\",server=\"10.0.0.1:80\"} 50".into(),
        "nginx_upstream_keepalive_learned_requests_closes{upstream=\"a\",server=\"10.0.0.1:80\"} 6".into(),
        "nginx_upstream_http2_carriers{upstream=\"a\"} 1".into(),
        "nginx_upstream_http2_streams{upstream=\"a\"} 1".into(),
        "nginx_upstream_http2_opened_total{upstream=\"a\"} 2".into(),
        "nginx_upstream_http2_repeats_total{upstream=\"a\"} 4".into(),
        "nginx_upstream_queue_wait_seconds_bucket{upstream=\"a\",le=\"2.5\"} 1".into(),
        "nginx_upstream_queue_wait_seconds_sum{upstream=\"a\"} 1.5".into(),
        format!("nginx_auth_subrequest_decisions_total{{uri=\"{odd}\",outcome=\"failed_open\"}} 1"),
        format!("nginx_auth_subrequest_duration_seconds_sum{{uri=\"{odd}\"}} 70"),
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    assert_eq!(text.matches("# TYPE nginx_upstream_keepalive_connections gauge\n").count(), 1);
    assert_eq!(text.matches("# TYPE ").count(), 29 + 2 + HTTP2_COUNTS.len());
    // Nothing is said of what is not known.
    assert_eq!(text.matches("\nnginx_upstream_keepalive_learned_").count(), 8);
    assert!(!text.contains("reason=\"timeout\""));
    assert!(!text.contains(&format!("http2_streams{{upstream=\"{odd}\"}}")));
    assert!(!text.contains(&format!("queue_size{{upstream=\"{odd}\"}}")));
}

#[test]
fn what_was_learned_is_of_one_server() {
    let learns = UpstreamInfo { learns: true, ..UpstreamInfo::default() };
    let (one, other) = (server(b"1", "a"), server(b"", "other"));
    assert_eq!(lesson_of(Some(one.view()), &learns, &learned), learned(b"1"));
    assert_eq!(lesson_of(Some(one.view()), &UpstreamInfo::default(), &learned), View::default());
    assert_eq!(lesson_of(Some(other.view()), &learns, &learned), View::default());
    assert_eq!(lesson_of(None, &learns, &learned), View::default());
}

#[test]
fn says_what_is_wrong_with_a_pool() {
    let upstream = |name: &str| UpstreamInfo { name: name.into(), ..UpstreamInfo::default() };
    let plan = Plan::new(vec![upstream("fine"), upstream(ODD)], Vec::new());
    let words: Vec<AtomicU64> = (0..plan.memory(1)).map(|_| AtomicU64::new(0)).collect();
    let generation = Generation::new(plan, 1, words.leak(), Box::new(()), None, |_| true).unwrap();
    let worker = generation.enter(0, 1, |_| false).unwrap();
    for _ in 0..60 {
        worker.upstreams[1].meter(b"1").unwrap().open();
        worker.upstreams[1].note(Cause::FastcgiClose, 0);
    }
    let generation = Arc::new(generation);
    let written = |format| {
        let snapshot = generation.snapshot(|_| true, &|_, _| None).unwrap();
        let (mut writer, mut text) = (Writer::new(format, snapshot, &learned, 1.5), Text::new(0).unwrap());
        while writer.write(&mut text) {}
        String::from_utf8(text.bytes().to_vec()).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&written(Format::Json)).unwrap();
    assert!(json["upstreams"]["fine"]["hint"].is_null());
    let hint = &json["upstreams"][ODD]["hint"];
    assert_eq!(
        (&hint["cause"], &hint["text"]),
        (&"fastcgi_close".into(), &Cause::FastcgiClose.text().into())
    );
    assert_eq!((&hint["requests"], &hint["reused"]), (&60.into(), &0.into()));
    let odd = r#"a\"b\\c\nd<e>&é"#;
    let hints: Vec<_> = [written(Format::Prometheus)]
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.strip_prefix("nginx_upstream_keepalive_hint"))
        .map(String::from)
        .collect();
    assert_eq!(hints, [format!("{{upstream=\"{odd}\",cause=\"fastcgi_close\"}} 1")]);
}

#[test]
fn pieces_are_small() {
    for format in [Format::Json, Format::Prometheus] {
        let (mut writer, mut text) = (Writer::new(format, numbers(), &learned, 1.5), Text::new(0).unwrap());
        while writer.write(&mut text) {
            assert!(text.bytes().len() < 4096, "{}", text.bytes().len());
            text.clear();
        }
    }
}
