//! Names of upstreams, servers and paths in the response of `keepalive_status`: the JSON is valid, Prometheus can read the
//! metrics, both have the names unchanged, different names stay different, and the numbers are the same.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;

use keepalive::base::memory::Text;
use keepalive::lessons::View;
use keepalive::metrics::{
    readable, Decision, End, Generation, Phase, Plan, ServerInfo, Snapshot, UpstreamInfo,
};
use keepalive::status::{Format, Writer};
use serde_json::Value;

use crate::input::Input;

static WORDS: [AtomicU64; 1 << 15] = [const { AtomicU64::new(0) }; 1 << 15];

/// Each line: what it is (`u` an upstream, `s` a server of it, `n` the name of that, `a` a path), and its name.
pub fn target(data: &[u8]) {
    let plan = plan(Input(data).lines());
    let size = plan.memory(1);
    if size > WORDS.len() {
        return;
    }
    WORDS[..size].iter().for_each(|word| word.store(0, SeqCst));
    let upstreams = plan.upstreams.clone();
    let auth = plan.auth.clone();
    let generation =
        Generation::new(plan, 1, &WORDS[..size], Box::new(()), None, |_| true).expect("enough memory");
    count(&generation, &upstreams);
    let generation = Arc::new(generation);
    let json = json(snapshot(&generation), &upstreams, &auth);
    prometheus(snapshot(&generation), &upstreams, &auth, &json);
}

fn shown(name: &[u8]) -> String {
    readable(name).expect("enough memory")
}

/// No two upstreams have the same name, and no two servers of one upstream the same address: nginx ensures that.
fn plan(lines: Vec<&[u8]>) -> Plan {
    let mut upstreams: Vec<(UpstreamInfo, Vec<ServerInfo>)> = Vec::new();
    let (mut names, mut paths, mut auth) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for line in lines {
        let Some((kind, name)) = line.split_first() else { continue };
        match (kind, upstreams.last_mut()) {
            (b'a', _) if paths.insert(name) => auth.push(shown(name)),
            (b'u', _) if names.insert(name) => {
                let queue = (name.len() % 2 == 1).then_some(7);
                let upstream =
                    UpstreamInfo { name: shown(name), queue, limit: 32, ..UpstreamInfo::default() };
                upstreams.push((upstream, Vec::new()));
            }
            (b's', Some((_, servers))) => {
                let (address, text) = (name.to_vec(), format!("unix:{}", shown(name)));
                if servers.iter().all(|server| server.address != address) {
                    servers.push(ServerInfo { address, text, ..ServerInfo::default() });
                }
            }
            (b'n', Some((_, servers))) => {
                servers.last_mut().into_iter().for_each(|server| server.name = shown(name));
            }
            _ => {}
        }
    }
    let with_servers = |(upstream, servers): (UpstreamInfo, Vec<ServerInfo>)| UpstreamInfo {
        servers: servers.into_iter().collect(),
        ..upstream
    };
    Plan::new(upstreams.into_iter().map(with_servers).collect(), auth)
}

/// Other numbers for each server.
fn count(generation: &Generation, upstreams: &[UpstreamInfo]) {
    let worker = generation.enter(0, 1, |_| false).expect("there is one worker");
    for (number, (upstream, records)) in upstreams.iter().zip(&worker.upstreams).enumerate() {
        for (at, server) in upstream.servers.iter().enumerate() {
            let meter = records.meter(server.address).expect("of the configuration");
            (0..=at + number).for_each(|_| meter.open());
            meter.pass(Phase::Active, Phase::Idle);
            meter.end(Phase::Idle, End::Evicted);
        }
        let queue = records.queue().expect("each has the place");
        queue.begin();
        queue.end(number * 1000);
    }
    worker.auth.iter().enumerate().for_each(|(at, auth)| auth.decide(Decision::Allowed, at));
}

fn snapshot(generation: &Arc<Generation>) -> Snapshot {
    generation.snapshot(|_| true, &|_, _| Some(ServerInfo::default())).expect("enough memory")
}

fn written(format: Format, view: Snapshot) -> String {
    let mut text = Text::new(0).expect("enough memory");
    let mut writer = Writer::new(format, view, &|_| View::default(), 1.5);
    while writer.write(&mut text) {}
    assert!(text.is_whole());
    String::from_utf8(text.bytes().to_vec()).expect("it is UTF-8")
}

fn texts<'a>(values: impl Iterator<Item = &'a String>) -> BTreeSet<&'a str> {
    values.map(String::as_str).collect()
}

fn json(view: Snapshot, upstreams: &[UpstreamInfo], auth: &[String]) -> Value {
    let json: Value = serde_json::from_str(&written(Format::Json, view)).expect("it is JSON");
    let shown = json["upstreams"].as_object().expect("an object");
    // There are fewer if two names have become one.
    assert_eq!(shown.len(), upstreams.len());
    assert_eq!(texts(shown.keys()), texts(upstreams.iter().map(|it| &it.name)));
    let paths = json["auth"].as_object().expect("an object");
    assert_eq!(paths.len(), auth.len());
    assert_eq!(texts(paths.keys()), texts(auth.iter()));
    for upstream in upstreams {
        let shown = &shown[&upstream.name];
        let peers = shown["peers"].as_array().expect("an array");
        assert_eq!(peers.len(), upstream.servers.len());
        for (peer, server) in peers.iter().zip(upstream.servers.iter()) {
            assert_eq!((&peer["server"], &peer["name"]), (&server.text.into(), &server.name.into()));
        }
        let sum = |of: &str| peers.iter().map(|peer| peer[of].as_u64().expect("a number")).sum::<u64>();
        for of in ["active", "requests", "opened", "reused"] {
            assert_eq!(shown[of], sum(of), "{of}");
        }
        assert_eq!(shown.get("queue").is_some(), upstream.queue.is_some());
    }
    json
}

/// The labels of a line, and its number.
type Sample<'a> = (BTreeMap<&'a str, String>, f64);

fn prometheus(view: Snapshot, upstreams: &[UpstreamInfo], auth: &[String], json: &Value) {
    let text = written(Format::Prometheus, view);
    let families = families(&text);
    let samples = |name: &str| -> &[Sample<'_>] { families.get(name).map_or(&[], Vec::as_slice) };
    for (name, field) in [("opened", "opened"), ("requests", "requests")] {
        let mut shown = BTreeMap::new();
        for (labels, number) in samples(&format!("nginx_upstream_keepalive_{name}_total")) {
            assert!(shown.insert((labels["upstream"].clone(), labels["server"].clone()), *number).is_none());
        }
        assert_eq!(shown.len(), upstreams.iter().map(|upstream| upstream.servers.len()).sum::<usize>());
        for upstream in upstreams {
            for (at, server) in upstream.servers.iter().enumerate() {
                let number = &json["upstreams"][&upstream.name]["peers"][at][field];
                let shown = shown.get(&(upstream.name.clone(), server.text.to_owned()));
                assert_eq!(shown.copied(), number.as_f64());
            }
        }
    }
    let paths = samples("nginx_auth_subrequest_decisions_total").iter();
    let paths: BTreeSet<&str> = paths.map(|(labels, _)| labels["uri"].as_str()).collect();
    assert_eq!(paths, texts(auth.iter()));
    for upstream in upstreams.iter().filter(|upstream| upstream.queue.is_some()) {
        let of = |labels: &BTreeMap<&str, String>| labels["upstream"] == upstream.name;
        let buckets = samples("nginx_upstream_queue_wait_seconds_bucket").iter().filter(|(it, _)| of(it));
        let buckets: Vec<f64> = buckets.map(|(_, number)| *number).collect();
        assert!(buckets.is_sorted() && buckets.last() == Some(&1.0), "{buckets:?}");
    }
}

/// Reads the text exposition format 0.0.4: lines of help and type, then the samples of that name, each combination of labels
/// once.
fn families(text: &str) -> BTreeMap<&str, Vec<Sample<'_>>> {
    assert!(text.ends_with('\n'));
    let (mut families, mut seen) = (BTreeMap::<&str, Vec<Sample<'_>>>::new(), BTreeSet::new());
    let (mut family, mut kind) = ("", "");
    for line in text.split_terminator('\n') {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split_once(' ').expect("a text").0;
            assert!(seen.insert(family.to_owned()), "{family} comes twice");
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, of) = of.split_once(' ').expect("a type");
            assert!(name == family && ["gauge", "counter", "histogram"].contains(&of), "{line}");
            kind = of;
        } else {
            let (name, sample) = sample(line);
            let suffix = name.strip_prefix(family).expect("the samples of a family are together");
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(seen.insert(format!("{name}{:?}", sample.0)), "{line} comes twice");
            families.entry(name).or_default().push(sample);
        }
    }
    families
}

/// `name{label="value",..} number`
fn sample(line: &str) -> (&str, Sample<'_>) {
    let is_name = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let end = line.find(|it| !is_name(it)).expect("something follows the name");
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, behind) = rest.split_once("=\"").expect("a label");
            assert!(!label.is_empty() && label.chars().all(is_name), "{line}");
            let (value, behind) = quoted(behind);
            assert!(labels.insert(label, value).is_none(), "{line}");
            match behind.strip_prefix(',') {
                Some(next) => rest = next,
                None => {
                    rest = behind.strip_prefix('}').expect("the end of the labels");
                    break;
                }
            }
        }
    }
    let number = rest.strip_prefix(' ').expect("a number").parse().expect("a number");
    (name, (labels, number))
}

/// The unescaped value up to the closing quotation mark, and what follows.
fn quoted(text: &str) -> (String, &str) {
    let (mut value, mut chars) = (String::new(), text.chars());
    loop {
        value.push(match chars.next().expect("a quotation mark") {
            '"' => return (value, chars.as_str()),
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some(it @ ('\\' | '"')) => it,
                other => panic!("an escape: {other:?}"),
            },
            it => it,
        });
    }
}
